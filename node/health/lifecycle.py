"""Whether the node is starting, serving or draining."""

from collections.abc import Sequence
from enum import Enum
from typing import Final

from node.runtime.conditions import Condition, Finding, Probe, Severity

STARTING: Final = Condition(
    code="starting",
    severity=Severity.BLOCKING,
    remedy="wait; where it lasts, another reason or the log says what the start waits for",
)
DRAINING: Final = Condition(
    code="draining",
    severity=Severity.BLOCKING,
    remedy="use another node: this one ends when its events in progress have, or at the end of its grace period",
)


class Phase(Enum):
    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"


class Lifecycle:
    """The phase that a node is in; for the process and the node to set.

    Attributes:
        waits_for: What a start waits for, for anybody to read.
    """

    def __init__(self, phase: Phase = Phase.STARTING) -> None:
        self.phase = phase
        self.waits_for = "its first steps"

    def describe(self) -> str:
        """Why clients are not served, for those that are refused; empty while they are."""
        return {
            Phase.STARTING: f"the node is starting and waits for {self.waits_for}",
            Phase.SERVING: "",
            Phase.DRAINING: "the node takes nothing new and is about to end",
        }[self.phase]

    def probe(self) -> Probe:
        async def look() -> Sequence[Finding]:
            condition = {Phase.STARTING: STARTING, Phase.DRAINING: DRAINING}.get(self.phase)
            return [] if condition is None else [condition.found(self.describe())]

        return Probe(name="accepting", conditions=(STARTING, DRAINING), look=look, silent=STARTING)
