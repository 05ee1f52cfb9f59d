"""A coordinator goes for good right after it acknowledged; the peers that hold its batches finish them."""

import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from protocols.verification import verify_document
from scripts.network import LocalNetwork, Node, get
from tests.e2e.weather import batches_of, register_all

pytestmark = pytest.mark.slow

SETTINGS = {
    "event_batch_size": 100,
    "event_parallel_workers": 1,
    "overlay_resend_ms": 1_000,
    "event_processing_timeout_ms": 8_000,
}
WITHIN_S = 15.0  # what the project promises


def post(node: Node, source: str, events: list[dict[str, Any]]) -> dict[str, Any]:
    body = {"sourceId": source, "events": events, "processingOptions": {"durability": "replicated"}}
    answer = httpx.post(
        f"{node.url}/overlay/events/ingest",
        content=json.dumps(body),
        headers={"Content-Type": "application/json"},
        timeout=20,
    )
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def certificate(client: httpx.Client, node: Node, event_id: str) -> dict[str, Any] | None:
    """An event's certificate at a node, if it has one that holds."""
    answer = client.get(f"{node.url}/overlay/events/{event_id}/certificate", timeout=10)
    if answer.status_code != 200:
        return None
    assert verify_document(answer.content, network="overlay-demo").ok
    return dict(answer.json())


def finished_by(nodes: list[Node], events: list[str], timeout_s: float) -> dict[str, dict[str, Any]]:
    """The certificates of these events, each from the first of the nodes that has it."""
    found: dict[str, dict[str, Any]] = {}
    deadline = time.monotonic() + timeout_s
    with httpx.Client() as client:
        while time.monotonic() < deadline and len(found) < len(events):
            for event_id in events:
                for node in nodes:
                    document = None if event_id in found else certificate(client, node, event_id)
                    if document is not None:
                        found[event_id] = document
                        nodes = [node, *(other for other in nodes if other is not node)]  # it has its neighbours too
            time.sleep(0.1)
    return found


def test_a_coordinator_is_killed_for_good_right_after_it_acknowledged(tmp_path: Path) -> None:
    """The others certify what it had replicated; when it comes back all the same, it learns that."""
    tmp_path.chmod(0o755)
    slow_auction = {"overlay_bid_window_ms": 30_000}  # so that nothing is under way yet when it dies
    with LocalNetwork(tmp_path, 4, settings=SETTINGS, per_node=[slow_auction]) as network:
        network.wait_agents()
        register_all(network)
        lost, *others = network.nodes
        answers = [post(lost, source, events) for source, events in batches_of(("JFK", "LGA"), 800)]
        lost.kill()
        killed = time.monotonic()
        assert all(len(batch["holders"]) >= 2 for answer in answers for batch in answer["batches"])
        firsts = [answer["processedEvents"][0]["eventId"] for answer in answers]
        found = finished_by(others, firsts, WITHIN_S)
        took_s = time.monotonic() - killed
        print(f"{len(found)} of {len(firsts)} batches certified by others {took_s:.1f} s after the kill")
        assert len(found) == len(firsts), "\n".join(node.tail(30) for node in others)
        everything = [event["eventId"] for answer in answers for event in answer["processedEvents"]]
        assert len(finished_by(others, everything, 30)) == len(everything) == 800
        lost.start()
        network.wait_ready(lost)
        again = finished_by([lost], firsts, 30)
        assert {key: document["statement"] for key, document in again.items()} == {
            key: document["statement"] for key, document in found.items()
        }
        assert get(lost, "/overlay/jobs")["jobs"] == [], "it held an auction for what was done"
        assert get(lost, "/overlay/stats")["pending"] == 0


def test_too_few_holders_is_said_before_anything_is_taken(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with LocalNetwork(tmp_path, 1, settings=SETTINGS) as network:
        register_all(network)
        (source, events), *_ = batches_of(("JFK",), 100)
        body = {"sourceId": source, "events": events, "processingOptions": {"durability": "replicated"}}
        answer = httpx.post(f"{network.nodes[0].url}/overlay/events/ingest", json=body, timeout=20)
        assert answer.status_code == 503
        assert answer.json()["type"].endswith("too-few-holders")
        assert answer.headers["Retry-After"]
        assert get(network.nodes[0], "/overlay/stats")["acknowledged"] == 0
