"""Dead batches over the interface: listed, inspected, tried again, and nothing else is."""

from functools import partial

import httpx
import pytest

from node.ingest.admission_control import IngestLimits
from storage import batches
from tests.node.running import Running, running

REASONS = ("attempt 1, 2024-01-01T00:00:00.000Z: no quorum possible", "attempt 2, ...: the attempt ran out of time")
BODY = {"sourceId": "s1", "events": [{"externalId": "a", "eventType": "t", "timestamp": None, "data": 1}]}


async def dead_batch(node: Running, http: httpx.AsyncClient) -> str:
    """A batch that was taken in and ran out of attempts."""
    source = {"sourceId": "s1", "name": "S", "sourceType": "webhook"}
    assert (await http.post("/overlay/sources", json=source)).status_code == 201
    taken = (await http.post("/overlay/events/ingest", json=BODY)).json()
    batch_id: str = taken["batches"][0]["batchId"]
    bury = partial(batches.mark_dead, batch_id=batch_id, reasons=REASONS)
    assert await node.database.run(bury) == 1
    return batch_id


async def test_a_dead_batch_is_listed_inspected_and_replayed(postgres_url: str) -> None:
    async with running(postgres_url) as node:
        http = node.client
        batch_id = await dead_batch(node, http)
        (letter,) = (await http.get("/overlay/dead-letters")).json()["deadLetters"]
        assert (letter["batchId"], letter["reasons"], letter["attempts"]) == (batch_id, list(REASONS), 2)
        answer = await http.post(f"/overlay/dead-letters/{batch_id}/replay")
        assert (answer.status_code, answer.json()) == (202, {"replayed": [batch_id]})
        assert [each.manifest.message.batch_id for each in node.recorder.replayed] == [batch_id]
        assert (await http.get("/overlay/dead-letters")).json()["deadLetters"] == []
        (event,) = (await http.get("/overlay/events")).json()["events"]
        assert event["status"] == "pending"
        again = await http.post(f"/overlay/dead-letters/{batch_id}/replay")
        assert (again.status_code, again.json()["state"]) == (409, "pending")
        assert len(node.recorder.replayed) == 1
        seen = (await http.get(f"/overlay/dead-letters/{batch_id}")).json()
        (life,) = seen["replays"]
        assert seen["state"] == "pending"
        assert life["reasons"] == list(REASONS), "what was known before is kept"


async def test_all_can_be_replayed_at_once(postgres_url: str) -> None:
    async with running(postgres_url) as node:
        http = node.client
        batch_id = await dead_batch(node, http)
        answer = await http.post("/overlay/dead-letters/replay")
        assert (answer.status_code, answer.json()) == (202, {"replayed": [batch_id]})
        assert (await http.post("/overlay/dead-letters/replay")).json() == {"replayed": []}


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("POST", "/replay")])
async def test_an_unknown_batch_is_said_to_be_one(postgres_url: str, method: str, path: str) -> None:
    async with running(postgres_url) as node:
        http = node.client
        answer = await http.request(method, f"/overlay/dead-letters/batch_{'0' * 64}{path}")
        assert answer.status_code == 404
        assert answer.json()["type"].endswith("unknown-dead-letter")


@pytest.mark.parametrize("before", ["x", "1_batch_x", f"{10**18}_batch_{'0' * 64}", "5"])
async def test_a_page_that_was_never_named_is_refused(postgres_url: str, before: str) -> None:
    async with running(postgres_url) as node:
        answer = await node.client.get("/overlay/dead-letters", params={"before": before})
        assert (answer.status_code, answer.json()["field"]) == (400, "before")


async def test_nothing_is_replayed_while_the_node_is_full(postgres_url: str) -> None:
    async with running(postgres_url, limits=IngestLimits(unsettled_max=1)) as node:
        batch_id = await dead_batch(node, node.client)
        answer = await node.client.post(f"/overlay/dead-letters/{batch_id}/replay")
        assert answer.status_code == 429
        assert answer.headers["Retry-After"]
        assert node.recorder.replayed == []
