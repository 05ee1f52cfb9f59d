"""The interface between a connector and the node.

A connector reads one source and submits its events. ``SourceIntake.take`` returns once the events are on disk: only
then may a connector acknowledge them upstream. The position to continue from commits together with them.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import attrs
import trio

from node.ingest.backlog import OverloadedError
from node.ingest.pipeline import Ingest, RequestFailedError, account_of
from node.runtime.fair_share import Account
from node.runtime.workers import WorkerTimeoutError
from node.sources.in_hand import RecordsInHand
from node.sources.settings import SourceSettings
from node.sources.status import SourceStatus
from node.worker.metering import TooCostlyError
from node.worker.parsing.bodies import RawEvent
from protocols.errors import OverlayError, WorldFault
from storage.errors import StorageRefusedError

T = TypeVar("T")
SavedPosition: TypeAlias = Mapping[str, Any]
"""Where a source has been read to: JSON values in a form of the connector's own."""
Network: TypeAlias = IPv4Network | IPv6Network

EVENTS_MAX: Final = 1_000  # in one submission; more are submitted one part after the other
OVERLOADED_PAUSE_S: Final = 0.5


class SourceFault(WorldFault):
    """A source cannot be read now: operators see the text. Field ``retryAfter``, seconds: not tried again sooner."""

    code = "source-fault"


class Compute(Protocol):
    """Runs a picklable call in a worker process; ``size`` in bytes of what it parses."""

    async def __call__(self, call: Callable[[], T], /, *, account: Account, size: int) -> T: ...


@attrs.frozen(kw_only=True)
class SourceConnector:
    """How sources of one type are read.

    ``run`` reads until it is cancelled. What it raises is shown with the source, and it is called again later. It may
    return: a source that has an end is read again when it is changed.
    """

    run: Callable[["SourceIntake"], Awaitable[None]]


@attrs.frozen(kw_only=True)
class IntakeCounts:
    """What became of events that were submitted: they are on disk, rejected, or repeats."""

    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0

    def plus(self, other: "IntakeCounts") -> "IntakeCounts":
        return IntakeCounts(
            accepted=self.accepted + other.accepted,
            duplicates=self.duplicates + other.duplicates,
            rejected=self.rejected + other.rejected,
        )


class SourceIntake:
    """What a connector gets of the node: its settings, the saved position, and a way to submit events."""

    def __init__(
        self,
        *,
        source_id: str,
        settings: SourceSettings,
        position: SavedPosition | None,
        status: SourceStatus,
        ingest: Ingest,
        in_hand: RecordsInHand,
        outbound_allowed: Sequence[Network],
        compute: Compute,
    ) -> None:
        """Args:
        position: Where the source has been read to, as it was committed last; None before the first commit.
        outbound_allowed: Networks besides public addresses that may be called.
        """
        self.source_id = source_id
        self.settings = settings
        self.position = position
        self.outbound_allowed = tuple(outbound_allowed)
        self._status = status
        self._ingest = ingest
        self._in_hand = in_hand
        self._compute = compute

    @property
    def held_up(self) -> bool:
        """Whether ``take`` waits because the node is full: nothing of what it waits with has been submitted."""
        return self._status.held_up

    def connected(self, detail: str = "") -> None:
        """Report that the source is being read; ``detail`` is shown."""
        self._status.failures = 0
        self._status.enter("running", detail)

    def report_lag(self, events: int | None) -> None:
        """Report how many events are known to wait upstream; None: unknown."""
        self._status.lag = events

    async def take(self, events: Sequence[RawEvent], *, position: SavedPosition | None = None) -> IntakeCounts:
        """Submit events. Returns once they, and ``position``, are on disk; waits while the node is full.

        The order of events is kept. What is not an event is stored with the reason, for operators to see.

        Raises:
            WorldFault: Nothing is known to be on disk; submit them again, a repeat is harmless.
        """
        total = IntakeCounts()
        start, is_last = 0, False
        while not is_last:
            count = 1 if self._in_hand.is_careful(self.source_id) else EVENTS_MAX
            part = events[start : start + count]
            start += count
            is_last = start >= len(events)
            total = total.plus(await self._take(part, position if is_last else None))
        if position is not None:
            self.position = position
        return total

    async def _take(self, events: Sequence[RawEvent], position: SavedPosition | None) -> IntakeCounts:
        if not events:
            if position is not None:
                await self._ingest.remember(self.source_id, position)
            return IntakeCounts()
        while True:
            self._status.held_up = False
            try:
                with _without_clients(), self._in_hand.holding(self.source_id, events):
                    answer = await self._ingest.submit_read(self.source_id, events, position)
                break
            except OverloadedError:
                self._status.held_up = True
                await trio.sleep(OVERLOADED_PAUSE_S)
            except (StorageRefusedError, RequestFailedError) as fault:
                return await self._take_in_halves(events, position, fault)
        counts = answer.counts
        self._status.count(len(events), counts)
        return IntakeCounts(accepted=counts["accepted"], duplicates=counts["duplicates"], rejected=counts["rejected"])

    async def _take_in_halves(
        self, events: Sequence[RawEvent], position: SavedPosition | None, fault: OverlayError
    ) -> IntakeCounts:
        """Find the event that is refused, or reaches a fault of the node: it is rejected, the others are taken."""
        if len(events) == 1:
            await self._ingest.reject(self.source_id, events[0], fault, position)
            counts = {"accepted": 0, "duplicates": 0, "rejected": 1}
            self._status.count(1, counts)
            return IntakeCounts(**counts)
        middle = len(events) // 2
        first = await self._take(events[:middle], None)
        second = await self._take(events[middle:], position)
        return first.plus(second)

    async def compute(self, call: Callable[[], T], size: int) -> T:
        """Run a picklable call in a worker process: parsing, above all.

        Args:
            size: Bytes of what is parsed.

        Raises:
            WorkerCrashedError, WorkerTimeoutError: It cannot be parsed within bounds.
            WorkersBusyError: Too many calls wait. And what the call raises.
        """
        with _without_clients():
            return await self._compute(call, account=account_of(self.source_id), size=size)


@contextmanager
def _without_clients() -> Iterator[None]:
    """Where no client waits, nobody can send smaller requests: what is too costly is a fault of the source."""
    try:
        yield
    except TooCostlyError as fault:
        raise WorkerTimeoutError(str(fault)) from fault
