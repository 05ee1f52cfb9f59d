"""The event stream over real sockets: filters, heartbeats, resuming, slow and stalled clients."""

import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import orjson
import pytest
import trio

from node.api.server_limits import ServerLimits
from node.api.services import ApiSettings
from node.delivery.criteria import read_criteria
from node.delivery.cursor import START, Cursor, read_cursor
from node.delivery.feed import EXPRESSIONS_MAX, Feed
from node.delivery.filters import Filter
from protocols.checkpoint import verify_checkpoint
from protocols.errors import BadSignatureError
from protocols.messages import Level
from protocols.verification import verify_document
from tests.node.certified_batches import AGENT, NETWORK, NODE
from tests.node.running import Running, running, until

numbers = itertools.count(1)


def events(count: int, **changes: Any) -> list[dict[str, Any]]:
    return [
        {"externalId": f"s{next(numbers)}", "eventType": "reading", "data": {"v": 1}, **changes} for _ in range(count)
    ]


class Reader:
    """Messages of a stream with their ids, heartbeats apart."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.heartbeats: list[dict[str, Any]] = []
        self._lines = response.aiter_lines()

    async def next(self) -> tuple[str, dict[str, Any]]:
        place = ""
        with trio.fail_after(10):
            async for line in self._lines:
                if line.startswith("id: "):
                    place = line[4:]
                elif line.startswith("data: "):
                    message = orjson.loads(line[6:])
                    if message["type"] != "heartbeat":
                        return place, message
                    self.heartbeats.append(message)
        raise EOFError

    async def take(self, count: int) -> list[tuple[str, dict[str, Any]]]:
        return [await self.next() for _ in range(count)]


@asynccontextmanager
async def stream(node: Running, query: str = "", **headers: str) -> AsyncIterator[Reader]:
    before = node.feed.stats.subscriptions
    async with node.client.stream("GET", f"/overlay/events/stream{query}", headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        if (
            "Last-Event-ID" not in headers and "since" not in query
        ):  # else it is subscribed once it has read what it missed
            await until(lambda: node.feed.stats.subscriptions > before)
        yield Reader(response)


@pytest.fixture
async def node(postgres_url: str) -> AsyncIterator[Running]:
    async with running(postgres_url) as started:
        await started.source(overlayTopics=["t.one"])
        await started.source("s2", overlayTopics=["t.two"])
        yield started


async def certify(
    node: Running, count: int = 1, source: str = "s1", level: Level | None = None, **changes: Any
) -> Any:
    answer = (await node.post(*events(count, **changes), source=source)).json()
    return await node.seal(node.recorder.told[-1].manifest, level), answer


async def test_a_message_is_as_the_specification_says(node: Running) -> None:
    async with stream(node) as reader:
        assert reader.response.headers["content-type"].startswith("text/event-stream")
        sealed, answer = await certify(node, timestamp="2024-01-15T10:30:00Z")
        place, message = await reader.next()
    statement = sealed.certificate.statement
    assert place == f"{sealed.sequence}.1"
    assert message == {
        "type": "event",
        "eventId": answer["processedEvents"][0]["eventId"],
        "eventType": "reading",
        "certificationLevel": "enhanced",
        "timestamp": "2024-01-15T10:30:00Z",
        "data": {"v": 1},
        "certification": {
            "agentId": message["certification"]["agentId"],
            "signature": sealed.certificate.certifications[0].signature.hex(),
            "consensusNodes": 2,
        },
        "overlayMetadata": {
            "latency": sealed.certified_ms - sealed.received_ms,
            "reliability": 0.6667,
            "sourceId": "s1",
            "batchId": statement.batch_id,
        },
    }


async def test_heartbeats_come_at_their_interval(node: Running) -> None:
    async with stream(node) as reader:
        started_s = trio.current_time()
        await trio.sleep(0.7)
        await certify(node, 3)
        await reader.take(3)
        elapsed_s = trio.current_time() - started_s
    assert 2 <= len(reader.heartbeats) <= elapsed_s / 0.2 + 2
    beat = reader.heartbeats[0]
    assert set(beat) == {"type", "timestamp", "activeSubscriptions", "eventsProcessed", "head"}
    assert beat["activeSubscriptions"] == 1


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("?topics=t.two,t.none", ["s2"]),
        ("?sourceIds=s1", ["s1", "s1"]),
        ("?minCertificationLevel=critical", ["s1"]),
        ("?topics=t.one&minCertificationLevel=critical&sourceIds=s1,s2", ["s1"]),
    ],
)
async def test_filters_pass_what_they_name(node: Running, query: str, wanted: list[str]) -> None:
    async with stream(node, query) as reader:
        await certify(node, source="s1")
        await certify(node, source="s2")
        await certify(node, source="s1", level=Level.CRITICAL)
        got = [message["overlayMetadata"]["sourceId"] for _, message in await reader.take(len(wanted))]
    assert got == wanted


async def test_evidence_is_included_when_asked_for(node: Running) -> None:
    async with stream(node, "?includeProcessingEvidence=true") as reader:
        await certify(node)
        _, message = await reader.next()
    assert [entry["step"] for entry in message["processingEvidence"]] == ["normalization"] * 2 + ["validation"] * 2


@pytest.mark.parametrize("as_header", [True, False])
async def test_a_client_that_comes_back_misses_nothing_and_gets_nothing_twice(node: Running, as_header: bool) -> None:
    """In the middle of a batch, with batches sealed while it was away and while it catches up."""
    for _ in range(20):
        await certify(node, 3)
    place = Cursor(sequence=2, position=2)
    query, headers = ("", {"Last-Event-ID": str(place)}) if as_header else (f"?since={place}", {})
    async with trio.open_nursery() as nursery:

        async def more() -> None:
            for _ in range(10):
                await certify(node, 2)

        nursery.start_soon(more)
        async with stream(node, query, **headers) as reader:
            got = [read_cursor(text) for text, _ in await reader.take(1 + 18 * 3 + 10 * 2)]
            nursery.cancel_scope.deadline = trio.current_time() + 10
    expected = [Cursor(sequence=2, position=3)]
    expected += [Cursor(sequence=seal, position=at) for seal in range(3, 21) for at in (1, 2, 3)]
    expected += [Cursor(sequence=seal, position=at) for seal in range(21, 31) for at in (1, 2)]
    assert got == expected


async def test_everything_from_the_start(node: Running) -> None:
    await certify(node, 2)
    async with stream(node, "?since=0") as reader:
        assert [place for place, _ in await reader.take(2)] == ["1.1", "1.2"]


async def test_more_clients_than_allowed_are_sent_away(postgres_url: str) -> None:
    settings = ApiSettings(network=NETWORK, body_bytes_max=100_000, stream_clients_max=1)
    async with running(postgres_url, settings=settings) as node:
        async with stream(node):
            refused = await node.client.get("/overlay/events/stream")
            assert refused.status_code == 503
            assert refused.headers["Retry-After"] == "10"
        await until(lambda: not node.feed.stats.subscriptions, 5)
        async with stream(node):
            pass


async def test_a_slow_client_is_told_where_it_stopped_and_can_go_on(postgres_url: str) -> None:
    async with running(postgres_url, feed=Feed(buffer_bytes_max=64 * 1024)) as node:
        await node.source()
        async with stream(node, **{"Accept-Encoding": "identity"}) as reader:
            for _ in range(60):  # more than its buffer and the sockets' together
                await certify(node, 1, data="x" * 200_000)
            assert node.feed.stats.cut_off == 1
            seen = []
            while True:
                place, message = await reader.next()
                if message["type"] == "dropped":
                    break
                seen.append(place)
            with pytest.raises(EOFError):
                await reader.next()
        assert message["lastEventId"] == seen[-1] == f"{len(seen)}.1"
        async with stream(node, **{"Last-Event-ID": message["lastEventId"]}) as reader:
            rest = [place for place, _ in await reader.take(60 - len(seen))]
        assert seen + rest == [f"{number}.1" for number in range(1, 61)]


async def test_a_client_that_reads_nothing_is_dropped_by_the_server(postgres_url: str) -> None:
    async with running(postgres_url, server=ServerLimits(stall_s=1.0)) as node:
        await node.source()
        host, port = node.url.removeprefix("http://").split(":")
        stalled = await trio.open_tcp_stream(host, int(port))
        await stalled.send_all(b"GET /overlay/events/stream HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: node.feed.stats.subscriptions > 0)
        for _ in range(60):
            await certify(node, 1, data="x" * 200_000)
        await until(lambda: not node.feed.stats.subscriptions, 20)
        await stalled.aclose()


async def test_nothing_is_rendered_while_nobody_listens(node: Running) -> None:
    await certify(node, 2)
    assert node.feed.stats.events == 2
    assert node.feed.stats.subscriptions == 0


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("?topics=t.*", [1, 2, 3]),
        ("?topics=%23.two", [3]),
        ("?eventTypes=order.%23", [2]),
        ("?eventTypes=reading,order.new&sourceIds=s1", [1, 2]),
        ("?filter=data.v+%3E+1", [2, 3]),
        ("?filter=data.v+%3E+1+%26%26+sourceId+%3D%3D+%22s2%22", [3]),
        ("?filter=data.nothing+%3E+1", []),
    ],
)
async def test_events_pass_by_topic_type_and_expression(node: Running, query: str, wanted: list[int]) -> None:
    async with stream(node, query) as reader, stream(node) as everything:
        await certify(node, source="s1", data={"v": 1})
        await certify(node, source="s1", data={"v": 2}, eventType="order.new")
        await certify(node, source="s2", data={"v": 3})
        await everything.take(3)
        got = [message["data"]["v"] for _, message in await reader.take(len(wanted))]
        await until(lambda: str(node.feed.handed) == "3.1")
        heartbeats = len(reader.heartbeats)
        with trio.move_on_after(1.0):
            while len(reader.heartbeats) < heartbeats + 2:  # nothing more comes before the next heartbeats
                got.append((await reader.next())[1]["data"]["v"])
    assert got == wanted


async def test_rejected_events_come_with_their_issues_when_asked_for(node: Running) -> None:
    async with stream(node, "?status=all") as reader:
        await certify(node)
        _, message = await reader.next()
    assert (message["status"], message["issues"]) == ("valid", [])


async def test_a_message_proves_itself_offline_when_asked_to(node: Running) -> None:
    async with stream(node, "?includeCertificate=true") as reader:
        _, answer = await certify(node, 5)
        messages = [message for _, message in await reader.take(5)]
    for place, message in enumerate(messages):
        event_id = answer["processedEvents"][place]["eventId"]
        assert verify_document(orjson.dumps(message["certificate"]), network=NETWORK).ok
        served = (await node.client.get(f"/overlay/events/{event_id}/certificate")).json()
        del served["record"]
        assert message["certificate"] == served


async def test_each_event_is_serialised_once_for_all_who_want_the_same(node: Running) -> None:
    async with AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(stream(node, query)) for query in ("", "?sourceIds=s1", "") * 3]
        more = "?filter=data.v+%3D%3D+1"
        readers += [await stack.enter_async_context(stream(node, more)) for _ in range(3)]
        await certify(node, 10)
        for reader in readers:
            await reader.take(10)
        assert (node.feed.stats.serialised, node.feed.stats.evaluated) == (10, 10)
        readers.append(await stack.enter_async_context(stream(node, "?includeProcessingEvidence=true")))
        await certify(node, 10)
        for reader in readers:
            await reader.take(10)
        assert (node.feed.stats.serialised, node.feed.stats.evaluated) == (30, 20)


async def test_a_heartbeat_is_signed_and_moves_a_client_on_that_nothing_was_for(node: Running) -> None:
    async with stream(node, "?sourceIds=nobody", **{"Accept-Encoding": "identity"}) as reader:
        await certify(node, 2)
        await until(lambda: str(node.feed.handed) == "1.2")
        lines = reader.response.aiter_lines()
        while await anext(lines) != "id: 1.2":
            pass
        beat = orjson.loads((await anext(lines)).removeprefix("data: "))
    said = verify_checkpoint(beat["head"], network=NETWORK, identity=NODE.identity)
    assert said["place"] == "1.2"
    with pytest.raises(BadSignatureError):
        verify_checkpoint(beat["head"], network=NETWORK, identity=AGENT.identity)
    with pytest.raises(BadSignatureError):
        verify_checkpoint(beat["head"] | {"place": "1.1"}, network=NETWORK, identity=NODE.identity)


async def test_batches_told_of_out_of_order_are_delivered_in_order(node: Running) -> None:
    """Two seals in two threads commit in one order and may report in the other."""
    made = [(await certify(node))[0] for _ in range(3)]
    feed = Feed()
    feed.begin(START, "")
    async with trio.open_nursery() as nursery:
        subscription = feed.subscribe(Filter())
        for number in (1, 0, 2):
            feed.publish(made[number])
        nursery.start_soon(feed.run)
        with trio.fail_after(5):
            await subscription.wait()
        chunk = subscription.pop()
        nursery.cancel_scope.cancel()
    assert chunk is not None
    assert [str(message.cursor) for message in chunk.messages] == ["1.1", "2.1", "3.1"]


async def test_what_the_feed_missed_is_read_from_the_database(node: Running) -> None:
    """A batch that is sealed and never told of holds up nobody for long, and is not lost."""
    publish = node.feed.publish
    lost: list[Any] = []
    async with stream(node) as reader:
        await certify(node)
        node.feed.publish = lost.append  # type: ignore[method-assign, assignment]
        await certify(node)
        node.feed.publish = publish  # type: ignore[method-assign]
        await certify(node)
        assert [place for place, _ in await reader.take(3)] == ["1.1", "2.1", "3.1"]
    assert len(lost) == 1


async def test_head_has_headers_alone_and_holds_no_place(node: Running) -> None:
    answer = await node.client.head("/overlay/events/stream")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
    assert node.feed.stats.subscriptions == 0


async def test_more_expressions_than_are_evaluated_at_once_are_refused(node: Running) -> None:
    held = [node.feed.subscribe(read_criteria({"expression": f"data.v > {n}"})) for n in range(EXPRESSIONS_MAX)]
    refused = await node.client.get("/overlay/events/stream?filter=data.v+%3C+1")
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "10")
    node.feed.unsubscribe(held[0])
    async with stream(node, "?filter=data.v+%3C+1"):
        pass


@pytest.mark.parametrize("place", ["7", "1.0", "999999999999999999.1"])
async def test_a_place_after_the_end_of_the_feed_is_refused(node: Running, place: str) -> None:
    """A client that waits there would miss all that comes before it."""
    for query, headers in ((f"?since={place}", {}), ("", {"Last-Event-ID": place})):
        answer = await node.client.get(f"/overlay/events/stream{query}", headers=headers)
        assert answer.status_code == 409
        assert answer.json()["type"] == "urn:overlay:problem:ahead-of-feed"
        assert answer.json()["field"] == ("since" if query else "Last-Event-ID")


@pytest.mark.parametrize(
    ("query", "header", "field"),
    [("since=x", "", "since"), ("since=x", "0", "since"), ("since=0", "y", "Last-Event-ID")],
)
async def test_a_place_that_is_none_is_named(node: Running, query: str, header: str, field: str) -> None:
    answer = await node.client.get(f"/overlay/events/stream?{query}", headers={"Last-Event-ID": header})
    assert (answer.status_code, answer.json()["field"]) == (400, field)
