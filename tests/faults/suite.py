"""Five real nodes under load, faults by a seed, a liar and an equivocator: what was promised is then checked whole.

``scripts/faults --seconds 180 --rate 2000 --seed 1`` prints what happened and exits 1 if a promise broke.
"""

import argparse
import itertools
import json
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import attrs
import httpx

from agents.policy import policy_document
from agents.roles import execute
from node.keyring import load_key
from protocols.canonical import parse_json
from protocols.certificate import agent_id
from protocols.identifiers import record_line
from protocols.limits import EVENTS_PER_BATCH_MAX
from protocols.messages import Level, Role
from protocols.templates import BUILT_IN
from protocols.verification import verify_document
from scripts.demo import POLICY, STATIONS, readings
from scripts.network import LocalNetwork, Node, free_ports, get
from tests.faults.partition import Relays
from tests.faults.schedule import Fault, timetable

HONEST = 3
LIAR, EQUIVOCATOR = 3, 4
NODES = 5
BATCH = 250
SETTLE_S = 90.0
GAP_S = 10.0  # the longest time without a certificate that is promised
MPH = 0.44704
SAMPLED = 40
SETTINGS = {
    "event_batch_size": BATCH,
    "event_parallel_workers": 1,
    "overlay_resend_ms": 1_000,
    "event_processing_timeout_ms": 6_000,
    "overlay_lease_ms": 15_000,
}


@attrs.frozen(kw_only=True)
class Expected:
    """What honest agents find about a station's year, by external id."""

    status: str
    data: Any


@attrs.define
class Report:
    """What happened, and what of the promises did not hold."""

    faults: Counter[str] = attrs.Factory(Counter)
    acknowledged: int = 0
    repeats: int = 0
    certified: int = 0
    invalid: int = 0
    load_s: float = 0.0
    gap_s: float = 0.0
    acks_ms: list[float] = attrs.Factory(list)
    latencies_ms: list[float] = attrs.Factory(list)
    liar: list[int] = attrs.Factory(list)
    equivocator: list[int] = attrs.Factory(list)
    proofs: list[int] = attrs.Factory(list)
    problems: list[str] = attrs.Factory(list)

    def text(self) -> str:
        acks, latencies = sorted(self.acks_ms), sorted(self.latencies_ms)
        lines = [
            f"faults            {', '.join(f'{count} {kind}' for kind, count in sorted(self.faults.items()))}",
            f"acknowledged      {self.acknowledged} in {self.load_s:.0f} s, {self.acknowledged / self.load_s:.0f}/s, "
            f"{self.repeats} requests repeated",
            f"ended             {self.certified} certified + {self.invalid} invalid",
            f"longest gap       {self.gap_s:.1f} s without a certificate",
            f"acknowledgement   P50 {quantile(acks, 0.5):.0f}, P95 {quantile(acks, 0.95):.0f} ms",
            f"to certificate    P50 {quantile(latencies, 0.5):.0f}, P95 {quantile(latencies, 0.95):.0f} ms",
            f"liar              reputation {self.liar} on the honest nodes",
            f"equivocator       reputation {self.equivocator}, proofs {self.proofs}",
            *(f"BROKEN            {problem}" for problem in self.problems),
        ]
        return "\n".join(lines)


def quantile(ordered: Sequence[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


@cache
def stations() -> Mapping[str, Sequence[dict[str, Any]]]:
    """The year of each station, in order."""
    found: dict[str, list[dict[str, Any]]] = {station: [] for station in STATIONS}
    for station, event in readings():
        found[station].append(event)
    return found


@cache
def expected() -> Mapping[str, Expected]:
    """What the roles make of every reading, computed here and not by any node."""
    policy = policy_document(parse_json(POLICY.read_bytes()))
    found: dict[str, Expected] = {}
    for events in stations().values():
        context = b"{}"
        for at in range(0, len(events), EVENTS_PER_BATCH_MAX):
            chunk = events[at : at + EVENTS_PER_BATCH_MAX]
            lines = [
                record_line(
                    data=event["data"],
                    event_type=event["eventType"],
                    external_id=event["externalId"],
                    previous=None,
                    timestamp=event["timestamp"],
                )
                for event in chunk
            ]
            out = execute(network="x", source_id="x", payload=b"\n".join(lines), policy=policy, context=context)
            context = out.context_out
            for event, leaf, data in zip(chunk, out.leaves.split(b"\n"), out.normalized.split(b"\n"), strict=True):
                status = {"valid": "certified", "invalid": "invalid"}[json.loads(leaf)["status"]]
                found[event["externalId"]] = Expected(status=status, data=json.loads(data))
                wind, metres = event["data"]["wind_speed"], json.loads(data)["windSpeedMps"]
                assert wind is None or abs(wind * MPH - metres) < 1e-3, "mph and m/s, by hand"
    return found


def bodies_of(node: Node) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """(source, events) without end for a node's client: each repetition of the year is a source of its own."""
    for repetition in itertools.count():
        years = [(station, events) for station, events in stations().items()]
        for at in range(0, max(len(events) for _, events in years), BATCH):
            for station, events in years:
                if events[at : at + BATCH]:
                    yield source_id(node, station, repetition), list(events[at : at + BATCH])


def source_id(node: Node, station: str, repetition: int) -> str:
    return f"faults-{node.index}-{station.lower()}-{repetition}"


class Client(threading.Thread):
    """Posts to one node at a rate; no answer or a 5xx: the same body to the same node again."""

    def __init__(self, node: Node, rate: float, until_s: float) -> None:
        super().__init__(daemon=True)
        self.node = node
        self.pause_s = BATCH / rate
        self.until_s = until_s
        self.acknowledged: set[tuple[str, str]] = set()  # source, external id
        self.acks_ms: list[float] = []
        self.repeats = 0
        self.problem = ""
        self._registered: set[str] = set()

    def run(self) -> None:
        due_s = time.monotonic()
        with httpx.Client(base_url=self.node.url, timeout=12) as http:
            for source, events in bodies_of(self.node):
                if time.monotonic() >= self.until_s or self.problem:
                    return
                time.sleep(max(0.0, due_s - time.monotonic()))
                due_s = max(due_s, time.monotonic() - 5) + self.pause_s
                if source not in self._registered and self._insist(http, "/overlay/sources", registration(source)):
                    self._registered.add(source)
                body = {"sourceId": source, "events": events, "processingOptions": {"consensusLevel": "enhanced"}}
                started = time.monotonic()
                if self._insist(http, "/overlay/events/ingest", json.dumps(body).encode()):
                    self.acks_ms.append(1_000 * (time.monotonic() - started))
                    self.acknowledged |= {(source, event["externalId"]) for event in events}

    def _insist(self, http: httpx.Client, path: str, body: bytes) -> bool:
        deadline = time.monotonic() + 120
        headers = {"Content-Type": "application/json", "Prefer": "return=minimal"}
        auth = self.node.operator if path == "/overlay/sources" else None
        while time.monotonic() < deadline:
            try:
                answer = http.post(path, content=body, headers=headers, auth=auth)
            except httpx.HTTPError:
                self.repeats += 1
                time.sleep(0.3)
                continue
            if answer.status_code in (201, 202, 409):
                return True
            if answer.status_code not in (429, 500, 503):
                self.problem = f"{path}: {answer.status_code} {answer.text[:300]}"
                return False
            time.sleep(0.3)
        self.problem = f"{path}: not answered within two minutes"
        return False


@cache
def registration(source: str) -> bytes:
    policy = json.loads(POLICY.read_text())
    mapping = ("mapping", "coercion", "required")
    return json.dumps(
        {
            "sourceId": source,
            "name": source,
            "sourceType": "webhook",
            "mappingPolicy": {key: policy[key] for key in mapping},
            "validationRules": {key: value for key, value in policy.items() if key not in mapping},
            "overlayTopics": ["gitdata.events.weather"],
        }
    ).encode()


class Suite:
    """One run."""

    def __init__(self, network: LocalNetwork, relays: Relays) -> None:
        self.network = network
        self.relays = relays
        self.report = Report()

    @property
    def honest(self) -> list[Node]:
        return self.network.nodes[:HONEST]

    def run(self, seconds: float, rate: float, seed: int) -> Report:
        report = self.report
        started = time.monotonic()
        clients = [Client(node, rate / HONEST, started + seconds) for node in self.honest]
        for client in clients:
            client.start()
        for fault in timetable(seed, seconds, NODES):
            time.sleep(max(0.0, started + fault.at_s - time.monotonic()))
            print(f"{time.monotonic() - started:6.1f} s  {fault.kind} node {fault.node + 1} for {fault.lasts_s} s")
            self.inflict(fault)
            report.faults[fault.kind] += 1
        for client in clients:
            client.join(seconds + 180)
            report.problems += [f"node {client.node.index + 1}: {client.problem}"] if client.problem else []
        report.load_s = time.monotonic() - started
        report.acknowledged = sum(len(client.acknowledged) for client in clients)
        report.repeats = sum(client.repeats for client in clients)
        report.acks_ms = [ms for client in clients for ms in client.acks_ms]
        self.settle()
        self.check_events(clients)
        self.check_agents()
        return report

    def inflict(self, fault: Fault) -> None:
        node = self.network.nodes[fault.node]
        match fault.kind:
            case "kill":
                node.kill()
                time.sleep(fault.lasts_s)
                node.start()
            case "stop":
                node.signal(signal.SIGSTOP)
                time.sleep(fault.lasts_s)
                node.signal(signal.SIGCONT)
            case "partition":
                self.relays.isolate({fault.node}, set(range(NODES)))
                time.sleep(fault.lasts_s)
                self.relays.heal()
            case "restart":
                node.signal(signal.SIGTERM)
                if node.wait(40) is None:
                    self.report.problems.append(f"node {fault.node + 1} did not end within 40 s of SIGTERM")
                    node.kill()
                time.sleep(fault.lasts_s)
                node.start()

    def settle(self) -> None:
        for node in self.network.nodes:
            self.network.wait_ready(node)
        deadline = time.monotonic() + SETTLE_S
        pending = [1]
        while any(pending) and time.monotonic() < deadline:
            pending = [get(node, "/overlay/stats")["pending"] for node in self.honest]
            time.sleep(0.5)
        if any(pending):
            self.report.problems.append(f"still pending after {SETTLE_S:.0f} s: {pending}")

    def check_events(self, clients: Sequence[Client]) -> None:
        """Every acknowledged event stands once, with the verdict and the content that honest agents find."""
        report, moments = self.report, set()
        for client in clients:
            seen: Counter[tuple[str, str]] = Counter()
            wrong, dead = 0, set[str]()
            for number, event in enumerate(events_of(client.node)):
                key = event["sourceId"], event["externalId"]
                seen[key] += 1
                known = expected()[event["externalId"]]
                wrong += (event["status"], event["normalizedData"]) != (known.status, known.data)
                report.certified += event["status"] == "certified"
                report.invalid += event["status"] == "invalid"
                if event["status"] == "dead":
                    dead.add(event["batchId"])
                if event["certifiedAt"]:
                    certified = datetime.fromisoformat(event["certifiedAt"]).timestamp()
                    moments.add(certified)
                    taken_in = datetime.fromisoformat(event["ingestedAt"]).timestamp()
                    report.latencies_ms.append(1_000 * (certified - taken_in))
                if number % (1 + len(client.acknowledged) // SAMPLED) == 0:
                    self.check_certificate(client.node, event["eventId"])
            name = f"node {client.node.index + 1}"
            for batch_id in sorted(dead):
                reasons = get(client.node, f"/overlay/batches/{batch_id}")["reasons"]
                report.problems.append(f"{name}: {batch_id} is dead: {'; '.join(reasons)}")
            missing, twice = len(client.acknowledged - set(seen)), sum(count > 1 for count in seen.values())
            for count, what in ((missing, "missing"), (twice, "twice"), (wrong, "with other content or verdict")):
                report.problems += [f"{name}: {count} acknowledged events {what}"] if count else []
        ordered = sorted(moments)
        report.gap_s = max((later - earlier for earlier, later in itertools.pairwise(ordered)), default=0.0)
        if report.gap_s >= GAP_S:
            report.problems.append(f"{report.gap_s:.1f} s without a certificate")

    def check_certificate(self, node: Node, event_id: str) -> None:
        document = httpx.get(f"{node.url}/overlay/events/{event_id}/certificate", timeout=20)
        found = verify_document(document.content, network="overlay-faults")
        self.report.problems += [] if found.ok else [f"certificate of {event_id}: {found.failed}"]

    def check_agents(self) -> None:
        report = self.report
        least = BUILT_IN[Role.VALIDATE, Level.ENHANCED].reputation_min
        for node in self.honest:
            report.liar.append(self.reputation(node, LIAR))
            report.equivocator.append(self.reputation(node, EQUIVOCATOR))
            report.proofs.append(len(get(node, "/overlay/proofs")["proofs"]))
        if max(report.liar) >= least:
            report.problems.append(f"the liar's reputation {report.liar} is not below {least} everywhere")
        if max(report.equivocator) > 0:
            report.problems.append(f"the equivocator's reputation {report.equivocator} is not 0 everywhere")

    def reputation(self, node: Node, cheat: int) -> int:
        key = load_key(self.network.nodes[cheat].directory / "identity.key")
        known = get(node, f"/overlay/agents/{agent_id(key.identity)}")["byRole"]
        return int(known["validate"]["reputation"]) if "validate" in known else 100


def events_of(node: Node) -> Iterator[dict[str, Any]]:
    after = ""
    while True:
        page = get(node, f"/overlay/events?limit=1000&after={after}")
        yield from page["events"]
        if page["nextAfter"] is None:
            return
        after = page["nextAfter"]


def run(directory: Path, *, seconds: float, rate: float, seed: int) -> Report:
    """Start the network, let it suffer, check it. Raises RuntimeError if it does not come up."""
    relay_ports = free_ports(NODES)
    addresses = [f"/ip4/127.0.0.1/tcp/{port}" for port in relay_ports]
    per_node = [
        {"overlay_p2p_announce": [addresses[index]], "overlay_bootstrap": addresses[:index] + addresses[index + 1 :]}
        for index in range(NODES)
    ]
    network = LocalNetwork(directory, NODES, name="overlay-faults", settings=SETTINGS, per_node=per_node)
    network.nodes[LIAR].module = "tests.e2e.lying_node"
    network.nodes[EQUIVOCATOR].module = "tests.faults.equivocating_node"

    def owner(pid: int) -> int | None:
        running = (node for node in network.nodes if node.process is not None and node.process.pid == pid)
        return next((node.index for node in running), None)

    targets = {node.index: node.p2p_port for node in network.nodes}
    relays = Relays(dict(enumerate(relay_ports)), targets, owner)
    try:
        with network:
            network.wait_agents()
            return Suite(network, relays).run(seconds, rate, seed)
    finally:
        relays.close()


def main() -> int:
    parser = argparse.ArgumentParser(description="Five nodes, faults by a seed, two cheats; every promise checked.")
    parser.add_argument("--seconds", type=float, default=180, help="of load and faults (default 180)")
    parser.add_argument("--rate", type=float, default=2_000, help="events a second in all (default 2000)")
    parser.add_argument("--seed", type=int, default=1, help="what happens when (default 1)")
    parser.add_argument("--dir", type=Path, help="where keys, databases and logs go, and stay")
    chosen = parser.parse_args()
    with TemporaryDirectory(prefix="overlay-faults-") as name:
        directory = chosen.dir or Path(name)
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)
        report = run(directory, seconds=chosen.seconds, rate=chosen.rate, seed=chosen.seed)
    print(report.text())
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
