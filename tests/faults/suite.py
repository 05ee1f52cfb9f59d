"""A network of real processes under load, while nodes are killed, stopped, partitioned and restarted by a seed.

Five nodes with a database each: three honest, one whose agent lies, one whose agent equivocates. The faulty ones
ask the lowest price and price decides the auctions, so every honest node tries them and has to find them out.
Afterwards every acknowledged event must be certified once, with the right content, and the faulty must be known.

    scripts/faults --seconds 180 --rate 2000 --seed 1
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import httpx
import psutil

from scripts.demo import POLICY, STATIONS
from scripts.network import LocalNetwork, Node, get
from tests.faults import checking
from tests.faults.checking import Findings, Standing
from tests.faults.feed import Feed, station
from tests.faults.injection import Injector, family
from tests.faults.load import Client, Share
from tests.faults.partition import Relay
from tests.faults.schedule import Fault, Kind, timetable

NETWORK: Final = "overlay-faults"
SETTINGS: Final = {
    "event_batch_size": 500,
    "event_parallel_workers": 1,
    "event_agent_selection_strategy": "cost",
    "event_processing_timeout_ms": 8_000,
    "overlay_resend_ms": 1_000,
    "overlay_lease_ms": 20_000,
    "overlay_shutdown_grace_s": 3.0,
}
PRICES: Final = {True: 10, False: 1}  # honest or not
SOURCES: Final = 4  # of each honest node
GAP_S_MAX: Final = 10.0
KNOWN_S: Final = 20.0
METER_S: Final = 1.0


@attrs.frozen(kw_only=True)
class Plan:
    """What to run: ``rate`` in events per second, ``batch`` in events per request."""

    seconds: float
    rate: int
    seed: int
    nodes: int = 5
    batch: int = 250

    @property
    def honest(self) -> range:
        return range(self.nodes - 2)

    @property
    def liar(self) -> int:
        return self.nodes - 2

    @property
    def equivocator(self) -> int:
        return self.nodes - 1

    @property
    def faults(self) -> tuple[Fault, ...]:
        return timetable(self.seed, self.seconds, honest=self.honest, faulty=(self.liar, self.equivocator))


@attrs.define(kw_only=True)
class Outcome:
    """What came of a run. It held if there are no problems."""

    plan: Plan
    problems: list[str]
    offered: int = 0
    acknowledged: int = 0
    load_s: float = 0.0
    repeats: int = 0
    refused: int = 0
    acks_ms: list[float] = attrs.field(factory=list)
    latencies_ms: list[float] = attrs.field(factory=list)
    events: Counter[str] = attrs.field(factory=Counter)
    struck: Counter[Kind] = attrs.field(factory=Counter)
    skipped: int = 0
    gap_s: float = float("inf")
    gap_at_s: float = 0.0
    settle_s: float = 0.0
    liar: list[Standing] = attrs.field(factory=list)
    equivocator: list[Standing] = attrs.field(factory=list)
    reputation_min: int = 0
    cpu_s: dict[str, float] = attrs.field(factory=dict)
    relayed_mb: float = 0.0


class Meter(threading.Thread):
    """CPU seconds of the nodes' processes, of those that were killed too; sampled, so a killed one's last second is
    not in it.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        super().__init__(daemon=True)
        self._nodes = nodes
        self._seen: dict[tuple[int, float], tuple[str, float]] = {}
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(METER_S):
            for node in self._nodes:
                for place, process in enumerate(family(node)):
                    self._look(process, place)

    def _look(self, process: psutil.Process, place: int) -> None:
        try:
            times = process.cpu_times()
            part = "postgres" if "postgres" in process.name() else "nodes" if place == 0 else "workers"
            self._seen[process.pid, process.create_time()] = (part, times.user + times.system)
        except psutil.NoSuchProcess:
            pass

    def stop(self) -> dict[str, float]:
        self._over.set()
        self.join()
        spent: Counter[str] = Counter()
        for part, seconds in self._seen.values():
            spent[part] += seconds  # type: ignore[assignment]
        return dict(spent)


def run(plan: Plan, directory: Path, say: Callable[[str], None] = print) -> Outcome:
    """Run the whole of it. ``directory`` holds keys, databases and logs, and must let the database's user in.

    Raises:
        RuntimeError: The network did not come up, or a node did not end.
    """
    for name in STATIONS:
        station(name)
    pids: list[Node] = []
    with Relay(plan.nodes, lambda index: _pid(pids[index])) as relay:
        network = LocalNetwork(
            directory, plan.nodes, name=NETWORK, settings=SETTINGS, per_node=_settings(plan, relay.ports)
        )
        pids += network.nodes
        relay.targets[:] = [node.p2p_port for node in network.nodes]
        network.nodes[plan.liar].module = "tests.e2e.lying_node"
        network.nodes[plan.equivocator].module = "tests.faults.equivocating_node"
        with network:
            network.wait_agents()
            return _Run(plan, network, relay, say).run()


def _pid(node: Node) -> int | None:
    return node.process.pid if node.process is not None else None


def _settings(plan: Plan, doors: Sequence[int]) -> list[dict[str, Any]]:
    addresses = [f"/ip4/127.0.0.1/tcp/{port}" for port in doors]
    return [
        {
            "overlay_p2p_announce": [addresses[index]],
            "overlay_bootstrap": [each for each in addresses[:2] if each != addresses[index]],
            "overlay_price": PRICES[index in plan.honest],
        }
        for index in range(plan.nodes)
    ]


class _Run:
    def __init__(self, plan: Plan, network: LocalNetwork, relay: Relay, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._network = network
        self._relay = relay
        self._say = say
        self._honest = [network.nodes[index] for index in plan.honest]
        self._outcome = Outcome(plan=plan, problems=[])

    def run(self) -> Outcome:
        plan, outcome = self._plan, self._outcome
        feeds = [
            (node, Feed(f"weather-{node.index + 1}-{number}", list(STATIONS)[number % len(STATIONS)]))
            for node in self._honest
            for number in range(SOURCES)
        ]
        for node, feed in feeds:
            _register(node, feed)
        injector = Injector(self._network, self._relay, plan.honest, self._say)
        meter = Meter(self._network.nodes)
        meter.start()
        own_cpu_s = time.process_time()
        began_s, started_s = time.time(), time.monotonic()
        clients = [Client(share, started_s) for share in _shares(plan, feeds)]
        for client in clients:
            client.start()
        try:
            injector.run(plan.faults, started_s, plan.seconds)
        finally:
            injector.make_good()
        for client in clients:
            client.join()
        outcome.load_s = time.monotonic() - started_s
        outcome.struck = Counter(each.fault.kind for each in injector.struck)
        outcome.skipped = len(injector.skipped)
        self._count(clients)
        self._settle()
        outcome.cpu_s = {**meter.stop(), "load, relay": time.process_time() - own_cpu_s}
        outcome.relayed_mb = self._relay.forwarded / 1e6
        self._judge(clients, began_s, began_s + outcome.load_s)
        return outcome

    def _count(self, clients: Sequence[Client]) -> None:
        outcome = self._outcome
        for client in clients:
            if client.error:
                outcome.problems.append(f"{client.share.feed.source_id}: {client.error}")
            outcome.offered += client.offered
            outcome.acknowledged += len(client.acknowledged)
            outcome.repeats += client.repeats
            outcome.refused += client.refused
            outcome.acks_ms += client.acks_ms

    def _settle(self) -> None:
        outcome = self._outcome
        started_s = time.monotonic()
        for index in self._plan.honest:
            self._network.wait_ready(self._network.nodes[index])
        stats = checking.settled(self._honest)
        outcome.settle_s = time.monotonic() - started_s
        for node, each in zip(self._honest, stats, strict=True):
            counts = {key: each[key] for key in ("acknowledged", "certified", "invalid", "pending", "dead")}
            if each["pending"] or each["dead"] or each["acknowledged"] != each["certified"] + each["invalid"]:
                outcome.problems.append(f"node-{node.index + 1}: the sums do not hold: {counts}")

    def _judge(self, clients: Sequence[Client], began_s: float, ended_s: float) -> None:
        outcome = self._outcome
        found = checking.check_nodes(self._honest, clients, NETWORK)
        for each in found:
            outcome.problems += each.problems
            outcome.events += each.events
            outcome.latencies_ms += each.latencies_ms
        self._judge_gap(found, began_s, ended_s)
        self._judge_agents()

    def _judge_gap(self, found: Sequence[Findings], began_s: float, ended_s: float) -> None:
        outcome = self._outcome
        moments = [moment for each in found for moment in each.certified_s]
        outcome.gap_s, outcome.gap_at_s = checking.longest_gap(moments, began_s, ended_s)
        if outcome.gap_s >= GAP_S_MAX:
            outcome.problems.append(f"no certificate for {outcome.gap_s:.1f} s, from {outcome.gap_at_s:.1f} s on")

    def _judge_agents(self) -> None:
        """The faulty known for what they are on every honest node, and nobody else held for faulty."""
        plan, outcome = self._plan, self._outcome
        keys = [get(node, "/overlay/node")["identityKey"] for node in self._network.nodes]
        outcome.reputation_min = checking.minimum_reputation(self._honest[0])

        def known() -> bool:
            outcome.liar = [checking.standing(node, keys[plan.liar]) for node in self._honest]
            outcome.equivocator = [checking.standing(node, keys[plan.equivocator]) for node in self._honest]
            return all(each.validate < outcome.reputation_min for each in outcome.liar) and all(
                each.overall == 0 and each.proofs for each in outcome.equivocator
            )

        if not checking.wait_until(known, KNOWN_S):
            outcome.problems.append("not every honest node knows the faulty agents for what they are")
        for observer in self._honest:
            for index in plan.honest:
                seen = checking.standing(observer, keys[index])
                if seen.dissented or seen.proofs:
                    outcome.problems.append(
                        f"node-{observer.index + 1} holds node-{index + 1} for faulty: {seen.dissented} times of "
                        f"dissent, {seen.proofs} proofs"
                    )


def _shares(plan: Plan, feeds: Sequence[tuple[Node, Feed]]) -> list[Share]:
    """The load dealt evenly to the sources, each at its own moment."""
    pause_s = plan.batch * len(feeds) / plan.rate
    return [
        Share(
            node=node,
            feed=feed,
            batch=plan.batch,
            batches=int(plan.seconds / pause_s),
            pause_s=pause_s,
            offset_s=pause_s * number / len(feeds),
        )
        for number, (node, feed) in enumerate(feeds)
    ]


def _register(node: Node, feed: Feed) -> None:
    policy = json.loads(POLICY.read_text())
    split = ("mapping", "coercion", "required")
    document = {
        "sourceId": feed.source_id,
        "name": f"Hourly weather, {feed.station}",
        "sourceType": "webhook",
        "mappingPolicy": {key: policy[key] for key in split},
        "validationRules": {key: value for key, value in policy.items() if key not in split},
    }
    httpx.post(f"{node.url}/overlay/sources", json=document, auth=node.operator, timeout=30).raise_for_status()


def show(outcome: Outcome, say: Callable[[str], None] = print) -> None:
    """The summary, a line for each figure."""
    plan = outcome.plan
    struck = ", ".join(f"{outcome.struck[kind]} {kind.value}" for kind in Kind)
    rows = {
        "plan": f"{plan.nodes} nodes, {plan.seconds:.0f} s at {plan.rate:,} events/s, seed {plan.seed}",
        "offered": f"{outcome.offered:,} events, {outcome.offered / plan.seconds:,.0f}/s",
        "acknowledged": f"{outcome.acknowledged:,}, {outcome.acknowledged / max(1e-9, outcome.load_s):,.0f}/s over "
        f"{outcome.load_s:.1f} s, after {outcome.repeats:,} repeats ({outcome.refused:,} for 429)",
        "faults": f"{struck}; {outcome.skipped} left out for want of time",
        "certified": f"{outcome.events['certified']:,}, invalid {outcome.events['invalid']:,}; all settled "
        f"{outcome.settle_s:.1f} s after the load",
        "longest gap": f"{outcome.gap_s:.2f} s without a certificate, from {outcome.gap_at_s:.1f} s on",
        "liar": f"validate {[each.validate for each in outcome.liar]} on the honest nodes, least wanted "
        f"{outcome.reputation_min}",
        "equivocator": f"{[each.overall for each in outcome.equivocator]}, proofs "
        f"{[each.proofs for each in outcome.equivocator]}",
        "to acknowledgement": _quantiles(outcome.acks_ms) + " (from the first attempt)",
        "to certificate": _quantiles(outcome.latencies_ms) + " (from the commit, by batch)",
        "CPU": ", ".join(f"{part} {seconds:.0f} s" for part, seconds in sorted(outcome.cpu_s.items()))
        + f"; {outcome.relayed_mb:,.0f} MB relayed",
    }
    for name, text in rows.items():
        say(f"{name:<20}{text}")
    for problem in outcome.problems:
        say(f"PROBLEM             {problem}")
    say("all held" if not outcome.problems else f"{len(outcome.problems)} problems")


def _quantiles(values: Sequence[float]) -> str:
    ordered = sorted(values) or [float("nan")]
    p50, p95 = (ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.95))
    return f"P50 {p50:,.0f} ms, P95 {p95:,.0f} ms, longest {ordered[-1]:,.0f} ms"


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/faults", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=180.0, help="length of the load (default 180, at least 30)")
    parser.add_argument("--rate", type=int, default=2_000, help="events a second in all (default 2000)")
    parser.add_argument("--seed", type=int, default=1, help="of the timetable of faults (default 1)")
    parser.add_argument("--nodes", type=int, default=5, help="how many, two of them faulty (default 5, at least 5)")
    parser.add_argument("--keep", action="store_true", help="leave keys, databases and logs where they are")
    chosen = parser.parse_args()
    if chosen.nodes < 5 or chosen.seconds < 30 or chosen.rate < 100:
        parser.error("at least 5 nodes, 30 s and 100 events a second")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    plan = Plan(seconds=chosen.seconds, rate=chosen.rate, seed=chosen.seed, nodes=chosen.nodes)
    directory = Path(tempfile.mkdtemp(prefix="overlay-faults-"))
    os.chmod(directory, 0o755)  # the database's own user must get in
    held = False
    try:
        outcome = run(plan, directory)
        show(outcome)
        held = not outcome.problems
    finally:
        if chosen.keep or not held:
            print(f"logs and databases: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
