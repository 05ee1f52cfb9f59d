"""How much unfinished work the node takes in: bytes of bodies under way, and events that have no end yet.

Events are counted by request until these are committed, then by batch: the end of a batch may be reported twice, or
found out later from the database, and counts once.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from types import TracebackType
from typing import Final

import attrs

from protocols.errors import ClientFault
from protocols.limits import EVENT_BYTES_MAX, REQUEST_BYTES_MAX

BYTES_IN_FLIGHT_MAX: Final = 64 * 1024 * 1024
UNSETTLED_MAX: Final = 100_000
SHARE_OF_FREE: Final = 3
"""What one origin may hold in several bodies, as a multiple of the bytes that are free: alone it gets three quarters,
and whatever others hold, a newcomer finds room."""


class OverloadedError(ClientFault):
    """The node holds as much unfinished work as it may. Field ``retryAfter``, seconds."""

    code = "overloaded"


class IngestionDisabledError(ClientFault):
    code = "ingestion-disabled"


@attrs.frozen(kw_only=True)
class IngestLimits:
    """How much the node takes in before it answers 429.

    Attributes:
        bytes_in_flight_max: Bodies being read, parsed or waiting for their commit.
        body_bytes_max: Largest body, once it is not compressed.
        unsettled_max: Events acknowledged or waiting, and not yet certified, invalid or dead.
    """

    enabled: bool = True
    event_bytes_max: int = EVENT_BYTES_MAX
    bytes_in_flight_max: int = BYTES_IN_FLIGHT_MAX
    unsettled_max: int = UNSETTLED_MAX
    body_bytes_max: int = REQUEST_BYTES_MAX


class AdmissionControl:
    """Counts what is under way and refuses what would be too much.

    Attributes:
        bytes_in_flight: Bytes of bodies in memory.
    """

    def __init__(self, limits: IngestLimits) -> None:
        self.limits = limits
        self.bytes_in_flight = 0
        self._bytes_by_origin: Counter[str] = Counter()
        self._queued = 0  # events of requests that wait for their commit
        self._batches: dict[str, int] = {}
        self._in_batches = 0

    @property
    def unsettled(self) -> int:
        """Events taken in that are neither certified, invalid nor dead."""
        return self._queued + self._in_batches

    @property
    def batches(self) -> Collection[str]:
        """The batches of this node's own that are counted: they have no end yet."""
        return self._batches.keys()

    def queue(self, events: int) -> None:
        """Count the events of a request in that waits for its commit."""
        self._queued += events

    def unqueue(self, events: int) -> None:
        """Count the events of a request out: it was committed, and its batches count from now on, or refused."""
        self._queued -= events
        assert self._queued >= 0, "every request is counted out once"

    def enter(self, batch_id: str, events: int) -> None:
        """Count a batch in that waits for its end, unless it is counted already."""
        if batch_id not in self._batches:
            self._batches[batch_id] = events
            self._in_batches += events

    def leave(self, batch_id: str) -> None:
        """Count a batch out that is certified, dead or split; one that is not counted is another node's."""
        self._in_batches -= self._batches.pop(batch_id, 0)

    def merge(self, parts: Iterable[str], whole: str, events: int) -> None:
        """Count one batch in place of those that were merged into it."""
        for batch_id in parts:
            self.leave(batch_id)
        self.enter(whole, events)

    def refuse_if_full(self) -> None:
        """Raise OverloadedError while as many events as may are without an end."""
        if self.unsettled >= self.limits.unsettled_max:
            raise OverloadedError(
                f"{self.unsettled} events wait for their certificates, at most {self.limits.unsettled_max} may",
                retryAfter=2,
            )

    def refuse_unless_open(self) -> None:
        """Raise IngestionDisabledError where ingestion is turned off, OverloadedError while the node is full."""
        if not self.limits.enabled:
            raise IngestionDisabledError("EVENT_INGESTION_ENABLED is false on this node")
        self.refuse_if_full()

    def budget(self, origin: str) -> "ByteBudget":
        """A budget for one body; raises as ``refuse_unless_open``. ``origin``: the client, its network address."""
        self.refuse_unless_open()
        return ByteBudget(self, origin)

    def reserve(self, origin: str, count: int, of_body: int) -> None:
        """Count ``count`` more bytes of a body in, of which ``of_body`` are counted already.

        Raises:
            OverloadedError: They do not fit in, or are more than the origin's share; nothing was counted.
        """
        bound, held = self.limits.bytes_in_flight_max, self._bytes_by_origin[origin]
        free = bound - self.bytes_in_flight - count
        if free < 0:
            raise OverloadedError(f"bodies of {bound} bytes in all are under way already", retryAfter=1)
        if held > of_body and held + count > SHARE_OF_FREE * free:
            raise OverloadedError(
                f"bodies of {held} bytes are under way from your address; at most {SHARE_OF_FREE} times what is free "
                f"may be, now {SHARE_OF_FREE * free}",
                retryAfter=1,
            )
        self.bytes_in_flight += count
        self._bytes_by_origin[origin] = held + count

    def release(self, origin: str, count: int) -> None:
        """Count bytes out."""
        self.bytes_in_flight -= count
        self._bytes_by_origin[origin] -= count
        if not self._bytes_by_origin[origin]:
            del self._bytes_by_origin[origin]


class ByteBudget:
    """Bytes of one body, counted while they are in memory: taken as they come, given back when the request ends."""

    def __init__(self, control: AdmissionControl, origin: str) -> None:
        self._control = control
        self._origin = origin
        self._taken = 0

    def __enter__(self) -> "ByteBudget":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._control.release(self._origin, self._taken)
        self._taken = 0

    def take(self, count: int) -> None:
        """Count ``count`` more bytes in.

        Raises:
            OverloadedError: They do not fit, or are more than the origin's share; the budget is as it was.
        """
        self._control.reserve(self._origin, count, self._taken)
        self._taken += count

    def transfer(self) -> "ByteBudget":
        """Move the bytes counted here to a new budget, for a task that outlives this one."""
        other = ByteBudget(self._control, self._origin)
        other._taken, self._taken = self._taken, 0
        return other

    def resize(self, count: int) -> None:
        """Count ``count`` bytes instead of as many as before.

        Raises:
            OverloadedError: More do not fit; the budget is as it was.
        """
        if count > self._taken:
            self.take(count - self._taken)
        else:
            self._control.release(self._origin, self._taken - count)
            self._taken = count
