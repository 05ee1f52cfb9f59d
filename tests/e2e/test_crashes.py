"""Processes are killed under load; every acknowledged event still ends certified or invalid, exactly once."""

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from protocols.verification import verify_document
from scripts.network import LocalNetwork, Node, get
from tests.e2e.weather import STATIONS, Client, batches_of, register_all

pytestmark = pytest.mark.slow

SETTINGS = {
    "event_batch_size": 100,
    "event_parallel_workers": 1,
    "overlay_resend_ms": 1_000,
    "event_processing_timeout_ms": 8_000,
    "overlay_lease_ms": 20_000,
}
EVENTS = 6_000
INVALID = {"EWR-2013-02-12T08:00:00Z"}  # of the first 2,000 readings of each station


def settled(network: LocalNetwork, nodes: Sequence[Node] = (), timeout_s: float = 90.0) -> list[dict[str, Any]]:
    """The counts of these nodes, or of all, once nothing is pending any more."""
    deadline = time.monotonic() + timeout_s
    stats: list[dict[str, Any]] = []
    while time.monotonic() < deadline:
        stats = [get(node, "/overlay/stats") for node in nodes or network.nodes]
        if all(each["pending"] == 0 for each in stats):
            return stats
        time.sleep(0.3)
    tails = "\n".join(node.tail(12) for node in network.nodes)
    raise AssertionError(f"still pending: {[each['pending'] for each in stats]}\n{tails}")


def all_events(node: Node) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after = ""
    while True:
        page = get(node, f"/overlay/events?limit=1000&after={after}")
        found += page["events"]
        if page["nextAfter"] is None:
            return found
        after = page["nextAfter"]


def check_every_event(clients: list[Client]) -> None:
    """Each acknowledged event stands once in its node's table, with a verdict; nothing else stands there."""
    for client in clients:
        events = all_events(client.node)
        counts = Counter(event["eventId"] for event in events)
        assert set(counts.values()) <= {1}, "an event stands twice"
        assert set(counts) >= set(client.acknowledged), "an acknowledged event is missing"
        statuses = Counter(event["status"] for event in events)
        assert set(statuses) <= {"certified", "invalid"}, statuses
        invalid = {event["externalId"] for event in events if event["status"] == "invalid"}
        assert invalid == INVALID & {event["externalId"] for event in events}
        for event in events[:: max(1, len(events) // 20)]:
            document = httpx.get(f"{client.node.url}/overlay/events/{event['eventId']}/certificate", timeout=20)
            report = verify_document(document.content, network="overlay-demo")
            assert report.ok, report.failed


def start_load(network: LocalNetwork, pause_s: float) -> list[Client]:
    register_all(network)
    batches = batches_of(tuple(STATIONS), EVENTS)
    clients = [Client(node, batches[node.index :: len(network.nodes)], pause_s=pause_s) for node in network.nodes]
    for client in clients:
        client.start()
    return clients


def finish_load(clients: list[Client]) -> None:
    for client in clients:
        client.join(timeout=150)
        assert not client.is_alive(), "a client never got its answers"
        assert client.error is None, client.error


def test_an_agent_and_then_a_coordinator_are_killed(tmp_path: Path) -> None:
    """kill -9 of one agent node, its return, then of a coordinator with batches under way, and its return."""
    tmp_path.chmod(0o755)
    with LocalNetwork(tmp_path, 3, settings=SETTINGS) as network:
        network.wait_agents()
        clients = start_load(network, pause_s=0.35)
        time.sleep(2.0)
        network.nodes[2].kill()
        time.sleep(3.0)
        network.nodes[2].start()
        network.wait_ready(network.nodes[2])
        time.sleep(1.0)
        network.nodes[0].kill()
        time.sleep(1.0)
        network.nodes[0].start()
        network.wait_ready(network.nodes[0])
        finish_load(clients)
        stats = settled(network)
        assert sum(client.repeats for client in clients) > 0, "nobody noticed the crashes"
        acknowledged = sum(len(client.acknowledged) for client in clients)
        assert acknowledged == EVENTS
        assert [each["dead"] for each in stats] == [0, 0, 0]
        assert all(each["acknowledged"] == each["certified"] + each["invalid"] for each in stats)
        assert sum(each["acknowledged"] for each in stats) == acknowledged
        assert sum(each["invalid"] for each in stats) == len(INVALID)
        check_every_event(clients)


def test_the_database_of_a_node_is_killed(tmp_path: Path) -> None:
    """kill -9 of every Postgres process of one node under load: it comes back, and nothing is lost."""
    tmp_path.chmod(0o755)
    with LocalNetwork(tmp_path, 3, settings=SETTINGS) as network:
        network.wait_agents()
        clients = start_load(network, pause_s=0.25)
        time.sleep(2.0)
        victim = network.nodes[1]
        assert victim.process is not None
        for child in psutil.Process(victim.process.pid).children(recursive=True):
            if "postgres" in child.name():
                child.kill()
        time.sleep(4.0)
        if not victim.running:  # it may give up its life, never an event
            victim.start()
        network.wait_ready(victim)
        finish_load(clients)
        stats = settled(network)
        assert sum(each["acknowledged"] for each in stats) == sum(len(client.acknowledged) for client in clients)
        assert all(each["acknowledged"] == each["certified"] + each["invalid"] for each in stats)
        check_every_event(clients)


def test_without_a_quorum_events_wait_and_are_never_downgraded(tmp_path: Path) -> None:
    """Two of three nodes gone: acknowledged, pending; back again: certified at the level that was asked for."""
    tmp_path.chmod(0o755)
    with LocalNetwork(tmp_path, 3, settings=SETTINGS) as network:
        network.wait_agents()
        register_all(network)
        for node in network.nodes[1:]:
            node.kill()
        client = Client(network.nodes[0], batches_of(("JFK",), 100), pause_s=0)
        client.start()
        client.join(30)
        assert len(client.acknowledged) == 100
        time.sleep(3)
        assert get(network.nodes[0], "/overlay/stats")["pending"] == 100
        event_id = next(iter(client.acknowledged))
        waiting = get(network.nodes[0], f"/overlay/events/{event_id}/certification")["certification"]
        assert (waiting["status"], waiting["level"], waiting["certificates"]) == ("pending", "enhanced", [])
        for node in network.nodes[1:]:
            node.start()
        for node in network.nodes[1:]:
            network.wait_ready(node)
        stats = settled(network)
        assert stats[0]["levels"] == {"enhanced": 100}
