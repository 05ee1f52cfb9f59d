"""Nobody is there to certify: a node takes in what it may hold, then says 429, and its memory stays where it was."""

import json
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from scripts.network import LocalNetwork, Node, get
from tests.e2e.weather import batches_of, register_all

pytestmark = pytest.mark.slow

HELD = 2_000
FLOOD_S = 10.0
REFUSED_MIN = 50
PATIENCE_S = 60.0  # for a busy machine
GROWN_BYTES_MAX = 64 * 1024 * 1024
SETTINGS = {"event_batch_size": 100, "event_parallel_workers": 1, "overlay_unsettled_events_max": HELD}


def resident_bytes(node: Node) -> int:
    assert node.process is not None
    return int(psutil.Process(node.process.pid).memory_info().rss)


def post(node: Node, source: str, events: list[dict[str, Any]]) -> httpx.Response:
    body = json.dumps({"sourceId": source, "events": events}).encode()
    headers = {"Content-Type": "application/json"}
    return httpx.post(f"{node.url}/overlay/events/ingest", content=body, headers=headers, timeout=20)


def test_a_full_node_says_so_holds_its_memory_and_recovers(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with LocalNetwork(tmp_path, 3, settings=SETTINGS) as network:
        network.wait_agents()
        register_all(network)
        first, *others = network.nodes
        for other in others:
            other.kill()
        batches = iter(batches_of(("EWR", "JFK", "LGA"), 3_000))
        source, events = next(batches)
        taken = refused = 0
        before = 0
        until = time.monotonic() + FLOOD_S
        while time.monotonic() < until or (refused <= REFUSED_MIN and time.monotonic() < until + PATIENCE_S):
            answer = post(first, source, events)  # refused before its body is read, which ends the connection
            if answer.status_code == 202:
                taken += len(events)
                source, events = next(batches)
                continue
            assert answer.status_code == 429, answer.text
            assert 1 <= int(answer.headers["Retry-After"]) <= 30
            assert answer.json()["remedy"]
            before = before or resident_bytes(first)  # as full as it gets, by its own count
            refused += 1
        grown = resident_bytes(first) - before
        print(f"{taken} events taken, then {refused} requests refused; grown by {grown / 2**20:.1f} MiB meanwhile")
        assert HELD <= taken <= HELD + 100
        assert refused > REFUSED_MIN
        assert grown < GROWN_BYTES_MAX
        for other in others:
            other.start()
        for other in others:
            network.wait_ready(other)
        deadline = time.monotonic() + 3 * PATIENCE_S
        while get(first, "/overlay/stats")["pending"] and time.monotonic() < deadline:
            time.sleep(0.2)
        stats = get(first, "/overlay/stats")
        assert stats["certified"] + stats["invalid"] == taken, "what was acknowledged ends once agents are back"
        assert post(first, source, events).status_code == 202, "and there is room again"
