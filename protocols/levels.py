"""Certification levels: how many agents each wants, how many must agree, and whose."""

from collections.abc import Sequence

import attrs

from protocols.messages import Level


@attrs.frozen(kw_only=True)
class LevelRule:
    """How many executors a level wants, how many must agree, and whether their operators must differ."""

    quorum: int
    executors: int
    distinct_operators: bool


LEVELS = {
    Level.BASIC: LevelRule(quorum=1, executors=1, distinct_operators=False),
    Level.ENHANCED: LevelRule(quorum=2, executors=3, distinct_operators=False),
    Level.CRITICAL: LevelRule(quorum=3, executors=4, distinct_operators=True),
}


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
