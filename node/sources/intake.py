"""The interface between a connector and the node.

A connector reads one source and submits its events. ``SourceIntake.take`` returns once the events are on disk: only
then may a connector acknowledge them upstream. The position to continue from commits together with them.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import attrs
import trio

from node.ingest.pipeline import Ingest, OverloadedError
from node.runtime.clock import clock_ms
from node.sources.settings import SourceSettings
from node.worker.parsing.bodies import RawEvent
from protocols.certificate import rfc3339
from protocols.errors import WorldFault

T = TypeVar("T")
SavedPosition: TypeAlias = Mapping[str, Any]
Network: TypeAlias = IPv4Network | IPv6Network

EVENTS_MAX: Final = 1_000  # that are handed on at once; more are handed on one after the other
FULL_S: Final = 0.5
ERROR_CHARS_MAX: Final = 500


class SourceFault(WorldFault):
    """A source cannot be read now: the text is what an operator is shown. Field ``retryAfter``, seconds: tried
    again no sooner."""

    code = "source-fault"


class Compute(Protocol):
    """Runs a picklable call in a worker process."""

    async def __call__(self, call: Callable[[], T], /) -> T: ...


@attrs.frozen(kw_only=True)
class SourceConnector:
    """How sources of a type are read.

    ``run`` reads until it is cancelled; what it raises is shown with the source, which is tried again later. It
    may return: a source that has an end is read again when it is changed.
    """

    run: Callable[["SourceIntake"], Awaitable[None]]


@attrs.frozen(kw_only=True)
class IntakeCounts:
    """What became of events that were handed on. All of them are on disk, rejected, or repeats."""

    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0


@attrs.define(kw_only=True)
class SourceStatus:
    """What is shown of a source. ``lag``: events that are known to wait upstream."""

    state: str = "starting"
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

    def enter(self, state: str, detail: str = "") -> None:
        if (state, detail) != (self.state, self.detail) or not self.since_ms:
            self.state, self.detail, self.since_ms = state, detail, clock_ms()

    def fail(self, why: str) -> None:
        self.errors += 1
        self.last_error = why[:ERROR_CHARS_MAX]
        self.last_error_ms = clock_ms()

    def count(self, received: int, counts: Mapping[str, int]) -> None:
        """Events came; ``counts`` as in the answer to them."""
        self.received += received
        self.accepted += counts["accepted"]
        self.duplicates += counts["duplicates"]
        self.rejected += counts["rejected"]
        self.last_event_ms = clock_ms()

    def document(self) -> dict[str, Any]:
        """As JSON values; times as text, null where there is none."""

        def moment(ms: int) -> str | None:
            return rfc3339(ms) if ms else None

        return {
            "status": self.state,
            "since": moment(self.since_ms),
            "detail": self.detail,
            "lag": self.lag,
            "heldUp": self.held_up,
            "received": self.received,
            "accepted": self.accepted,
            "duplicates": self.duplicates,
            "rejected": self.rejected,
            "errors": self.errors,
            "lastError": self.last_error or None,
            "lastErrorAt": moment(self.last_error_ms),
            "retryAt": moment(self.retry_ms),
            "lastEventAt": moment(self.last_event_ms),
        }


class SourceIntake:
    """The node, to a connector."""

    def __init__(
        self,
        *,
        source_id: str,
        settings: SourceSettings,
        mark: SavedPosition | None,
        status: SourceStatus,
        ingest: Ingest,
        outbound_allowed: Sequence[Network],
        compute: Compute,
    ) -> None:
        """Args:
        mark: Where the source has been read to, as it was committed last; None before the first.
        outbound_allowed: Networks besides public addresses that may be called.
        """
        self.source_id = source_id
        self.settings = settings
        self.mark = mark
        self.outbound_allowed = tuple(outbound_allowed)
        self._status = status
        self._ingest = ingest
        self._compute = compute

    @property
    def held_up(self) -> bool:
        """The node is full: nothing of what is being taken has been handed on yet."""
        return self._status.held_up

    def connected(self, detail: str = "") -> None:
        """The source is being read; ``detail`` is shown."""
        self._status.failures = 0
        self._status.enter("running", detail)

    def lags(self, events: int | None) -> None:
        """How many events are known to wait upstream; None where that is not known."""
        self._status.lag = events

    async def take(self, said: Sequence[RawEvent], *, mark: SavedPosition | None = None) -> IntakeCounts:
        """Hand events on. Returns once they, and ``mark``, are on disk; waits while the node is full.

        Events are kept in their order. What is no event is kept with its reason, for operators to see.

        Raises:
            WorldFault: Nothing is known to be on disk; hand them on again, a repeat is harmless.
        """
        total = IntakeCounts()
        for start in range(0, max(1, len(said)), EVENTS_MAX):
            part = said[start : start + EVENTS_MAX]
            is_last = start + EVENTS_MAX >= len(said)
            taken = await self._take(part, mark if is_last else None)
            total = IntakeCounts(
                accepted=total.accepted + taken.accepted,
                duplicates=total.duplicates + taken.duplicates,
                rejected=total.rejected + taken.rejected,
            )
        if mark is not None:
            self.mark = mark
        return total

    async def _take(self, said: Sequence[RawEvent], mark: SavedPosition | None) -> IntakeCounts:
        if not said:
            if mark is not None:
                await self._ingest.remember(self.source_id, mark)
            return IntakeCounts()
        while True:
            self._status.held_up = False
            try:
                answer = await self._ingest.submit_read(self.source_id, said, mark)
                break
            except OverloadedError:
                self._status.held_up = True
                await trio.sleep(FULL_S)
        counts = answer.counts
        self._status.count(len(said), counts)
        return IntakeCounts(accepted=counts["accepted"], duplicates=counts["duplicates"], rejected=counts["rejected"])

    async def compute(self, call: Callable[[], T]) -> T:
        """Run a picklable call in a worker process: parsing, above all."""
        return await self._compute(call)
