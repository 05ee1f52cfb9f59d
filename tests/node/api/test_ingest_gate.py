"""Refusals below the framework: those of the route, at a part of the cost, of nothing that the route would take."""

import json
from typing import Any

import httpx
import orjson
import pytest
import trio

from node.api.ingest_gate import IngestGate
from node.ingest.admission_control import IngestLimits
from tests.node.running import Running, running

FULL = IngestLimits(unsettled_max=1)


def reading(number: int) -> dict[str, Any]:
    return {"externalId": f"e{number}", "eventType": "reading", "data": {"value": number}}


VARYING = {"x-request-id", "retry-after", "content-length", "date", "connection"}  # the route read no body


async def fill(node: Running) -> httpx.Response:
    """Fill a node, and be refused by the route: from then on the gate looks at posts. That refusal."""
    await node.source()
    assert (await node.post(reading(1))).status_code == 202
    refused = await node.post(reading(2))
    assert refused.status_code == 429
    assert node.ingest.admission.backlog.is_refusing
    return refused


def members(answer: httpx.Response) -> dict[str, Any]:
    document: dict[str, Any] = answer.json()
    assert document.pop("retryAfter") == int(answer.headers["Retry-After"])
    return document


async def test_the_gate_answers_as_the_route_does(postgres_url: str) -> None:
    async with running(postgres_url, limits=FULL) as node:
        by_route = await fill(node)
        by_gate = await node.post(reading(2))
        assert node.ingest.admission.backlog.refused == 2
        assert by_gate.status_code == 429
        assert members(by_gate) == members(by_route)
        shown = [{name for name in each.headers if name not in VARYING} for each in (by_gate, by_route)]
        assert shown[0] == shown[1]
        assert all(by_gate.headers[name] == by_route.headers[name] for name in shown[0])


async def test_a_refused_connection_goes_on(postgres_url: str) -> None:
    async with running(postgres_url, limits=FULL) as node:
        await fill(node)
        async with httpx.AsyncClient(base_url=node.url) as client:
            body = orjson.dumps({"sourceId": "s1", "events": [reading(3)]})
            headers = {"Content-Type": "application/json"}
            for _ in range(3):
                refused = await client.post("/overlay/events/ingest", content=body, headers=headers)
                assert refused.status_code == 429
                assert "connection" not in refused.headers
            node.forget_unsettled()
            taken = await client.post("/overlay/events/ingest", content=body, headers=headers)
            assert taken.status_code == 202
            assert taken.json()["counts"]["accepted"] == 1


def raw_post(number: int, *, headers: str = "", padding: int = 0) -> bytes:
    """A post of one event as the bytes of a request."""
    body = orjson.dumps({"sourceId": "s1", "events": [reading(number) | {"data": {"pad": padding * "x"}}]})
    head = f"POST /overlay/events/ingest HTTP/1.1\r\nHost: node\r\nContent-Type: application/json\r\n{headers}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def call(node: Running) -> trio.SocketStream:
    host, _, port = node.url.removeprefix("http://").partition(":")
    return await trio.open_tcp_stream(host, int(port))


async def answers(stream: trio.SocketStream, count: int) -> list[tuple[int, dict[str, str], Any]]:
    """Status, headers and document of the next answers."""
    received = b""
    found: list[tuple[int, dict[str, str], Any]] = []
    with trio.fail_after(10):
        while len(found) < count:
            head, separator, rest = received.partition(b"\r\n\r\n")
            lines = head.decode().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            length = int(headers.get("content-length", 0))
            if separator and len(rest) >= length:
                found.append((int(lines[0].split()[1]), headers, json.loads(rest[:length])))
                received = rest[length:]
            elif part := await stream.receive_some(65_536):
                received += part
            else:
                break
    return found


@pytest.fixture
def reaches_application(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the requests that reach the application, the gate included."""
    reached: list[str] = []
    handle = IngestGate.__call__

    async def note(self: IngestGate, scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["path"] if scope["type"] != "lifespan" else scope["type"])
        await handle(self, scope, receive, send)

    monkeypatch.setattr(IngestGate, "__call__", note)
    return reached


async def test_posts_that_arrive_whole_are_refused_before_there_is_a_task_for_them(
    postgres_url: str, reaches_application: list[str]
) -> None:
    """Several in one packet too, each in its turn, on a connection that goes on."""
    async with running(postgres_url, limits=FULL) as node:
        by_route = await fill(node)
        before = len(reaches_application)
        stream = await call(node)
        await stream.send_all(raw_post(3) + raw_post(4) + raw_post(5, padding=20_000))
        found = await answers(stream, 3)
        assert [status for status, _, _ in found] == [429, 429, 429]
        assert len(reaches_application) == before
        assert node.ingest.admission.backlog.refused == 4
        for _, headers, document in found:
            assert "connection" not in headers
            assert document.pop("retryAfter") == int(headers["retry-after"])
            assert document == members(by_route)
        await stream.send_all(b"GET /overlay/stats HTTP/1.1\r\nHost: node\r\n\r\n")
        assert [status for status, _, _ in await answers(stream, 1)] == [200]
        node.forget_unsettled()
        await stream.send_all(raw_post(6))
        assert [status for status, _, _ in await answers(stream, 1)] == [202]


async def test_a_post_that_follows_one_that_is_refused_early_is_read_from_its_beginning(postgres_url: str) -> None:
    """Of a source that holds nothing: the node takes it while it refuses the others."""
    async with running(postgres_url, limits=FULL) as node:
        await fill(node)
        stream = await call(node)
        keyed = raw_post(7, headers="Idempotency-Key: k1\r\n")
        await stream.send_all(raw_post(3) + keyed[:-5])
        assert [status for status, _, _ in await answers(stream, 1)] == [429]
        node.forget_unsettled()
        await stream.send_all(keyed[-5:])
        assert [status for status, _, _ in await answers(stream, 1)] == [202]


async def test_a_client_that_closes_after_its_post_is_answered_and_closed(postgres_url: str) -> None:
    async with running(postgres_url, limits=FULL) as node:
        await fill(node)
        stream = await call(node)
        await stream.send_all(raw_post(3, headers="Connection: close\r\n"))
        assert [status for status, _, _ in await answers(stream, 1)] == [429]
        with trio.fail_after(5):
            assert await stream.receive_some(1) == b""


@pytest.mark.parametrize(
    "headers",
    ["Idempotency-Key: k\r\n", "Authorization: x\r\n", "X-BSV-Auth-Version: 0.1\r\n", "Content-Encoding: gzip\r\n"],
)
async def test_what_is_the_routes_business_reaches_it(
    postgres_url: str, headers: str, reaches_application: list[str]
) -> None:
    async with running(postgres_url, limits=FULL) as node:
        await fill(node)
        before = len(reaches_application)
        stream = await call(node)
        await stream.send_all(raw_post(3, headers=headers))
        assert len(await answers(stream, 1)) == 1
        assert len(reaches_application) == before + 1


async def test_a_post_in_pieces_is_refused_too(postgres_url: str, reaches_application: list[str]) -> None:
    async with running(postgres_url, limits=FULL) as node:
        await fill(node)
        before = len(reaches_application)
        stream = await call(node)
        post = raw_post(3)
        for piece in (post[:40], post[40:-30], post[-30:]):
            await stream.send_all(piece)
            await trio.sleep(0.05)
        assert [status for status, _, _ in await answers(stream, 1)] == [429]
        assert len(reaches_application) == before + 1


async def test_what_was_answered_before_under_its_key_is_answered_again(postgres_url: str) -> None:
    async with running(postgres_url, limits=FULL) as node:
        await node.source()
        headers = {"Idempotency-Key": "k1"}
        body = {"sourceId": "s1", "events": [reading(1)]}
        first = await node.client.post("/overlay/events/ingest", json=body, headers=headers)
        assert first.status_code == 202
        assert (await node.post(reading(2))).status_code == 429
        again = await node.client.post("/overlay/events/ingest", json=body, headers=headers)
        assert (again.status_code, again.content) == (202, first.content)


@pytest.mark.parametrize("pause_s", [0.0, 0.005, 0.1])
@pytest.mark.parametrize("is_full", [True, False])
@pytest.mark.parametrize(("events", "piece"), [(1, 40), (1_000, 30_000)])
async def test_a_body_in_pieces_is_refused_or_taken_in_whole(
    postgres_url: str, pause_s: float, is_full: bool, events: int, piece: int
) -> None:
    async with running(postgres_url, limits=FULL) as node:
        await fill(node)
        if not is_full:
            node.forget_unsettled()
        body = orjson.dumps({"sourceId": "s1", "events": [reading(3 + number) for number in range(events)]})
        host, port = node.url.removeprefix("http://").split(":")
        stream = await trio.open_tcp_stream(host, int(port))
        head = f"POST /overlay/events/ingest HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        await stream.send_all(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
        for start in range(0, len(body), piece):
            await trio.sleep(pause_s)
            await stream.send_all(body[start : start + piece])
        answer = await stream.receive_some()
        assert answer.startswith(b"HTTP/1.1 429" if is_full else b"HTTP/1.1 202")
        assert node.ingest.admission.backlog.unsettled == (1 if is_full else events)
        await stream.aclose()


async def test_what_only_the_route_understands_is_left_to_it(postgres_url: str) -> None:
    async with running(postgres_url, limits=FULL) as node:
        await fill(node)
        bad = await node.client.post("/overlay/events/ingest", content=b"", headers={"Content-Type": "text/plain"})
        assert bad.status_code == 415
        lines = await node.client.post(
            "/overlay/events/ingest?sourceId=s1",
            content=json.dumps(reading(2)),
            headers={"Content-Type": "application/x-ndjson"},
        )
        assert lines.status_code == 429
        other = await node.client.get("/overlay/events/ingest")
        assert other.status_code == 405
