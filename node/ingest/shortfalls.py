"""What keeps the network from a level and quorum, as of a moment ago: every request asks for it."""

from collections.abc import Callable
from typing import Final

import trio

from protocols.messages import Level

LOOK_S: Final = 0.1


class Shortfalls:
    """Answers for a level and quorum, kept for ``LOOK_S``."""

    def __init__(self, look: Callable[[Level, int], str], clock: Callable[[], float] = trio.current_time) -> None:
        self._look = look
        self._clock = clock
        self._looked_s = 0.0
        self._found: dict[tuple[Level, int], str] = {}

    def __call__(self, level: Level, quorum: int) -> str:
        """The reason in words; empty where there is none."""
        now_s = self._clock()
        if now_s - self._looked_s >= LOOK_S:
            self._found.clear()
            self._looked_s = now_s
        if (level, quorum) not in self._found:
            self._found[level, quorum] = self._look(level, quorum)
        return self._found[level, quorum]
