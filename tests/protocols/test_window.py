"""How many batches may be in flight: it grows with timely answers, and shrinks when most are late."""

import attrs

from protocols.coordination import window
from protocols.coordination.window import LATE_MAX, NOTICEABLE
from protocols.load import Window
from protocols.rules import Rules

RULES = Rules(network="test", self_key=bytes(33))
SOON_MS = 100


def answered(current: Window, took_ms: int, now_ms: int) -> Window:
    return window.answered(current, RULES, events=10, dispatched_ms=now_ms - took_ms, now_ms=now_ms, is_limiting=True)


def after(*took_ms: int, start: Window | None = None) -> Window:
    current = start or window.first(RULES)
    for number, took in enumerate((SOON_MS, *took_ms)):
        current = answered(current, took, 100_000 + number)
    return current


def test_it_grows_by_one_for_each_timely_answer() -> None:
    assert after(*[SOON_MS] * 10).size == RULES.window_first + 11


def test_it_grows_slowly_once_answers_take_noticeably_longer() -> None:
    slower = after(SOON_MS + RULES.delay_target_ms // NOTICEABLE + 1)
    assert slower.threshold == RULES.window_first + 1
    assert after(*[SOON_MS] * 20, start=slower).size < slower.size + 4


def test_a_late_answer_now_and_then_does_not_shrink_it() -> None:
    late_ms = SOON_MS + RULES.delay_target_ms + 1
    assert after(*[late_ms, SOON_MS, SOON_MS] * 20).size >= RULES.window_first


def test_late_answers_halve_it_once_a_round() -> None:
    late_ms = SOON_MS + RULES.delay_target_ms + 1
    wide = attrs.evolve(after(), size=64)
    halved = after(*[late_ms] * LATE_MAX, start=wide)
    assert halved.size == 32
    assert after(*[late_ms] * 10, start=halved).size == 32, "they were sent before it was halved"
