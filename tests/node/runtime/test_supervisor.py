"""Supervision: the world's failures are retried with growing pauses, ours are not."""

from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from node.runtime.supervisor import RestartPolicy, supervise
from protocols.errors import WorldFault

POLICY = RestartPolicy(delay_s_first=1, delay_s_max=4, jitter=0, stable_s=60)


def failing(
    times: list[float], *, errors: list[Exception | None], lasts_s: float = 0
) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        times.append(trio.current_time())
        await trio.sleep(lasts_s)
        error = errors.pop(0)
        if error is not None:
            raise error

    return run


async def test_pauses_double_up_to_their_bound(autojump_clock: MockClock) -> None:
    times: list[float] = []
    errors: list[Exception | None] = [WorldFault("down"), OSError(), WorldFault("down"), WorldFault("down"), None]
    await supervise("relay", failing(times, errors=errors), POLICY)
    assert [round(later - earlier) for earlier, later in pairwise(times)] == [1, 2, 4, 4]


async def test_a_run_that_lasted_starts_again_with_the_first_pause(autojump_clock: MockClock) -> None:
    times: list[float] = []
    errors: list[Exception | None] = [WorldFault("down"), WorldFault("down"), WorldFault("down"), None]
    await supervise("relay", failing(times, errors=errors, lasts_s=100), POLICY)
    assert [round(later - earlier) for earlier, later in pairwise(times)] == [101, 101, 101]


async def test_jitter_shortens_pauses_and_never_lengthens_them(autojump_clock: MockClock) -> None:
    policy = RestartPolicy(delay_s_first=1, delay_s_max=1, jitter=0.5)
    times: list[float] = []
    await supervise("relay", failing(times, errors=[*(WorldFault("down") for _ in range(20)), None]), policy)
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert 0.5 <= min(pauses) < max(pauses) <= 1.0


@pytest.mark.parametrize("bug", [AssertionError("ours"), KeyError("ours")])
async def test_our_own_mistakes_leave_at_once(autojump_clock: MockClock, bug: Exception) -> None:
    times: list[float] = []
    with pytest.raises(type(bug)):
        await supervise("driver", failing(times, errors=[bug]), POLICY)
    assert len(times) == 1


async def test_a_mistake_beside_a_failure_of_the_world_still_leaves(autojump_clock: MockClock) -> None:
    mixed = ExceptionGroup("both", [WorldFault("down"), AssertionError("ours")])
    with pytest.raises(ExceptionGroup) as left:
        await supervise("driver", failing([], errors=[mixed]), POLICY)
    assert left.value.subgroup(AssertionError) is not None
    assert left.value.subgroup(WorldFault) is None


async def test_a_pause_can_be_cancelled(autojump_clock: MockClock) -> None:
    with trio.move_on_after(0.5) as scope:
        await supervise("relay", failing([], errors=[WorldFault("down")]), POLICY)
    assert scope.cancelled_caught
