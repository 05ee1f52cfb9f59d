"""The timetable leaves the network what it needs to go on, for every seed."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tests.faults.schedule import (
    DATABASES,
    LENGTHS_S,
    NODES,
    QUIET_FIRST_S,
    QUIET_LAST_S,
    RECOVERY_S,
    STRANGERS,
    TURN_S,
    Fault,
    Kind,
    timetable,
)

HONEST, FAULTY = (0, 1, 2), (3, 4)
seeds = st.integers(0, 2**32)
durations = st.floats(30, 600)


def drawn(seed: int, seconds: float) -> tuple[Fault, ...]:
    return timetable(seed, seconds, honest=HONEST, faulty=FAULTY)


@given(seeds, durations)
def test_one_honest_node_is_always_there_and_mostly_two(seed: int, seconds: float) -> None:
    """One node at a time is struck itself and one in its database, and each has time to come back."""
    for row in (NODES, DATABASES):
        striking = [fault for fault in drawn(seed, seconds) if fault.kind in row and set(fault.nodes) & set(HONEST)]
        assert all(len(set(fault.nodes) & set(HONEST)) == 1 for fault in striking)
        for earlier, later in pairwise(striking):
            assert later.at_s - earlier.ends_s >= RECOVERY_S - 0.002


@given(seeds, durations)
def test_no_node_is_struck_twice_at_once_but_by_strangers(seed: int, seconds: float) -> None:
    for node in HONEST + FAULTY:
        own = [fault for fault in drawn(seed, seconds) if node in fault.nodes and fault.kind not in STRANGERS]
        for earlier, later in pairwise(own):
            assert later.at_s - earlier.ends_s >= TURN_S - 0.002


@given(seeds, durations)
def test_databases_and_strangers_are_those_of_honest_nodes(seed: int, seconds: float) -> None:
    for fault in drawn(seed, seconds):
        assert fault.kind in NODES or set(fault.nodes) <= set(HONEST)


@given(seeds, durations, st.sets(st.sampled_from(Kind)))
def test_what_cannot_be_made_is_left_out(seed: int, seconds: float, without: set[Kind]) -> None:
    faults = timetable(seed, seconds, honest=HONEST, faulty=FAULTY, without=tuple(without))
    assert not {fault.kind for fault in faults} & without


@given(seeds, durations)
def test_it_begins_and_ends_quietly(seed: int, seconds: float) -> None:
    for fault in drawn(seed, seconds):
        assert fault.at_s >= QUIET_FIRST_S
        assert fault.ends_s <= seconds - QUIET_LAST_S + 0.001
        assert fault.length_s >= LENGTHS_S[fault.kind][0] - 0.002


@given(seeds, st.floats(60, 600))
def test_from_a_minute_on_every_kind_strikes_and_nobody_is_spared_for_ever(seed: int, seconds: float) -> None:
    faults = drawn(seed, seconds)
    honest = [fault for fault in faults if set(fault.nodes) & set(HONEST)]
    assert {fault.kind for fault in honest} == set(Kind)
    assert {node for fault in honest for node in fault.nodes} >= set(HONEST)
    assert {node for fault in faults for node in fault.nodes} & set(FAULTY)


@given(seeds, durations)
def test_it_is_a_function_of_its_seed(seed: int, seconds: float) -> None:
    assert drawn(seed, seconds) == drawn(seed, seconds)


def test_seeds_differ() -> None:
    assert len({drawn(seed, 60) for seed in range(100)}) == 100
