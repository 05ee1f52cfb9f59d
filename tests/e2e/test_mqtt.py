"""A feed by MQTT while broker and node are killed: what was acknowledged to the publisher is certified exactly once.

The broker is ended by SIGKILL and by SIGTERM. Mosquitto (2.0.11) acknowledges a message before it writes it down,
``autosave_on_changes`` or not: 8 of 16 kills lost one message of about 200 acknowledged.
No subscriber can mend that. So after a SIGKILL of the broker, and only then, the publisher says again what was
acknowledged in the second before it, or was under way. After a SIGTERM of the broker, or a SIGKILL of the node alone,
nothing is said again.
"""

import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from scripts.mosquitto import LOSSLESS, Mosquitto
from scripts.network import LocalNetwork, Node, get
from tests.e2e.test_crashes import all_events

pytestmark = pytest.mark.slow

PAUSE_S = 0.02
UNWRITTEN_S = 1.0
SETTINGS = {
    "event_parallel_workers": 1,
    "event_consensus_required": False,
    "overlay_outbound_allow": ["127.0.0.0/8"],
    "event_processing_timeout_ms": 8_000,
}


class Publisher(threading.Thread):
    """Says numbers, QoS 1 and 2 by turns, until it is told to stop; what is not acknowledged, it says again."""

    def __init__(self, broker: Mosquitto) -> None:
        super().__init__(daemon=True)
        self._broker = broker
        self._lock = threading.Lock()
        self._said: dict[tuple[int, int], int] = {}  # (connection, packet identifier): number
        self._acknowledged_s: dict[tuple[int, int], float] = {}
        self._ended = threading.Event()
        self._connections = 0
        self.numbers = 0
        self._client = self._connected()

    def _connected(self) -> paho.Client:
        self._connections += 1
        client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5, userdata=self._connections)
        client.on_publish = self._on_publish
        client.connect("127.0.0.1", self._broker.port)
        client.loop_start()
        return client

    def _on_publish(self, client: Any, connection: int, mid: int, reason: Any, properties: Any) -> None:
        if not reason.is_failure:
            self._acknowledged_s[connection, mid] = time.monotonic()

    def run(self) -> None:
        while not self._ended.wait(PAUSE_S):
            with self._lock:
                self._say(self.numbers)
                self.numbers += 1

    def _say(self, number: int) -> None:
        info = self._client.publish(f"meters/{number % 3}", json.dumps({"n": number}), 1 + number % 2)
        self._said[self._connections, info.mid] = number

    def waiting(self, since_s: float = math.inf) -> set[int]:
        """The numbers that were not acknowledged before this time."""
        done = {number for key, number in self._said.items() if self._acknowledged_s.get(key, math.inf) < since_s}
        return set(self._said.values()) - done

    def connect_again(self, since_s: float = math.inf) -> int:
        """Say again what was not acknowledged before this time. Returns how many messages that are."""
        with self._lock:
            self._client.loop_stop()
            late = sorted(self.waiting(since_s))
            self._client = self._connected()
            for number in late:
                self._say(number)
        return len(late)

    def finish(self) -> None:
        """Stop, and wait until all that was said is acknowledged."""
        self._ended.set()
        self.join(10)
        until(lambda: not self.waiting(), "the broker acknowledges what was published", 60)
        self._client.disconnect()
        self._client.loop_stop()


def until(condition: Callable[[], bool], what: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not after {seconds:.0f} s: {what}"
        time.sleep(0.1)


def add_source(node: Node, broker: Mosquitto) -> None:
    configuration = {"host": "127.0.0.1", "port": broker.port, "topics": ["meters/+"], "qos": 2}
    body = {"sourceId": "meters", "name": "Meters", "sourceType": "mqtt", "configuration": configuration}
    answer = httpx.post(f"{node.url}/overlay/sources", json=body, auth=node.operator, timeout=30)
    assert answer.status_code == 201, answer.text
    until(lambda: is_read(node), "the source is read", 30)


def state(node: Node) -> dict[str, Any]:
    answer = httpx.get(f"{node.url}/overlay/sources/meters", auth=node.operator, timeout=30)
    found: dict[str, Any] = answer.raise_for_status().json()["state"] or {}
    return found


def is_read(node: Node) -> bool:
    return bool(state(node).get("status") == "running")


def restart_node(network: LocalNetwork, node: Node) -> None:
    node.start()
    network.wait_ready(node)


def test_broker_and_node_are_killed_and_every_message_is_certified_once(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with (
        Mosquitto(tmp_path / "broker", settings=LOSSLESS) as broker,
        LocalNetwork(tmp_path, 1, settings=SETTINGS) as network,
    ):
        (node,) = network.nodes
        add_source(node, broker)
        publisher = Publisher(broker)
        publisher.start()
        again = 0
        for victims in ("broker", "node", "both", "broker gently", "node", "both", "broker"):
            time.sleep(2.0)
            is_gentle, ended_s = victims == "broker gently", time.monotonic()
            if victims in ("node", "both"):
                node.kill()
            if is_gentle:
                broker.stop()
            elif victims != "node":
                broker.kill()
            if victims != "node":
                broker.start()
                again += publisher.connect_again(math.inf if is_gentle else ended_s - UNWRITTEN_S)
            if victims in ("node", "both"):
                restart_node(network, node)
        publisher.finish()
        check(node, publisher, again)


def check(node: Node, publisher: Publisher, again: int) -> None:
    """Each number that was said is one event, certified; nothing else is."""

    def is_settled() -> bool:
        stats = get(node, "/overlay/stats")
        return bool(stats["pending"] == 0 and stats["certified"] >= publisher.numbers)

    until(is_settled, f"{publisher.numbers} events are certified:\n{node.tail()}", 300)
    events = all_events(node)
    print(f"{publisher.numbers} messages, {again} said again; {state(node)}")
    assert publisher.numbers > 500
    assert {event["status"] for event in events} == {"certified"}
    counts = Counter(event["data"]["n"] for event in events)
    assert counts == Counter(range(publisher.numbers))
