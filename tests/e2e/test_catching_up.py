"""A node that was away reads what was certified meanwhile, and says so long that it has not."""

import time
from pathlib import Path

import httpx
import pytest

from scripts.network import LocalNetwork, Node, get
from tests.e2e.weather import Client, batches_of, register_all

pytestmark = pytest.mark.slow

SETTINGS = {"event_batch_size": 100, "event_parallel_workers": 1}


def lookup(node: Node, batch_id: str) -> httpx.Response:
    query = {"service": "ls_event_certificates", "query": {"batchId": batch_id}}
    return httpx.post(f"{node.url}/lookup", json=query, timeout=20)


def batches_at(node: Node) -> list[str]:
    events = get(node, "/overlay/events?limit=1000")["events"]
    return sorted({event["batchId"] for event in events})


def knows(node: Node, batch_ids: list[str]) -> list[str]:
    """Those of the batches whose certificates a node finds."""
    return [batch_id for batch_id in batch_ids if lookup(node, batch_id).json().get("outputs")]


def test_what_was_certified_during_an_absence_is_caught_up_with(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with LocalNetwork(tmp_path, 4, settings=SETTINGS) as network:
        network.wait_agents()
        register_all(network)
        first, *_, away = network.nodes
        away.kill()
        client = Client(first, batches_of(("JFK",), 1_000), pause_s=0)
        client.start()
        client.join(60)
        assert len(client.acknowledged) == 1_000
        deadline = time.monotonic() + 30
        while get(first, "/overlay/stats")["pending"] and time.monotonic() < deadline:
            time.sleep(0.1)
        batch_ids = batches_at(first)
        assert 1 < len(batch_ids) <= 10, "some that waited were merged"
        away.start()
        network.wait_ready(away)
        assert get(away, "/readyz")["checks"]["sync"] == {"ok": True, "detail": ""}
        deadline = time.monotonic() + 20
        while len(knows(away, batch_ids)) < len(batch_ids) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert knows(away, batch_ids) == batch_ids
        answer = lookup(away, batch_ids[0])
        while answer.headers["X-Overlay-Synced"] != "true" and time.monotonic() < deadline:
            time.sleep(0.2)  # a peer that it connected to meanwhile is asked too
            answer = lookup(away, batch_ids[0])
        assert answer.headers["X-Overlay-Synced"] == "true"
        assert answer.headers["X-Overlay-Fresh-As-Of"]
        stats = get(first, "/overlay/stats")
        published = get(first, f"/overlay/events/{next(iter(client.acknowledged))}/certification")
        assert stats["certified"] + stats["invalid"] == 1_000
        counted = published["overlayDistribution"]
        assert counted["publishedNodes"] == counted["confirmationCount"] == 3, "those that were up, the sender too"
        assert counted["networkLatency"] >= 0


def test_a_node_that_reaches_nobody_does_not_answer_as_if_there_were_nothing(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with LocalNetwork(tmp_path, 2, settings=SETTINGS) as network:
        first, second = network.nodes
        network.wait_agents()
        second.kill()
        first.kill()
        second.start()  # its only peer is down
        unknown = "batch_" + "0" * 64
        deadline = time.monotonic() + 30
        status = 0
        while status != 503 and time.monotonic() < deadline:
            try:
                answer = lookup(second, unknown)
            except httpx.HTTPError:
                time.sleep(0.05)
                continue
            assert answer.status_code == 503, "an empty answer before it caught up with anybody"
            if not answer.json()["type"].endswith("unavailable"):  # that is said while it starts
                status = answer.status_code
        assert answer.json()["type"].endswith("not-synced")
        assert answer.headers["Retry-After"]
        reasons = httpx.get(f"{second.url}/readyz", timeout=5).json()["reasons"]
        assert "not-caught-up" in [reason["code"] for reason in reasons]
        first.start()
        network.wait_ready(first)
        network.wait_ready(second)
        deadline = time.monotonic() + 20
        while lookup(second, unknown).status_code != 200 and time.monotonic() < deadline:
            time.sleep(0.2)
        assert lookup(second, unknown).json()["outputs"] == []
