"""What a batch costs a network as it grows: messages by kind, networks of 5 to 50 nodes on a virtual clock.

The coordination of every node is the real one; links take 1 to 20 ms and lose nothing. Every node follows the topics
of every batch, so each certificate goes to all. The smallest network is the baseline.

With --machines, real nodes instead, each in a network namespace of this machine (root): messages, bytes and CPU per
event of each node, and from these a model of 10 and 50 machines. The first nodes coordinate, the last offer no roles
and only follow, which is what the model's parts are taken from.

    scripts/bench/run growth --plot growth.svg
    scripts/bench/run growth --machines 10
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import attrs
import trio

from scripts.event_load import Client, registered_feeds
from scripts.growth_model import PER_CORE_US, Share, costs
from scripts.markdown import markdown
from scripts.measuring import Meter, ends, growth_of, scrape, total, wait_for_ends
from scripts.namespaces import Namespaces, NamespacesError
from scripts.network import LocalNetwork
from tests.simulation.drivers import Faults, Node
from tests.simulation.world import World

SIZES = (5, 10, 20, 35, 50)
BATCHES = 400
OVER_MS = 40_000
KINDS = {
    "auctions": ("Announcement", "Bid", "Award"),
    "work": ("WorkOrder", "WorkResult", "WorkRefused", "CertifyOrder", "Certification"),
    "certificates": ("BatchSealed", "SealConfirmed"),
}
COORDINATORS = 3
AGENTS = 6  # at most, the coordinators included
SOURCES = 6  # of each coordinator
POST = 500
SETTLE_S = 5.0
IDLE_S = 10.0
WARM_S = 4.0
END_S = 120.0
MODELLED = (10, 50)
CORES = 2
COLOURS = {"auctions": "#8a6d1f", "work": "#1f5f8a", "certificates": "#3a7d44", "in all": "#222222"}


@attrs.frozen(kw_only=True)
class Point:
    """Messages per certified batch in a network of ``nodes``: in all, and as one node has to send."""

    nodes: int
    sealed: int
    network: Mapping[str, float]
    cpu_us: float

    @property
    def total(self) -> float:
        return sum(self.network.values())


def _ingest(world: World, node: Node, sequence: int) -> None:
    world.ingest(node, f"source {sequence % 7}", sequence, stateful=False)


def measure(nodes: int, seed: int) -> Point:
    """Run one network to its end."""
    world = World(seed, nodes=nodes, faults=Faults(delay_ms=20), subscribed=True)
    random = Random(seed)  # noqa: S311 -- a load, no secret
    members = list(world.nodes.values())
    for sequence in range(BATCHES):
        node = random.choice(members)
        world.at(random.randint(0, OVER_MS), partial(_ingest, world, node, sequence))
    began = time.process_time()
    world.run_for(OVER_MS + 30_000)
    spent = time.process_time() - began
    world.check()
    sealed = sum(len(node.sealed) for node in members)
    counted = {
        kind: sum(world.sent[name] * (nodes if name == "Announcement" else 1) for name in names) / sealed
        for kind, names in KINDS.items()
    }
    return Point(nodes=nodes, sealed=sealed, network=counted, cpu_us=1e6 * spent / sealed)


def table(points: Sequence[Point]) -> str:
    first = points[0]
    lines = [
        f"{'nodes':>5} {'batches':>8} {'auctions':>9} {'work':>7} {'certificates':>13} {'in all':>8} "
        f"{'per node':>9} {'x of 5':>7} {'CPU us a batch':>15}"
    ]
    for point in points:
        per_node = point.total / point.nodes
        lines.append(
            f"{point.nodes:5} {point.sealed:8} {point.network['auctions']:9.1f} {point.network['work']:7.1f} "
            f"{point.network['certificates']:13.1f} {point.total:8.1f} {per_node:9.2f} "
            f"{per_node / (first.total / first.nodes):7.2f} {point.cpu_us:15.0f}"
        )
    return "\n".join(lines)


def plot(points: Sequence[Point]) -> str:
    """Messages per node and certified batch over the number of nodes, as SVG."""
    width, height, left, bottom = 640, 360, 56, 44
    series = {kind: [point.network[kind] / point.nodes for point in points] for kind in KINDS}
    series["in all"] = [point.total / point.nodes for point in points]
    top = 1.1 * max(max(values) for values in series.values())

    def at(nodes: int, value: float) -> str:
        x = left + (width - left - 110) * nodes / SIZES[-1]
        return f"{x:.1f},{height - bottom - (height - bottom - 20) * value / top:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<polyline fill="none" stroke="#999" points="{at(0, top)} {at(0, 0)} {at(SIZES[-1], 0)}"/>',
        f'<text x="{width // 2 - 60}" y="{height - 8}">nodes in the network</text>',
        f'<text x="14" y="{height // 2 + 90}" transform="rotate(-90 14 {height // 2 + 90})">'
        "messages per node and certified batch</text>",
    ]
    for step in range(5):
        x, y = at(0, top * step / 4).split(",")
        parts.append(f'<text x="{float(x) - 34:.0f}" y="{float(y) + 4:.0f}">{top * step / 4:.1f}</text>')
    for nodes in SIZES:
        x, y = at(nodes, 0).split(",")
        parts.append(f'<text x="{float(x) - 6:.0f}" y="{float(y) + 16:.0f}">{nodes}</text>')
    for name, values in series.items():
        line = " ".join(at(point.nodes, value) for point, value in zip(points, values, strict=True))
        x, y = at(SIZES[-1], values[-1]).split(",")
        parts.append(f'<polyline fill="none" stroke="{COLOURS[name]}" stroke-width="2" points="{line}"/>')
        parts.append(f'<text x="{float(x) + 6:.0f}" y="{float(y) + 4:.0f}" fill="{COLOURS[name]}">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


@attrs.frozen(kw_only=True)
class Spent:
    """What one node did and spent under load. ``idle_share``: of a core, without any events."""

    kind: str
    cpu_s: float
    idle_share: float
    carried: int
    metrics: Mapping[str, float]

    def sum(self, name: str, **labels: str) -> float:
        return total(self.metrics, f"overlay_{name}_total", **labels)


@attrs.frozen(kw_only=True)
class Load:
    """What all nodes did in ``seconds``: ``events`` certified in ``batches``."""

    nodes: Sequence[Spent]
    seconds: float
    events: int
    batches: int
    waiting: int

    def share(self, node: Spent) -> Share:
        return Share(
            cpu_us=PER_CORE_US * (node.cpu_s - node.idle_share * self.seconds) / self.events,
            coordinated=node.sum("events_acknowledged") / self.events,
            worked=node.sum("role_runs") / self.batches,
            is_agent=node.kind != "follower",
        )


def kinds(machines: int) -> list[str]:
    """Of each node: a third of ten coordinate, at least one only follows."""
    agents = min(AGENTS, machines - 1)
    names = ["coordinator"] * COORDINATORS + ["agent"] * (agents - COORDINATORS)
    return names + ["follower"] * (machines - len(names))


def offer(network: LocalNetwork, spaces: Namespaces, chosen: argparse.Namespace) -> Load:
    """Post to the coordinators at a rate until all has its end."""
    nodes, coordinators = network.nodes, network.nodes[:COORDINATORS]
    feeds, meter = registered_feeds(coordinators, SOURCES), Meter(network.nodes)

    def cpu_s() -> list[float]:
        found = meter.cpu_s()
        return [sum(each for (index, _), each in found.items() if index == node.index) for node in nodes]

    def load(seconds: float) -> float:
        client = Client(coordinators, feeds, size=POST, rate=chosen.rate)
        trio.run(client.run, seconds)
        wait_for_ends(coordinators, END_S)
        time.sleep(SETTLE_S)  # certificates on their way, confirmations
        return client.offer.started_ms

    load(WARM_S)
    rested = cpu_s()
    time.sleep(IDLE_S)
    idle = [(late - early) / IDLE_S for early, late in zip(rested, cpu_s(), strict=True)]
    metrics, carried = [scrape(node) for node in nodes], [spaces.bytes_carried(node.index) for node in nodes]
    before, started = cpu_s(), time.monotonic()
    started_ms = load(chosen.seconds)
    seconds, after = time.monotonic() - started, cpu_s()
    ended = ends(coordinators, started_ms)
    return Load(
        nodes=[
            Spent(
                kind=kind,
                cpu_s=after[node.index] - before[node.index],
                idle_share=idle[node.index],
                carried=spaces.bytes_carried(node.index) - carried[node.index],
                metrics=growth_of(metrics[node.index], scrape(node)),
            )
            for node, kind in zip(nodes, kinds(len(nodes)), strict=True)
        ],
        seconds=seconds,
        events=ended.events("certified"),
        batches=ended.batches,
        waiting=ended.events("pending"),
    )


def by_node(load: Load) -> str:
    """A row for each node; all per event of the whole network, but for the idle share."""
    rows = []
    for number, node in enumerate(load.nodes, 1):
        share = load.share(node)
        sent, received = (node.sum("frames", direction=direction) for direction in ("out", "in"))
        rows.append(
            [
                f"node-{number} {node.kind}",
                round(share.coordinated, 3),
                round(share.worked, 3),
                *(round(each / load.events, 4) for each in (sent, received)),
                round(node.sum("frame_bytes") / load.events, 1),
                round(node.carried / load.events, 1),
                round(share.cpu_us, 1),
                f"{node.idle_share:.1%}",
            ]
        )
    columns = [
        "node", "coordinated", "roles run", "messages out", "in", "their bytes", "bytes on the link", "CPU us",
        "of a core when idle",
    ]  # fmt: skip
    return markdown(columns, rows)


def model(load: Load) -> str:
    found = costs([load.share(node) for node in load.nodes])
    lines = [
        f"Model, not measured: C + k A + (N - k) F with C {found.coordinate:.1f}, A {found.work:.1f}, "
        f"F {found.follow:.1f} us and k {found.agents:.2f}, machines of {CORES} cores, all of them coordinating:",
        *(
            f"  {machines} machines: {found.event_us(machines):.1f} us an event, "
            f"{found.events_per_s(machines, CORES):,.0f} events/s"
            for machines in MODELLED
        ),
        f"  any number: at most {found.limit(CORES):,.0f} events/s",
    ]
    return "\n".join(lines)


def settings(kind: str, host: str) -> dict[str, Any]:
    """What a node has besides its defaults: an address that it can advertise, which has to be https."""
    advertised = {"overlay_public_url": f"https://{host}"}
    return advertised | ({"overlay_roles": []} if kind == "follower" else {})


def measure_machines(chosen: argparse.Namespace) -> None:
    """Raises NamespacesError where there can be no namespaces."""
    agents = sum(kind != "follower" for kind in kinds(chosen.machines))
    with Namespaces(chosen.machines) as spaces, tempfile.TemporaryDirectory(prefix="overlay-bench-") as name:
        Path(name).chmod(0o755)
        network = LocalNetwork(
            Path(name),
            chosen.machines,
            name="overlay-bench",
            per_node=[settings(*each) for each in zip(kinds(chosen.machines), spaces.hosts, strict=True)],
            hosts=spaces.hosts,
        )
        for node in network.nodes:
            node.within = spaces.command(node.index)
        with network:
            network.wait_agents(agents=agents)
            load = offer(network, spaces, chosen)
    print(
        f"{chosen.machines} nodes on one machine, {load.events:,} events certified in {load.batches:,} batches in "
        f"{load.seconds:.1f} s, {load.waiting:,} without an end; per event of the whole network, idle CPU left out:"
    )
    print(by_node(load))
    print(f"all nodes: {sum(load.share(node).cpu_us for node in load.nodes):.1f} us per event")
    print(model(load))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plot", type=Path, help="write the plot here, as SVG")
    parser.add_argument("--machines", type=int, help="so many real nodes, 5 or more, each in a network namespace")
    parser.add_argument("--rate", type=int, default=2_000, help="events a second, with --machines")
    parser.add_argument("--seconds", type=float, default=30.0, help="of load, with --machines")
    chosen = parser.parse_args()
    if chosen.machines is not None:
        if chosen.machines <= COORDINATORS + 1:
            parser.error(f"--machines must be at least {COORDINATORS + 2}: coordinators, an agent, a follower")
        try:
            measure_machines(chosen)
        except NamespacesError as error:
            sys.exit(f"growth --machines: {error}")
        return
    points = [measure(nodes, chosen.seed) for nodes in SIZES]
    print(table(points))
    if chosen.plot:
        chosen.plot.write_text(plot(points))
        print(f"plot: {chosen.plot}")


if __name__ == "__main__":
    main()
