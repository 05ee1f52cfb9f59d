"""Strangers that mean harm: two processes, of HTTP clients and of peers, that attack a node when they are told to.

They take orders, one a line, and report on each in a line of their own. They run from before the load on, so that
nothing waits for a program to start.
"""

import json
import os
import queue
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import httpx

from scripts.network import ROOT, Node, die_with_parent, get
from tests.faults.schedule import Fault, Kind

NICE: Final = 5  # the nodes' share of the processor is what is tested, not the strangers'
SOURCE: Final = "strangers"
SHOWN_CHARS: Final = 600
MODULES: Final = {Kind.MESSAGES: "tests.faults.hostile_peers", Kind.REQUESTS: "tests.faults.hostile_requests"}

Order = dict[str, Any]
Report = dict[str, Any]


class Program:
    """One of the processes."""

    def __init__(self, module: str, log: Path) -> None:
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                preexec_fn=_prepare,
            )
        self._reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, order: Order) -> None:
        assert self._process.stdin is not None, "it is a pipe"
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()

    def report(self) -> Report | None:
        """On the earliest order that was not reported on; None while it is carried out."""
        try:
            return self._reports.get_nowait()
        except queue.Empty:
            return None

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None, "it is a pipe"
        for line in self._process.stdout:
            if line.startswith(b'{"report"'):  # libraries log there too
                self._reports.put(json.loads(line)["report"])


def obey(carry_out: Callable[[Order], Report]) -> None:
    """The program: carry out orders until there are no more."""
    for line in sys.stdin:
        print(json.dumps({"report": carry_out(json.loads(line))}), flush=True)


class Strangers:
    """``with Strangers(nodes, log) as strangers``: both processes.

    Attributes:
        attacks: What HTTP clients did, and what peers sent, by kind.
        statuses: That HTTP clients saw.
        wrong: What nodes did that no node may do.
    """

    def __init__(self, nodes: Sequence[Node], log: Path) -> None:
        self.attacks: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._nodes = nodes
        self._keys = {node.index: get(node, "/overlay/node")["identityKey"] for node in nodes}
        self._programs = {kind: Program(module, log) for kind, module in MODULES.items()}

    def __enter__(self) -> "Strangers":
        return self

    def __exit__(self, *_: object) -> None:
        for program in self._programs.values():
            program.close()

    def register(self, node: Node) -> None:
        """Give strangers a source on a node, whose webhook takes deliveries without proof."""
        document = {
            "sourceId": SOURCE,
            "name": "What anybody sends",
            "sourceType": "webhook",
            "configuration": {"scheme": "none", "eventType": "anything"},
        }
        httpx.post(f"{node.url}/overlay/sources", json=document, auth=node.operator, timeout=30).raise_for_status()

    def begin(self, fault: Fault) -> None:
        node = self._nodes[fault.nodes[0]]
        self._programs[fault.kind].send(
            {
                "port": node.http_port,
                "source": SOURCE,
                "address": f"/ip4/127.0.0.1/tcp/{node.p2p_port}",
                "identity": self._keys[node.index],
                "seed": fault.detail,
                "seconds": fault.length_s,
            }
        )

    def end(self, fault: Fault, impatient: bool) -> bool:
        """Whether an attack is over; it is when ``impatient``."""
        report = self._programs[fault.kind].report()
        if report is not None:
            self._count(fault, report)
        elif impatient:
            self.attacks[f"{fault.kind.value} without a report"] += 1
        return report is not None or impatient

    def _count(self, fault: Fault, report: Mapping[str, Any]) -> None:
        self.attacks.update(report["attacks"])
        self.statuses.update(report["statuses"])
        name = f"node-{fault.nodes[0] + 1}"
        self.wrong += [f"{name} answered strangers: {each[:SHOWN_CHARS]}" for each in report["wrong"]]


def _prepare() -> None:
    die_with_parent()
    os.nice(NICE)
