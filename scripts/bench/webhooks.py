"""Webhook deliveries: how many a second to one receiver, and the node's CPU for each, one event a body and a hundred.

The deliveries run in this process, over the real interface and a real database; the receiver is a process of its own
that answers 204 and does nothing else. What is delivered was certified before, so that nothing else costs CPU here;
that of the database is not counted. Rounds of either kind take turns.
"""

import argparse
import itertools
import os
import shutil
import socket
import statistics
import tempfile
import threading
import time
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import attrs
import trio

from node.ingest.terms import IngestPolicy
from storage import subscriptions
from storage.embedded import EmbeddedPostgres
from tests.node.running import Running, running, until

BATCH = 500
ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"
DATA = {"sensorId": "temp_001", "value": 23.5, "unit": "celsius", "station": "JFK", "windSpeedMps": 4.6}


def receive(pipe: Connection) -> None:
    """Take posts on a port of its own, for the life of the process."""
    listener = socket.create_server(("127.0.0.1", 0))
    pipe.send(listener.getsockname()[1])
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


def answer(connection: socket.socket) -> None:
    held = b""
    while True:
        head, found, rest = held.partition(b"\r\n\r\n")
        if found:
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            if len(rest) >= length:
                held = rest[length:]
                connection.sendall(ANSWER)
                continue
        received = connection.recv(1 << 18)
        if not received:
            return
        held += received


@attrs.frozen(kw_only=True)
class Round:
    """What one subscription took from the beginning to the end of the feed."""

    deliveries: int
    seconds: float
    cpu_s: float


async def prepare(node: Running, events: int) -> None:
    await node.source()
    numbers = itertools.count()
    for _ in range(events // BATCH):
        batch = [
            {"externalId": f"b{next(numbers)}", "eventType": "sensor_reading", "data": DATA} for _ in range(BATCH)
        ]
        (await node.post(*batch)).raise_for_status()
    for committed in list(node.recorder.told):
        await node.seal(committed.manifest)
    await until(lambda: node.feed.handed.sequence == len(node.recorder.told))


async def deliver(node: Running, port: int, max_events: int) -> Round:
    """Deliver everything there is to a new subscription."""
    last = node.feed.handed
    document = {
        "subscriptionType": "webhook",
        "callbackUrl": f"http://127.0.0.1:{port}/hook",
        "since": "0",
        "delivery": {"maxEvents": max_events},
    }
    cpu_s, started = time.process_time(), time.perf_counter()
    made = (await node.client.post("/overlay/subscriptions", json=document)).raise_for_status().json()
    get = partial(subscriptions.get, subscription_id=made["subscriptionId"])
    while True:
        row = await node.database.run(get)
        assert row is not None
        if (row.cursor_sequence, row.cursor_position) >= (last.sequence, last.position):
            break
        await trio.sleep(0.05)
    done = Round(deliveries=row.deliveries, seconds=time.perf_counter() - started, cpu_s=time.process_time() - cpu_s)
    await node.client.delete(f"/overlay/subscriptions/{made['subscriptionId']}")
    return done


async def measure(postgres_url: str, port: int, rounds: int, events: int) -> dict[int, list[Round]]:
    found: dict[int, list[Round]] = {1: [], 100: []}
    async with running(postgres_url, policy=IngestPolicy(batch_events=BATCH)) as node:
        await prepare(node, events)
        for max_events in found:  # warm
            await deliver(node, port, max_events)
        for _ in range(rounds):
            for max_events, done in found.items():
                done.append(await deliver(node, port, max_events))
    return found


def show(found: dict[int, list[Round]], events: int) -> None:
    rounds = len(found[1])
    print(f"{events:,} events to one receiver, {rounds} rounds of each kind in turn; medians")
    print(f"{'maxEvents':>10}{'deliveries/s':>14}{'events/s':>10}{'CPU us/delivery':>17}{'CPU us/event':>14}")
    for max_events, done in found.items():
        rate = statistics.median(each.deliveries / each.seconds for each in done)
        speed = statistics.median(events / each.seconds for each in done)
        cpu = statistics.median(1e6 * each.cpu_s / each.deliveries for each in done)
        per_event = statistics.median(1e6 * each.cpu_s / events for each in done)
        print(f"{max_events:>10}{rate:>14,.0f}{speed:>10,.0f}{cpu:>17,.0f}{per_event:>14,.1f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--events", type=int, default=10_000, help=f"a multiple of {BATCH}")
    chosen = parser.parse_args()
    events = chosen.events // BATCH * BATCH
    directory = Path(tempfile.mkdtemp(prefix="overlay-bench-"))
    os.chmod(directory, 0o755)  # the database's own user must get in
    here, there = get_context("spawn").Pipe()
    receiver = get_context("spawn").Process(target=receive, args=(there,), daemon=True)
    receiver.start()
    try:
        with EmbeddedPostgres(directory) as postgres:
            show(trio.run(measure, postgres.url, here.recv(), chosen.rounds, events), events)
    finally:
        receiver.kill()
        shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
