"""Heartbeats: one for all clients at each tick, signed, with the position of the feed."""

import orjson
import pytest
from trio.testing import MockClock

from node.delivery.cursor import START, Cursor
from node.delivery.feed import Feed
from node.delivery.heartbeats import Heartbeats
from protocols.checkpoint import verify_checkpoint
from tests.node.certified_batches import NETWORK, NODE


def heartbeats(feed: Feed, interval_s: float = 10.0) -> Heartbeats:
    return Heartbeats(feed=feed, key=NODE.key, network=NETWORK, interval_s=interval_s)


async def test_all_clients_get_the_same_heartbeat_until_the_next_tick(autojump_clock: MockClock) -> None:
    made = heartbeats(Feed())
    autojump_clock.jump(3.0)
    first = made.current()
    autojump_clock.jump(made.next_s() - autojump_clock.current_time() - 0.001)
    assert made.current() is first
    autojump_clock.jump(0.002)
    assert made.current() is not first


@pytest.mark.parametrize("offset_s", [0.0, 0.001, 9.999, 10.0])
async def test_ticks_are_those_of_one_clock(autojump_clock: MockClock, offset_s: float) -> None:
    made = heartbeats(Feed())
    autojump_clock.jump(offset_s)
    now_s = autojump_clock.current_time()
    assert now_s < made.next_s() <= now_s + 10.0
    assert made.next_s() % 10.0 == pytest.approx(0.0)


async def test_a_heartbeat_is_signed_for_where_the_feed_stands() -> None:
    feed = Feed()
    feed.begin(Cursor(7, 3), "batch_ab")
    made = heartbeats(feed).current()
    assert made.head == Cursor(7, 3)
    document = orjson.loads(made.body)
    assert (document["type"], document["activeSubscriptions"], document["eventsProcessed"]) == ("heartbeat", 0, 0)
    checked = verify_checkpoint(document["head"], network=NETWORK, identity=NODE.identity)
    assert (checked["place"], checked["batchId"]) == ("7.3", "batch_ab")


async def test_a_client_that_is_behind_is_told_its_own_cursor() -> None:
    feed = Feed()
    feed.begin(Cursor(7, 3), "batch_ab")
    made = heartbeats(feed).current()
    behind = orjson.loads(made.at(Cursor(2, 1)))
    assert behind.pop("place") == "2.1"
    assert behind == orjson.loads(made.body)
    assert orjson.loads(made.at(START))["place"] == "0.0"
