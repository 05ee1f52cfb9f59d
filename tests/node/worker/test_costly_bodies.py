"""No body costs a parser more than its size: eight times as much of it costs about eight times as much."""

import gc
import time

import pytest

from tests.costly_bodies import CostlyBody, costly_bodies

SIZE = 32 * 1024
TIMES = 8
GROWTH_MAX = 18.0
"""Linear work grows by 8, and by up to 14 where more memory is slower memory; quadratic work by 64."""
COUNTED_S = 0.004  # below that the constant part of the work is most of it
ATTEMPTS = 4  # the machine may be busy with something else, which costs processor time here too


def cpu_s(kind: CostlyBody, size: int) -> float:
    body = kind.make(size)
    gc.collect()
    gc.disable()  # its passes come in steps
    try:
        started_s = time.process_time()
        kind.attempt(body)
        return time.process_time() - started_s
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", costly_bodies(), ids=lambda kind: kind.name)
def test_the_cost_of_a_body_grows_with_its_size(kind: CostlyBody) -> None:
    kind.attempt(kind.make(1_000))  # what is imported first, and caches
    growth = []
    for _ in range(ATTEMPTS):
        small_s, large_s = cpu_s(kind, SIZE), cpu_s(kind, TIMES * SIZE)
        growth.append(large_s / max(small_s, COUNTED_S))
        if growth[-1] <= GROWTH_MAX:
            return
    pytest.fail(f"{TIMES} times the size costs {min(growth):.1f} times as much")
