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
    """The phase that a node is in; for the node to set."""

    def __init__(self, phase: Phase = Phase.STARTING) -> None:
        self.phase = phase

    def probe(self) -> Probe:
        async def look() -> Sequence[Finding]:
            if self.phase is Phase.STARTING:
                return [STARTING.found("the node does not serve clients yet")]
            if self.phase is Phase.DRAINING:
                return [DRAINING.found("the node takes nothing new and is about to end")]
            return []

        return Probe(name="accepting", conditions=(STARTING, DRAINING), look=look, silent=STARTING)
