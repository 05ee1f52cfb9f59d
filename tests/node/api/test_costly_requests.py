"""Requests that cost the parsers of a running node much: they are cut off, and others are served meanwhile."""

import gzip
from collections.abc import AsyncIterator

import httpx
import pytest
import trio

from node.api.services import ApiSettings
from node.calling import SignedRequests
from node.runtime import workers as module
from node.runtime.workers import Budget, Workers
from tests.costly_bodies import JSON_BODIES
from tests.node.certified_batches import NETWORK, NODE, KeySigner
from tests.node.running import Running, running

INGEST = "/overlay/events/ingest"
JSON = {"Content-Type": "application/json"}
MB = 1024 * 1024
HONEST_S = 60.0  # far more than it takes, on a machine that does much else


@pytest.fixture
async def node(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    """A node whose parsers may take little, so that little work is much."""
    monkeypatch.setattr(module, "REQUEST_BUDGET", Budget(floor_s=0.3, per_mb_s=0.0, ceiling_s=0.3))
    monkeypatch.setattr(module, "ALLOWANCE_OF_PARSERS", 0.02)
    monkeypatch.setattr(module, "ALLOWANCE_BURST_S", 1.0)
    settings = ApiSettings(network=NETWORK, body_bytes_max=16 * MB, heartbeat_ms=200)
    async with Workers(1, parsers=2) as workers, running(postgres_url, workers=workers, settings=settings) as started:
        assert (await started.source()).status_code == 201
        yield started


async def test_a_costly_request_is_cut_off_with_a_reason_and_not_tried_again(node: Running) -> None:
    found = await node.client.post(INGEST, content=JSON_BODIES["empty objects"](2 * MB), headers=JSON)
    assert found.status_code == 413
    problem = found.json()
    assert problem["type"] == "urn:overlay:problem:too-costly"
    assert "processor time" in problem["detail"]
    assert "Retry-After" not in found.headers, "it would cost as much again"
    assert (await node.post({"eventType": "e", "data": 1})).status_code == 202


async def test_others_are_served_while_costly_requests_come_all_the_time(node: Running) -> None:
    """Each of the connections is one client, as behind a proxy on the same machine; both parsers would be busy."""
    body = JSON_BODIES["empty arrays"](2 * MB)
    statuses: set[int] = set()

    async def attack() -> None:
        async with httpx.AsyncClient(base_url=node.url, timeout=120) as client:
            while True:
                statuses.add((await client.post(INGEST, content=body, headers=JSON)).status_code)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(attack)
        with trio.fail_after(HONEST_S):
            for number in range(5):
                answer = await node.post({"externalId": f"e{number}", "eventType": "e", "data": number})
                assert answer.status_code == 202
                await trio.sleep(0.1)
            while not statuses:
                await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    assert statuses == {413}


async def test_a_client_that_used_up_its_share_is_told_when_to_come_again(node: Running) -> None:
    auth = SignedRequests(KeySigner(7).key, NODE.identity)
    body = JSON_BODIES["empty objects"](2 * MB)
    statuses = []
    for _ in range(10):
        found = await node.client.post(INGEST, content=body, headers=JSON, auth=auth)
        statuses.append(found.status_code)
        if statuses[-1] == 429:
            break
    assert statuses[-1] == 429, statuses
    assert found.json()["type"] == "urn:overlay:problem:allowance-used"
    assert int(found.headers["Retry-After"]) >= 1
    other = SignedRequests(KeySigner(8).key, NODE.identity)
    event = b'{"sourceId":"s1","events":[{"eventType":"e","data":1}]}'
    assert (await node.client.post(INGEST, content=event, headers=JSON, auth=other)).status_code == 202
    with trio.fail_after(HONEST_S):
        while (await node.client.post(INGEST, content=event, headers=JSON, auth=auth)).status_code == 429:
            await trio.sleep(0.2)


async def test_clients_that_leave_stop_nobody(node: Running) -> None:
    """A request that is given up half way is read to its end, and its parser is there for the next."""
    body = gzip.compress(JSON_BODIES["empty arrays"](MB))
    for _ in range(5):
        async with httpx.AsyncClient(base_url=node.url, timeout=120) as client:
            with trio.move_on_after(0.2):
                await client.post(INGEST, content=body, headers={**JSON, "Content-Encoding": "gzip"})
    with trio.fail_after(HONEST_S):
        assert (await node.post({"eventType": "e", "data": 1})).status_code == 202
