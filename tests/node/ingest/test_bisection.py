"""The search for records that end their worker, and what becomes of a dead batch in which it finds some."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.ingest.bisection import PROBES_MAX, Search

EVENTS = 100


def records(count: int) -> list[bytes]:
    return [str(number).encode() for number in range(count)]


class Probe:
    """Records are bad together if one of them is bad; counts its runs."""

    def __init__(self, bad: set[bytes]) -> None:
        self._bad = bad
        self.runs = 0

    async def __call__(self, lines: Sequence[bytes]) -> bool:
        self.runs += 1
        assert lines, "a probe without records tells nothing"
        return not self._bad.isdisjoint(lines)


def run(search: Callable[[], Any]) -> Any:
    """Run a coroutine that never waits."""
    coroutine = search()
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("the search waited for something")


def found(bad: set[int], count: int, left: int = 10_000) -> tuple[list[int], Probe, Search]:
    probe = Probe({str(number).encode() for number in bad})
    search = Search(probe=probe, left=left)
    return run(partial(search.bad, records(count), 0)), probe, search


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, EVENTS])
def test_one_bad_record_is_found_at_every_position(count: int) -> None:
    for position in range(count):
        positions, probe, _ = found({position}, count)
        assert positions == [position]
        assert probe.runs <= 2 * (count - 1).bit_length() + 1, "two runs for each halving"


def test_nothing_is_found_where_nothing_is_bad() -> None:
    positions, probe, _ = found(set(), EVENTS)
    assert (positions, probe.runs) == ([], 1)


def test_all_records_can_be_bad() -> None:
    positions, probe, _ = found(set(range(16)), 16)
    assert positions == list(range(16))
    assert probe.runs == 2 * 16 - 1, "every part is looked at once"


@pytest.mark.parametrize("bad", [{0, 1}, {0, 99}, {49, 50}, {3, 4, 5, 6}, {0, 33, 66, 99}])
def test_several_bad_records_are_found_side_by_side_and_apart(bad: set[int]) -> None:
    positions, _, _ = found(bad, EVENTS)
    assert positions == sorted(bad)


@given(st.integers(1, 200).flatmap(lambda count: st.tuples(st.just(count), st.sets(st.integers(0, count - 1)))))
def test_exactly_the_bad_records_are_found_in_their_order(case: tuple[int, set[int]]) -> None:
    count, bad = case
    positions, probe, search = found(bad, count)
    assert positions == sorted(bad)
    assert search.left == 10_000 - probe.runs


@given(st.integers(2, 200), st.integers(1, 20))
def test_the_bound_on_runs_holds_and_shows_that_the_result_may_be_incomplete(count: int, left: int) -> None:
    positions, probe, search = found(set(range(count)), count, left)
    assert probe.runs <= left
    if search.left > 0:
        assert positions == list(range(count))


def test_the_runs_allowed_suffice_for_several_bad_events_in_a_large_batch() -> None:
    positions, probe, search = found({0, 123, 250, 251, 499}, 500, PROBES_MAX)
    assert positions == [0, 123, 250, 251, 499]
    assert probe.runs < PROBES_MAX
    assert search.left > 0


@given(st.sets(st.integers(0, 63), min_size=2))
def test_records_that_are_bad_only_together_are_left_alone(pair: set[int]) -> None:
    """A part whose halves are both good names no event: the batch stays dead as a whole."""
    together = {str(number).encode() for number in sorted(pair)[:2]}

    async def probe(lines: Sequence[bytes]) -> bool:
        return together <= set(lines)

    assert run(partial(Search(probe=probe, left=1_000).bad, records(64), 0)) == []


def test_positions_are_counted_from_the_start_that_is_given() -> None:
    probe = Probe({b"2"})
    assert run(partial(Search(probe=probe, left=100).bad, records(4), 40)) == [42]
