"""How many batches may be in flight: congestion control on how long answers take (after RFC 5681 and RFC 6817).

An agent computes its batches one after another, so more in flight than keeps the agents busy only makes each wait.
How long a batch takes without waiting is the least time in which one of its size was answered lately. While answers
take little more than that, and the window is what limits, it grows: by one for each answer at first, by one for each
window of them later. When they take longer by more than the target, it is halved, once for each round of answers.
"""

from typing import Final

import attrs

from protocols.load import Base, Window
from protocols.rules import Rules

BASE_MS: Final = 30_000  # after at most twice as long, a shortest time that is not reached any more is forgotten


def first(rules: Rules) -> Window:
    return Window(size=rules.window_first, threshold=rules.window_max)


def answered(
    window: Window, rules: Rules, *, events: int, dispatched_ms: int, now_ms: int, is_limiting: bool
) -> Window:
    """The window after a batch got its quorum.

    Args:
        is_limiting: Whether as many batches were in flight as may be: else the answer says nothing about more.
    """
    took_ms = max(0, now_ms - dispatched_ms)
    window, least_ms = _learn(window, events.bit_length(), took_ms, now_ms)
    if took_ms - least_ms > rules.delay_target_ms:
        return eased(window, rules, dispatched_ms=dispatched_ms, now_ms=now_ms)
    if not is_limiting or window.size >= rules.window_max:
        return window
    gained = window.gained + 1
    if window.size < window.threshold or gained >= window.size:
        return attrs.evolve(window, size=window.size + 1, gained=0)
    return attrs.evolve(window, gained=gained)


def eased(window: Window, rules: Rules, *, dispatched_ms: int, now_ms: int) -> Window:
    """Half the window; unchanged where the batch was dispatched before it was made smaller last."""
    if dispatched_ms < window.eased_ms:
        return window
    size = max(rules.window_min, window.size // 2)
    return attrs.evolve(window, size=size, threshold=size, gained=0, eased_ms=now_ms)


def _learn(window: Window, size: int, took_ms: int, now_ms: int) -> tuple[Window, int]:
    """The window with an answer noted, and the shortest time of that size."""
    known = next((base for base in window.bases if base.size == size), None)
    if known is None:
        base = Base(size=size, least_ms=took_ms, before_ms=took_ms, since_ms=now_ms)
    elif now_ms - known.since_ms > BASE_MS:
        base = Base(size=size, least_ms=took_ms, before_ms=known.least_ms, since_ms=now_ms)
    elif took_ms < known.least_ms:
        base = attrs.evolve(known, least_ms=took_ms)
    else:
        return window, min(known.least_ms, known.before_ms)
    others = (each for each in window.bases if each.size != size)
    bases = tuple(sorted((*others, base), key=lambda each: each.size))
    return attrs.evolve(window, bases=bases), min(base.least_ms, base.before_ms)
