"""How many batches may be in flight: congestion control on how long answers take (after RFC 5681 and RFC 6817).

An agent computes its batches one after another, so more in flight than keeps the agents busy only makes each wait.
How long a batch takes without waiting is the least time in which one of its size was answered lately. While answers
take little more than that, and the window is what limits, it grows: by one for each answer until the first that takes
noticeably longer, since what was sent meanwhile comes on top; by one for each window of them later. When answers take
longer by more than the target, it is halved, once for each round of answers. One of them says little, since links and
agents are slow now and then: late answers must outnumber timely ones by ``LATE_MAX``.
"""

from typing import Final

import attrs

from protocols.load import Base, Window
from protocols.rules import Rules

BASE_MS: Final = 30_000  # after at most twice as long, a shortest time that is not reached any more is forgotten
LATE_MAX: Final = 3
NOTICEABLE: Final = 4  # such a part of the target


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
    waited_ms = took_ms - least_ms
    if waited_ms > rules.delay_target_ms:
        return _late(window, rules, dispatched_ms=dispatched_ms, now_ms=now_ms)
    window = attrs.evolve(window, late=max(0, window.late - 1))
    if window.size < window.threshold and waited_ms > rules.delay_target_ms // NOTICEABLE:
        window = attrs.evolve(window, threshold=window.size)
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
    return attrs.evolve(window, size=size, threshold=size, gained=0, late=0, eased_ms=now_ms)


def _late(window: Window, rules: Rules, *, dispatched_ms: int, now_ms: int) -> Window:
    """The window after an answer that waited for longer than the target: smaller, where most do."""
    if dispatched_ms < window.eased_ms:
        return window
    late = window.late + 1
    if late < LATE_MAX:
        return attrs.evolve(window, late=late, threshold=min(window.threshold, window.size))
    return eased(window, rules, dispatched_ms=dispatched_ms, now_ms=now_ms)


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
