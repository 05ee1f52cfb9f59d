"""What nodes on this machine did and spent: by their metrics, their processes and their databases."""

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs
import httpx
import psutil
import psycopg

from scripts.network import Node
from storage.embedded.cluster import SUPERUSER_DATABASE, ClusterFiles
from storage.embedded.placement import place
from storage.embedded.server import DATABASE

PROCESSES: Final = {"front-door": "front door", "roles": "roles", "postgres": "postgres"}
"""From the name of a node's child process to the part of the node that it is."""

# A post that was merged with others ends with the batch they became; what was split, as its parts.
FATES: Final = """
    WITH RECURSIVE fate AS (
        SELECT received_ms, events, state, merged_into, certified_ms FROM batches b
        WHERE received_ms >= %s AND NOT EXISTS (SELECT 1 FROM batches p WHERE p.merged_into = b.batch_id)
        UNION ALL
        SELECT f.received_ms, f.events, w.state, w.merged_into, w.certified_ms
        FROM fate f JOIN batches w ON w.batch_id = f.merged_into
    )
    SELECT state, events, received_ms, certified_ms FROM fate WHERE merged_into IS NULL AND state <> 'split'"""
BATCHES: Final = """
    SELECT count(*), coalesce(sum(invalid), 0) FROM batches WHERE received_ms >= %s AND state = 'certified'"""


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def weighted_quantile(values: Iterable[tuple[float, int]], share: float) -> float:
    """The least value that at least this share of the weight does not exceed; nan of none.

    Args:
        values: With their weights.
    """
    ordered = sorted(values)
    total, below = sum(weight for _, weight in ordered), 0
    for value, weight in ordered:
        below += weight
        if below >= share * total:
            return value
    return float("nan")


@attrs.frozen
class Fate:
    """A batch of events that a node accepted, as it was posted.

    Attributes:
        state: ``certified``, ``dead`` or ``pending``.
        certified_ms: UTC, of the batch that it ended with; None until then.
    """

    state: str
    events: int
    received_ms: int
    certified_ms: int | None


@attrs.frozen(kw_only=True)
class Ends:
    """What became of the events that nodes accepted since some time.

    Attributes:
        batches: Certified, after those that waited were merged. invalid: Of the certified events.
    """

    fates: Sequence[Fate]
    batches: int
    invalid: int

    def events(self, state: str) -> int:
        return sum(each.events for each in self.fates if each.state == state)

    def certified_by(self, time_ms: float) -> int:
        """Events certified until then."""
        return sum(
            each.events for each in self.fates if each.certified_ms is not None and each.certified_ms <= time_ms
        )

    def to_certificate_ms(self, share: float) -> float:
        """The time from acceptance to certificate of that share of the certified events."""
        took = [(each.certified_ms - each.received_ms, each.events) for each in self.fates if each.certified_ms]
        return weighted_quantile(took, share)


def ends(nodes: Iterable[Node], since_ms: float) -> Ends:
    """Read from the nodes' own databases. ``since_ms``: UTC."""
    fates: list[Fate] = []
    batches = invalid = 0
    for node in nodes:
        server = ClusterFiles(place(node.directory)).url
        with psycopg.connect(server.replace(f"/{SUPERUSER_DATABASE}?", f"/{DATABASE}?")) as connection:
            fates += (Fate(*row) for row in connection.execute(FATES, (int(since_ms),)))
            counted = connection.execute(BATCHES, (int(since_ms),)).fetchone()
            assert counted is not None, "an aggregate has a row"
            batches, invalid = batches + counted[0], invalid + int(counted[1])
    return Ends(fates=fates, batches=batches, invalid=invalid)


def scrape(node: Node) -> dict[str, float]:
    """A node's metrics: values by name and labels, as they are written."""
    text = httpx.get(f"{node.url}/metrics", timeout=60).raise_for_status().text
    rows = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in rows}


def total(samples: Mapping[str, float], name: str, **labels: str) -> float:
    """The sum of a metric over all its rows that have these labels."""
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    return sum(
        value
        for key, value in samples.items()
        if key.partition("{")[0] == name and all(each in key for each in wanted)
    )


def growth_of(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """By how much each of a node's metrics grew between two readings."""
    return {name: value - before.get(name, 0.0) for name, value in after.items()}


def unsettled(nodes: Iterable[Node]) -> int:
    """Events that were accepted and have no end yet, by the nodes' counters: cheaper for them than /overlay/stats."""
    left = 0.0
    for node in nodes:
        samples = scrape(node)
        ended = sum(total(samples, f"overlay_events_{name}_total") for name in ("certified", "invalid", "dead"))
        left += total(samples, "overlay_events_acknowledged_total") - ended
    return int(left)


def wait_for_ends(nodes: Sequence[Node], patience_s: float) -> bool:
    """Wait until everything that was accepted has its end; whether it has."""
    latest = time.monotonic() + patience_s
    while unsettled(nodes):
        if time.monotonic() > latest:
            return False
        time.sleep(0.2)
    return True


class Meter:
    """CPU and memory of the nodes' process trees, by part: the event loop, the node's other threads, front door,
    roles, postgres.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._roots = [psutil.Process(node.process.pid) for node in nodes if node.process is not None]

    def cpu_s(self) -> dict[tuple[int, str], float]:
        """By the node's place and the part; what ended children spent is ``ended processes``."""
        spent: dict[tuple[int, str], float] = {}
        for index, root in enumerate(self._roots):
            times, loop_s = root.cpu_times(), 0.0
            for thread in root.threads():
                if thread.id == root.pid:
                    loop_s = thread.user_time + thread.system_time
            spent[index, "event loop"] = loop_s
            spent[index, "threads"] = times.user + times.system - loop_s
            spent[index, "ended processes"] = times.children_user + times.children_system
            for part, child in self._children(root):
                try:
                    times = child.cpu_times()
                except psutil.NoSuchProcess:
                    continue
                own = times.user + times.system + times.children_user + times.children_system
                spent[index, part] = spent.get((index, part), 0.0) + own
        return spent

    def memory_mb(self) -> dict[tuple[int, str], float]:
        """Proportional set size of ``node``, with its workers, and ``postgres``: what a process has to itself, and
        its share of what it shares.
        """
        held: dict[tuple[int, str], float] = {}
        for index, root in enumerate(self._roots):
            for part, process in [("node", root), *self._children(root)]:
                try:
                    rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
                except OSError:
                    continue
                pss = sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
                key = index, "postgres" if part == "postgres" else "node"
                held[key] = held.get(key, 0.0) + pss * 1024 / 1e6
        return held

    def _children(self, root: psutil.Process) -> list[tuple[str, psutil.Process]]:
        found = []
        for child in root.children(recursive=True):
            try:
                found.append((PROCESSES.get(child.name(), "other processes"), child))
            except psutil.NoSuchProcess:
                continue
        return found
