"""Reputation of an agent in a role, from what this node observed itself. It is never sent to others as fact.

A Beta estimate: successes and failures, weighted, fading with a half-life, over a prior of one each. Lateness
weighs as much as a success, but alone brings nobody below ``LATE_SCORE_MIN``: a partition makes all others late at
once, and a node that then thought too little of everybody to ask anybody would never think better of them. Dissent
weighs as much as several successes, since an honest agent cannot dissent. An equivocation is proof, and fades never.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

import attrs

from protocols.messages import Role

Outcome = Literal["agreed", "dissented", "late", "equivocated"]

HALF_LIFE_MS: Final = 24 * 3_600_000
PRIOR: Final = 1.0
WEIGHTS: Final[Mapping[Outcome, float]] = MappingProxyType({"agreed": 1.0, "late": 1.0, "dissented": 8.0})
LATE_SCORE_MIN: Final = 45  # above what the built-in templates want, below a newcomer's
EVIDENCE_MAX: Final = 200.0  # a long good record must not hide a bad hour
NEWCOMER: Final = 50


@attrs.frozen(kw_only=True)
class Estimate:
    """What is left of successes and failures at ``at_ms``."""

    successes: float = 0.0
    failures: float = 0.0
    at_ms: int = 0
    equivocated: bool = False

    def faded(self, now_ms: int) -> "Estimate":
        """The same record, seen later. A clock that went back fades nothing."""
        left = 0.5 ** (max(0, now_ms - self.at_ms) / HALF_LIFE_MS)
        return attrs.evolve(
            self, successes=self.successes * left, failures=self.failures * left, at_ms=max(now_ms, self.at_ms)
        )

    def after(self, outcome: Outcome, now_ms: int, count: int = 1) -> "Estimate":
        """The record with ``count`` more outcomes of one kind, all now."""
        if outcome == "equivocated":
            return attrs.evolve(self.faded(now_ms), equivocated=True)
        now = self.faded(now_ms)
        weight = WEIGHTS[outcome] * count
        if outcome == "late":
            weight = min(weight, now.lateness_left)
        good, bad = (weight, 0.0) if outcome == "agreed" else (0.0, weight)
        successes, failures = now.successes + good, now.failures + bad
        surplus = max(1.0, (successes + failures) / EVIDENCE_MAX)
        return attrs.evolve(now, successes=successes / surplus, failures=failures / surplus)

    @property
    def lateness_left(self) -> float:
        """How much more failure brings the score to ``LATE_SCORE_MIN``; 0 where it is below that."""
        successes = self.successes + PRIOR
        return max(0.0, 100 * successes / LATE_SCORE_MIN - successes - (self.failures + PRIOR))

    def score(self, now_ms: int) -> int:
        """0 to 100: the mean of the Beta estimate; 0 for good after an equivocation."""
        if self.equivocated:
            return 0
        now = self.faded(now_ms)
        return round(100 * (now.successes + PRIOR) / (now.successes + now.failures + 2 * PRIOR))


def over_roles(scores: Mapping[Role, int]) -> dict[Role, int]:
    """One score from an agent's scores by role.

    Only untruth brings a score below ``LATE_SCORE_MIN``, and who lies in one role is trusted in none: the lowest
    score then stands for all. Else one that reports its validation falsely would still be paid to normalize, and
    each batch would count on it.
    """
    worst = min(scores.values())
    return dict.fromkeys(scores, worst) if worst < LATE_SCORE_MIN else dict(scores)
