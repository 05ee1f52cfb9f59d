"""From HTTP to certificate: three nodes, their Postgres and this load generator on one machine.

Events are offered at a rate, open loop, and what is refused is not repeated. Printed are the rates offered, accepted
and certified, latencies, CPU us per event of every process and by cause, messages and bytes, memory over time, and
as a baseline in the same run what one trusted process would spend: the same roles over the same events, without any
agreement. Settings are those a node is shipped with, unless options say otherwise.

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
from typing import Any, Final

import attrs
import psutil
import trio

from agents.policy import policy_document
from scripts.bench import nats
from scripts.event_load import Client, Feed, Offer, outcome, registered_feeds, trusted, weather_policy
from scripts.measuring import Ends, Meter, ends, growth_of, scrape, total, unsettled, wait_for_ends
from scripts.network import LocalNetwork

POST: Final = 500
SOURCES_PER_NODE: Final = 6
WARM_S: Final = 4.0
WARM_END_S: Final = 120.0  # what was offered to warm up must have its end before anything is measured
END_S: Final = 60.0
WATCH_S: Final = 5.0
NATS_S: Final = 20.0
BASELINE_BATCHES: Final = 60
PARTS = ("(node/", "(protocols/", "(agents/", "(storage/", "(psycopg/", "(libp2p/", "(trio_parallel/", "(quart")


@attrs.frozen(kw_only=True)
class Sample:
    """Memory in MB at a time: of the largest node with its workers, and of everything with Postgres."""

    at_s: float
    node_mb: float
    all_mb: float


@attrs.frozen(kw_only=True)
class Run:
    """What was measured of a network under load. CPU and metrics are those of the load, until the last end.

    Attributes:
        cpu_s: By the node's place and the part. idle_mb: As ``Meter.memory_mb``. metrics: Of each node.
    """

    offer: Offer
    ended: Ends
    took_s: float
    cpu_s: dict[tuple[int, str], float]
    metrics: Sequence[dict[str, float]]
    idle_mb: dict[tuple[int, str], float]
    samples: Sequence[Sample]


async def watch(meter: Meter, samples: list[Sample]) -> None:
    started = time.monotonic()
    while True:
        held = meter.memory_mb()
        nodes = [mb for (_, part), mb in held.items() if part == "node"]
        samples.append(Sample(at_s=time.monotonic() - started, node_mb=max(nodes), all_mb=sum(held.values())))
        await trio.sleep(WATCH_S)


def warm_up(network: LocalNetwork, feeds: dict[int, list[Feed]], chosen: argparse.Namespace) -> None:
    """Have workers up, leases held and caches filled. Raises RuntimeError where its events do not end."""
    trio.run(Client(network.nodes, feeds, size=chosen.post, rate=chosen.rate).run, WARM_S)
    if not wait_for_ends(network.nodes, WARM_END_S):
        raise RuntimeError(f"{unsettled(network.nodes)} events of the warm-up have no end after {WARM_END_S:.0f} s")
    time.sleep(1)


def measure(network: LocalNetwork, chosen: argparse.Namespace, directory: Path) -> Run:
    feeds = registered_feeds(network.nodes, chosen.sources)
    time.sleep(3)
    meter = Meter(network.nodes)
    idle = meter.memory_mb()
    warm_up(network, feeds, chosen)
    client = Client(network.nodes, feeds, size=chosen.post, rate=chosen.rate)
    samples: list[Sample] = []
    metrics, before, started = [scrape(node) for node in network.nodes], meter.cpu_s(), time.monotonic()

    async def load() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, meter, samples)
            if chosen.profile:
                nursery.start_soon(trio.to_thread.run_sync, profile, network, chosen.seconds / 2, directory)
            await client.run(chosen.seconds)
            await trio.to_thread.run_sync(wait_for_ends, network.nodes, END_S)
            nursery.cancel_scope.cancel()

    trio.run(load)
    took_s, after = time.monotonic() - started, meter.cpu_s()
    return Run(
        offer=client.offer,
        ended=ends(network.nodes, client.offer.started_ms),
        took_s=took_s,
        cpu_s={key: after[key] - before.get(key, 0.0) for key in after},
        metrics=[growth_of(old, scrape(node)) for old, node in zip(metrics, network.nodes, strict=True)],
        idle_mb=idle,
        samples=samples,
    )


def baseline(policy: bytes, size: int) -> float:
    """CPU us per event of one process that trusts itself, in posts of that size."""
    feed = Feed("BASE")
    bodies = [feed.body(size) for _ in range(max(BASELINE_BATCHES, BASELINE_BATCHES * POST // size))]
    started, context = time.process_time(), b"{}"
    for body in bodies:
        context = trusted(body, feed.source_id, policy, context).context_out
    return 1e6 * (time.process_time() - started) / (size * len(bodies))


def report(run: Run, baseline_us: float) -> dict[str, Any]:
    events = max(1, run.ended.events("certified"))
    parts = {"load generator": run.offer.cpu_s}
    causes = {"load generator": run.offer.cpu_s}
    for (index, part), seconds in sorted(run.cpu_s.items()):
        parts[f"node-{index + 1} {part}"] = seconds
        causes[part] = causes.get(part, 0.0) + seconds
    spent_s = sum(parts.values())
    half = [each for each in run.samples if each.at_s > run.samples[-1].at_s / 2] or run.samples
    sent = [
        sum(total(each, f"overlay_{name}_total", direction="out") for each in run.metrics)
        for name in ("frames", "frame_bytes")
    ]
    idle = [mb for (_, part), mb in run.idle_mb.items() if part == "node"]
    return outcome(run.offer, run.ended) | {
        "seconds": round(run.took_s, 1),
        "messages_per_event": round(sent[0] / events, 4),
        "bytes_per_event": round(sent[1] / events, 1),
        "cpu_us_per_event": {name: round(1e6 * seconds / events, 1) for name, seconds in parts.items()},
        "cpu_us_per_event_total": round(1e6 * spent_s / events, 1),
        "cpu_share": {
            name: round(seconds / spent_s, 3) for name, seconds in sorted(causes.items(), key=lambda each: -each[1])
        },
        "baseline_us_per_event": round(baseline_us, 1),
        "node_mb_idle": round(max(idle)),
        "node_mb_peak": round(max(each.node_mb for each in run.samples)),
        "node_mb_second_half": [
            round(statistics.mean(each.node_mb for each in half)),
            round(run.samples[-1].node_mb),
        ],
        "all_mb_with_postgres_peak": round(max(each.all_mb for each in run.samples)),
    }


def milliseconds(found: dict[str, float | None]) -> str:
    return "   ".join(f"{name.upper()} {value} ms" for name, value in found.items())


def show(result: dict[str, Any], out: Callable[[str], None] = print) -> None:
    out(
        f"offered {result['offered_per_s']:,}/s, accepted {result['accepted_per_s']:,}/s, certified "
        f"{result['certified_per_s']:,}/s while they were offered"
    )
    out(
        f"{result['offered']:,} events offered, {result['accepted']:,} accepted, {result['certified']:,} certified "
        f"({result['invalid']:,} as invalid) and {result['dead']:,} dead after {result['seconds']} s, "
        f"{result['without_end']:,} without an end"
    )
    out(
        f"not accepted: {result['refused']:,} events in {result['refusals']:,} answers of 429, "
        f"{result['unavailable']:,} answered 503, {result['unanswered']:,} without an answer, "
        f"{result['unsent']:,} not sent for want of answers"
    )
    out(f"acknowledgement   {milliseconds(result['ack_ms'])}")
    out(f"to certificate    {milliseconds(result['certificate_ms'])}  (of those accepted, from then on)")
    out(
        f"{result['events_per_batch']} events a batch; {result['messages_per_event']} messages and "
        f"{result['bytes_per_event']} bytes (uncompressed) sent between nodes per event"
    )
    out("CPU us per event of the whole network:")
    for name, cost in result["cpu_us_per_event"].items():
        if cost >= 0.05:
            out(f"  {name:<22} {cost:>7.1f}")
    out(f"  {'all':<22} {result['cpu_us_per_event_total']:>7.1f}")
    out(f"  {'baseline, no network':<22} {result['baseline_us_per_event']:>7.1f}")
    out("of it: " + ", ".join(f"{name} {share:.1%}" for name, share in result["cpu_share"].items() if share >= 0.001))
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=5_000, help="events per second in all")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--sources", type=int, default=SOURCES_PER_NODE, help="of each node")
    parser.add_argument("--post", type=int, default=POST, help="events of a post")
    parser.add_argument("--batch", type=int, help="EVENT_BATCH_SIZE of the nodes")
    parser.add_argument("--baseline", choices=["nats"], help="the same work over NATS JetStream afterwards")
    parser.add_argument("--sync-always", action="store_true", help="NATS syncs each write before acknowledging it")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    chosen = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="overlay-bench-"))
    os.chmod(directory, 0o755)  # the database's own user must get in
    settings = {} if chosen.batch is None else {"event_batch_size": chosen.batch}
    baseline_us = baseline(policy_document(weather_policy()), chosen.post)
    try:
        with LocalNetwork(directory, chosen.nodes, name="overlay-bench", settings=settings) as network:
            network.wait_agents()
            result = report(measure(network, chosen, directory), baseline_us)
        show(result)
        if chosen.baseline == "nats":  # after the nodes have ended
            phase = nats.Phase(rate=chosen.rate, seconds=min(chosen.seconds, NATS_S), size=nats.MESSAGE)
            result["nats"] = nats.measure(directory, phase, sync_always=chosen.sync_always)
            nats.show(result["nats"])
            ratio = result["cpu_us_per_event_total"] / result["nats"]["cpu_us_per_event"]["all"]
            print(f"CPU per event, this network to NATS: {ratio:.1f}")
        if chosen.json:
            chosen.json.write_text(json.dumps(result, indent=2) + "\n")
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
