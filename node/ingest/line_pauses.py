"""How long a source's next batch waits after the one before has its end: longer the longer that one took.

Where batches take long, the network is busy, and with what each batch costs rather than with their events. What comes
meanwhile goes into the next batch, so fewer and larger ones go. Where they are quick nothing waits.
"""

from collections.abc import Callable, Hashable
from typing import Final

import trio

QUICK_S: Final = 0.2  # a batch that took less is followed at once
FACTOR: Final = 3  # of what one took longer than that


class LinePauses:
    """Pauses of lines, each until a time. Those that are over are forgotten."""

    def __init__(self, longest_s: float, clock: Callable[[], float] = trio.current_time) -> None:
        self._longest_s = longest_s
        self._clock = clock
        self._until_s: dict[Hashable, float] = {}

    def begin(self, line: Hashable, took_s: float) -> None:
        """Begin the pause of a line, one of whose batches has its end after so long."""
        pause_s = min(self._longest_s, FACTOR * (took_s - QUICK_S))
        if pause_s > 0:
            self._until_s[line] = self._clock() + pause_s

    def is_over(self, line: Hashable) -> bool:
        """Whether a line does not pause."""
        return self._until_s.get(line, 0.0) <= self._clock()

    def next_s(self) -> float | None:
        """In how many seconds the next pause is over; None where there is none."""
        now_s = self._clock()
        for line in [line for line, until_s in self._until_s.items() if until_s <= now_s]:
            del self._until_s[line]
        return min(self._until_s.values()) - now_s if self._until_s else None
