"""From an MQTT broker to committed events: one node, one Mosquitto, messages that already wait in the node's session.

The source is switched off while messages are published, and on again: what is measured is how fast the node empties
the broker, until the last message is committed. With --certify the node certifies meanwhile (level basic), which is
counted too.

    scripts/bench/run mqtt --messages 30000
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import paho.mqtt.client as paho
import psutil
from paho.mqtt.enums import CallbackAPIVersion

from scripts.event_load import Feed
from scripts.measuring import Meter
from scripts.mosquitto import Mosquitto
from scripts.network import LocalNetwork, Node, get

ANSWER_S = 120.0
SETTINGS = {
    "event_consensus_required": False,
    "event_parallel_workers": 1,
    "overlay_outbound_allow": ["127.0.0.0/8"],
}
CASES = (("5", 1), ("5", 2), ("3.1.1", 1))


def call(node: Node, method: str, path: str, body: Any = None) -> Any:
    answer = httpx.request(method, f"{node.url}/overlay/sources{path}", json=body, auth=node.operator, timeout=60)
    return answer.raise_for_status().json()


def state(node: Node, source_id: str) -> dict[str, Any]:
    found: dict[str, Any] = call(node, "GET", f"/{source_id}")["state"] or {"status": None, "received": 0}
    return found


def wait(node: Node, source_id: str, name: str, value: Any) -> None:
    deadline = time.monotonic() + ANSWER_S
    while state(node, source_id)[name] != value:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{name} is not {value}: {state(node, source_id)}\n{node.tail()}")
        time.sleep(0.2)


def publish(broker: Mosquitto, topic: str, messages: int, qos: int) -> None:
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.max_inflight_messages_set(20)  # what Mosquitto takes at once
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    feed = Feed(topic)
    for number in range(messages):
        info = client.publish(topic, feed.event(), qos)
        if number % 1_000 == 999:
            info.wait_for_publish(ANSWER_S)
    info.wait_for_publish(ANSWER_S)
    client.disconnect()
    client.loop_stop()


def case(node: Node, broker: Mosquitto, version: str, qos: int, chosen: argparse.Namespace) -> None:
    messages = chosen.messages
    source_id = f"mqtt-{version}-{qos}"
    configuration = {
        "host": "127.0.0.1",
        "port": broker.port,
        "topics": [source_id],
        "protocolVersion": version,
        "qos": qos,
        "externalIdPath": "/externalId",
    }
    source = {"sourceId": source_id, "name": source_id, "sourceType": "mqtt", "configuration": configuration}
    call(node, "POST", "", source)
    wait(node, source_id, "status", "running")
    call(node, "PATCH", f"/{source_id}", {"enabled": False})
    wait(node, source_id, "status", None)
    publish(broker, source_id, messages, qos)
    meter, server = Meter([node]), psutil.Process(broker.process.pid if broker.process else 0)
    spent, spent_by_broker = meter.cpu_s(), server.cpu_times()
    started = time.monotonic()
    call(node, "PATCH", f"/{source_id}", {"enabled": True})
    wait(node, source_id, "received", messages)
    took_s = time.monotonic() - started
    while chosen.certify and get(node, "/overlay/stats")["pending"]:
        time.sleep(0.1)
    after, after_by_broker = meter.cpu_s(), server.cpu_times()
    print(f"MQTT {version}, QoS {qos}: {messages:,} messages in {took_s:.1f} s: {messages / took_s:,.0f} a second")
    for (_, part), seconds in sorted(after.items()):
        print(f"  {part:10} {1e6 * (seconds - spent.get((0, part), 0.0)) / messages:7.1f} us of CPU a message")
    own = sum(after_by_broker[:2]) - sum(spent_by_broker[:2])
    print(f"  {'mosquitto':10} {1e6 * own / messages:7.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--messages", type=int, default=30_000)
    parser.add_argument("--certify", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        settings = {**SETTINGS, "event_processing_agents_enabled": chosen.certify}
        broker = Mosquitto(Path(name) / "broker", settings={"max_queued_messages": "0", "log_type": "error"})
        with broker, LocalNetwork(Path(name), 1, name="overlay-mqtt", settings=settings) as network:
            for version, qos in CASES:
                case(network.nodes[0], broker, version, qos, chosen)


if __name__ == "__main__":
    main()
