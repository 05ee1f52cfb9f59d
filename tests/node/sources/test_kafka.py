"""Kafka as a source, with a real broker: what is read, by whom, and what is committed when."""

import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition

from node.ingest.admission_control import IngestLimits
from node.sources import kafka
from node.worker import compute
from storage import batches
from tests.kafka_broker import Broker
from tests.node.certified_batches import NETWORK
from tests.node.running import Running, running

CONNECTORS = {"kafka": kafka.connector(NETWORK)}
QUICK = {"session.timeout.ms": 6_000, "heartbeat.interval.ms": 500}


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path) as started:
        yield started


@pytest.fixture
def lasting_broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path, durable=True) as started:
        yield started


@pytest.fixture
async def node(postgres_url: str) -> AsyncIterator[Running]:
    async with running(postgres_url, connectors=CONNECTORS) as started:
        yield started


async def until(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    with trio.fail_after(seconds):
        while not await condition():
            await trio.sleep(0.05)


async def state(node: Running, source_id: str = "s1") -> dict[str, Any]:
    found: dict[str, Any] = (await node.client.get(f"/overlay/sources/{source_id}")).json()["state"] or {}
    return found


async def read(node: Running, broker: Broker, *topics: str, **settings: Any) -> None:
    """Make the source that the tests read."""
    configuration = {"brokers": [broker.address], "properties": QUICK, **settings}
    if topics:
        configuration["topics"] = list(topics)
    made = await node.source(sourceType="kafka", configuration=configuration)
    assert made.status_code == 201, made.text


async def has(node: Running, count: int, what: str = "accepted") -> bool:
    return bool((await state(node)).get(what, 0) >= count)


async def events(node: Running) -> list[dict[str, Any]]:
    """The records that the node acknowledged, in the order of their batches."""
    found: list[dict[str, Any]] = []
    for told in list(node.recorder.told):
        packed = await node.database.run(partial(batches.payload, batch_id=told.manifest.message.batch_id))
        assert packed is not None
        found += [json.loads(line) for line in compute.unpack(packed).splitlines()]
    return found


def places(found: Sequence[dict[str, Any]]) -> list[tuple[str, int, int]]:
    """Topic, partition and offset of events, from their ids."""
    parts = [event["externalId"].split("/") for event in found]
    return [(part[0].partition(":")[0], int(part[1]), int(part[2])) for part in parts]


async def committed(broker: Broker, topic: str, partitions: int, group: str = f"overlay.{NETWORK}.s1") -> list[int]:
    """The offsets that the group has committed, by partition."""
    wanted = [TopicPartition(topic, number) for number in range(partitions)]

    def ask() -> list[int]:
        request = [ConsumerGroupTopicPartitions(group, wanted)]
        admin = broker.admin()  # it must outlive its answer
        answer = admin.list_consumer_group_offsets(request)[group].result(10)
        return [each.offset for each in answer.topic_partitions]

    return await trio.to_thread.run_sync(ask)


async def test_keys_headers_times_and_places_become_events(node: Running, broker: Broker) -> None:
    broker.create("readings")
    sender = broker.producer()
    sender.send("readings", b'{"v": 1}', key=b"k1", timestamp=1_700_000_000_123)
    sender.send("readings", b'{"v": 2}', headers=[("Event-Kind", b"alarm"), ("id", b"x-1"), ("id", b"x-2")])
    sender.send("readings", None, key=b"k1", timestamp=1_700_000_000_456)
    sender.flush()
    await read(node, broker, "readings", eventTypeHeader="event-kind", externalIdHeader="id")
    await until(partial(has, node, 3))
    first, third, second = await events(node)  # a batch holds events of one type
    assert (first["eventType"], first["timestamp"], first["data"]) == (
        "readings",
        "2023-11-14T22:13:20.123Z",
        {"v": 1},
    )
    assert (second["eventType"], second["externalId"]) == ("alarm", "x-2")
    assert third["data"] is None
    topic, partition, offset = third["externalId"].split("/")
    assert (topic.partition(":")[0], partition, offset) == ("readings", "0", "2")
    assert len(topic.partition(":")[2]) == 22, "the topic's id, which a topic of the same name would not have"


async def test_whole_messages_with_keys_and_headers(node: Running, broker: Broker) -> None:
    broker.create("m")
    sender = broker.producer()
    sender.send(
        "m", b'{"id": "e-9", "kind": "door"}', key=b"caf\xc3\xa9", headers=[("a", b"1"), ("b", b"\xff"), ("c", None)]
    )
    sender.send("m", b'1}, {"forged": 2', key=b"k")
    sender.send("m", b"1", key=b"\xff")
    sender.send("m", None, key=b"k")
    sender.flush()
    await read(
        node, broker, "m", data="message", externalIdPath="/value/id", eventTypePath="/value/kind", tombstones="skip"
    )
    await until(partial(has, node, 2, "rejected"))
    (event,) = await events(node)
    assert (event["externalId"], event["eventType"]) == ("e-9", "door")
    data = event["data"]
    assert data.pop("timestamp") > 1_700_000_000_000
    assert data == {
        "key": "café",
        "value": {"id": "e-9", "kind": "door"},
        "headers": {"a": "1", "b": {"base64": "/w=="}, "c": None},
        "topic": "m",
        "partition": 0,
        "offset": 0,
    }
    await until(lambda: committed_is(broker, "m", [4]))


async def committed_is(broker: Broker, topic: str, offsets: list[int]) -> bool:
    return await committed(broker, topic, len(offsets)) == offsets


async def test_bad_payloads_are_kept_as_rejections_and_passed_over(node: Running, broker: Broker) -> None:
    broker.create("t", 2)
    sender = broker.producer()
    for number in range(20):
        sender.send("t", b"\x00nonsense" if number % 5 == 0 else b"%d" % number, partition=number % 2)
    sender.flush()
    await read(node, broker, "t")
    await until(partial(has, node, 20, "received"))
    shown = await state(node)
    assert (shown["accepted"], shown["rejected"]) == (16, 4)
    kept = (await node.client.get("/overlay/sources/s1/progress")).json()["rejections"]
    assert {entry["externalId"].partition("/")[2] for entry in kept} == {"0/0", "1/2", "0/5", "1/7"}
    await until(lambda: committed_is(broker, "t", [10, 10]))


async def test_each_partition_keeps_its_order_and_a_restart_goes_on_where_it_was(
    node: Running, broker: Broker
) -> None:
    broker.create("t", 3)
    sender = broker.producer()
    for number in range(3_000):
        sender.send("t", b"%d" % number, partition=number % 3)
    sender.flush()
    await read(node, broker, "t", group="mine")
    await until(partial(has, node, 3_000))
    await enable(node, False)
    assert await committed(broker, "t", 3, "mine") == [1_000] * 3, "a source that is stopped commits what is on disk"
    for number in range(3_000, 3_300):
        sender.send("t", b"%d" % number, partition=number % 3)
    sender.flush()
    await enable(node, True)
    await until(partial(has, node, 300))
    shown = await state(node)
    assert (shown["received"], shown["duplicates"]) == (300, 0)
    found = await events(node)
    for partition in range(3):
        assert [event["data"] for event in found if place_of(event)[1] == partition] == list(
            range(partition, 3_300, 3)
        )


def place_of(event: dict[str, Any]) -> tuple[str, int, int]:
    return places([event])[0]


async def enable(node: Running, enabled: bool) -> None:
    """Have the source read, or not, and wait until it is so."""
    await node.client.patch("/overlay/sources/s1", json={"enabled": enabled})

    async def is_so() -> bool:
        return bool(await state(node)) is enabled

    await until(is_so)


class Flow:
    """Messages that are sent all the time, to all partitions in turn."""

    def __init__(self, broker: Broker, topic: str, partitions: int) -> None:
        self.sender = broker.producer()
        self._topic, self._partitions, self._count = topic, partitions, 0
        self._stop = trio.Event()

    async def run(self) -> None:
        while not self._stop.is_set():
            self.more(30)
            await trio.sleep(0.02)

    def more(self, count: int) -> None:
        for number in range(self._count, self._count + count):
            self.sender.send(self._topic, b"%d" % number, partition=number % self._partitions)
        self._count += count

    async def end(self) -> set[tuple[str, int, int]]:
        """No more; where everything is that the broker acknowledged."""
        self._stop.set()
        await trio.to_thread.run_sync(self.sender.flush)
        return {place[:3] for place in self.sender.acknowledged}


async def partitions_of(node: Running, count: int) -> bool:
    return str((await state(node)).get("detail", "")).startswith(f"{count} partitions")


@pytest.mark.slow
async def test_nodes_share_the_partitions_while_one_comes_and_goes(
    node: Running, other_postgres_url: str, broker: Broker
) -> None:
    """In mid-stream: every message is an event of exactly one of two nodes with databases of their own."""
    broker.create("t", 6)
    flow = Flow(broker, "t", 6)
    async with running(other_postgres_url, connectors=CONNECTORS) as other, trio.open_nursery() as nursery:
        nursery.start_soon(flow.run)
        await read(node, broker, "t")
        await until(partial(has, node, 100))
        await read(other, broker, "t")
        await until(partial(partitions_of, node, 3))
        await until(partial(partitions_of, other, 3))
        await until(partial(has, other, 300))
        await enable(other, False)
        await until(partial(partitions_of, node, 6))
        sent = await flow.end()

        async def is_all_read() -> bool:
            return await committed_all(broker, "t", 6) == len(sent)

        await until(is_all_read)
        mine, others = places(await events(node)), places(await events(other))
        assert len(others) >= 300
        assert sorted(mine + others) == sorted(sent), "every message once, on one of the nodes"
        for found in (mine, others):
            for partition in range(6):
                offsets = [offset for _, number, offset in found if number == partition]
                assert offsets == sorted(offsets)


async def committed_all(broker: Broker, topic: str, partitions: int) -> int:
    return sum(max(0, offset) for offset in await committed(broker, topic, partitions))


@pytest.mark.slow
async def test_a_node_that_is_full_stays_in_the_group_and_gives_up_only_what_it_never_had(
    postgres_url: str, other_postgres_url: str, broker: Broker
) -> None:
    """Longer than ``max.poll.interval.ms``; meanwhile another comes, and reads what is given up."""
    broker.create("t", 4)
    sender = broker.producer()
    for number in range(400):
        sender.send("t", b"%d" % number, partition=number % 4)
    sender.flush()
    patience = {"properties": {**QUICK, "max.poll.interval.ms": 10_000}}
    async with (
        running(postgres_url, connectors=CONNECTORS, limits=IngestLimits(unsettled_max=5)) as full,
        running(other_postgres_url, connectors=CONNECTORS) as other,
    ):
        await full.source("busy")
        await full.post(*({"eventType": "x", "data": number} for number in range(5)), source="busy")
        await read(full, broker, "t", **patience)
        await until(partial(is_held_up, full))
        with trio.move_on_after(12):
            while await partitions_of(full, 4):  # past the interval after which a member is thought to be dead
                await trio.sleep(0.1)
        assert await partitions_of(full, 4), "held up, and still a member"
        await read(other, broker, "t", **patience)
        await until(partial(has, other, 200))
        assert (await state(full))["accepted"] == 0

        async def is_all_taken() -> bool:
            full.forget_unsettled()
            return await has(full, 200)

        await until(is_all_taken)
        mine, others = places((await events(full))[5:]), places(await events(other))
        assert sorted(mine + others) == sorted(place[:3] for place in sender.acknowledged)
        assert (await state(full))["errors"] == 0


async def is_held_up(node: Running) -> bool:
    return bool((await state(node)).get("heldUp"))


async def test_what_is_on_disk_and_not_acknowledged_is_read_again_and_known(node: Running, broker: Broker) -> None:
    """The source ends between our commit and the broker's."""
    broker.create("t", 2)
    sender = broker.producer()
    for number in range(200):
        sender.send("t", b"%d" % number, partition=number % 2)
    sender.flush()
    node.recorder.open = trio.Event()  # events are committed, and their driver is not told yet
    await read(node, broker, "t")

    async def is_on_disk() -> bool:
        query = "SELECT count(*) FROM event_index"
        return bool(await node.database.run(lambda connection: (connection.execute(query).fetchone() or [0])[0]))

    await until(is_on_disk)
    await enable(node, False)
    assert await committed_all(broker, "t", 2) == 0, "nothing is acknowledged that was not taken to its end"
    node.recorder.open.set()
    await enable(node, True)
    await until(lambda: committed_is(broker, "t", [100, 100]))
    shown = await state(node)
    assert shown["duplicates"] > 0
    assert sorted(places(await events(node))) == sorted(place[:3] for place in sender.acknowledged)


@pytest.mark.slow
async def test_a_broker_that_is_killed_is_shown_and_read_on_when_it_is_back(
    node: Running, lasting_broker: Broker
) -> None:
    broker = lasting_broker
    broker.create("t", 2)
    flow = Flow(broker, "t", 2)
    flow.more(100)
    await flow.end()
    await read(node, broker, "t")
    await until(partial(has, node, 100))
    await trio.to_thread.run_sync(broker.kill)

    async def is_failing() -> bool:
        return str((await state(node)).get("status")) == "failing"

    await until(is_failing)
    shown = await state(node)
    assert "no broker can be reached" in shown["lastError"]
    await trio.to_thread.run_sync(broker.start)
    flow.more(100)
    sent = await flow.end()
    await until(partial(has, node, 200))
    assert sorted(places(await events(node))) == sorted(sent)
    assert (await node.client.get("/overlay/sources")).status_code == 200, "the node went on all the while"


async def fault(node: Running, words: str = "", source_id: str = "s1") -> str:
    """Why a source is not read, once its state has an error with these words."""
    error = ""

    async def is_shown() -> bool:
        nonlocal error
        error = str((await state(node, source_id)).get("lastError") or "")
        return bool(error) and words in error

    await until(is_shown)
    return error


async def test_a_group_that_begins_at_the_end_misses_nothing_after_it(node: Running, broker: Broker) -> None:
    """The place is committed before anything was read; by pattern, another topic is none of it."""
    broker.create("logs-a", 2)
    broker.create("other")
    sender = broker.producer()
    for number in range(10):
        sender.send("logs-a", b"%d" % number, partition=number % 2)
        sender.flush()  # of a batch of several this broker counts one in what it says is the end
    sender.send("other", b"1")
    sender.flush()
    await read(node, broker, topicPattern="logs-.*", start="latest")
    await until(lambda: committed_is(broker, "logs-a", [5, 5]))
    await enable(node, False)
    for number in range(10, 14):
        sender.send("logs-a", b"%d" % number, partition=number % 2)
    sender.flush()
    await enable(node, True)
    await until(partial(has, node, 4))
    assert sorted(event["data"] for event in await events(node)) == [10, 11, 12, 13]
