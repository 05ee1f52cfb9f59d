"""The wall clock of the node: UTC in milliseconds. A task inherits the clock of the task that started it.

A node reads the machine's clock. Where several nodes share a process, in simulations, each can have a clock of its
own that is wrong by its own amount.
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
    """UTC in milliseconds by this node's clock."""
    return UTC_MS.get()()
