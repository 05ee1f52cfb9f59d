"""Reads the log of certificates for one source: page by page, and again what is aside."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import attrs
import structlog
import trio

from node.network.notices import Interests
from node.runtime.clock import clock_ms
from node.runtime.topic_patterns import Patterns
from node.sources.intake import SourceConnector, SourceIntake
from node.sources.overlay.batches import BatchReader, NodeParts
from node.sources.overlay.waiting import BEHIND, SourceOfNode, read_position, write_position
from node.sources.settings.overlay import OverlaySourceSettings
from node.worker.parsing.bodies import RawEvent
from storage import certificate_log, sources
from storage.certificate_log import LogEntry
from storage.sources import RejectedEvent

if TYPE_CHECKING:
    from psycopg import Connection

log = structlog.get_logger(__name__)

PAGE: Final = 64
AT_ONCE: Final = 8  # batches that are fetched at the same time, and committed together
WAITING_MAX: Final = 256  # past it no further batches are read
READ_S: Final = 5.0
UNSAVED_MAX: Final = 256  # entries without events that may be read again after a crash


@attrs.frozen(kw_only=True)
class OverlayReader(NodeParts):
    """Reads all sources of this type."""

    interests: Interests

    def connector(self) -> SourceConnector:
        return SourceConnector(run=self.run)

    async def run(self, intake: SourceIntake) -> None:
        """Read for one source until cancelled."""
        assert isinstance(intake.settings, OverlaySourceSettings), "settings are read by the source type"
        topics = Patterns(frozenset(intake.settings.topics))
        with self.interests.follow(topics):
            await _LogReader(self, intake, intake.settings, topics).run()


class _LogReader:
    """One source's way through the log."""

    def __init__(
        self, node: NodeParts, intake: SourceIntake, settings: OverlaySourceSettings, topics: Patterns
    ) -> None:
        self._node = node
        self._intake = intake
        self._wait_ms = 1_000 * settings.wait_seconds
        self._number, self._waiting = read_position(intake.position)
        self._saved = self._number
        self._is_overtaken = False
        self._batches = BatchReader(node, intake, settings, topics, self._waiting.is_behind)

    async def run(self) -> None:
        while True:
            news = self._node.certificates.news
            await self._read_waiting()
            has_more = await self._read_page()
            self._report()
            if not has_more:
                now_s = trio.current_time()
                with trio.move_on_after(min(READ_S, max(0.0, self._waiting.next_due_s(now_s + READ_S) - now_s))):
                    await news.wait()

    async def _read_page(self) -> bool:
        """Read a page of the log. Returns whether there is more that can be read now."""
        read = partial(certificate_log.foreign_after, number=self._number, limit=PAGE)
        last, end, entries = await self._node.database.run(read)
        self._intake.report_lag(last - end + len(entries) + len(self._waiting))
        await self._note_pruned(last)
        if len(self._waiting) > WAITING_MAX - PAGE:
            return False
        for at in range(0, len(entries), AT_ONCE):
            await self._use(entries[at : at + AT_ONCE])
        self._number = max(self._number, end)
        if self._number - self._saved >= UNSAVED_MAX:
            await self._take([])
        self._intake.report_lag(last - self._number + len(self._waiting))
        return self._number < last

    async def _read_waiting(self) -> None:
        """Ask again for what is aside, the first of each source, and continue with it while that works."""
        while due := self._waiting.due(AT_ONCE, trio.current_time()):
            entries = await self._node.database.run(partial(certificate_log.foreign_at, numbers=due))
            for gone in sorted(set(due) - {entry.number for entry in entries}):
                await self._reject(None, f"certificate {gone} of the log was deleted before its events arrived")
                self._waiting.remove(gone)
            await self._use(entries)

    async def _note_pruned(self, last: int) -> None:
        """Reject, once, the certificates that the log deleted before this source came to them."""
        deleted_to = last - self._node.certificates.kept_max
        was_overtaken, self._is_overtaken = self._is_overtaken, 0 < self._number < deleted_to
        if self._is_overtaken and not was_overtaken:
            numbers = f"{self._number + 1} to {deleted_to}"
            reason = f"certificates {numbers} of the log may have been deleted before they were read"
            await self._reject(None, reason, "raise OVERLAY_CERTIFICATES_MAX, and read these batches at their nodes")

    async def _use(self, entries: Sequence[LogEntry]) -> None:
        """Take the events of batches in their order; put aside what cannot be had now."""
        taken: list[RawEvent] = []
        has_changed = False
        for outcome in await self._batches.read(entries):
            number = outcome.entry.number
            is_behind = self._waiting.is_behind(outcome.source, number)
            reason = outcome.reason or (BEHIND if is_behind else "")
            self._number = max(self._number, number)
            if reason and not outcome.is_final and not self._has_waited(number):
                has_changed |= number not in self._waiting
                self._put_aside(number, outcome.source, reason)
                continue
            has_changed |= self._waiting.remove(number) or bool(reason)
            if reason:
                await self._reject(outcome.entry.batch_id, reason)
            taken += outcome.events
        if taken or has_changed:
            await self._take(taken)

    def _has_waited(self, number: int) -> bool:
        """Whether a batch has been aside for as long as the settings allow."""
        return self._waiting.waited_ms(number, clock_ms()) >= self._wait_ms

    def _put_aside(self, number: int, source: SourceOfNode | None, reason: str) -> None:
        attempts = self._waiting.put(number, source, reason, now_ms=clock_ms(), now_s=trio.current_time())
        if attempts:
            log.info("overlay_source.waits", number=number, why=reason, attempts=attempts)

    def _report(self) -> None:
        count, reason = len(self._waiting), self._waiting.first_reason
        self._intake.connected(f"{count} batches wait; the first: {reason}" if count else "")

    async def _take(self, events: Sequence[RawEvent]) -> None:
        self._saved = self._number
        await self._intake.take(events, position=write_position(self._number, self._waiting))

    async def _reject(self, batch_id: str | None, reason: str, remedy: str = "") -> None:
        """Store what is given up, before the saved position passes it."""
        log.warning("overlay_source.given_up", batch=batch_id, why=reason)
        rejected = RejectedEvent(
            external_id=batch_id,
            field="/batch",
            reason=reason,
            remedy=remedy or "read its events at the node that took them in",
            head=b"",
        )
        await self._node.database.run(partial(_keep_rejected, self._intake.source_id, rejected))


def _keep_rejected(source_id: str, rejected: RejectedEvent, connection: "Connection") -> None:
    sources.keep_rejected(connection, source_id, [rejected])
