"""Keeps every source that this node reads running: started, changed and stopped as its row says, shown as it is.

A source that fails is tried again after a pause that grows; whatever is wrong with it costs the others, and the
node, nothing.
"""

import random
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import attrs
import structlog
import trio

from node.ingest.pipeline import Ingest
from node.runtime.supervisor import RestartPolicy
from node.sources import settings as source_settings
from node.sources.documents import SourceState
from node.sources.intake import Compute, Network, SavedPosition, SourceConnector, SourceFault, SourceIntake
from node.sources.status import SourceStatus
from protocols.errors import OverlayError
from storage import sources
from storage.database import Database

if TYPE_CHECKING:
    from psycopg import Connection

log = structlog.get_logger(__name__)

LOOK_S: Final = 5.0  # a row that was changed by other hands is seen after so long
PAUSES: Final = RestartPolicy(delay_s_first=1.0, delay_s_max=60.0)
ASKED_S_MAX: Final = 3_600.0
ENDPOINTS_MAX: Final = 10_000


@attrs.frozen(kw_only=True)
class DesiredSource:
    """A source as its row says. Equal: nothing to do."""

    source_id: str
    source_type: str
    configuration: dict[str, Any]


@attrs.define(kw_only=True)
class _RunningSource:
    wanted: DesiredSource
    scope: trio.CancelScope
    ended: trio.Event


class SourceManager:
    """Runs a connector for each source of a type that has one."""

    def __init__(
        self,
        *,
        database: Database,
        ingest: Ingest,
        connectors: Mapping[str, SourceConnector],
        outbound_allowed: Sequence[Network] = (),
        pauses: RestartPolicy = PAUSES,
        compute: Compute | None = None,
    ) -> None:
        """Args:
        compute: Runs calls in a worker process; None: beside the requests.
        """
        self._database = database
        self._ingest = ingest
        self._connectors = connectors
        self._outbound_allowed = tuple(outbound_allowed)
        self._pauses = pauses
        self._compute = compute or ingest.run_beside
        self._running: dict[str, _RunningSource] = {}
        self._statuses: dict[str, SourceStatus] = {}
        self._endpoints: dict[str, SourceStatus] = {}
        self._news = trio.Event()
        self._changing: dict[str, trio.Event] = {}

    def changed(self, source_id: str) -> None:
        """Look at the rows again: that of this source was written. What was said of it before holds no longer."""
        self._changing[source_id] = self._news
        self._news.set()
        if (endpoint := self._endpoints.get(source_id)) is not None:
            endpoint.clear_error()

    def restart(self, source_id: str) -> None:
        """Begin anew with a source, from its mark as it is now."""
        running = self._running.get(source_id)
        if running is not None:
            running.scope.cancel()
        self.changed(source_id)

    def state(self, source_id: str) -> SourceState | None:
        """How a source that this node reads is doing, None: it reads no such source."""
        status = self._statuses.get(source_id)
        if status is not None and source_id in self._changing:
            status = SourceStatus()
        return None if status is None else status.document()

    def states(self) -> dict[str, SourceState]:
        """How all sources are doing that this node reads, or that deliver webhooks, by id."""
        return {source_id: status.document() for source_id, status in (self._endpoints | self._statuses).items()}

    def endpoint_status(self, source_id: str) -> SourceStatus:
        """How a source that delivers webhooks is doing, to be written by whoever takes them in.

        The ``ENDPOINTS_MAX`` sources that delivered last are remembered.
        """
        status = self._endpoints.pop(source_id, None)
        if status is None:
            status = _listening()
            while len(self._endpoints) >= ENDPOINTS_MAX:
                del self._endpoints[next(iter(self._endpoints))]
        self._endpoints[source_id] = status
        return status

    def endpoint_state(self, source_id: str) -> SourceState:
        """How a source that delivers webhooks is doing."""
        return self._endpoints.get(source_id, _listening()).document()

    def forget_endpoint(self, source_id: str) -> None:
        """Forget how a source was doing that is no more."""
        self._endpoints.pop(source_id, None)

    async def run(self) -> None:
        """Keep the sources running until cancelled."""
        async with trio.open_nursery() as nursery:
            try:
                while True:
                    self._news = trio.Event()
                    wanted = await self._database.run(partial(_wanted, types=list(self._connectors)))
                    await self._follow(wanted, nursery)
                    self._changing = {key: news for key, news in self._changing.items() if news is self._news}
                    with trio.move_on_after(LOOK_S):
                        await self._news.wait()
            finally:
                self._running.clear()

    async def _follow(self, wanted: Sequence[DesiredSource], nursery: trio.Nursery) -> None:
        by_id = {each.source_id: each for each in wanted}
        for source_id, running in list(self._running.items()):
            if by_id.get(source_id) != running.wanted or running.scope.cancel_called:
                running.scope.cancel()
                await running.ended.wait()
                self._running.pop(source_id, None)
        for source_id in set(self._statuses) - set(by_id):
            del self._statuses[source_id]
        for source_id, each in by_id.items():
            if source_id not in self._running:
                running = _RunningSource(wanted=each, scope=trio.CancelScope(), ended=trio.Event())
                self._running[source_id] = running
                self._statuses[source_id] = SourceStatus()
                nursery.start_soon(self._keep, running)

    async def _keep(self, running: _RunningSource) -> None:
        """Run one source, again and again, until its scope is cancelled."""
        wanted, status = running.wanted, self._statuses[running.wanted.source_id]
        try:
            with running.scope, structlog.contextvars.bound_contextvars(source=wanted.source_id):
                while True:
                    status.enter("starting")
                    try:
                        await self._once(wanted, status)
                        status.enter("ended")
                        await trio.sleep_forever()
                    except* Exception as failures:  # noqa: BLE001  # brokers' libraries raise what they like
                        await self._pause(status, _sole(failures))
        finally:
            running.ended.set()

    async def _once(self, wanted: DesiredSource, status: SourceStatus) -> None:
        settings = source_settings.read(wanted.source_type, wanted.configuration)
        mark: SavedPosition | None = await self._database.run(partial(sources.mark, source_id=wanted.source_id))
        intake = SourceIntake(
            source_id=wanted.source_id,
            settings=settings,
            position=mark,
            status=status,
            ingest=self._ingest,
            outbound_allowed=self._outbound_allowed,
            compute=self._compute,
        )
        await self._connectors[wanted.source_type].run(intake)

    async def _pause(self, status: SourceStatus, error: Exception) -> None:
        delay_s = min(self._pauses.delay_s_first * 2 ** min(status.failures, 16), self._pauses.delay_s_max)
        delay_s *= 1 - self._pauses.jitter * random.random()  # noqa: S311  # spreads load, guards nothing
        delay_s = max(delay_s, _asked_s(error))
        status.failures += 1
        status.fail(_text(error))
        status.retry_ms = status.last_error_ms + round(1000 * delay_s)
        status.enter("failing", status.last_error)
        log.warning("source.failing", why=status.last_error, delay_s=round(delay_s, 3), exc_info=_is_bug(error))
        await trio.sleep(delay_s)
        status.retry_ms = 0


def _listening() -> SourceStatus:
    return SourceStatus(state="listening")


def _sole(failures: ExceptionGroup[Exception]) -> Exception:
    """What happened, where it is one thing."""
    inner: Exception = failures
    while isinstance(inner, ExceptionGroup) and len(inner.exceptions) == 1:
        inner = inner.exceptions[0]
    return inner


def _text(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_text(each) for each in error.exceptions)
    return str(error) or type(error).__name__


def _asked_s(error: BaseException) -> float:
    """How long the source asks to be left alone."""
    asked = error.fields.get("retryAfter") if isinstance(error, SourceFault) else None
    return min(float(asked), ASKED_S_MAX) if isinstance(asked, int | float) else 0.0


def _is_bug(error: BaseException) -> BaseException | None:
    """The trace of what no connector said in its own words."""
    return None if isinstance(error, OverlayError | OSError) else error


def _wanted(connection: "Connection", types: Sequence[str]) -> list[DesiredSource]:
    return [
        DesiredSource(source_id=row.source_id, source_type=row.source_type, configuration=row.configuration)
        for row in sources.to_read(connection, types)
    ]
