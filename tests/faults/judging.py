"""What is judged of a run when the faults are over: every event, the streams, the agents, the nodes themselves."""

import contextlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Final

from scripts.network import LocalNetwork, get
from tests.faults import checking
from tests.faults.checking import Findings
from tests.faults.databases import NodeDatabase
from tests.faults.ledger import check_tables
from tests.faults.load import Client
from tests.faults.report import Outcome
from tests.faults.schedule import STRANGERS
from tests.faults.watching import Follower, ReadinessWatch, noticed
from tests.network_of_keys import NETWORK

GAP_S_MAX: Final = 60.0  # a network that stands still, not a slow machine
RETURN_S: Final = 4.0  # what a node may need to be back after a fault, for the gap
KNOWN_S: Final = 20.0
STREAM_S: Final = 60.0
ERROR: Final = re.compile(r"[\w.]+(Error|Exception|Fault)\b")


class Judge:
    """Adds to an outcome what it finds. The faults are over, the clients have ended."""

    def __init__(self, network: LocalNetwork, databases: Mapping[int, NodeDatabase], outcome: Outcome) -> None:
        self._network = network
        self._databases = databases
        self._outcome = outcome
        self._plan = outcome.plan
        self._honest = [network.nodes[index] for index in outcome.plan.honest]

    def count(self, clients: Sequence[Client]) -> None:
        """What the clients were told."""
        outcome = self._outcome
        for client in clients:
            source_id = client.share.feed.source_id
            if client.error:
                outcome.problems.append(f"{source_id}: {client.error}")
            outcome.problems += [f"{source_id} was answered {each}" for each in client.wrong]
            outcome.offered += client.offered
            outcome.acknowledged += len(client.acknowledged)
            outcome.statuses += client.statuses
            outcome.acks_ms += client.acks_ms

    def settle(self) -> None:
        """Everybody ready again, and nothing pending."""
        outcome = self._outcome
        started_s = time.monotonic()
        for node in self._network.nodes:
            try:
                self._network.wait_ready(node)
            except RuntimeError as error:
                outcome.problems.append(str(error))
        stats = checking.settled(self._honest)
        outcome.settle_s = time.monotonic() - started_s
        for node, each in zip(self._honest, stats, strict=True):
            counts = {key: each[key] for key in ("acknowledged", "certified", "invalid", "pending", "dead")}
            if each["pending"] or each["dead"] or each["acknowledged"] != each["certified"] + each["invalid"]:
                outcome.problems.append(f"node-{node.index + 1}: the sums do not hold: {counts}")

    def check_events(self, clients: Sequence[Client], began_s: float, ended_s: float) -> None:
        """By the nodes' own interface, and the agents' standing. Unix times of the load."""
        outcome = self._outcome
        found = checking.check_nodes(self._honest, clients, NETWORK)
        for each in found:
            outcome.problems += each.problems
            outcome.events += each.events
            outcome.latencies_ms += each.latencies_ms
            outcome.verified += each.verified
        outcome.problems += checking.check_with_command(self._honest, clients, NETWORK)
        self._judge_gap(found, began_s, ended_s)
        self._judge_agents()

    def _judge_gap(self, found: Sequence[Findings], began_s: float, ended_s: float) -> None:
        outcome = self._outcome
        moments = [moment for each in found for moment in each.certified_s]
        spans = [
            (node, each.at_s, each.ended_s + RETURN_S)
            for each in outcome.struck
            if each.fault.kind not in STRANGERS
            for node in each.fault.nodes
            if node in self._plan.honest
        ]
        excused = checking.at_once(spans, 2)
        outcome.gap_s, outcome.gap_at_s = checking.longest_gap(moments, began_s, ended_s, excused)
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

    def check_tables(self, clients: Sequence[Client]) -> None:
        """By SQL."""
        for node in self._honest:
            acknowledged = {c.share.feed.source_id: c.acknowledged for c in clients if c.share.node is node}
            with self._databases[node.index].connected() as connection:
                found = list(check_tables(connection, acknowledged))
            self._outcome.problems += [f"node-{node.index + 1}: {problem}" for problem in found]

    def check_streams(self, followers: Sequence[Follower], clients: Sequence[Client]) -> None:
        """Each event once, in order."""
        outcome = self._outcome
        for follower in followers:
            events = sum(len(c.acknowledged) for c in clients if c.share.node is follower.node)
            follower.await_all(events, STREAM_S)
            name = f"node-{follower.node.index + 1}"
            outcome.streamed += len(follower.seen)
            outcome.resumed += follower.resumed
            outcome.problems += [f"{name}: {problem}" for problem in follower.problems]
            if len(follower.seen) != events:
                outcome.problems.append(f"{name}: {len(follower.seen)} of {events} events came by the stream")
            twice = [event_id for event_id, count in follower.seen.items() if count > 1]
            if twice:
                outcome.problems.append(f"{name}: {len(twice)} events came twice by the stream, as {twice[0]}")

    def count_readiness(self, watches: Sequence[ReadinessWatch]) -> None:
        """How often nodes said what was wrong with their databases."""
        for watch in watches:
            watch.stop()
        self._outcome.noticed = noticed(watches, self._outcome.struck)
        answered = [look.took_s for watch in watches for look in watch.looks if look.status]
        self._outcome.readyz_s = max(answered, default=0.0)

    def count_contained(self) -> None:
        """What the fences of all nodes caught: bugs that something from outside reached."""
        for node in self._network.nodes:
            for line in node.log.read_text(errors="replace").splitlines():
                if '"item.quarantined"' in line:
                    with contextlib.suppress(json.JSONDecodeError):
                        said = json.loads(line)
                        self._outcome.contained[f"{said['kind']}: {error_in(said.get('exception', ''))}"] += 1


def error_in(trace: str) -> str:
    """The line of a traceback that names the error, the innermost one of a group."""
    lines = [line.strip(" |+-") for line in trace.splitlines()]
    return next((line[:120] for line in reversed(lines) if ERROR.match(line)), "?")
