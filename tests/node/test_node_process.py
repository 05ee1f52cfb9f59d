"""A whole node as a process: that it heeds its settings, counts what it does, and ends in order."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from node.calling import SignedRequests
from node.runtime.keyring import create_key, load_key

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
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


class RunningNode:
    """The process and the lines of its log so far."""

    def __init__(self, process: "subprocess.Popen[str]", key_file: Path) -> None:
        self.process = process
        self.key_file = key_file
        self.lines: list[dict[str, Any]] = []

    def until(self, event: str) -> dict[str, Any]:
        """Read the log up to a line."""
        assert self.process.stderr is not None
        for text in self.process.stderr:
            self.lines.append(json.loads(text))
            if self.lines[-1]["event"] == event:
                return self.lines[-1]
        raise AssertionError(f"the node ended without {event}: {self.lines[-3:]}")


@pytest.fixture
def node(tmp_path: Path, postgres_url: str) -> Iterator[RunningNode]:
    """A node that is a network of its own."""
    create_key(tmp_path / "identity.key")
    environ = {name: text for name, text in os.environ.items() if not name.startswith(("EVENT_", "OVERLAY_"))}
    settings = {
        "DATABASE_URL": postgres_url,
        "OVERLAY_DATA_DIR": str(tmp_path),
        "OVERLAY_HTTP_BIND": "127.0.0.1:0",
        "OVERLAY_P2P_LISTEN": "/ip4/127.0.0.1/tcp/0",
        "OVERLAY_P2P_ANNOUNCE": "/dns4/node.example/tcp/4001",
        "OVERLAY_ECLIPSE_PROTECTION": "false",
        "OVERLAY_REQUEST_BYTES_MAX": "4096",
        "OVERLAY_EVENT_BYTES_MAX": "1024",
        "OVERLAY_NODE_SERVICE_HOST": "10.0.0.1",
        "EVENT_CONSENSUS_REQUIRED": "false",
    }
    command = [sys.executable, "-m", "node", "run"]
    process = subprocess.Popen(command, cwd=ROOT, env=environ | settings, stderr=subprocess.PIPE, text=True)
    try:
        yield RunningNode(process, tmp_path / "identity.key")
    finally:
        process.kill()
        process.communicate()


def counted(client: httpx.Client) -> dict[str, float]:
    return {
        sample.name + "".join(sample.labels.values()): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if "le" not in sample.labels
    }


def test_a_node_heeds_its_settings_counts_and_ends_in_order(node: RunningNode) -> None:
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
