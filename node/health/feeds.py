"""Whether sources are read and subscriptions delivered."""

from collections.abc import Callable, Sequence
from typing import Final

from node.runtime.conditions import Condition, Finding, Probe, Severity

SOURCE_FAILING: Final = Condition(
    code="source-failing",
    severity=Severity.WARNING,
    remedy="GET /overlay/sources shows the state of each with its last error",
)
SUBSCRIPTION_FAILING: Final = Condition(
    code="subscription-failing",
    severity=Severity.WARNING,
    remedy="GET /overlay/subscriptions shows the last failure of each; a receiver has to answer with 2xx",
)


def sources_probe(failing: Callable[[], int]) -> Probe:
    """``failing``: How many sources cannot be read now."""
    return _counted("sources", failing, SOURCE_FAILING, "sources cannot be read")


def subscriptions_probe(failing: Callable[[], int]) -> Probe:
    """``failing``: How many subscriptions cannot be delivered now."""
    return _counted("subscriptions", failing, SUBSCRIPTION_FAILING, "webhook subscriptions cannot be delivered")


def _counted(name: str, failing: Callable[[], int], condition: Condition, what: str) -> Probe:
    async def look() -> Sequence[Finding]:
        count = failing()
        return [condition.found(f"{count} {what}")] if count else []

    return Probe(name=name, conditions=(condition,), look=look, silent=condition)
