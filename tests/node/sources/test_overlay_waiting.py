"""Batches that an overlay source waits for: their order by source, their pauses, and how they are saved."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.sources.overlay.waiting import (
    PAUSE_S_FIRST,
    PAUSE_S_MAX,
    SourceOfNode,
    WaitingBatches,
    read_position,
    write_position,
)
from tests.node.certified_batches import AGENT, NODE

A: SourceOfNode = (NODE.identity, "a")
B: SourceOfNode = (NODE.identity, "b")
OTHER: SourceOfNode = (AGENT.identity, "a")


@pytest.fixture
def waiting() -> WaitingBatches:
    return WaitingBatches({})


def put(waiting: WaitingBatches, number: int, source: SourceOfNode | None, *, now_s: float = 0.0) -> int:
    return waiting.put(number, source, f"reason {number}", now_ms=round(1_000 * now_s), now_s=now_s)


def test_only_later_batches_of_the_same_source_of_the_same_node_wait_behind(waiting: WaitingBatches) -> None:
    put(waiting, 5, A)
    assert waiting.is_behind(A, 6)
    assert not waiting.is_behind(A, 5)
    assert not waiting.is_behind(A, 4)
    assert not waiting.is_behind(B, 6)
    assert not waiting.is_behind(OTHER, 6)
    assert not waiting.is_behind(None, 6)


def test_pauses_double_up_to_a_bound_for_the_first_of_a_source(waiting: WaitingBatches) -> None:
    now_s, pauses = 0.0, []
    for attempt in range(1, 12):
        assert put(waiting, 5, A, now_s=now_s) == attempt
        pauses.append(waiting.next_due_s(-1.0) - now_s)
        now_s = waiting.next_due_s(-1.0)
    assert pauses[:4] == [PAUSE_S_FIRST * 2**power for power in range(4)]
    assert pauses[-1] == PAUSE_S_MAX


def test_a_batch_behind_another_counts_no_attempts_and_is_due_with_the_one_before_it(waiting: WaitingBatches) -> None:
    put(waiting, 5, A, now_s=10.0)
    assert put(waiting, 6, A, now_s=10.0) == 0
    assert waiting.due(8, 10.5) == []
    assert waiting.due(8, 11.0) == [5], "the one behind it only once this one is gone"
    assert waiting.remove(5)
    assert waiting.due(8, 11.0) == [6]
    assert not waiting.remove(5)


def test_at_most_so_many_are_due_at_once_the_earliest_first(waiting: WaitingBatches) -> None:
    for number in range(20, 0, -1):
        put(waiting, number, (NODE.identity, f"s{number}"))
    assert waiting.due(8, PAUSE_S_FIRST) == list(range(1, 9))
    assert waiting.first_reason == "reason 1"


def test_how_long_a_batch_waits_is_counted_from_when_it_was_first_put_aside(waiting: WaitingBatches) -> None:
    put(waiting, 5, A, now_s=10.0)
    put(waiting, 5, A, now_s=70.0)
    assert waiting.waited_ms(5, 100_000) == 90_000
    assert waiting.waited_ms(6, 100_000) == 0
    assert 5 in waiting
    assert 6 not in waiting


def test_nothing_waits_at_the_beginning(waiting: WaitingBatches) -> None:
    number, found = read_position(None)
    assert (number, len(found), found.first_reason) == (0, 0, "")
    assert waiting.next_due_s(42.0) == 42.0
    assert waiting.due(8, 1e9) == []


def test_what_was_saved_is_due_at_once_and_its_source_is_not_known_yet() -> None:
    number, found = read_position({"number": 9, "aside": [[4, 1_000], [7, 2_000]]})
    assert (number, len(found)) == (9, 2)
    assert found.due(8, 0.0) == [4, 7], "either may be the first of its source"
    assert not found.is_behind(A, 8)
    put(found, 4, A, now_s=1.0)
    put(found, 7, A, now_s=1.0)
    assert found.due(8, 2.0) == [4]
    assert found.waited_ms(7, 10_000) == 8_000


BATCHES = st.dictionaries(st.integers(0, 10**9), st.integers(0, 2**45), max_size=20)


@given(number=st.integers(0, 2**60), batches=BATCHES)
def test_a_position_survives_being_saved_as_json(number: int, batches: dict[int, int]) -> None:
    waiting = WaitingBatches({})
    for each, since_ms in batches.items():
        waiting.put(each, A, "", now_ms=since_ms, now_s=0.0)
    saved = json.loads(json.dumps(write_position(number, waiting)))
    again_number, again = read_position(saved)
    assert again_number == number
    assert {each: -again.waited_ms(each, 0) for each in batches} == batches
    assert write_position(again_number, again) == saved


@given(
    puts=st.lists(st.tuples(st.integers(1, 12), st.sampled_from([A, B, OTHER])), max_size=30),
    removed=st.lists(st.integers(1, 12), max_size=12),
)
def test_of_each_source_exactly_the_first_batch_is_asked_for(
    puts: list[tuple[int, SourceOfNode]], removed: list[int]
) -> None:
    waiting, sources = WaitingBatches({}), dict[int, SourceOfNode]()
    for number, source in puts:
        source = sources.setdefault(number, source)  # a batch is of one source for ever
        put(waiting, number, source)
    for number in removed:
        assert waiting.remove(number) is (sources.pop(number, None) is not None)
    firsts = {
        source: min(number for number, each in sources.items() if each == source) for source in sources.values()
    }
    assert waiting.due(100, 1e9) == sorted(firsts.values())
    for number, source in sources.items():
        assert waiting.is_behind(source, number) is (firsts[source] != number)
