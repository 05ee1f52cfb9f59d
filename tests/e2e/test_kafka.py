"""Nodes that read Kafka are killed in mid-stream, and the broker: what it acknowledged is certified exactly once."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
import pytest

from scripts.network import LocalNetwork, Node, get
from tests.e2e.test_crashes import all_events, settled
from tests.kafka_broker import Broker, Sender

pytestmark = pytest.mark.slow

PARTITIONS = 4
SETTINGS = {
    "event_batch_size": 100,
    "event_parallel_workers": 1,
    "event_consensus_required": False,
    "event_processing_timeout_ms": 8_000,
    "overlay_outbound_allow": ["127.0.0.0/8"],
}


class Load(Thread):
    """Sends numbers until it is told to stop, a few at a time; what the broker does not take is sent again."""

    def __init__(self, sender: Sender) -> None:
        super().__init__(daemon=True)
        self.sender = sender
        self.sent = 0
        self._told = Event()

    def run(self) -> None:
        while not self._told.is_set():
            for number in range(self.sent, self.sent + 100):
                self.sender.send("readings", b'{"value": %d}' % number, partition=number % PARTITIONS)
            self.sent += 100
            time.sleep(0.25)

    def end(self) -> set[str]:
        """The places of what the broker acknowledged."""
        self._told.set()
        self.join()
        self.sender.flush(60)
        return {f"{partition}/{offset}" for _, partition, offset, _ in self.sender.acknowledged}


@contextlib.contextmanager
def sending(broker: Broker) -> Iterator[Load]:
    broker.create("readings", PARTITIONS)
    load = Load(broker.producer(**{"message.timeout.ms": 120_000, "linger.ms": 200}))
    load.start()
    try:
        yield load
    finally:
        load.end()


def source(node: Node, broker: Broker) -> None:
    document = {
        "sourceId": "k",
        "name": "Kafka",
        "sourceType": "kafka",
        "configuration": {
            "brokers": [broker.address],
            "topics": ["readings"],
            "properties": {"session.timeout.ms": 6_000, "heartbeat.interval.ms": 500},
        },
    }
    made = httpx.post(f"{node.url}/overlay/sources", json=document, auth=node.operator, timeout=30)
    assert made.status_code == 201, made.text


def state(node: Node) -> dict[str, Any]:
    with contextlib.suppress(httpx.HTTPError):
        found: dict[str, Any] = get(node, "/overlay/sources/k")["state"] or {}
        return found
    return {}


def until(condition: Callable[[], bool], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.1)


def place(event: dict[str, Any]) -> str:
    return "/".join(event["externalId"].split("/")[1:])


def check_whole(load: Load, acknowledged: set[str], found: list[dict[str, Any]]) -> None:
    """Every message is one event. One that the broker was killed over may be in its log and not be acknowledged."""
    places = Counter(map(place, found))
    assert acknowledged <= set(places), "nothing is lost"
    assert max(places.values()) == 1, "nothing is doubled"
    assert all(event["data"]["value"] < load.sent for event in found), "nothing is invented"


def taken(*nodes: Node) -> int:
    return sum(get(node, "/overlay/stats")["acknowledged"] for node in nodes)


def test_a_node_and_the_broker_are_killed_in_mid_stream(tmp_path: Path) -> None:
    """Apart and together, several times; the broker keeps what it acknowledged, so must the node."""
    tmp_path.chmod(0o755)
    with (
        Broker(tmp_path, durable=True) as broker,
        LocalNetwork(tmp_path, 1, settings=SETTINGS) as network,
        sending(broker) as load,
    ):
        (node,) = network.nodes
        network.wait_agents()
        source(node, broker)
        for kills_node, kills_broker in ((True, False), (False, True), (True, True), (True, False)):
            before = taken(node)
            until(lambda before=before: taken(node) > before + 300)  # type: ignore[misc]
            if kills_node:
                node.kill()
            if kills_broker:
                broker.kill()
                time.sleep(1.0)
                broker.start()
            if kills_node:
                node.start()
                network.wait_ready(node)
        acknowledged = load.end()
        until(lambda: taken(node) >= len(acknowledged) and state(node).get("lag") == 0, 120)
        (stats,) = settled(network)
        found = all_events(node)
        check_whole(load, acknowledged, found)
        assert {event["status"] for event in found} == {"certified"}
        assert stats["acknowledged"] == stats["certified"] == len(found)


def test_nodes_of_one_group_go_on_without_the_one_that_is_killed(tmp_path: Path) -> None:
    """Each is killed once, and comes back. Only what was under way may be known to both, by one id."""
    tmp_path.chmod(0o755)
    with (
        Broker(tmp_path) as broker,
        LocalNetwork(tmp_path, 2, settings=SETTINGS) as network,
        sending(broker) as load,
    ):
        network.wait_agents()
        for node in network.nodes:
            source(node, broker)
        until(lambda: all(state(node).get("detail", "").startswith("2 partitions") for node in network.nodes))
        for victim, other in (network.nodes, network.nodes[::-1]):
            before = taken(victim)
            until(lambda victim=victim, before=before: taken(victim) > before + 200)  # type: ignore[misc]
            victim.kill()
            until(lambda other=other: state(other).get("detail", "").startswith("4 partitions"))  # type: ignore[misc]
            victim.start()
            network.wait_ready(victim)
            until(lambda victim=victim: state(victim).get("detail", "").startswith("2 partitions"))  # type: ignore[misc]
        acknowledged = load.end()
        until(lambda: all(state(node).get("lag") == 0 for node in network.nodes))
        until(lambda: taken(*network.nodes) >= len(acknowledged))
        settled(network)
        events = [all_events(node) for node in network.nodes]
        found = [Counter(map(place, each)) for each in events]
        assert set(found[0] + found[1]) >= acknowledged, "nothing is lost"
        assert max((*found[0].values(), *found[1].values())) == 1, "no node knows a message twice"
        by_place = [{place(event): event["eventId"] for event in each} for each in events]
        both = set(by_place[0]) & set(by_place[1])
        assert len(both) <= 2 * 1_000, "at most a batch for each node that was killed"
        assert all(by_place[0][each] == by_place[1][each] for each in both)
        assert all(event["status"] == "certified" for each in events for event in each)
