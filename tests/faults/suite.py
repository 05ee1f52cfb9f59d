"""A network of real processes under load, while faults strike nodes, links and databases, and strangers attack.

Five nodes with a database each: three honest, one whose agent lies, one whose agent equivocates. The faulty ones
ask the lowest price and price decides the auctions, so every honest node tries them and has to find them out.
By a seed, honest nodes are killed, stopped, partitioned and restarted; their databases are frozen, locked, restarted,
made read-only and left without room; strangers send hostile messages and requests.
Afterwards every acknowledged event must be certified or rejected once, with the right content, no node may have ended
by itself, and the faulty must be known.

    scripts/faults --seconds 60 --seed 1
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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import httpx
import psutil

from scripts.demo import POLICY, STATIONS
from scripts.network import LocalNetwork, Node
from tests.faults.databases import NodeDatabase, databases
from tests.faults.feed import ID_MEMBER, Feed, Form, station
from tests.faults.injection import Injector, family
from tests.faults.judging import Judge
from tests.faults.load import SECRET, Client, Probes, Share
from tests.faults.partition import Relay
from tests.faults.report import Outcome, Plan, show
from tests.faults.schedule import Kind
from tests.faults.strangers import Strangers
from tests.faults.watching import Follower, ReadinessWatch
from tests.network_of_keys import NETWORK  # the hostile messages are of this network

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
METER_S: Final = 1.0
START_S: Final = 180.0
STATION_OF_PROBES: Final = next(iter(STATIONS))


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
        RuntimeError: The network did not come up.
    """
    for name in STATIONS:
        station(name)
    pids: list[Node] = []
    began_s = time.monotonic()
    with (
        databases(directory, plan.honest, served=plan.served) as found,
        Relay(plan.nodes, lambda index: _pid(pids[index])) as relay,
    ):
        if any(database.disk is None for database in found.values()):
            plan = attrs.evolve(plan, without=(*plan.without, Kind.DISK_FULL))
        network = LocalNetwork(
            directory, plan.nodes, name=NETWORK, settings=SETTINGS, per_node=_settings(plan, relay.ports, found)
        )
        pids += network.nodes
        relay.targets[:] = [node.p2p_port for node in network.nodes]
        network.nodes[plan.liar].module = "tests.e2e.lying_node"
        network.nodes[plan.equivocator].module = "tests.faults.equivocating_node"
        with network:
            network.wait_agents(START_S)
            start_s = time.monotonic() - began_s
            with Strangers(network.nodes, directory / "strangers.log") as strangers:
                outcome = _Run(plan, network, relay, found, strangers, say).run()
            stopping_s = time.monotonic()
        outcome.stages_s = {"start": start_s, **outcome.stages_s, "stop": time.monotonic() - stopping_s}
        outcome.problems += [
            f"node-{node.index + 1} ended with {node.process.returncode} after SIGTERM:\n{node.tail(8)}"
            for node in network.nodes
            if node.process is not None and node.process.returncode
        ]
        return outcome


def _pid(node: Node) -> int | None:
    return node.process.pid if node.process is not None else None


def _settings(plan: Plan, ports: Sequence[int], found: Mapping[int, NodeDatabase]) -> list[dict[str, Any]]:
    addresses = [f"/ip4/127.0.0.1/tcp/{port}" for port in ports]
    return [
        {
            "overlay_p2p_announce": [addresses[index]],
            "overlay_bootstrap": [each for each in addresses[:2] if each != addresses[index]],
            "overlay_price": PRICES[index in plan.honest],
            **({"database_url": found[index].url} if index in plan.served else {}),
        }
        for index in range(plan.nodes)
    ]


class _Run:
    def __init__(
        self,
        plan: Plan,
        network: LocalNetwork,
        relay: Relay,
        found: Mapping[int, NodeDatabase],
        strangers: Strangers,
        say: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._network = network
        self._relay = relay
        self._databases = found
        self._say = say
        self._honest = [network.nodes[index] for index in plan.honest]
        self._strangers = strangers
        self._outcome = Outcome(plan=plan)

    def run(self) -> Outcome:
        plan, outcome = self._plan, self._outcome
        feeds = [
            (node, Feed(f"weather-{node.index + 1}-{form.value}", list(STATIONS)[number % len(STATIONS)], form))
            for node in self._honest
            for number, form in enumerate(Form)
        ]
        more = [(node, Feed(f"weather-{node.index + 1}-more", STATION_OF_PROBES)) for node in self._honest]
        for node, feed in (*feeds, *more):
            _register(node, feed)
        for node in self._honest:
            self._strangers.register(node)
        meter = Meter(self._network.nodes)
        meter.start()
        own_cpu_s = time.process_time()
        began_s, started_s = time.time(), time.monotonic()
        clients = [Client(share, started_s) for share in _shares(plan, feeds)]
        watches = [ReadinessWatch(node, started_s) for node in self._honest]
        followers = [
            Follower(node, [feed.source_id for owner, feed in feeds if owner is node]) for node in self._honest
        ]
        for thread in (*clients, *watches, *followers):
            thread.start()
        injector = self._inject(started_s)
        for client in clients:
            while client.is_alive():
                client.join(1.0)
                injector.look_for_ended()
        outcome.load_s = time.monotonic() - started_s
        judge = Judge(self._network, self._databases, outcome)
        judge.count(clients)
        judge.settle()
        checking_s = time.monotonic()
        injector.look_for_ended()
        outcome.problems += injector.problems
        outcome.cpu_s = {**meter.stop(), "load, relay": time.process_time() - own_cpu_s}
        outcome.relayed_mb = self._relay.forwarded / 1e6
        judge.check_events(clients, began_s, began_s + outcome.load_s)
        judge.check_agents(Probes(more))
        judge.check_tables(clients)
        judge.check_streams(followers, clients)
        judge.count_readiness(watches)
        judge.count_contained()
        checks_s = time.monotonic() - checking_s
        outcome.stages_s = {"load": outcome.load_s, "drain": outcome.settle_s, "checks": checks_s}
        return outcome

    def _inject(self, started_s: float) -> Injector:
        plan, outcome = self._plan, self._outcome
        injector = Injector(self._network, self._relay, self._databases, self._strangers, plan.honest, self._say)
        try:
            injector.run(plan.faults, started_s, plan.seconds)
        finally:
            injector.make_good()
        outcome.struck, outcome.skipped = injector.struck, injector.skipped
        outcome.strangers, outcome.strangers_saw = self._strangers.attacks, self._strangers.statuses
        outcome.problems += self._strangers.wrong
        return injector


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
    if feed.form is Form.WEBHOOK:
        document["configuration"] = {
            "scheme": "bearer",
            "secret": SECRET,
            "eventsPath": "/readings",
            "eventType": "weather.observation",
            "externalIdPath": f"/{ID_MEMBER}",
            "timestampPath": "/time_hour",
        }
    httpx.post(f"{node.url}/overlay/sources", json=document, auth=node.operator, timeout=30).raise_for_status()


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/faults", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the load (default 60, at least 30)")
    parser.add_argument("--rate", type=int, default=400, help="events a second in all (default 400)")
    parser.add_argument("--seed", type=int, default=1, help="of the timetable of faults (default 1)")
    parser.add_argument("--nodes", type=int, default=5, help="how many, two of them faulty (default 5, at least 5)")
    parser.add_argument("--keep", action="store_true", help="leave keys and logs where they are")
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
            print(f"logs: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
