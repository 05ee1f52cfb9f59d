"""Streams of subscriptions: the filter and the place are the subscription's, and move with what clients take."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from websockets.exceptions import InvalidStatus

from node.runtime.clock import clock_ms
from protocols.certificate import rfc3339
from tests.node.api.test_stream import certify, stream
from tests.node.api.test_stream_socket import socket
from tests.node.running import Running, running, until

PATH = "/overlay/subscriptions"


@pytest.fixture
async def node(postgres_url: str) -> AsyncIterator[Running]:
    async with running(postgres_url) as started:
        await started.source(overlayTopics=["t.one"])
        await started.source("s2", overlayTopics=["t.two"])
        yield started


async def make(node: Running, kind: str, **fields: Any) -> str:
    made = await node.client.post(PATH, json={"subscriptionType": kind, **fields})
    assert made.status_code == 201, made.text
    found: str = made.json()["subscriptionId"]
    return found


async def nobody(node: Running) -> None:
    """Until the last client's leaving is known."""
    await until(lambda: node.feed.stats.subscriptions == 0)


async def cursor(node: Running, subscription_id: str) -> str:
    found: str = (await node.client.get(f"{PATH}/{subscription_id}")).json()["state"]["cursor"]
    return found


async def test_server_sent_events_go_on_where_the_subscription_stands(node: Running) -> None:
    name = await make(node, "sse", filterCriteria={"sourceIds": ["s1"]})
    await certify(node, 3)
    await certify(node, 2, source="s2")
    query = f"?subscriptionId={name}"
    await nobody(node)
    async with stream(node, query) as reader:
        first = await reader.take(3)
        await certify(node)
        live = await reader.next()
    assert {message["overlayMetadata"]["sourceId"] for _, message in (*first, live)} == {"s1"}
    await nobody(node)
    async with stream(node, query) as reader:
        assert await reader.take(4) == [*first, live], "nothing was acknowledged yet"
    await nobody(node)
    async with stream(node, query, **{"Last-Event-ID": first[1][0]}) as reader:
        assert await reader.take(2) == [first[2], live]
    assert await cursor(node, name) == first[1][0]
    await nobody(node)
    async with stream(node, query) as reader:
        assert await reader.take(2) == [first[2], live], "what was acknowledged once stays so"


async def test_a_socket_s_acknowledgements_outlive_it(node: Running, postgres_url: str) -> None:
    name = await make(node, "websocket")
    await certify(node, 4)
    query = f"?subscriptionId={name}"
    async with socket(node, query) as client:
        taken = await client.take(4)
        await client.say(type="ack", sequence=taken[1]["sequence"])
        assert (await client.hear())["type"] == "acked"
        await client.say(type="subscribe", filter={})
        assert (await client.hear())["code"] == "invalid-message"
    await nobody(node)
    async with socket(node, query) as client:
        assert await client.take(2) == taken[2:]
    assert await cursor(node, name) == taken[1]["sequence"]


async def test_only_what_is_of_the_subscription_is_asked_for(node: Running) -> None:
    name = await make(node, "sse")
    for query, status, code in (
        (f"?subscriptionId={name}&topics=t.one", 400, "invalid-parameter"),
        (f"?subscriptionId={name}&since=0", 400, "invalid-parameter"),
        ("?subscriptionId=sub_none", 404, "unknown-subscription"),
    ):
        refused = await node.client.get(f"/overlay/events/stream{query}")
        assert (refused.status_code, refused.json()["type"].rpartition(":")[2]) == (status, code)
    with pytest.raises(InvalidStatus) as ended:
        async with socket(node, f"?subscriptionId={name}"):
            pass
    assert ended.value.response.status_code == 409
    await node.client.patch(f"{PATH}/{name}", json={"subscriptionStatus": "paused"})
    assert (await node.client.get(f"/overlay/events/stream?subscriptionId={name}")).status_code == 409


@pytest.mark.parametrize("kind", ["sse", "websocket"])
async def test_a_stream_ends_when_its_subscription_expires(node: Running, kind: str) -> None:
    name = await make(node, kind, expiresAt=rfc3339(clock_ms() + 1_500))
    query = f"?subscriptionId={name}"
    with trio.fail_after(10):
        if kind == "sse":
            async with stream(node, query) as reader:
                with pytest.raises(EOFError):
                    await reader.next()
        else:
            async with socket(node, query) as client:
                assert await client.closed() == 1000
    await until(lambda: node.feed.stats.subscriptions == 0)
    assert (await node.client.get(f"/overlay/events/stream{query}")).status_code == 409
