"""Calls for worker processes; a worker imports this module and what it needs, nothing else."""

import itertools
import os
import sys
import time
from pathlib import Path

from protocols.errors import ClientFault, WorldFault

HEAVY = ("libp2p", "quart", "hypercorn", "psycopg", "trio", "structlog", "pytest", "node.runtime.workers", "node.app")


class OddError(ClientFault):
    """An error whose constructor takes other arguments than its message."""

    code = "odd"

    def __init__(self, index: int, *, why: str) -> None:
        super().__init__(f"event {index}: {why}", index=index, why=why)
        self.index = index


def facts() -> dict[str, object]:
    from node.worker import compute  # what a worker of a node has imported

    pss = next(line for line in Path("/proc/self/smaps_rollup").read_text().splitlines() if line.startswith("Pss:"))
    return {
        "pid": os.getpid(),
        "niceness": os.nice(0),
        "heavy": [name for name in HEAVY if name in sys.modules],
        "main": sys.modules["__mp_main__"] is not sys.modules["__main__"],
        "mb": int(pss.split()[1]) / 1024,
        "compute": compute.__name__,
    }


def echo(data: bytes, size: int) -> bytes:
    return data[:1] * size


def compute_for(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def compute_stubbornly(seconds: float) -> None:
    """As ``compute_for``, in code that takes whatever is raised in it for its own."""
    until = time.process_time() + seconds
    while time.process_time() < until:
        try:
            compute_for(0.5)
        except BaseException:
            stubborn.append(1)
            if len(stubborn) > 2:
                raise


stubborn: list[int] = []


def compute_and_misreport(seconds: float) -> str:
    """As a library does that makes an error of its own of whatever is raised in it."""
    try:
        compute_for(seconds)
    except BaseException as error:
        raise ValueError("the document is malformed") from error
    return "done"


def panic() -> None:
    """As code in Rust does: its panic is no ``Exception``."""
    raise SystemExit("a panic")


def compute_in_a_library() -> int:
    """Never comes back to the interpreter."""
    return sum(itertools.repeat(1, 10**14))


def wait(seconds: float) -> str:
    time.sleep(seconds)
    return "waited"


def hang() -> None:
    time.sleep(3600)


def crash() -> None:
    os._exit(3)


def crash_once(marker: str) -> str:
    """Ends its process the first time, answers the second."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return "alive"
    os._exit(3)


def fail_oddly() -> None:
    raise OddError(7, why="no reason")


def fail_by_world() -> None:
    raise WorldFault("no disk", disk="sda", left=0)
