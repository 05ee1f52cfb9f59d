"""Levels: their rules, the quorums that follow, and which networks reach them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.levels import (
    LEVEL_WORDS,
    LEVELS,
    Level,
    is_enough,
    quorum_for,
    quorum_of,
    rule_for,
    shortfall,
    strictest,
)


@pytest.mark.parametrize(
    ("level", "quorum", "operators", "problem"),
    [
        (Level.BASIC, 1, ["a"], ""),
        (Level.BASIC, 1, [], "level basic wants 1 agents where 1 must agree, 0 are known"),
        (Level.ENHANCED, 2, ["a", "a"], ""),
        (Level.ENHANCED, 2, ["a"], "level enhanced wants 2 agents where 2 must agree, 1 are known"),
        (Level.ENHANCED, 4, ["a", "b", "c"], "level enhanced wants 4 agents where 4 must agree, 3 are known"),
        (Level.CRITICAL, 3, ["a", "b", "c", "d"], ""),
        (
            Level.CRITICAL,
            3,
            ["a", "b", "c", "c", ""],
            "level critical wants 4 agents of distinct operators where 3 must agree, 3 are known",
        ),
    ],
)
def test_what_keeps_agents_from_a_level(level: Level, quorum: int, operators: list[str], problem: str) -> None:
    assert shortfall(level, quorum, operators) == problem


QUORUMS = st.integers(1, 30)


@given(st.sampled_from(Level), QUORUMS)
def test_the_executors_of_a_rule_satisfy_its_level(level: Level, quorum: int) -> None:
    rule = rule_for(level, quorum)
    assert rule.quorum == max(quorum, LEVELS[level].quorum)
    assert is_enough(level, rule.quorum, rule.executors)


@given(st.sampled_from(Level), QUORUMS, st.integers(1, 60))
def test_two_quorums_always_share_an_executor(level: Level, quorum: int, executors: int) -> None:
    if is_enough(level, quorum, executors):
        assert 2 * quorum > executors
        if level is Level.CRITICAL:
            assert 3 * quorum > 2 * executors


@given(st.sampled_from(Level), QUORUMS, st.integers(1, 60))
def test_a_widened_ballot_has_the_smallest_quorum_of_which_two_share_one(
    level: Level, least: int, executors: int
) -> None:
    """Two thirds for critical, more than half for the others; never less than the batch asks for."""
    quorum = quorum_of(level, least, executors)
    share = 3 * (quorum - 1) <= 2 * executors if level is Level.CRITICAL else 2 * (quorum - 1) <= executors
    assert quorum >= least
    assert quorum == least or share
    assert 3 * quorum > 2 * executors if level is Level.CRITICAL else 2 * quorum > executors


def test_a_level_is_never_reached_with_less_than_its_own_quorum() -> None:
    assert not is_enough(Level.ENHANCED, 1, 1)
    assert not is_enough(Level.CRITICAL, 2, 3)
    assert not is_enough(Level.ENHANCED, 3, 2)
    assert is_enough(Level.BASIC, 1, 1)


@pytest.mark.parametrize(
    ("level", "threshold", "floor", "quorum"),
    [
        (Level.BASIC, 5, 0, 1),  # the threshold is for the levels above basic
        (Level.BASIC, 5, 2, 2),  # a template of the level may ask for more
        (Level.ENHANCED, 0, 0, 2),
        (Level.ENHANCED, 5, 0, 5),
        (Level.ENHANCED, 1, 0, 2),  # never lowered
        (Level.CRITICAL, 0, 4, 4),
        (Level.CRITICAL, 6, 4, 6),
    ],
)
def test_the_quorum_of_a_batch_is_what_level_threshold_and_templates_ask_for(
    level: Level, threshold: int, floor: int, quorum: int
) -> None:
    assert quorum_for(level, threshold=threshold, floor=floor) == quorum


def test_the_strictest_of_the_levels_asked_for_is_taken() -> None:
    assert strictest() is Level.BASIC
    assert strictest(None, None) is Level.BASIC
    assert strictest(Level.ENHANCED, None, Level.BASIC) is Level.ENHANCED
    assert strictest(Level.ENHANCED, Level.CRITICAL) is Level.CRITICAL


def test_level_words_are_in_the_order_of_the_levels() -> None:
    """Policies compare levels by their place among the words."""
    assert [Level[word.upper()] for word in LEVEL_WORDS] == sorted(Level)
