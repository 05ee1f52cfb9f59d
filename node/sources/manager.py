"""Reads every source that has a connector: connectors start, change and stop as the rows say.

A source that fails is tried again after a pause that grows; its failures affect neither other sources nor the node.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import attrs
import structlog
import trio

from node.ingest.pipeline import Ingest
from node.runtime.reconcile import Reconciler
from node.runtime.supervisor import Backoff, RestartPolicy
from node.sources import settings as source_settings
from node.sources.documents import SourceState
from node.sources.in_hand import Culprit, RecordsInHand
from node.sources.intake import Compute, Network, SavedPosition, SourceConnector, SourceFault, SourceIntake
from node.sources.status import EndpointStatuses, SourceStatus
from protocols.errors import OverlayError
from storage import sources
from storage.database import Database

if TYPE_CHECKING:
    from psycopg import Connection

log = structlog.get_logger(__name__)

READ_S: Final = 5.0  # a row that another process changed is seen after so long
PAUSES: Final = RestartPolicy(delay_s_first=1.0, delay_s_max=60.0)
RETRY_AFTER_S_MAX: Final = 3_600.0
ENDED_TWICE: Final = "the node ended twice, by a fault of its own, while it took in this record"
CULPRIT_REMEDY: Final = "report the fault with the node's log, remove the record, and enable the source"


@attrs.frozen(kw_only=True)
class DesiredSource:
    """A source as in its row; equal ones continue undisturbed. Status and backoff belong to its run."""

    source_id: str
    source_type: str
    configuration: dict[str, Any] = attrs.field(repr=False)  # holds secrets
    status: SourceStatus = attrs.field(eq=False, factory=SourceStatus)
    backoff: Backoff = attrs.field(eq=False)

    @property
    def key(self) -> str:
        return self.source_id


class SourceManager:
    """Runs a connector for each source of a type that has one.

    Attributes:
        endpoints: How sources that deliver webhooks are doing, for the endpoints to write.
    """

    def __init__(
        self,
        *,
        database: Database,
        ingest: Ingest,
        in_hand: RecordsInHand,
        connectors: Mapping[str, SourceConnector],
        outbound_allowed: Sequence[Network] = (),
        pauses: RestartPolicy = PAUSES,
        compute: Compute | None = None,
    ) -> None:
        """Args:
        outbound_allowed: Networks besides public addresses that may be called.
        pauses: Between attempts to read a source that fails. They grow until it is connected.
        compute: Runs calls in a worker process; None: where requests are read.
        """
        self.endpoints = EndpointStatuses()
        self._database = database
        self._ingest = ingest
        self._in_hand = in_hand
        self._connectors = connectors
        self._outbound_allowed = tuple(outbound_allowed)
        self._pauses = pauses
        self._compute = compute or ingest.run_beside
        self._desired: dict[str, DesiredSource] = {}
        self._changing: dict[str, trio.Event] = {}  # by source: set once its change is followed
        self._reconciler = Reconciler(
            kind="source",
            read=self._read_rows,
            run=self._run_source,
            backoff=attrs.evolve(pauses, restart_on=(Exception,)),  # brokers' libraries raise what they like
            failed=self._failed,
            interval_s=lambda _: READ_S,
        )

    def changed(self, source_id: str) -> None:
        """Follow the row of a source, which was written. Its state before does not apply any more."""
        self._changing[source_id] = self._reconciler.wake()
        self.endpoints.changed(source_id)

    def restart(self, source_id: str) -> None:
        """Start a source again, from its saved position as it is now."""
        if (desired := self._desired.get(source_id)) is not None:
            self._desired[source_id] = self._fresh(desired)
        self._reconciler.restart(source_id)
        self.changed(source_id)

    def state(self, source_id: str) -> SourceState | None:
        """How a source is doing; None where this node does not read it, and has ended reading it."""
        desired = self._desired.get(source_id)
        if desired is None:
            return SourceStatus().document() if self._reconciler.is_running(source_id) else None
        change = self._changing.get(source_id)
        is_changing = change is not None and not change.is_set()
        return (SourceStatus() if is_changing else desired.status).document()

    def states(self) -> dict[str, SourceState]:
        """How all sources are doing that this node reads, or that deliver webhooks, by id."""
        read = {source_id: desired.status.document() for source_id, desired in self._desired.items()}
        return self.endpoints.states() | read

    @property
    def failing(self) -> int:
        """How many sources cannot be read now."""
        return sum(desired.status.state == "failing" for desired in self._desired.values())

    async def run(self) -> None:
        """Run the connectors until cancelled."""
        self._desired = {source_id: self._fresh(desired) for source_id, desired in self._desired.items()}
        await self._disable_culprits()
        await self._reconciler.run()

    async def _disable_culprits(self) -> None:
        while self._in_hand.culprits:
            culprit = self._in_hand.culprits[-1]
            await self._database.run(partial(_disable, culprit=culprit))
            self._in_hand.forgive(self._in_hand.culprits.pop().source_id)
            log.error("source.disabled", source=culprit.source_id, why=ENDED_TWICE, sample=culprit.sample.hex())

    async def _read_rows(self) -> list[DesiredSource]:
        rows = await self._database.run(partial(_rows, types=list(self._connectors)))
        desired = {}
        for row in rows:
            new = DesiredSource(
                source_id=row.source_id,
                source_type=row.source_type,
                configuration=row.configuration,
                backoff=Backoff(self._pauses),
            )
            old = self._desired.get(row.source_id)
            desired[row.source_id] = old if old == new else new
        self._desired = desired
        self._changing = {source_id: change for source_id, change in self._changing.items() if not change.is_set()}
        return list(desired.values())

    def _fresh(self, desired: DesiredSource) -> DesiredSource:
        return attrs.evolve(desired, status=SourceStatus(), backoff=Backoff(self._pauses))

    async def _run_source(self, desired: DesiredSource) -> None:
        """Read a source until cancelled; one that comes to its end stays ended until it is changed."""
        if self._desired.get(desired.key) == desired:
            self._desired[desired.key] = desired  # a restart in the middle of a pass may have made another
        status = desired.status
        status.retry_ms = 0
        status.enter("starting")
        self._in_hand.clear(desired.source_id)
        settings = source_settings.read(desired.source_type, desired.configuration)
        position: SavedPosition | None = await self._database.run(partial(sources.mark, source_id=desired.source_id))
        intake = SourceIntake(
            source_id=desired.source_id,
            settings=settings,
            position=position,
            status=status,
            ingest=self._ingest,
            in_hand=self._in_hand,
            outbound_allowed=self._outbound_allowed,
            compute=self._compute,
        )
        await self._connectors[desired.source_type].run(intake)
        status.enter("ended")
        await trio.sleep_forever()

    def _failed(self, desired: DesiredSource, error: Exception, pause_s: float) -> float:
        """Show a failure. The pause grows until the source is connected, however long a run lasted."""
        status = desired.status
        if not status.failures:
            desired.backoff.reset()
        pause_s = max(desired.backoff.next_s(), _retry_after_s(error))
        status.failures += 1
        status.fail(_text(error))
        status.retry_ms = status.last_error_ms + round(1000 * pause_s)
        status.enter("failing", status.last_error)
        log.warning("source.failing", why=status.last_error, delay_s=round(pause_s, 3), exc_info=_unexpected(error))
        return pause_s


def _text(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_text(each) for each in error.exceptions)
    return str(error) or type(error).__name__


def _retry_after_s(error: BaseException) -> float:
    """How long the source asks not to be called."""
    requested = error.fields.get("retryAfter") if isinstance(error, SourceFault) else None
    return min(float(requested), RETRY_AFTER_S_MAX) if isinstance(requested, int | float) else 0.0


def _unexpected(error: BaseException) -> BaseException | None:
    """An error whose traceback is logged: no connector raised it on purpose."""
    return None if isinstance(error, OverlayError | OSError) else error


def _disable(connection: "Connection", culprit: Culprit) -> None:
    reason = f"{ENDED_TWICE}: see the rejections in the progress of the source"
    if not sources.disable(connection, culprit.source_id, reason):
        return  # it was deleted, or the database is another one
    refused = sources.RejectedEvent(
        external_id=None, field="", reason=ENDED_TWICE, remedy=CULPRIT_REMEDY, head=culprit.sample
    )
    sources.keep_rejected(connection, culprit.source_id, [refused])


def _rows(connection: "Connection", types: Sequence[str]) -> list[sources.Source]:
    return sources.to_read(connection, types)
