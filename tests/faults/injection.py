"""Carries a timetable out on real processes. Run in the main thread: nodes end with the thread that starts them."""

import contextlib
import heapq
import itertools
import signal
import time
from collections.abc import Callable, Collection, Sequence
from typing import Final

import attrs
import httpx
import psutil

from scripts.network import LocalNetwork, Node, get
from tests.faults.partition import Barrier, Relay, between
from tests.faults.schedule import PARTITIONS, QUIET_LAST_S, Fault, Kind

STEP_S: Final = 0.1
END_S: Final = 20.0
PROBE_S: Final = 2.0


@attrs.frozen(kw_only=True)
class Struck:
    """A fault that was carried out, with the times it really had."""

    fault: Fault
    at_s: float
    ended_s: float


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
    """Strikes when it is due; later, if an honest node is not back from the fault before."""

    def __init__(
        self, network: LocalNetwork, relay: Relay, honest: Collection[int], say: Callable[[str], None]
    ) -> None:
        self.struck: list[Struck] = []
        self.skipped: list[Fault] = []
        self._network = network
        self._relay = relay
        self._honest = frozenset(honest)
        self._say = say
        self._http = httpx.Client(timeout=PROBE_S)
        self._under_fault: set[int] = set()
        keys = [get(node, "/overlay/node")["identityKey"] for node in network.nodes]
        self._honest_keys = {keys[index] for index in honest}

    def run(self, faults: Sequence[Fault], started_s: float, seconds: float) -> None:
        """Carry the timetable out, until the load's end. ``started_s`` is on the monotonic clock."""
        order = itertools.count()
        due = [(fault.at_s, next(order), fault, -1.0) for fault in faults]  # -1: to begin; else when it began
        heapq.heapify(due)
        while due:
            at_s, _, fault, began_s = heapq.heappop(due)
            time.sleep(max(0.0, started_s + at_s - time.monotonic()))
            now_s = time.monotonic() - started_s
            if began_s >= 0:
                if self._end(fault, now_s - began_s - fault.length_s > END_S):
                    self._under_fault -= set(fault.nodes)
                    self.struck.append(Struck(fault=fault, at_s=began_s, ended_s=now_s))
                else:
                    heapq.heappush(due, (now_s + STEP_S, next(order), fault, began_s))
            elif now_s + fault.length_s > seconds - QUIET_LAST_S / 2:
                self.skipped.append(fault)
            elif not self._may_strike(fault):
                heapq.heappush(due, (now_s + STEP_S, next(order), fault, -1.0))
            else:
                names = " and ".join(f"node-{node + 1}" for node in fault.nodes)
                self._say(f"{now_s:6.1f} s  {names} {fault.kind.value} for {fault.length_s:.1f} s")
                self._under_fault |= set(fault.nodes)
                self._begin(fault)
                heapq.heappush(due, (now_s + fault.length_s, next(order), fault, now_s))
        time.sleep(max(0.0, started_s + seconds - time.monotonic()))

    def make_good(self) -> None:
        """Undo whatever is under way."""
        nodes = len(self._network.nodes)
        self._relay.heal(between(range(nodes), nodes) | {(a, b) for a in range(nodes) for b in range(a + 1, nodes)})
        for node in self._network.nodes:
            resume(node)
        self._http.close()

    def _may_strike(self, fault: Fault) -> bool:
        if self._under_fault & set(fault.nodes):
            return False
        if not self._honest & set(fault.nodes):
            return all(self._network.nodes[index].running for index in fault.nodes)
        return not self._honest & self._under_fault and all(map(self._is_back, sorted(self._honest)))

    def _is_back(self, index: int) -> bool:
        """Whether a node serves, and is connected to the other honest ones."""
        node = self._network.nodes[index]
        with contextlib.suppress(httpx.HTTPError):
            if self._http.get(f"{node.url}/readyz").status_code != 200:
                return False
            peers = self._http.get(f"{node.url}/overlay/peers").json()["peers"]
            connected = {peer["identityKey"] for peer in peers if peer["connected"]}
            return len(connected & self._honest_keys) == len(self._honest) - 1
        return False

    def _begin(self, fault: Fault) -> None:
        if fault.kind in PARTITIONS:
            barrier = Barrier.CUT if fault.kind is Kind.CUT else Barrier.STALL
            self._relay.keep_apart(between(fault.nodes, len(self._network.nodes)), barrier)
            return
        for index in fault.nodes:
            node = self._network.nodes[index]
            match fault.kind:
                case Kind.KILL:
                    node.kill()
                case Kind.STOP:
                    stop(node)
                case Kind.RESTART:
                    node.signal(signal.SIGTERM)

    def _end(self, fault: Fault, impatient: bool) -> bool:
        """Undo a fault; False where a node that was told to end is still at it."""
        if fault.kind in PARTITIONS:
            self._relay.heal(between(fault.nodes, len(self._network.nodes)))
            return True
        for index in fault.nodes:
            node = self._network.nodes[index]
            if fault.kind is Kind.STOP:
                resume(node)
                continue
            if node.running and impatient:
                raise RuntimeError(f"node-{index + 1} does not end after SIGTERM:\n{node.tail()}")
            if node.running:
                return False
            node.start()
        return True
