"""Live delivery to thousands: one node process, 1,000 SSE and 1,000 WebSocket clients, certified batches at a rate.

Batches are taken in, certified by a quorum of test keys, sealed into Postgres and published as the node does it.
Latency is from the seal (its transaction committed) to the read that brought the whole message to a client. Every
client must get every event; one more client stops reading, and must cost the others nothing. If the rate asked for
is not held with P95 under 500 ms, lower ones are tried, to the largest that is.

scripts/bench/run fanout --rate 500 --seconds 15
"""

import argparse
import multiprocessing
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import attrs
import psutil
import trio

from node.api.services import ApiSettings
from node.delivery.feed import SWITCH_S, Feed
from scripts import stream_clients
from storage.embedded import EmbeddedPostgres
from tests.node.certified_batches import NETWORK
from tests.node.running import Running, running

P95_MAX_MS = 500.0
SETTLE_S = 3.0
DRAIN_S = 20.0
LEAST_RATE = 25
BUFFER_BYTES = 1024 * 1024  # of a client: small, so that one that stops reading meets its bound within the run
CLIENTS_MAX = 10_000
SOURCE = "bench-1"


# --- the node ------------------------------------------------------------------------------------------------


class Fed:
    """The node under test, and what feeds it."""

    def __init__(self, node: Running) -> None:
        self._node = node
        self._numbers = 0
        self._one_at_a_time = trio.Lock()

    async def feed(self, rate: float, batch: int, seconds: float) -> dict[int, tuple[int, int]]:
        """Certify batches at a rate; events and monotonic nanoseconds of the seal by sequence."""
        seals: dict[int, tuple[int, int]] = {}
        started_s, due = trio.current_time(), 0
        async with trio.open_nursery() as nursery:
            while due * batch < rate * seconds:
                await trio.sleep_until(started_s + due * batch / rate)
                due += 1
                nursery.start_soon(self._one, batch, seals)
        return seals

    async def _one(self, batch: int, seals: dict[int, tuple[int, int]]) -> None:
        first, self._numbers = self._numbers, self._numbers + batch
        events = [
            {
                "externalId": f"r-{number}",
                "eventType": "sensor_reading",
                "timestamp": "2024-01-15T10:30:00Z",
                "data": {
                    "station": f"ST{number % 90:03d}",
                    "value": number / 7,
                    "unit": "C",
                    "floor": number % 9,
                },
            }
            for number in range(first, first + batch)
        ]
        async with self._one_at_a_time:
            (await self._node.post(*events, source=SOURCE)).raise_for_status()
            manifest = self._node.recorder.told.pop().manifest
        sealed = await self._node.seal(manifest)
        # as the node does it: what has ended no longer counts against the next
        self._node.ingest.admission.backlog.leave(manifest.message.batch_id)
        seals[sealed.sequence] = (batch, time.monotonic_ns())


def serve(pipe: Connection, postgres_url: str) -> None:
    """The node's process: sends its address, then carries out the commands that come through the pipe."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    sys.setswitchinterval(SWITCH_S)

    async def main() -> None:
        settings = ApiSettings(network=NETWORK, body_bytes_max=1024 * 1024, stream_clients_max=CLIENTS_MAX)
        async with running(postgres_url, settings=settings, feed=Feed(buffer_bytes_max=BUFFER_BYTES)) as node:
            await node.source(SOURCE, overlayTopics=["gitdata.events.iot"])
            fed = Fed(node)
            pipe.send(node.url)
            receive = partial(trio.to_thread.run_sync, pipe.recv, abandon_on_cancel=True)  # type: ignore[call-arg]
            while (command := await receive()) != "stop":
                node.recorder.told.clear()
                pipe.send(attrs.asdict(node.feed.stats) if command == "stats" else await fed.feed(*command))

    trio.run(main)


# --- measuring -----------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Step:
    """What one rate came to. Milliseconds; CPU in seconds of the whole step."""

    rate: float
    seconds: float
    quantiles: list[float]
    deliveries: int
    expected: int
    behind: int
    node_cpu_s: float
    load_cpu_s: float
    memory_mb: float

    @property
    def holds(self) -> bool:
        return self.deliveries == self.expected and not self.behind and self.quantiles[1] < P95_MAX_MS


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


class Bench:
    def __init__(self, node: Connection, load: Connection, node_pid: int, load_pid: int, clients: int) -> None:
        self._node, self._load, self._clients = node, load, clients
        self._node_process, self._load_process = psutil.Process(node_pid), psutil.Process(load_pid)

    def ask(self, pipe: Connection, command: Any) -> Any:
        pipe.send(command)
        return pipe.recv()

    def step(self, rate: float, batch: int, seconds: float, profile: Path | None = None) -> Step:
        self.ask(self._load, "begin")
        before = cpu_s(self._node_process), cpu_s(self._load_process)
        started_s = time.monotonic()
        self._node.send((rate, batch, seconds))
        profiler = None if profile is None else spy(self._node_process.pid, seconds - 2, profile)
        peak = 0.0
        while not self._node.poll(0.5):
            peak = max(peak, self._node_process.memory_info().rss)
        seals = self._node.recv()
        took_s = time.monotonic() - started_s
        events = sum(count for count, _ in seals.values())
        deadline_s = time.monotonic() + DRAIN_S
        while True:
            state = self.ask(self._load, "state")
            behind = sum(count != events for count in state["messages"])
            if not behind or time.monotonic() > deadline_s:
                break
            time.sleep(0.2)
        node_cpu_s = cpu_s(self._node_process) - before[0]
        load_cpu_s = cpu_s(self._load_process) - before[1]
        quantiles, deliveries = self.ask(self._load, seals)
        if profiler is not None:
            profiler.wait(30)
        return Step(
            rate=events / took_s,
            seconds=took_s,
            quantiles=quantiles,
            deliveries=deliveries,
            expected=events * self._clients,
            behind=behind,
            node_cpu_s=node_cpu_s,
            load_cpu_s=load_cpu_s,
            memory_mb=peak / 2**20,
        )


def show(step: Step) -> None:
    p50, p95, p99, worst = step.quantiles
    each = 1e6 / max(1, step.deliveries)
    print(
        f"{step.rate:4.0f} events/s, {step.deliveries / step.seconds:9,.0f} deliveries/s: "
        f"P50 {p50:.0f} ms, P95 {p95:.0f} ms, P99 {p99:.0f} ms, max {worst:.0f} ms; "
        f"CPU node {step.node_cpu_s / step.seconds:.0%}, {step.node_cpu_s * each:.2f} us per delivery, "
        f"load {step.load_cpu_s / step.seconds:.0%}; {step.deliveries:,} of {step.expected:,}, "
        f"{step.behind} behind: {'holds' if step.holds else 'does not hold'}",
        flush=True,
    )


def spy(pid: int, seconds: float, path: Path) -> "subprocess.Popen[bytes]":
    command = ["-m", "py_spy", "record", "-d", str(max(1, int(seconds))), "-r", "200", "-f", "raw", "-o", str(path)]
    program = Path(sys.executable).parent / "py-spy"
    return subprocess.Popen(
        [program, *command[2:], "-p", str(pid)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def show_profile(path: Path) -> None:
    """Where the node's main thread spends its time: functions by their own time, and by all below them."""
    own: Counter[str] = Counter()
    under: Counter[str] = Counter()
    for line in path.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [frame.rsplit(":", 1)[0] for frame in stack.split(";")]
        own[frames[-1]] += int(count)
        for frame in set(frames):
            under[frame] += int(count)
    total = sum(own.values()) or 1
    print("profile of the node, share of samples by own time:")
    for name, samples in own.most_common(12):
        print(f"  {samples / total:5.1%}  {name}")
    print("and with all that they call:")
    for name, samples in under.most_common(22)[4:]:
        print(f"  {samples / total:5.1%}  {name}")


def stop_reading(url: str) -> socket.socket:
    """A client that takes its headers and nothing more."""
    host, _, port = url.removeprefix("http://").partition(":")
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect((host, int(port)))
    sock.sendall(stream_clients.request("sse", host))
    return sock


def measure(chosen: argparse.Namespace, postgres_url: str, directory: Path) -> int:
    context = multiprocessing.get_context("spawn")
    node_pipe, node_end = context.Pipe()
    load_pipe, load_end = context.Pipe()
    node = context.Process(target=serve, args=(node_end, postgres_url), daemon=True)
    node.start()
    node_end.close()  # so that a process that ends is an end of the pipe, not a wait without one
    url = node_pipe.recv()
    assert node.pid is not None
    empty_mb = psutil.Process(node.pid).memory_info().rss / 2**20
    host, _, port = url.removeprefix("http://").partition(":")
    counts = {"gzip": chosen.gzip, "sse": chosen.sse - chosen.gzip, "ws": chosen.websockets}
    load = context.Process(target=stream_clients.run, args=(load_end, (host, int(port)), counts), daemon=True)
    load.start()
    load_end.close()
    assert load.pid is not None
    clients = load_pipe.recv()
    time.sleep(SETTLE_S)
    full_mb = psutil.Process(node.pid).memory_info().rss / 2**20
    print(f"{clients} clients: {', '.join(f'{count} {kind}' for kind, count in counts.items())}")
    each_kb = 1024 * (full_mb - empty_mb) / clients
    print(f"node {empty_mb:.0f} MB without clients, {full_mb:.0f} MB with: {each_kb:.1f} KB each")
    bench = Bench(node_pipe, load_pipe, node.pid, load.pid, clients)
    bench.step(100, chosen.batch, 3)  # warm
    stalled = stop_reading(url)
    steps = [bench.step(chosen.rate, chosen.batch, chosen.seconds)]
    show(steps[0])
    print(f"one client that stopped reading: cut off {bench.ask(node_pipe, 'stats')['cut_off']}")
    stalled.close()
    search(bench, chosen, steps)
    best = max((step for step in steps if step.holds), key=lambda step: step.rate, default=steps[-1])
    print(f"ceiling: {best.rate:.0f} events/s to {clients} clients")
    print(f"memory at its most, at that rate: {1024 * (best.memory_mb - empty_mb) / clients:.1f} KB each")
    if chosen.profile:
        profile = directory / "profile"
        show(bench.step(best.rate, chosen.batch, 10, profile))
        show_profile(profile)
    node_pipe.send("stop")
    load_pipe.send("stop")
    for process in (node, load):
        process.join(10)
        process.kill()
    return 0


def search(bench: Bench, chosen: argparse.Namespace, steps: list[Step]) -> None:
    """Towards the largest rate that holds, in few steps."""
    low, high = 0.0, 0.0
    rate = chosen.rate
    for _ in range(chosen.steps):
        if steps[-1].holds:
            low = max(low, rate)
        else:
            high = rate
        rate = 1.5 * low if not high else (low + high) / 2 if low else high / 2
        if rate < LEAST_RATE or (high and high - low < 0.15 * high):
            return
        steps.append(bench.step(rate, chosen.batch, chosen.seconds))
        show(steps[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sse", type=int, default=1_000)
    parser.add_argument("--gzip", type=int, default=0, help="how many of the SSE clients take gzip")
    parser.add_argument("--websockets", type=int, default=1_000)
    parser.add_argument("--rate", type=float, default=500, help="certified events a second")
    parser.add_argument("--batch", type=int, default=50, help="events in a batch")
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--steps", type=int, default=5, help="rates tried after the first")
    parser.add_argument("--profile", action="store_true", help="profile the node at its ceiling")
    chosen = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="overlay-bench-"))
    os.chmod(directory, 0o755)  # the database's own user must get in
    try:
        with EmbeddedPostgres(directory / "postgres") as postgres:
            return measure(chosen, postgres.url, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    raise SystemExit(main())
