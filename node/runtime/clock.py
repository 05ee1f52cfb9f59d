"""The one clock of the node: UTC in milliseconds. Each task has that of the task that started it.

A node reads the machine's. Where several nodes share a process, each can have a clock of its own, wrong by its own
measure.
"""

import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Final


def machine_ms() -> int:
    """The machine's UTC in milliseconds."""
    return time.time_ns() // 1_000_000


UTC_MS: Final[ContextVar[Callable[[], int]]] = ContextVar("UTC_MS", default=machine_ms)


def clock_ms() -> int:
    """UTC in milliseconds, as this node knows it."""
    return UTC_MS.get()()
