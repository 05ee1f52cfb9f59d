"""A whole node as a process: it follows its settings, counts what it does, and ends in order."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from node.calling import SignedRequests
from node.runtime.keyring import create_key, load_key
from tests.node.node_process import RunningNode, counted, environment, running_process

pytestmark = pytest.mark.slow

EVENTS = [
    {"externalId": f"r-{number}", "eventType": "reading", "data": {"value": value}}
    for number, value in enumerate([1.5, 2.5, 99.0])
]
SOURCE = {
    "sourceId": "farm",
    "name": "Farm",
    "sourceType": "webhook",
    "mappingPolicy": {"required": ["value"]},
    "validationRules": {"bounds": [{"field": "value", "min": 0, "max": 60}]},
}


@pytest.fixture
def node(tmp_path: Path, postgres_url: str) -> Iterator[RunningNode]:
    create_key(tmp_path / "identity.key")
    environ = environment(
        tmp_path,
        postgres_url,
        overlay_p2p_announce="/dns4/node.example/tcp/4001",
        overlay_request_bytes_max="4096",
        overlay_event_bytes_max="1024",
        overlay_node_service_host="10.0.0.1",
    )
    with running_process(environ) as found:
        yield found


def test_a_node_follows_its_settings_counts_and_ends_in_order(node: RunningNode) -> None:
    ready = node.until("node.ready")
    assert [address.split("/p2p/")[0] for address in ready["addresses"]] == ["/dns4/node.example/tcp/4001"]
    (warning,) = [line["warning"] for line in node.lines if line["event"] == "settings.unknown"]
    assert warning.startswith("OVERLAY_NODE_SERVICE_HOST: is not a setting")
    with httpx.Client(base_url=ready["url"], timeout=20) as client:
        operator = SignedRequests(load_key(node.key_file), bytes.fromhex(ready["identity"]))
        assert client.post("/overlay/sources", json=SOURCE).status_code == 401
        assert client.post("/overlay/sources", json=SOURCE, auth=operator).status_code == 201
        _refuses_what_is_too_large(client)
        body = {"sourceId": "farm", "events": EVENTS, "processingOptions": {"consensusLevel": "basic"}}
        for _ in range(2):
            assert client.post("/overlay/events/ingest", json=body).status_code == 202
    with httpx.Client(base_url=ready["url"], timeout=20) as client:
        found = _settled(client)
    assert found["overlay_events_acknowledged_total"] == 4  # with the one beside the event that was too large
    assert found["overlay_events_duplicates_total"] == 3
    assert found["overlay_events_rejected_total"] == 1
    assert found["overlay_events_certified_total"] == 3
    assert found["overlay_events_invalid_total"] == 1
    assert found["overlay_acknowledgement_seconds_count"] == 3
    assert found["overlay_certificate_seconds_count"] == 2
    assert found["overlay_frames_totalgossipoutAdvertisement"] >= 1
    assert found["overlay_role_runs_total"] == 2
    node.process.send_signal(signal.SIGTERM)
    node.until("node.stopped")
    assert node.process.wait(20) == 0


def _refuses_what_is_too_large(client: httpx.Client) -> None:
    large = {"externalId": "large", "eventType": "reading", "data": {"value": 1, "text": "x" * 1_024}}
    small = {"externalId": "small", "eventType": "reading", "data": {"value": 1}}
    options = {"consensusLevel": "basic"}
    request = {"sourceId": "farm", "events": [large, small], "processingOptions": options}
    answer = client.post("/overlay/events/ingest", json=request)
    assert answer.status_code == 202
    assert answer.json()["rejected"] == [0]
    request["events"] = [large] * 4
    assert client.post("/overlay/events/ingest", json=request).status_code == 413


def _settled(client: httpx.Client) -> dict[str, float]:
    """The figures once every event has its end."""
    found = counted(client)
    for _ in range(200):
        if found["overlay_events_certified_total"] + found["overlay_events_invalid_total"] >= 4:
            break
        time.sleep(0.05)
        found = counted(client)
    return found
