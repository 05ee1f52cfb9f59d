"""What a batch costs a network as it grows: messages by kind, networks of 5 to 50 nodes on a virtual clock.

The coordination of every node is the real one; links take 1 to 20 ms and lose nothing. Every node follows the topics
of every batch, so each certificate goes to all. The smallest network is the baseline.

    scripts/bench/run growth --plot growth.svg
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random

import attrs

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plot", type=Path, help="write the plot here, as SVG")
    chosen = parser.parse_args()
    points = [measure(nodes, chosen.seed) for nodes in SIZES]
    print(table(points))
    if chosen.plot:
        chosen.plot.write_text(plot(points))
        print(f"plot: {chosen.plot}")


if __name__ == "__main__":
    main()
