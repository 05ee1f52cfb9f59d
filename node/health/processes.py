"""Whether worker processes answer."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from node.runtime.conditions import Condition, Finding, Probe, Severity

PARSERS_S: Final = 5.0
WORKERS_S: Final = 20.0  # of lower priority, and a batch takes seconds on a busy machine
MARGIN_S: Final = 1.0

PARSERS_SILENT: Final = Condition(
    code="parsers-silent",
    severity=Severity.BLOCKING,
    remedy="look for requests that take long to parse, and for a machine without processor time or memory",
)
WORKERS_SILENT: Final = Condition(
    code="workers-silent",
    severity=Severity.BLOCKING,
    remedy="look for functions of policies that hang, and for a machine without processor time or memory",
)

Answers = Callable[[float], Awaitable[bool]]
"""Whether each pool of a kind answers within so many seconds."""


def parsers_probe(answer: Answers) -> Probe:
    return _probe("parsers", answer, PARSERS_SILENT, PARSERS_S)


def workers_probe(answer: Answers) -> Probe:
    return _probe("workers", answer, WORKERS_SILENT, WORKERS_S)


def _probe(name: str, answer: Answers, silent: Condition, within_s: float) -> Probe:
    async def look() -> Sequence[Finding]:
        if await answer(within_s):
            return []
        return [silent.found(f"{name}: no call was answered for {within_s:g} s")]

    return Probe(name=name, conditions=(silent,), look=look, silent=silent, deadline_s=within_s + MARGIN_S)
