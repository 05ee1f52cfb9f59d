"""An agent that stands still in the middle of a job: its batches go to others long before their deadline."""

import threading
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from scripts.network import LocalNetwork, Node, get
from tests.e2e.test_crashes import all_events, settled
from tests.faults.injection import resume, stop

pytestmark = pytest.mark.slow

DEADLINE_MS = 30_000
SETTINGS = {
    "event_parallel_workers": 1,
    "event_processing_timeout_ms": DEADLINE_MS,
    "event_consensus_required": False,  # so that one agent alone can have a batch
    "event_agent_selection_strategy": "cost",
}
VICTIM = 3
LEVELS = ("basic", "enhanced")
BATCH = 20
PAUSE_S = 0.15
BEFORE_S, STOPPED_S = 5.0, 10.0


class Steady(threading.Thread):
    """Posts small batches to one node, at both levels in turn, until told to end."""

    def __init__(self, node: Node) -> None:
        super().__init__(daemon=True)
        self.node = node
        self.acknowledged: set[str] = set()
        self.failures: list[str] = []
        self.over = threading.Event()

    def run(self) -> None:
        number = 0
        with httpx.Client(base_url=self.node.url, timeout=20) as http:
            while not self.over.wait(PAUSE_S):
                ids = [f"{number}-{each}" for each in range(BATCH)]
                body = {
                    "sourceId": f"farm-{LEVELS[number % 2]}",
                    "events": [{"externalId": key, "eventType": "reading", "data": {"value": 1}} for key in ids],
                    "processingOptions": {"consensusLevel": LEVELS[number % 2]},
                }
                answer = http.post("/overlay/events/ingest", json=body)
                if answer.status_code == 202:
                    self.acknowledged |= {event["eventId"] for event in answer.json()["processedEvents"]}
                elif answer.status_code == 429:  # while batches wait for the agent that stopped
                    self.over.wait(float(answer.headers["Retry-After"]))
                else:
                    self.failures.append(answer.text[:300])
                number += 1


def register(node: Node) -> None:
    for level in LEVELS:
        source: dict[str, Any] = {"sourceId": f"farm-{level}", "name": "A farm", "sourceType": "webhook"}
        source |= {"mappingPolicy": {"required": ["value"]}}
        httpx.post(f"{node.url}/overlay/sources", json=source, auth=node.operator, timeout=20).raise_for_status()


def batches(node: Node) -> Sequence[dict[str, Any]]:
    ids = {event["batchId"] for event in all_events(node)}
    with httpx.Client(base_url=node.url, timeout=20) as http:
        return [http.get(f"/overlay/batches/{batch_id}").raise_for_status().json() for batch_id in sorted(ids)]


def seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def test_a_stopped_agent_is_replaced_long_before_the_deadline(tmp_path: Path) -> None:
    """The cheapest agent has every batch of level basic to itself, and stops with all its processes."""
    tmp_path.chmod(0o755)
    prices = [{"overlay_price": 1 if index == VICTIM else 10} for index in range(4)]
    with LocalNetwork(tmp_path, 4, settings=SETTINGS, per_node=prices) as network:
        network.wait_agents()
        victim, others = network.nodes[VICTIM], network.nodes[:VICTIM]
        key = get(victim, "/overlay/node")["identityKey"]
        clients = [Steady(node) for node in others]
        for node, client in zip(others, clients, strict=True):
            register(node)
            client.start()
        time.sleep(BEFORE_S)
        stop(victim)
        stopped_s = time.time()
        time.sleep(STOPPED_S)
        for client in clients:
            client.over.set()
            client.join(20)
        stats = settled(network, others)
        resumed_s = time.time()
        resume(victim)

        assert [client.failures for client in clients] == [[], [], []]
        assert [each["dead"] for each in stats] == [0, 0, 0]
        of_victim, of_others = [], []
        for node, client in zip(others, clients, strict=True):
            assert {event["eventId"] for event in all_events(node)} == client.acknowledged
            for batch in batches(node):
                received_s, certified_s = seconds(batch["receivedAt"]), seconds(batch["certifiedAt"])
                # an agent of whom nothing is known is waited for a third of it; a busy machine adds to that
                assert 1_000 * (certified_s - received_s) < DEADLINE_MS / 2, batch
                if batch["level"] == "basic" and certified_s < stopped_s:
                    of_victim.append(batch)
                elif batch["level"] == "basic" and received_s > stopped_s:  # those before it may have signed
                    of_others.append(batch)
        assert resumed_s - stopped_s >= STOPPED_S
        assert any(agent["agentIdentity"] == key for batch in of_victim for agent in batch["agents"]), (
            "the cheapest agent had work before it stopped"
        )
        signers = {agent["agentIdentity"] for batch in of_others for agent in batch["agents"]}
        assert signers
        assert key not in signers
        blemishes = [get(node, f"/overlay/agents/{key}")["blemishes"] for node in others]
        assert any(blemish["outcome"] == "late" for each in blemishes for blemish in each)
