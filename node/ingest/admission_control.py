"""How much unfinished work the node takes in: bytes of bodies under way here, events that have no end yet in
``backlog``.
"""

from collections import Counter
from types import TracebackType
from typing import Final

import attrs

from node.ingest.backlog import Backlog, BacklogLimits, OverloadedError
from protocols.errors import ClientFault
from protocols.limits import EVENT_BYTES_MAX, REQUEST_BYTES_MAX

BYTES_IN_FLIGHT_MAX: Final = 64 * 1024 * 1024
UNSETTLED_MAX: Final = 100_000
TARGET_DELAY_MS: Final = 2_000
BATCH_EVENTS: Final = 100
SHARE_OF_FREE: Final = 3
"""What one origin may hold in several bodies, as a multiple of the bytes that are free: alone it gets three quarters,
and whatever others hold, a newcomer finds room."""


class IngestionDisabledError(ClientFault):
    code = "ingestion-disabled"


@attrs.frozen(kw_only=True)
class IngestLimits:
    """How much the node takes in before it answers 429.

    Attributes:
        bytes_in_flight_max: Bodies being read, parsed or waiting for their commit.
        body_bytes_max: Largest body, once it is not compressed.
        unsettled_max: Events acknowledged or waiting, and not yet certified, invalid or dead.
        target_delay_ms: What is taken in should end within so long, at the rate at which events end now.
        batch_events: Events that may be under way at any rate.
    """

    enabled: bool = True
    event_bytes_max: int = EVENT_BYTES_MAX
    bytes_in_flight_max: int = BYTES_IN_FLIGHT_MAX
    unsettled_max: int = UNSETTLED_MAX
    body_bytes_max: int = REQUEST_BYTES_MAX
    target_delay_ms: int = TARGET_DELAY_MS
    batch_events: int = BATCH_EVENTS

    @property
    def of_backlog(self) -> BacklogLimits:
        return BacklogLimits(
            unsettled_max=self.unsettled_max,
            target_delay_s=self.target_delay_ms / 1_000,
            batch_events=self.batch_events,
        )


class AdmissionControl:
    """Counts what is under way and refuses what would be too much.

    Attributes:
        backlog: Events without an end.
        bytes_in_flight: Bytes of bodies in memory.
    """

    def __init__(self, limits: IngestLimits, backlog: Backlog | None = None) -> None:
        self._limits = limits
        self.backlog = backlog or Backlog(limits.of_backlog)
        self.bytes_in_flight = 0
        self._bytes_by_origin: Counter[str] = Counter()

    @property
    def limits(self) -> IngestLimits:
        return self._limits

    @limits.setter
    def limits(self, limits: IngestLimits) -> None:
        self._limits, self.backlog.limits = limits, limits.of_backlog

    def refuse_unless_open(self) -> None:
        """Raise IngestionDisabledError where ingestion is turned off, OverloadedError while the node is full."""
        if not self.limits.enabled:
            raise IngestionDisabledError("EVENT_INGESTION_ENABLED is false on this node")
        self.backlog.refuse_if_full()

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
