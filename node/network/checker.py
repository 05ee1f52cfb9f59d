"""The worker process that checks what peers send: it can take seconds after a long absence."""

from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Checker(Protocol):
    """Runs one call at a time, apart from the event loop."""

    async def admit(self, call: Callable[[], T]) -> T:
        """Run a picklable call; raises what it raises, and WorldFault where the worker fails."""
