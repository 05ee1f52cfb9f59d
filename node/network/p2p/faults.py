"""Peers' faults, counted; past a bound a peer is ignored for a time."""

from collections import deque
from collections.abc import Callable
from typing import Final

from protocols.messages import IdentityKey

STRIKES_MAX: Final = 8
STRIKES_WITHIN_S: Final = 60.0
IGNORE_S: Final = 300.0
STRUCK_MAX: Final = 4_096  # peers remembered; keys cost nothing to make, so the oldest go first


class Faults:
    """Counts of recent faults by peer."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._strikes: dict[IdentityKey, deque[float]] = {}
        self._ignored_until: dict[IdentityKey, float] = {}

    def strike(self, identity: IdentityKey) -> bool:
        """Count a fault. True if this one makes the peer ignored."""
        now = self._clock()
        recent = self._strikes.pop(identity, None) or deque(maxlen=STRIKES_MAX)
        self._strikes[identity] = recent
        recent.append(now)
        if len(self._strikes) > STRUCK_MAX:
            del self._strikes[next(iter(self._strikes))]
        if len(recent) < STRIKES_MAX or now - recent[0] > STRIKES_WITHIN_S:
            return False
        del self._strikes[identity]
        self._ignored_until.pop(identity, None)
        self._ignored_until[identity] = now + IGNORE_S
        if len(self._ignored_until) > STRUCK_MAX:
            del self._ignored_until[next(iter(self._ignored_until))]
        return True

    def count(self, identity: IdentityKey) -> int:
        """Strikes of a peer that still count."""
        now = self._clock()
        return sum(now - struck <= STRIKES_WITHIN_S for struck in self._strikes.get(identity, ()))

    def ignored(self, identity: IdentityKey) -> bool:
        """Whether a peer is ignored now."""
        until = self._ignored_until.get(identity)
        if until is None:
            return False
        if self._clock() < until:
            return True
        del self._ignored_until[identity]
        return False
