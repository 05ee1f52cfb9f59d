"""Certification levels: how many executors each needs, how many must agree, and whether operators must differ."""

import enum
from collections.abc import Sequence
from typing import Final

import attrs


class Level(enum.IntEnum):
    """Certification levels, ordered: a greater one asks for more."""

    BASIC = 1
    ENHANCED = 2
    CRITICAL = 3

    @property
    def word(self) -> str:
        return self.name.lower()


LEVEL_WORDS: Final = tuple(level.word for level in Level)  # lowest first


@attrs.frozen(kw_only=True)
class LevelRule:
    """How many executors a level needs, how many must agree, and whether their operators must differ."""

    quorum: int
    executors: int
    distinct_operators: bool


LEVELS = {
    Level.BASIC: LevelRule(quorum=1, executors=1, distinct_operators=False),
    Level.ENHANCED: LevelRule(quorum=2, executors=3, distinct_operators=False),
    Level.CRITICAL: LevelRule(quorum=3, executors=4, distinct_operators=True),
}


def strictest(*levels: Level | None) -> Level:
    """The level that satisfies everybody who asked for one; ``basic`` where nobody did."""
    return max((level for level in levels if level is not None), default=Level.BASIC)


def quorum_for(level: Level, *, threshold: int, floor: int) -> int:
    """How many agents must agree on a batch.

    Args:
        threshold: The operator's own, for all levels above ``basic``.
        floor: What the operator's job templates of the level ask for at least; 0 where they do not.
    """
    quorum = LEVELS[level].quorum
    return max(quorum if level is Level.BASIC else max(quorum, threshold), floor)


def rule_for(level: Level, quorum: int) -> LevelRule:
    """The rule of a level under a quorum that the operator may have raised, never lowered.

    At ``quorum`` of ``2 * quorum - 1`` executors two quorums still share one.
    """
    base = LEVELS[level]
    if quorum <= base.quorum:
        return base
    most = 2 * quorum - 1 if level is not Level.CRITICAL else (3 * quorum - 1) // 2
    return attrs.evolve(base, quorum=quorum, executors=max(quorum, min(most, base.executors + quorum)))


def is_enough(level: Level, quorum: int, executors: int) -> bool:
    """Whether ``quorum`` of ``executors`` satisfies ``level``: a level is never lowered silently."""
    base = LEVELS[level]
    if quorum < base.quorum or executors < quorum:
        return False
    if level is Level.CRITICAL:
        return executors >= base.executors and 3 * quorum > 2 * executors
    return 2 * quorum > executors


def quorum_of(level: Level, least: int, executors: int) -> int:
    """The smallest quorum, ``least`` or more, of which two among so many executors must share one."""
    needed = 2 * executors // 3 + 1 if level is Level.CRITICAL else executors // 2 + 1
    return max(least, needed)


def shortfall(level: Level, quorum: int, operators: Sequence[str]) -> str:
    """What keeps these agents from reaching a level; empty if nothing does.

    Args:
        operators: Of the agents that could do the whole work, one entry for each agent.
    """
    base = LEVELS[level]
    least = next(count for count in range(quorum, 2 * quorum + base.executors) if is_enough(level, quorum, count))
    known = len({operator for operator in operators if operator}) if base.distinct_operators else len(operators)
    if known >= least:
        return ""
    whose = " of distinct operators" if base.distinct_operators else ""
    return f"level {level.word} wants {least} agents{whose} where {quorum} must agree, {known} are known"
