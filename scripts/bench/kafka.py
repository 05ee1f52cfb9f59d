"""What reading Kafka costs: messages into committed events, by a node that reads a topic that is full.

One node without agents, so that taking events in is all it does; the broker (memory only) runs beside it. Counted
from the first commit to the last event that is on disk. CPU is that of the node with its worker processes, and of its
Postgres, without the broker's.

    scripts/bench/run kafka --messages 200000 --partitions 6
"""

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

from scripts.network import LocalNetwork, Node, get
from tests.kafka_broker import Broker

TOPIC = "readings"
SOURCE = "kafka"


def fill(broker: Broker, messages: int, partitions: int) -> int:
    """Messages of about 260 bytes. Returns their bytes in all."""
    broker.create(TOPIC, partitions)
    sender = broker.producer(**{"linger.ms": 20})
    size = 0
    for number in range(messages):
        reading = {"station": f"S{number % 50:03}", "number": number, "temperatureC": 20 + number % 17 / 10}
        value = json.dumps(reading | {"note": "x" * 180}).encode()
        size += len(value)
        sender.send(TOPIC, value, key=f"S{number % 50:03}".encode(), partition=number % partitions)
    sender.flush(120)
    return size


def cpu_s(process: psutil.Process) -> dict[str, float]:
    """Of a node's process with its workers, and of its Postgres."""
    found = {"node": 0.0, "postgres": 0.0}
    for each in (process, *process.children(recursive=True)):
        times = each.cpu_times()
        found["postgres" if "postgres" in each.name() else "node"] += times.user + times.system
    return found


def read(node: Node, broker: Broker, **settings: Any) -> None:
    document = {
        "sourceId": SOURCE,
        "name": "Kafka",
        "sourceType": "kafka",
        "configuration": {"brokers": [broker.address], "topics": [TOPIC], **settings},
    }
    httpx.post(f"{node.url}/overlay/sources", json=document, auth=node.operator, timeout=30).raise_for_status()


def state(node: Node) -> dict[str, Any]:
    found: dict[str, Any] = get(node, f"/overlay/sources/{SOURCE}")["state"] or {}
    return found


def measure(directory: Path, messages: int, partitions: int, form: str) -> None:
    settings = {
        "event_processing_agents_enabled": False,
        "event_consensus_required": False,
        "overlay_unsettled_events_max": messages + 1_000,
        "overlay_outbound_allow": ["127.0.0.0/8"],
    }
    with Broker(directory) as broker, LocalNetwork(directory, 1, settings=settings) as network:
        (node,) = network.nodes
        size = fill(broker, messages, partitions)
        assert node.process is not None
        process = psutil.Process(node.process.pid)
        read(node, broker, data=form)
        while state(node).get("accepted", 0) == 0:
            time.sleep(0.1)
        first, started_s, before = state(node)["accepted"], time.monotonic(), cpu_s(process)
        while state(node)["accepted"] < messages:
            time.sleep(0.5)  # asking costs the node, too
        seconds, after = time.monotonic() - started_s, cpu_s(process)
        counted = messages - first
        spent = {name: 1e6 * (after[name] - before[name]) / counted for name in after}
        print(
            f"data={form}: {counted:,} messages of {size // messages} bytes, {partitions} partitions, {seconds:.1f} s"
        )
        print(f"  {counted / seconds:,.0f} messages/s into committed events")
        print(f"  CPU us per message: node {spent['node']:.1f}, its postgres {spent['postgres']:.1f}")
        print(f"  node's memory: {process.memory_info().rss / 1e6:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description="What reading Kafka costs.")
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--partitions", type=int, default=6)
    options = parser.parse_args()
    for form in ("value", "message"):
        directory = Path(tempfile.mkdtemp(prefix="overlay-kafka-"))
        directory.chmod(0o755)
        try:
            measure(directory, options.messages, options.partitions, form)
        finally:
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
