"""Token buckets under a clock of the test's own."""

from hypothesis import given
from hypothesis import strategies as st

from node.runtime.token_bucket import Rate, TokenBucket, TokenBuckets

RATE = Rate(per_s=2.0, burst=3.0)


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_burst_passes_and_then_the_rate() -> None:
    clock = Clock()
    bucket = TokenBucket(RATE, clock)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    clock.now_s += 0.5
    assert [bucket.take(), bucket.take()] == [True, False]


def test_a_bucket_never_holds_more_than_the_burst() -> None:
    clock = Clock()
    bucket = TokenBucket(RATE, clock)
    clock.now_s += 1_000_000
    assert [bucket.take() for _ in range(5)].count(True) == 3


def test_asking_in_vain_costs_nothing() -> None:
    clock = Clock()
    bucket = TokenBucket(Rate(per_s=1.0, burst=1.0), clock)
    assert bucket.take()
    for _ in range(9):
        clock.now_s += 0.1
        assert not bucket.take()
    clock.now_s += 0.11
    assert bucket.take()


@given(
    steps=st.lists(st.floats(min_value=0.0, max_value=3.0, allow_nan=False), max_size=200),
    per_s=st.floats(min_value=0.1, max_value=50.0),
    burst=st.floats(min_value=1.0, max_value=50.0),
)
def test_never_more_than_burst_and_rate_together(steps: list[float], per_s: float, burst: float) -> None:
    clock = Clock()
    started_s = clock.now_s
    bucket = TokenBucket(Rate(per_s=per_s, burst=burst), clock)
    taken = 0
    for step in steps:
        clock.now_s += step
        taken += bucket.take()
    assert taken <= burst + (clock.now_s - started_s) * per_s + 1e-6


def test_parties_do_not_use_each_others_tokens() -> None:
    buckets = TokenBuckets[str](RATE, Clock(), parties_max=10)
    assert [buckets.take("a") for _ in range(4)] == [True, True, True, False]
    assert [buckets.take("b") for _ in range(4)] == [True, True, True, False]


def test_the_party_that_asked_longest_ago_is_forgotten_first() -> None:
    buckets = TokenBuckets[str](Rate(per_s=1.0, burst=1.0), Clock(), parties_max=2)
    assert buckets.take("a")
    assert buckets.take("b")
    assert not buckets.take("a")  # asks again: "b" is the quietest now
    assert buckets.take("c")
    assert len(buckets) == 2
    assert not buckets.take("a")
    assert buckets.take("b")  # begins anew
