"""How a source is doing, as it is kept while the node runs and as it is shown."""

from collections.abc import Mapping
from typing import Final

import attrs

from node.runtime.clock import clock_ms
from node.sources.documents import SourceState, SourceStatusName
from protocols.certificate import rfc3339

ERROR_CHARS_MAX: Final = 500
ENDPOINTS_MAX: Final = 10_000


@attrs.define(kw_only=True)
class SourceStatus:
    """How a source is doing.

    Attributes:
        lag: Events known to wait upstream; None: unknown.
        failures: Since the source was last connected.
        errors: Since the source was started.
        held_up: The node is full, and the source waits.
    """

    state: SourceStatusName = "starting"
    since_ms: int = 0
    detail: str = ""
    lag: int | None = None
    received: int = 0
    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    failures: int = 0
    errors: int = 0
    last_error: str = ""
    last_error_ms: int = 0
    retry_ms: int = 0
    last_event_ms: int = 0
    held_up: bool = False

    def enter(self, state: SourceStatusName, detail: str = "") -> None:
        if (state, detail) != (self.state, self.detail) or not self.since_ms:
            self.state, self.detail, self.since_ms = state, detail, clock_ms()

    def fail(self, reason: str) -> None:
        self.errors += 1
        self.last_error = reason[:ERROR_CHARS_MAX]
        self.last_error_ms = clock_ms()

    def clear_error(self) -> None:
        """Forget the last error: the source was changed."""
        self.last_error, self.last_error_ms = "", 0

    def count(self, received: int, counts: Mapping[str, int]) -> None:
        """Events came; ``counts`` as in the answer to them."""
        self.received += received
        self.accepted += counts["accepted"]
        self.duplicates += counts["duplicates"]
        self.rejected += counts["rejected"]
        self.last_event_ms = clock_ms()

    def document(self) -> SourceState:
        return SourceState.model_construct(
            status=self.state,
            since=_time(self.since_ms),
            detail=self.detail,
            lag=self.lag,
            held_up=self.held_up,
            received=self.received,
            accepted=self.accepted,
            duplicates=self.duplicates,
            rejected=self.rejected,
            errors=self.errors,
            last_error=self.last_error or None,
            last_error_at=_time(self.last_error_ms),
            retry_at=_time(self.retry_ms),
            last_event_at=_time(self.last_event_ms),
        )


class EndpointStatuses:
    """How sources that deliver webhooks are doing; the ``ENDPOINTS_MAX`` that delivered last are remembered."""

    def __init__(self) -> None:
        self._statuses: dict[str, SourceStatus] = {}

    def get(self, source_id: str) -> SourceStatus:
        """The status of a source, to be written as its deliveries come."""
        status = self._statuses.pop(source_id, None)
        if status is None:
            status = SourceStatus(state="listening")
            while len(self._statuses) >= ENDPOINTS_MAX:
                del self._statuses[next(iter(self._statuses))]
        self._statuses[source_id] = status
        return status

    def state(self, source_id: str) -> SourceState:
        return self._statuses.get(source_id, SourceStatus(state="listening")).document()

    def states(self) -> dict[str, SourceState]:
        """Of all sources that are remembered, by id."""
        return {source_id: status.document() for source_id, status in self._statuses.items()}

    def changed(self, source_id: str) -> None:
        """A source was changed: its last error may not apply any more."""
        if (status := self._statuses.get(source_id)) is not None:
            status.clear_error()

    def forget(self, source_id: str) -> None:
        """A source was deleted."""
        self._statuses.pop(source_id, None)


def _time(ms: int) -> str | None:
    return rfc3339(ms) if ms else None
