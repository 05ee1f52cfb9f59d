"""An agent is stopped (SIGSTOP, workers and database with it) while it works: its batches are finished without it."""

import json
import signal
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from scripts.network import LocalNetwork, Node, get
from tests.e2e.weather import batches_of, register_all

pytestmark = pytest.mark.slow

DEADLINE_S = 20.0
SETTINGS = {
    "event_batch_size": 100,
    "event_parallel_workers": 1,
    "event_processing_timeout_ms": int(1_000 * DEADLINE_S),
}


def family(node: Node) -> list[psutil.Process]:
    assert node.process is not None
    process = psutil.Process(node.process.pid)
    return [process, *process.children(recursive=True)]


def post(node: Node, source: str, events: list[dict[str, Any]]) -> None:
    body = {"sourceId": source, "events": events, "processingOptions": {"consensusLevel": "enhanced"}}
    answer = httpx.post(
        f"{node.url}/overlay/events/ingest",
        content=json.dumps(body),
        headers={"Content-Type": "application/json"},
        timeout=20,
    )
    answer.raise_for_status()


def slowest_s(node: Node) -> float:
    """The longest time from acknowledgement to certificate."""
    spans = [
        datetime.fromisoformat(event["certifiedAt"]) - datetime.fromisoformat(event["ingestedAt"])
        for event in get(node, "/overlay/events?limit=1000")["events"]
    ]
    return max(spans).total_seconds()


def test_a_stopped_agent_delays_its_batches_by_less_than_the_deadline(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with LocalNetwork(tmp_path, 5, settings=SETTINGS) as network:
        network.wait_agents()
        register_all(network)
        first = network.nodes[0]
        batches = batches_of(("JFK",), 1_000)
        post(first, *batches[0])  # a lease is held from here on
        time.sleep(2.0)
        (lease,) = get(first, "/overlay/jobs?limit=1")["jobs"]
        awarded = {each["agentId"] for each in lease["ranking"] if each["choice"] == "executor"}
        own = {get(node, "/overlay/node")["agentId"]: node for node in network.nodes}
        stopped = next(node for agent, node in own.items() if agent in awarded and node is not first)
        processes = family(stopped)
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        try:
            for source, events in batches[1:]:
                post(first, source, events)
                time.sleep(0.2)
            deadline = time.monotonic() + 2 * DEADLINE_S
            while get(first, "/overlay/stats")["pending"] and time.monotonic() < deadline:
                time.sleep(0.1)
        finally:
            for process in processes:
                process.send_signal(signal.SIGCONT)
        stats = get(first, "/overlay/stats")
        assert (stats["certified"] + stats["invalid"], stats["pending"], stats["dead"]) == (1_000, 0, 0)
        slowest = slowest_s(first)
        print(f"the slowest batch took {slowest:.1f} s, its deadline is {DEADLINE_S:.0f} s")
        assert slowest < DEADLINE_S
