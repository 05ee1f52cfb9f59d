"""What can be wrong with a node: conditions with their remedies, and the probes that find them.

A part of the node that can fail declares its conditions and a probe beside each other, in a module of
``node.health``; ``node.wiring.health`` registers the probe, and everything else (the readiness document, the gauges)
follows from that.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from enum import Enum
from typing import Final

import attrs

DEADLINE_S: Final = 1.4  # answers about the node's health are due within 2 s


class Severity(Enum):
    BLOCKING = "blocking"  # keeps the node from taking or serving something: it is not ready
    WARNING = "warning"  # the rest still works


@attrs.frozen(kw_only=True)
class Condition:
    """Something that can be wrong.

    Attributes:
        code: For machines; stable, and a label of the metric ``overlay_condition``.
        remedy: What an operator can do about it.
    """

    code: str
    severity: Severity
    remedy: str

    def found(self, detail: str) -> "Finding":
        """``detail``: What is wrong, in words. Anybody can read it: no names of sources, no addresses."""
        return Finding(condition=self, detail=detail)


@attrs.frozen(kw_only=True)
class Finding:
    """A condition that holds."""

    condition: Condition
    detail: str


@attrs.frozen(kw_only=True)
class Probe:
    """Looks for some conditions.

    Attributes:
        name: What is looked at.
        conditions: All that ``look`` can find, ``silent`` among them.
        look: Finds those that hold now. An ``OverlayError`` that it raises is found as ``silent``.
        silent: Holds where ``look`` gives no answer within ``deadline_s``.
        fresh_s: A look begun so long before a question still answers it; for one that costs more than the question.
    """

    name: str
    conditions: tuple[Condition, ...]
    look: Callable[[], Awaitable[Sequence[Finding]]]
    silent: Condition
    deadline_s: float = DEADLINE_S
    fresh_s: float = 0.0

    def __attrs_post_init__(self) -> None:
        assert self.silent in self.conditions, "what silence means is a condition of the probe"


@attrs.frozen(kw_only=True)
class LastingFinding:
    """A finding, and when it was first made."""

    finding: Finding
    since_ms: int


@attrs.frozen(kw_only=True)
class ProbeReport:
    """What the latest look of a probe found."""

    probe: Probe
    findings: tuple[LastingFinding, ...] = ()

    @property
    def is_ready(self) -> bool:
        """Whether nothing that it found keeps the node from its work."""
        return all(each.finding.condition.severity is Severity.WARNING for each in self.findings)


@attrs.frozen(kw_only=True)
class HealthReport:
    """What is wrong with a node now."""

    probes: tuple[ProbeReport, ...]

    @property
    def is_ready(self) -> bool:
        """Whether nothing keeps it from its work."""
        return all(report.is_ready for report in self.probes)

    def of(self, severity: Severity) -> Iterator[LastingFinding]:
        """The findings of one severity, in the order of the probes."""
        for report in self.probes:
            for lasting in report.findings:
                if lasting.finding.condition.severity is severity:
                    yield lasting
