"""Which networks reach which levels."""

import pytest

from protocols.levels import shortfall
from protocols.messages import Level


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
