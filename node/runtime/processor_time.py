"""Processor time of the node's processes by component, found by name. Without Linux, only the node's own."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

NODE: Final = "node"
DATABASE: Final = "database"
COMPONENTS: Final = {"front-door": "front-door", "roles": "roles", "postgres": DATABASE}
"""From the name of a process to its component; other processes are not counted."""

PROCESSES_MAX: Final = 256
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


class ProcessorTimes:
    """Differences between readings. What a process used between the last reading and its end is not counted."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], float] = {}  # by process id and start time, since ids are reused
        self._own = 0.0

    def since_last(self) -> dict[str, float]:
        """Seconds of each component since the last call: the node's process and its descendants."""
        own = time.process_time()
        spent = {NODE: own - self._own}
        self._own = own
        seen = {}
        for pid in _descendants():
            found = _read(pid)
            if found is None or found[0] not in COMPONENTS:
                continue
            name, started, seconds = found
            seen[pid, started] = seconds
            component = COMPONENTS[name]
            spent[component] = spent.get(component, 0.0) + seconds - self._seen.get((pid, started), 0.0)
        self._seen = seen
        return spent


def _descendants() -> Iterator[int]:
    waiting = [os.getpid()]
    for _ in range(PROCESSES_MAX):
        if not waiting:
            return
        pid = waiting.pop()
        if pid != os.getpid():
            yield pid
        waiting += _children(pid)


def _children(pid: int) -> list[int]:
    """Linux lists a child under the thread that started it."""
    try:
        return [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return []


def _read(pid: int) -> tuple[str, int, float] | None:
    """Name, start and processor seconds of a process; see proc(5), ``/proc/pid/stat``."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    name, _, rest = text.partition("(")[2].rpartition(") ")
    fields = rest.split()
    return name, int(fields[19]), (int(fields[11]) + int(fields[12])) / TICKS_PER_S
