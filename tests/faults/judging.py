"""What is judged of a run when the faults are over: every event, the streams, the agents, the nodes themselves."""

import contextlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Final

from scripts.network import LocalNetwork, get
from tests.faults import checking
from tests.faults.databases import NodeDatabase
from tests.faults.ledger import await_settled, check_tables
from tests.faults.load import Client, Probes
from tests.faults.report import Outcome
from tests.faults.schedule import STRANGERS
from tests.faults.watching import Follower, ReadinessWatch, noticed
from tests.network_of_keys import NETWORK

AGAIN_S_MAX: Final = 120.0  # from the last fault to a certificate: a network that stands still, not a slow machine
RETURN_S: Final = 4.0  # what a node may need to be back after a fault, for the gap
KNOWN_S: Final = 120.0
PROBE_PAUSE_S: Final = 1.0
STREAM_S: Final = 120.0
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
        started_s = time.monotonic()
        self._await_settled()
        self._outcome.settle_s = time.monotonic() - started_s

    def _await_settled(self) -> None:
        outcome = self._outcome
        for node in self._network.nodes:
            try:
                self._network.wait_ready(node)
            except RuntimeError as error:
                outcome.problems.append(str(error))
        for node in self._honest:
            wrong = await_settled(self._databases[node.index])
            if wrong:
                outcome.problems.append(f"node-{node.index + 1}: {wrong}")

    def check_events(self, clients: Sequence[Client], began_s: float, ended_s: float) -> None:
        """By the nodes' own interface. Unix times of the load."""
        outcome = self._outcome
        found = checking.check_nodes(self._honest, clients, NETWORK)
        for each in found:
            outcome.problems += each.problems
            outcome.events += each.events
            outcome.latencies_ms += each.latencies_ms
            outcome.verified += each.verified
        outcome.problems += checking.check_with_command(self._honest, clients, NETWORK)
        self._judge_pauses([moment for each in found for moment in each.certified_s], began_s, ended_s)

    def _judge_pauses(self, certified_s: Sequence[float], began_s: float, ended_s: float) -> None:
        """Whether the network certified again after the last fault; how long it did not before is a figure alone.

        Where everything was certified by then there was nothing left to do.
        """
        outcome = self._outcome
        spans = [
            (node, each.at_s, each.ended_s + RETURN_S)
            for each in outcome.struck
            if each.fault.kind not in STRANGERS
            for node in each.fault.nodes
            if node in self._plan.honest
        ]
        excused = checking.at_once(spans, 2)
        outcome.gap_s, outcome.gap_at_s = checking.longest_gap(certified_s, began_s, ended_s, excused)
        outcome.last_fault_s = max((each.ended_s for each in outcome.struck), default=0.0)
        outcome.again_s = checking.first_after(certified_s, began_s + outcome.last_fault_s)
        if outcome.again_s is not None and outcome.again_s > AGAIN_S_MAX:
            outcome.problems.append(f"no certificate for {outcome.again_s:.1f} s after the last fault")

    def check_agents(self, probes: Probes) -> None:
        """The faulty known for what they are on every honest node, and nobody else held for faulty.

        On a slow machine the faults may have kept the faulty ones from taking part: then there is more work for them.
        """
        plan, outcome = self._plan, self._outcome
        keys = [get(node, "/overlay/node")["identityKey"] for node in self._network.nodes]
        outcome.reputation_min = checking.minimum_reputation(self._honest[0])

        def known() -> bool:
            outcome.liar = [checking.standing(node, keys[plan.liar]) for node in self._honest]
            outcome.equivocator = [checking.standing(node, keys[plan.equivocator]) for node in self._honest]
            is_known = all(each.validate < outcome.reputation_min for each in outcome.liar) and all(
                each.overall == 0 and each.proofs for each in outcome.equivocator
            )
            if not is_known:
                probes.post()
                posted.append(True)
            return is_known

        posted: list[bool] = []

        if not checking.wait_until(known, KNOWN_S, PROBE_PAUSE_S):
            outcome.problems.append("not every honest node knows the faulty agents for what they are")
        for observer in self._honest:
            for index in plan.honest:
                seen = checking.standing(observer, keys[index])
                outcome.honest_min = min(outcome.honest_min, seen.validate)
                if seen.dissented or seen.proofs or seen.validate < outcome.reputation_min:
                    outcome.problems.append(
                        f"node-{observer.index + 1} holds node-{index + 1} for faulty: reputation {seen.validate}, "
                        f"{seen.dissented} times of dissent, {seen.proofs} proofs"
                    )
        if posted:
            self._await_settled()

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
