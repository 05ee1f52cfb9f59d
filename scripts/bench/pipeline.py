"""From HTTP to certificate: three nodes, their Postgres and this load generator on one machine.

Prints events/s, latencies, CPU us per event of every process, memory over time, and as a baseline in the same
run what one trusted process would spend: the same roles and the same rows, without any agreement.

    scripts/bench/run pipeline --rate 5000 --seconds 60
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import orjson
import psutil
import trio

from agents.policy import policy_document
from agents.roles import execute
from protocols.canonical import canonical_json
from scripts.network import ROOT, LocalNetwork, Node, get

POLICY = ROOT / "configs" / "policies" / "weather.json"
BATCH = 500
WARM_S = 4.0
WARM_END_S = 120.0  # what was offered to warm up must have its end before anything is measured
SOURCES_PER_NODE = 6
BASELINE_BATCHES = 60
PARTS = ("(node/", "(protocols/", "(agents/", "(storage/", "(psycopg/", "(libp2p/", "(trio_parallel/", "(quart")


class Feed:
    """Weather-like events of one source, time always moving on, as request bodies: cheap to make."""

    def __init__(self, station: str) -> None:
        self.source_id = f"bench-{station.lower()}"
        self.station = station
        self.count = 0
        self._template = (
            f'{{"externalId":"{station}-%d","eventType":"weather.observation","timestamp":"%s","data":'
            f'{{"origin":"{station}","time_hour":"%s","temp":%d.02,"dewp":26.06,"humid":59.37,"wind_dir":%d,'
            '"wind_speed":10.357019999999999,"wind_gust":null,"precip":0,"pressure":1012.3,"visib":10}}'
        )

    def body(self, size: int) -> bytes:
        events = [self.event() for _ in range(size)]
        return (
            f'{{"sourceId":"{self.source_id}","processingOptions":{{"requireCertification":true,'
            f'"consensusLevel":"enhanced"}},"events":[{",".join(events)}]}}'
        ).encode()

    def event(self) -> str:
        n = self.count = self.count + 1
        day = f"2013-{1 + n // 2419200 % 12:02}-{1 + n // 86400 % 28:02}"
        at = f"{day}T{n // 3600 % 24:02}:{n // 60 % 60:02}:{n % 60:02}Z"
        return self._template % (n, at, at, 39 + n % 40, n % 36 * 10)


def register(node: Node, feed: Feed, policy: dict[str, Any]) -> None:
    split = ("mapping", "coercion", "required")
    response = httpx.post(
        f"{node.url}/overlay/sources",
        json={
            "sourceId": feed.source_id,
            "name": feed.station,
            "sourceType": "webhook",
            "mappingPolicy": {key: policy[key] for key in split},
            "validationRules": {key: value for key, value in policy.items() if key not in split},
        },
        auth=node.operator,
        timeout=30,
    )
    response.raise_for_status()


class Load:
    """Posts at a steady rate, open loop: a slow answer delays nobody else's."""

    def __init__(self, network: LocalNetwork, feeds: dict[int, list[Feed]], rate: int, seconds: float) -> None:
        self.network = network
        self.feeds = feeds
        self.rate = rate
        self.seconds = seconds
        self.acks_ms: list[float] = []
        self.accepted = 0
        self.refused = 0

    async def run(self) -> None:
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(limits=limits, timeout=60) as client, trio.open_nursery() as nursery:
            started = trio.current_time()
            for turn in range(int(self.rate * self.seconds / BATCH)):
                await trio.sleep_until(started + turn * BATCH / self.rate)
                node = self.network.nodes[turn % len(self.network.nodes)]
                feeds = self.feeds[node.index]
                feed = feeds[turn // len(self.network.nodes) % len(feeds)]
                nursery.start_soon(self._post, client, node, feed.body(BATCH))

    async def _post(self, client: httpx.AsyncClient, node: Node, body: bytes) -> None:
        headers = {"Content-Type": "application/json", "Prefer": "return=minimal"}
        while True:
            started = time.perf_counter()
            answer = await client.post(f"{node.url}/overlay/events/ingest", content=body, headers=headers)
            if answer.status_code != 429:
                break
            self.refused += 1
            await trio.sleep(float(answer.headers.get("retry-after", "1")))
        answer.raise_for_status()
        self.acks_ms.append(1000 * (time.perf_counter() - started))
        self.accepted += answer.json()["counts"]["accepted"]


class Meter:
    """CPU and memory of the nodes' process trees, by part."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.roots = [psutil.Process(node.process.pid) for node in nodes if node.process is not None]

    def parts(self) -> list[tuple[int, str, psutil.Process]]:
        found = []
        for index, root in enumerate(self.roots):
            found.append((index, "node", root))
            for child in root.children(recursive=True):
                try:
                    name = "postgres" if "postgres" in child.name() else "workers"
                except psutil.NoSuchProcess:
                    continue
                found.append((index, name, child))
        return found

    def cpu_s(self) -> dict[tuple[int, str], float]:
        spent: dict[tuple[int, str], float] = {}
        for index, part, process in self.parts():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            spent[index, part] = spent.get((index, part), 0.0) + times.user + times.system
        # what ended children of a part spent counts for it as well
        for index, root in enumerate(self.roots):
            times = root.cpu_times()
            spent[index, "workers"] = spent.get((index, "workers"), 0.0) + (
                times.children_user + times.children_system
            )
        return spent

    def memory_mb(self) -> dict[tuple[int, str], float]:
        """Proportional set size: what a process has to itself, and its share of what it shares."""
        held: dict[tuple[int, str], float] = {}
        for index, part, process in self.parts():
            try:
                rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
            except OSError:
                continue
            pss = sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
            held[index, part] = held.get((index, part), 0.0) + pss * 1024 / 1e6
        return held


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def ended(network: LocalNetwork) -> int:
    stats = [get(node, "/overlay/stats") for node in network.nodes]
    return sum(each["certified"] + each["invalid"] + each["dead"] for each in stats)


async def watch(network: LocalNetwork, meter: Meter, samples: list[tuple[float, int, float, float]]) -> None:
    started = time.monotonic()
    while True:
        held = meter.memory_mb()
        nodes = [
            held.get((index, "node"), 0) + held.get((index, "workers"), 0) for index in range(len(network.nodes))
        ]
        count = await trio.to_thread.run_sync(ended, network)
        samples.append((time.monotonic() - started, count, max(nodes), sum(held.values())))
        await trio.sleep(5)


async def measure(
    network: LocalNetwork, load: "Load | _Offset", meter: Meter
) -> list[tuple[float, int, float, float]]:
    samples: list[tuple[float, int, float, float]] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, network, meter, samples)
        await load.run()
        deadline = time.monotonic() + 60
        while await trio.to_thread.run_sync(ended, network) < load.accepted and time.monotonic() < deadline:
            await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    return samples


def baseline(policy: bytes) -> float:
    """CPU us per event of one process that trusts itself: parse, roles, hashes; no signatures, no peers."""
    feed = Feed("BASE")
    bodies = [feed.body(BATCH) for _ in range(BASELINE_BATCHES)]
    started = time.process_time()
    context = b"{}"
    for body in bodies:
        events = orjson.loads(body)["events"]
        lines = [canonical_json({**event, "previous": None}) for event in events]
        output = execute(
            network="bench", source_id=feed.source_id, payload=b"\n".join(lines), policy=policy, context=context
        )
        context = output.context_out
    return 1e6 * (time.process_time() - started) / (BATCH * BASELINE_BATCHES)


def report(
    load: Load,
    took_s: float,
    spent: dict[tuple[int, str], float],
    own_cpu_s: float,
    samples: Sequence[tuple[float, int, float, float]],
    network: LocalNetwork,
    idle: dict[tuple[int, str], float],
    baseline_us: float,
) -> dict[str, Any]:
    stats = [get(node, "/overlay/stats") for node in network.nodes]
    events = load.accepted
    parts = {"load generator": own_cpu_s}
    for (index, part), seconds in sorted(spent.items()):
        parts[f"node-{index + 1} {part}"] = seconds
    half = [row for row in samples if row[0] > samples[-1][0] / 2] or samples
    memory = [row[2] for row in samples]
    return {
        "events": events,
        "certified": ended(network),
        "seconds": round(took_s, 1),
        "events_per_s": round(events / took_s),
        "ack_ms": {f"p{int(q * 100)}": round(quantile(load.acks_ms, q), 1) for q in (0.5, 0.95, 0.99)},
        "certificate_ms": {q: max(each["latencyMs"][q] or 0 for each in stats) for q in ("p50", "p95", "p99")},
        "refused_429": load.refused,
        "cpu_us_per_event": {name: round(1e6 * seconds / events, 1) for name, seconds in parts.items()},
        "cpu_us_per_event_total": round(1e6 * sum(parts.values()) / events, 1),
        "baseline_us_per_event": round(baseline_us, 1),
        "node_mb_idle": round(
            max(idle.get((i, "node"), 0) + idle.get((i, "workers"), 0) for i in range(len(network.nodes)))
        ),
        "node_mb_peak": round(max(memory)),
        "node_mb_second_half": [round(statistics.mean(row[2] for row in half)), round(memory[-1])],
        "all_mb_with_postgres_peak": round(max(row[3] for row in samples)),
    }


def show(result: dict[str, Any], out: Callable[[str], None] = print) -> None:
    out(
        f"{result['events']:,} events in {result['seconds']} s: {result['events_per_s']:,} events/s from HTTP to "
        f"certificate, {result['certified']:,} ended, {result['refused_429']} answers of 429"
    )
    ack, certificate = result["ack_ms"], result["certificate_ms"]
    out(f"acknowledgement   P50 {ack['p50']} ms   P95 {ack['p95']} ms   P99 {ack['p99']} ms")
    out(
        f"to certificate    P50 {certificate['p50']:.0f} ms   P95 {certificate['p95']:.0f} ms   "
        f"P99 {certificate['p99']:.0f} ms  (from the commit of the batch, the worst node)"
    )
    out("CPU us per event of the whole network:")
    for name, cost in result["cpu_us_per_event"].items():
        out(f"  {name:<22} {cost:>7.1f}")
    out(f"  {'all':<22} {result['cpu_us_per_event_total']:>7.1f}")
    out(f"  {'baseline, no network':<22} {result['baseline_us_per_event']:>7.1f}")
    out(
        f"memory (PSS, the largest node with its workers): idle {result['node_mb_idle']} MB, peak "
        f"{result['node_mb_peak']} MB, second half {result['node_mb_second_half'][0]} MB on average and "
        f"{result['node_mb_second_half'][1]} MB at the end; everything with Postgres "
        f"{result['all_mb_with_postgres_peak']} MB"
    )


def profile(network: LocalNetwork, seconds: float, directory: Path) -> None:
    """What the first node's process and its workers spend their time on, by py-spy, all at once."""
    node = network.nodes[0]
    assert node.process is not None
    watched = {"node-1's process": node.process.pid}
    for each in psutil.Process(node.process.pid).children():
        if "postgres" not in each.name():
            watched[f"its worker {each.name()} {each.pid}"] = each.pid
    spy = [str(Path(sys.executable).parent / "py-spy"), "record", "--gil", "--rate", "250", "--format", "raw"]
    running = []
    for name, pid in watched.items():
        raw = directory / f"profile-{pid}.txt"
        command = [*spy, "--pid", str(pid), "--duration", str(int(seconds)), "--output", str(raw)]
        running.append((name, raw, subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)))
    for name, raw, process in running:
        process.wait()
        text = raw.read_text() if raw.exists() else ""
        if text:
            print(f"top costs of {name}, share of its samples while it ran Python (inclusive):")
            show_profile(text)


def show_profile(raw: str) -> None:
    inclusive: dict[str, int] = {}
    total = 0
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        total += int(count)
        for frame in {frame.rpartition(":")[0] for frame in stack.split(";")}:
            inclusive[frame] = inclusive.get(frame, 0) + int(count)
    ours = [item for item in inclusive.items() if any(part in item[0] for part in PARTS)] or list(inclusive.items())
    for name, samples in sorted(ours, key=lambda item: -item[1])[:18]:
        print(f"  {100 * samples / max(1, total):5.1f}%  {name}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=5_000, help="events per second in all")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    chosen = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="overlay-bench-"))
    os.chmod(directory, 0o755)  # the database's own user must get in
    settings = {"event_batch_size": BATCH, "event_parallel_workers": 1}
    policy = json.loads(POLICY.read_text())
    baseline_us = baseline(policy_document(policy))
    try:
        with LocalNetwork(directory, chosen.nodes, name="overlay-bench", settings=settings) as network:
            network.wait_agents()
            feeds = {
                node.index: [Feed(f"{chr(65 + node.index)}{chr(65 + n)}X") for n in range(SOURCES_PER_NODE)]
                for node in network.nodes
            }
            for node in network.nodes:
                for feed in feeds[node.index]:
                    register(node, feed, policy)
            time.sleep(3)
            meter = Meter(network.nodes)
            idle = meter.memory_mb()
            warming = Load(network, feeds, chosen.rate, WARM_S)  # workers up, leases held, caches filled
            trio.run(warming.run)
            latest = time.monotonic() + WARM_END_S
            while ended(network) < warming.accepted and time.monotonic() < latest:
                time.sleep(0.2)
            time.sleep(1)
            warm = ended(network)
            load = Load(network, feeds, chosen.rate, chosen.seconds)
            before, own = meter.cpu_s(), time.process_time()
            started = time.monotonic()
            samples: list[tuple[float, int, float, float]] = []
            ended_at: list[float] = []

            async def measured() -> None:
                async with trio.open_nursery() as nursery:
                    if chosen.profile:
                        nursery.start_soon(trio.to_thread.run_sync, profile, network, chosen.seconds / 2, directory)
                    samples.extend(await measure(network, _Offset(load, warm), meter))
                    ended_at.append(time.monotonic())

            trio.run(measured)
            took_s = ended_at[0] - started
            after = meter.cpu_s()
            spent = {key: after[key] - before.get(key, 0.0) for key in after}
            result = report(load, took_s, spent, time.process_time() - own, samples, network, idle, baseline_us)
            show(result)
            if chosen.json:
                chosen.json.write_text(json.dumps(result, indent=2) + "\n")
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return 0


class _Offset:
    """A load whose accepted events start from what the warm-up left."""

    def __init__(self, load: Load, offset: int) -> None:
        self._load, self._offset = load, offset

    @property
    def accepted(self) -> int:
        return self._load.accepted + self._offset

    async def run(self) -> None:
        await self._load.run()


if __name__ == "__main__":
    sys.exit(main())
