"""Numbers at the edges of a double, from the request to every place where an event or a source is read."""

from collections.abc import AsyncIterator
from typing import Any

import orjson
import psycopg
import pytest

from protocols.canonical import canonical_json
from protocols.identifiers import event_id
from protocols.verification import render, verify_document
from tests.node.api.test_stream import stream
from tests.node.certified_batches import NETWORK
from tests.node.running import Running, running

DATA = b"""{"avogadro": 6.02214076e23, "negative": -1e21, "largest": 1.7976931348623157e308, "smallest": 5e-324,
    "tiny": -1e-7, "digits": 1.2345678901234567e29, "long": 1000000000000000000000000000000.0,
    "safe": 9007199254740991, "zero": -0.0, "one": 1.0, "\xf0\x90\x80\x80": [1e21, 1e-6, 0.1]}"""
VALUE = orjson.loads(DATA)


@pytest.fixture
async def node(postgres_url: str) -> AsyncIterator[Running]:
    async with running(postgres_url) as started:
        assert (await started.source()).status_code == 201
        yield started


async def get(node: Running, path: str) -> Any:
    answer = await node.client.get(path)
    assert answer.status_code == 200, f"{path}: {answer.text}"
    return orjson.loads(answer.content)


async def test_large_numbers_are_read_back_everywhere_as_they_were_sent(node: Running, postgres_url: str) -> None:
    body = b'{"sourceId":"s1","events":[{"externalId":"e1","eventType":"reading","data":%b}]}' % DATA
    async with stream(node) as reader:
        headers = {"Content-Type": "application/json"}
        answer = await node.client.post("/overlay/events/ingest", content=body, headers=headers)
        assert (answer.status_code, answer.json()["counts"]["accepted"]) == (202, 1), answer.text
        path = f"/overlay/events/{event_id(NETWORK, 's1', 'e1')}"
        pending = await get(node, path)
        await node.seal(node.recorder.told[0].manifest)
        _, message = await reader.next()
    certificate = await get(node, f"{path}/certificate")
    listed = (await get(node, "/overlay/events"))["events"]
    await get(node, f"{path}/certification")
    versions = await get(node, f"{path}/versions")
    shown = [message["data"], certificate["record"]["data"] if "record" in certificate else VALUE]
    shown += [each for each in _members(orjson.dumps([pending, listed, versions])) if "avogadro" in each]
    assert len(shown) >= 5
    for data in shown:
        assert canonical_json(data) == canonical_json(VALUE)
    report = verify_document(orjson.dumps(certificate), network=NETWORK)
    assert report.ok, render(report)
    with psycopg.connect(postgres_url) as connection:
        row = connection.execute(
            "SELECT raw_data->'data' = %s::jsonb, (raw_data->'data'->>'avogadro')::float8 FROM overlay_events",
            (canonical_json(VALUE).decode(),),
        ).fetchone()
    assert row == (True, 6.02214076e23)


def _members(text: bytes) -> list[dict[str, Any]]:
    """All objects within a JSON text."""
    found, waiting = [], [orjson.loads(text)]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            found.append(value)
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return found


@pytest.mark.parametrize(
    "bound", ["1e30", "1e21", "-6.02214076e23", "1.7976931348623157e308", "1e-300", "1e17", "1e20"]
)
async def test_a_source_may_have_large_bounds(node: Running, bound: str) -> None:
    document = b"""{"sourceId": "s2", "name": "Two", "sourceType": "webhook",
        "validationRules": {"bounds": [{"field": "v", "max": %b}]}}""" % bound.encode()
    headers = {"Content-Type": "application/json"}
    made = await node.client.post("/overlay/sources", content=document, headers=headers)
    if made.status_code == 422:
        assert float(bound).is_integer(), made.text
        assert abs(float(bound)) < 1e21, "an integer that is not exact is refused, as in events"
        return
    assert made.status_code == 201, made.text
    for shown in (
        orjson.loads(made.content),
        await get(node, "/overlay/sources/s2"),
        (await get(node, "/overlay/sources"))["sources"][-1],
    ):
        assert shown["validationRules"]["bounds"] == [{"field": "v", "max": float(bound)}]
    again = await node.client.patch("/overlay/sources/s2", json={"name": "Three"})
    assert again.json()["policyHash"] == made.json()["policyHash"]
