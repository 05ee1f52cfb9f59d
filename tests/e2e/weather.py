"""Clients of a running network: they post real weather, again and again until it is acknowledged."""

import json
import threading
import time
from collections.abc import Sequence
from typing import Any

import httpx

from scripts.demo import POLICY, STATIONS, readings, register, source_id
from scripts.network import LocalNetwork, Node

BATCH = 100


def batches_of(stations: Sequence[str], events: int) -> list[tuple[str, list[dict[str, Any]]]]:
    """(source id, events), the first ``events`` readings of the stations, in batches, station after station."""
    taken: dict[str, list[dict[str, Any]]] = {station: [] for station in stations}
    for station, event in readings():
        if station in taken and len(taken[station]) < events // len(stations):
            taken[station].append(event)
    return [
        (source_id(station), taken[station][at : at + BATCH])
        for station in stations
        for at in range(0, len(taken[station]), BATCH)
    ]


def register_all(network: LocalNetwork) -> None:
    policy = json.loads(POLICY.read_text())
    for node in network.nodes:
        register(node, policy)


class Client(threading.Thread):
    """Posts its batches to one node in order. No answer, or a 5xx: the same body again; that is what ids are for."""

    def __init__(self, node: Node, batches: Sequence[tuple[str, list[dict[str, Any]]]], pause_s: float) -> None:
        super().__init__(daemon=True)
        self.node = node
        self.batches = batches
        self.pause_s = pause_s
        self.acknowledged: dict[str, str] = {}  # event id -> external id
        self.repeats = 0
        self.error: str | None = None

    def run(self) -> None:
        for source, events in self.batches:
            body = {"sourceId": source, "events": events, "processingOptions": {"consensusLevel": "enhanced"}}
            answer = self._post(json.dumps(body).encode())
            if answer is None:
                return
            for event in answer["processedEvents"]:
                self.acknowledged[event["eventId"]] = event["externalId"]
            time.sleep(self.pause_s)

    def _post(self, body: bytes) -> dict[str, Any] | None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                answer = httpx.post(
                    f"{self.node.url}/overlay/events/ingest",
                    content=body,
                    headers={"Content-Type": "application/json"},
                    timeout=20,
                )
            except httpx.HTTPError:
                self.repeats += 1
                time.sleep(0.2)
                continue
            if answer.status_code == 202:
                return dict(answer.json())
            if answer.status_code not in (429, 500, 503):
                self.error = answer.text[:500]
                return None
            time.sleep(0.2)
        self.error = "not acknowledged within two minutes"
        return None


__all__ = ["BATCH", "STATIONS", "Client", "batches_of", "register_all"]
