"""Carries a timetable out on real processes. Run in the main thread: nodes end with the thread that starts them."""

import contextlib
import heapq
import itertools
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import attrs
import httpx
import psutil
import psycopg

from scripts.network import LocalNetwork, Node, get
from tests.faults.databases import NodeDatabase
from tests.faults.partition import Barrier, Relay, between
from tests.faults.schedule import DATABASES, NODES, PARTITIONS, QUIET_LAST_S, STRANGERS, Fault, Kind
from tests.faults.strangers import Strangers

STEP_S: Final = 0.1
END_S: Final = 120.0  # for what hangs, not for a slow machine
REPORT_S: Final = 20.0  # a stranger that does not report is not waited for
PROBE_S: Final = 2.5
RETURN_S: Final = 60.0
AWAY: Final = (Kind.KILL, Kind.RESTART)


@attrs.frozen(kw_only=True)
class Struck:
    """A fault that was carried out, with the times it really had. ``note``: What was chosen of its kind."""

    fault: Fault
    at_s: float
    ended_s: float
    note: str = ""


def family(node: Node) -> list[psutil.Process]:
    """A node's process and all that it started: workers, and its Postgres."""
    if not node.running or node.process is None:
        return []
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(node.process.pid)
        return [root, *root.children(recursive=True)]
    return []


def stop(node: Node) -> None:
    """SIGSTOP to all of a node: the process first, which could restart what it started."""
    _signal(family(node), signal.SIGSTOP)


def resume(node: Node) -> None:
    """SIGCONT to all of a node."""
    _signal(family(node)[::-1], signal.SIGCONT)


def _signal(processes: Sequence[psutil.Process], number: int) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


class Injector:
    """Strikes when it is due; later, if the nodes that it takes to go on are not back from the fault before.

    Attributes:
        struck: What was carried out.
        skipped: What came too late.
        problems: Nodes that ended by themselves, or not as they were told to.
    """

    def __init__(
        self,
        network: LocalNetwork,
        relay: Relay,
        databases: Mapping[int, NodeDatabase],
        strangers: Strangers,
        honest: Collection[int],
        say: Callable[[str], None],
    ) -> None:
        self.struck: list[Struck] = []
        self.skipped: list[Fault] = []
        self.problems: list[str] = []
        self._network = network
        self._relay = relay
        self._databases = databases
        self._strangers = strangers
        self._honest = frozenset(honest)
        self._say = say
        self._http = httpx.Client(timeout=PROBE_S)
        self._active: dict[Fault, str] = {}  # with what was chosen of its kind
        self._keys = {index: get(network.nodes[index], "/overlay/node")["identityKey"] for index in honest}

    def run(self, faults: Sequence[Fault], started_s: float, seconds: float) -> None:
        """Carry the timetable out, until the load's end. ``started_s`` is on the monotonic clock."""
        order = itertools.count()
        due = [(fault.at_s, next(order), fault, -1.0) for fault in faults]  # -1: to begin; else when it began
        heapq.heapify(due)
        while due:
            at_s, _, fault, began_s = heapq.heappop(due)
            self._wait(started_s, at_s)
            now_s = time.monotonic() - started_s
            if began_s >= 0:
                patience_s = REPORT_S if fault.kind in STRANGERS else END_S
                if self._end(fault, now_s - began_s - fault.length_s > patience_s):
                    note = self._active.pop(fault)
                    self.struck.append(Struck(fault=fault, at_s=began_s, ended_s=now_s, note=note))
                else:
                    heapq.heappush(due, (now_s + STEP_S, next(order), fault, began_s))
            elif now_s + fault.length_s > seconds - QUIET_LAST_S / 2:
                self.skipped.append(fault)
            elif self._may_strike(fault) and self._begin(fault, now_s):
                heapq.heappush(due, (now_s + fault.length_s, next(order), fault, now_s))
            else:
                heapq.heappush(due, (now_s + STEP_S, next(order), fault, -1.0))
        self._wait(started_s, seconds)

    def make_good(self) -> None:
        """Undo whatever is under way."""
        nodes = len(self._network.nodes)
        self._relay.heal(between(range(nodes), nodes) | {(a, b) for a in range(nodes) for b in range(a + 1, nodes)})
        for node in self._network.nodes:
            resume(node)
        for database in self._databases.values():
            database.resume()
        for fault in tuple(self._active):
            if fault.kind in DATABASES:
                self._databases[fault.nodes[0]].end(fault.kind)
        self._http.close()

    def look_for_ended(self) -> None:
        """Note which nodes ended by themselves, and start them again, so that the rest can be seen."""
        away = {index for fault in self._active if fault.kind in AWAY for index in fault.nodes}
        for node in self._network.nodes:
            if node.index in away or node.process is None or node.running:
                continue
            under = [fault.kind.value for fault in self._active if node.index in fault.nodes]
            self._find(f"node-{node.index + 1} ended by itself, {under or 'under no fault'}", node)
            node.start()

    def _find(self, what: str, node: Node) -> None:
        code = None if node.process is None else node.process.returncode
        self.problems.append(f"{what}, with code {code}:\n{node.tail(8)}")
        self._say(f"          {what}, with code {code}")

    def _wait(self, started_s: float, until_s: float) -> None:
        while True:
            self.look_for_ended()
            left_s = started_s + until_s - time.monotonic()
            if left_s <= 0:
                return
            time.sleep(min(STEP_S, left_s))

    # --- whether ---------------------------------------------------------------------------------------------

    def _may_strike(self, fault: Fault) -> bool:
        nodes = set(fault.nodes)
        if fault.kind in STRANGERS:
            return all(self._network.nodes[index].running for index in nodes)
        busy = {index for each in self._active if each.kind not in STRANGERS for index in each.nodes}
        if busy & nodes or not all(self._network.nodes[index].running for index in nodes):
            return False
        if not self._honest & nodes:
            return all(self._answers(f"{self._network.nodes[index].url}/healthz") for index in nodes)
        row = NODES if fault.kind in NODES else DATABASES
        if any(each.kind in row and self._honest & set(each.nodes) for each in self._active):
            return False
        needed = self._honest - busy if row is NODES else self._honest & nodes
        return all(self._is_back(index, self._honest - busy) for index in sorted(needed))

    def _is_back(self, index: int, others: frozenset[int]) -> bool:
        """Whether a node serves, and is connected to the others that are not under a fault."""
        node = self._network.nodes[index]
        with contextlib.suppress(httpx.HTTPError):
            if not self._answers(f"{node.url}/readyz"):
                return False
            peers = self._http.get(f"{node.url}/overlay/peers").json()["peers"]
            connected = {peer["identityKey"] for peer in peers if peer["connected"]}
            return {self._keys[other] for other in others - {index}} <= connected
        return False

    def _answers(self, url: str) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return self._http.get(url).status_code == httpx.codes.OK
        return False

    # --- striking and undoing --------------------------------------------------------------------------------

    def _begin(self, fault: Fault, now_s: float) -> bool:
        """Strike; False where the database that is struck does not answer."""
        note = ""
        if fault.kind in DATABASES:
            try:
                note = self._databases[fault.nodes[0]].begin(fault.kind, fault.detail)
            except psycopg.Error:
                return False
        elif fault.kind in STRANGERS:
            self._strangers.begin(fault)
        elif fault.kind in PARTITIONS:
            barrier = Barrier.CUT if fault.kind is Kind.CUT else Barrier.STALL
            self._relay.keep_apart(between(fault.nodes, len(self._network.nodes)), barrier)
        self._active[fault] = note
        for node in (self._network.nodes[index] for index in fault.nodes):
            match fault.kind:
                case Kind.KILL:
                    node.kill()
                case Kind.STOP:
                    stop(node)
                case Kind.RESTART:
                    node.signal(signal.SIGTERM)
        names = " and ".join(f"node-{node + 1}" for node in fault.nodes)
        self._say(f"{now_s:6.1f} s  {names} {fault.kind.value} for {fault.length_s:.1f} s{note and f' ({note})'}")
        return True

    def _end(self, fault: Fault, impatient: bool) -> bool:
        """Undo a fault; False where something that was told to end is still at it."""
        if fault.kind in STRANGERS:
            return self._strangers.end(fault, impatient)
        if fault.kind in DATABASES:
            return self._end_of_database(fault, impatient)
        if fault.kind in PARTITIONS:
            self._relay.heal(between(fault.nodes, len(self._network.nodes)))
            return True
        for index in fault.nodes:
            node = self._network.nodes[index]
            if fault.kind is Kind.STOP:
                resume(node)
                continue
            if node.running and impatient:
                self._find(f"node-{index + 1} does not end after SIGTERM", node)
                node.kill()
            if node.running:
                return False
            if fault.kind is Kind.RESTART and node.process is not None and node.process.returncode:
                self._find(f"node-{index + 1} ended after SIGTERM", node)
            node.start()
        return True

    def _end_of_database(self, fault: Fault, impatient: bool) -> bool:
        try:
            self._databases[fault.nodes[0]].end(fault.kind)
        except psycopg.Error:
            if impatient:
                raise
            return False
        return True
