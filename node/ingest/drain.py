"""How fast events come to their end here: what the node takes in, and has under way at once, follows from it."""

from collections.abc import Callable
from typing import Final

import trio

SPAN_S: Final = 0.5
SHARE: Final = 0.3  # of a new span in the estimate: two seconds of another rate are 80 % of it


class DrainMeter:
    """The rate at which events end, as a moving average over spans of time in which some waited.

    An idle node ends few events because few come: that says nothing about how many it could, so a span without
    anything left to do at its end never lowers the estimate.
    """

    def __init__(self, clock: Callable[[], float] = trio.current_time, *, assumed_per_s: float = 0.0) -> None:
        """``assumed_per_s``: Holds until faster ends are seen, or slower ones while events wait."""
        self._clock = clock
        self._since_s: float | None = None
        self._ended = 0
        self._rate = assumed_per_s

    def note(self, events: int, *, is_busy: bool) -> None:
        """Count events that ended. ``is_busy``: others wait."""
        now_s = self._clock()
        if self._since_s is None:
            self._since_s = now_s
        self._ended += events
        elapsed_s = now_s - self._since_s
        if elapsed_s < SPAN_S:
            return
        rate = self._ended / elapsed_s
        if rate > self._rate or is_busy:
            self._rate += SHARE * (rate - self._rate)
        self._since_s, self._ended = now_s, 0

    @property
    def per_s(self) -> float:
        """Events a second."""
        return self._rate
