"""Refusals below the framework: those of the route, at a part of the cost, of nothing that the route would take."""

import json
from typing import Any

import httpx
import orjson
import pytest
import trio

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
async def test_a_body_in_pieces_is_refused_or_taken_in_whole(
    postgres_url: str, pause_s: float, is_full: bool
) -> None:
    async with running(postgres_url, limits=FULL) as node:
        await fill(node)
        if not is_full:
            node.forget_unsettled()
        body = orjson.dumps({"sourceId": "s1", "events": [reading(3)]})
        host, port = node.url.removeprefix("http://").split(":")
        stream = await trio.open_tcp_stream(host, int(port))
        head = f"POST /overlay/events/ingest HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        await stream.send_all(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
        for start in range(0, len(body), 40):
            await trio.sleep(pause_s)
            await stream.send_all(body[start : start + 40])
        answer = await stream.receive_some()
        assert answer.startswith(b"HTTP/1.1 429" if is_full else b"HTTP/1.1 202")
        assert node.ingest.admission.backlog.unsettled == 1
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
