"""Sources that are certified batches of other nodes: read from this node's log of certificates, in its order.

What stands in the log is used in that order, source by source of each coordinator. A batch whose bytes nobody gives
is set aside with all that follow it from the same source, and asked for again; other sources go on meanwhile. Given
up, it is shown among the source's rejections: nothing is passed over without a word. The mark is how far the log has
been read and what is set aside; it commits with the events.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs
import structlog
import trio

from node.network.certificate_log import CertificateLog
from node.network.notices import Interests
from node.network.remote_batches import BatchUnavailableError, RemoteBatches
from node.runtime.clock import clock_ms
from node.runtime.topic_patterns import Patterns
from node.sources.intake import SavedPosition, SourceConnector, SourceIntake
from node.sources.settings.overlay import OverlaySourceSettings
from node.worker.parsing.bodies import RawEvent
from node.worker.parsing.foreign_events import (
    BatchSelection,
    UnreadableBatchError,
    chain_of,
    choose,
    manifest_problem,
    read_events,
)
from protocols.messages import IdentityKey, Manifest, QuorumCertificate
from storage import certificate_log, events, sources
from storage.certificate_log import Entry
from storage.database import Database
from storage.sources import Rejected

if TYPE_CHECKING:
    from psycopg import Connection

log = structlog.get_logger(__name__)

Stream: TypeAlias = tuple[IdentityKey, str]
"""A source of a node: what must stay in its order."""

PAGE: Final = 64
AT_ONCE: Final = 8  # batches that are fetched side by side, and committed together
ASIDE_MAX: Final = 256  # past it nothing new is read
LOOK_S: Final = 5.0
PAUSE_S_FIRST: Final = 1.0
PAUSE_S_MAX: Final = 60.0
UNMARKED_MAX: Final = 256  # entries without events that may be passed again after a crash
STATUSES: Final = {"valid": ("valid",), "invalid": ("invalid",), "all": ("valid", "invalid")}


@attrs.define(kw_only=True)
class Aside:
    """A batch that is waited for. ``stream``: None until its certificate was looked at."""

    since_ms: int
    stream: Stream | None = None
    due_s: float = 0.0
    attempts: int = 0
    why: str = ""


@attrs.frozen(kw_only=True)
class BatchOutcome:
    """What came of a batch: its events, or why not. ``lasting``: waiting will not help."""

    entry: Entry
    stream: Stream | None = None
    events: Sequence[RawEvent] = ()
    why: str = ""
    lasting: bool = False


@attrs.frozen(kw_only=True)
class OverlayReader:
    """What reading takes of the node; one for all sources of this type."""

    network: str
    identity: IdentityKey
    database: Database
    certificates: CertificateLog
    batches: RemoteBatches
    interests: Interests

    def connector(self) -> SourceConnector:
        return SourceConnector(run=self.run)

    async def run(self, intake: SourceIntake) -> None:
        """Read for one source until cancelled."""
        assert isinstance(intake.settings, OverlaySourceSettings), "the settings of this type of source"
        topics = Patterns(frozenset(intake.settings.topics))
        with self.interests.follow(topics):
            await _Reading(self, intake, intake.settings, topics).run()


class _Reading:
    """One source's way through the log."""

    def __init__(
        self, reader: OverlayReader, intake: SourceIntake, settings: OverlaySourceSettings, topics: Patterns
    ) -> None:
        self._reader = reader
        self._intake = intake
        self._settings = settings
        self._topics = topics
        self._wishes = BatchSelection(
            network=reader.network,
            reader=reader.identity,
            coordinators=settings.coordinator_keys,
            source_ids=frozenset(settings.source_ids),
            level=settings.level,
            statuses=frozenset(STATUSES[settings.status]),
        )
        self._number, self._aside = _read_mark(intake.position)
        self._marked = self._number
        self._is_overtaken = False

    async def run(self) -> None:
        while True:
            news = self._reader.certificates.news
            await self._again()
            more = await self._on()
            self._show()
            if not more:
                with trio.move_on_after(min(LOOK_S, self._pause_s())):
                    await news.wait()

    # --- the log ---------------------------------------------------------------------------------------------

    async def _on(self) -> bool:
        """Read a page of the log. Returns whether there is more that can be read now."""
        read = partial(certificate_log.foreign_after, number=self._number, limit=PAGE)
        last, end, entries = await self._reader.database.run(read)
        self._intake.report_lag(last - end + len(entries) + len(self._aside))
        await self._note_pruned(last)
        if len(self._aside) > ASIDE_MAX - PAGE:
            return False
        for at in range(0, len(entries), AT_ONCE):
            await self._use(entries[at : at + AT_ONCE])
        self._number = max(self._number, end)
        if self._number - self._marked >= UNMARKED_MAX:
            await self._take([])
        self._intake.report_lag(last - self._number + len(self._aside))
        return self._number < last

    async def _note_pruned(self, last: int) -> None:
        """Say so, once, where the log lets certificates go before this source comes to them."""
        gone_to = last - self._reader.certificates.kept_max
        was_overtaken, self._is_overtaken = self._is_overtaken, 0 < self._number < gone_to
        if self._is_overtaken and not was_overtaken:
            numbers = f"{self._number + 1} to {gone_to}"
            why = f"certificates {numbers} of the log may have been let go before they were read"
            await self._reject(None, why, "raise OVERLAY_CERTIFICATES_MAX, and read these batches of their nodes")

    async def _again(self) -> None:
        """Ask again for what was set aside, the first of each stream, and go on with it while that works."""
        while due := self._due():
            entries = await self._reader.database.run(partial(certificate_log.foreign_at, numbers=due))
            for gone in sorted(set(due) - {entry.number for entry in entries}):
                await self._reject(None, f"certificate {gone} of the log was let go before its events could be had")
                del self._aside[gone]
            await self._use(entries)

    def _due(self) -> list[int]:
        """What to ask for again now, at most ``AT_ONCE``."""
        first = self._first()
        return [number for number, aside in first if aside.due_s <= trio.current_time()][:AT_ONCE]

    def _first(self) -> list[tuple[int, Aside]]:
        """The first of each stream that is set aside; all whose stream is not known yet."""
        streams: set[Stream] = set()
        first = []
        for number, aside in sorted(self._aside.items()):
            if aside.stream not in streams:
                first.append((number, aside))
            if aside.stream is not None:
                streams.add(aside.stream)
        return first

    # --- batches ---------------------------------------------------------------------------------------------

    async def _use(self, entries: Sequence[Entry]) -> None:
        """Take in what these batches say, in their order; set aside what cannot be had now."""
        taken: list[RawEvent] = []
        is_news = False
        for outcome in await self._outcomes(entries):
            number = outcome.entry.number
            why = outcome.why or self._behind(outcome.stream, number)
            self._number = max(self._number, number)
            if why and not outcome.lasting and not self._is_over(number):
                is_news |= number not in self._aside
                self._set_aside(number, outcome.stream, why)
                continue
            is_news |= self._aside.pop(number, None) is not None or bool(why)
            if why:
                await self._reject(outcome.entry.batch_id, why)
            taken += outcome.events
        if taken or is_news:
            await self._take(taken)

    async def _outcomes(self, entries: Sequence[Entry]) -> list[BatchOutcome]:
        """What comes of batches, those of them that have to be fetched side by side."""
        chosen = await self._intake.compute(partial(choose, [entry.certificate for entry in entries], self._wishes))
        wanted = [certificate.statement for certificate, _ in chosen if certificate is not None]
        manifests = await self._reader.batches.manifests(wanted) if wanted else {}
        outcomes = [
            BatchOutcome(entry=entry, why=why, lasting=True) for entry, (_, why) in zip(entries, chosen, strict=True)
        ]

        async def find(at: int, certificate: QuorumCertificate) -> None:
            manifest = manifests.get(certificate.statement.batch_id)
            outcomes[at] = await self._outcome(entries[at], certificate, manifest)

        async with trio.open_nursery() as nursery:
            for at, (certificate, _) in enumerate(chosen):
                if certificate is not None:
                    nursery.start_soon(find, at, certificate)
        return outcomes

    async def _outcome(self, entry: Entry, certificate: QuorumCertificate, manifest: Manifest | None) -> BatchOutcome:
        statement = certificate.statement
        stream = statement.coordinator, statement.source_id
        found = partial(BatchOutcome, entry=entry, stream=stream)
        behind = self._behind(stream, entry.number)
        if behind:
            return found(why=behind)
        if manifest is None:
            return found(why="none of the peers asked has its manifest")
        problem = manifest_problem(manifest, statement)
        if problem:
            return found(why=problem, lasting=True)
        if not self._topics.allow_any(manifest.topics):
            return found()
        if not self._trusts(certificate):
            return found(why="its certificate is signed by a node that is not known here")
        call = partial(
            read_events,
            encoded=entry.certificate,
            selection=self._wishes,
            include_reference=self._settings.include_reference,
        )
        try:
            said = await self._reader.batches.read(certificate, call)
        except BatchUnavailableError as error:
            return found(why=str(error))
        except UnreadableBatchError as error:
            return found(why=str(error), lasting=True)
        return found(events=await self._strange(said))

    def _trusts(self, certificate: QuorumCertificate) -> bool:
        """Whether everybody who signed is known here or named by the source."""
        named = self._wishes.coordinators
        strangers = {signed.signer for signed in certificate.certifications} - named
        return self._reader.certificates.knows(strangers)

    async def _strange(self, said: Sequence[RawEvent]) -> Sequence[RawEvent]:
        """Events without those that were made of an event that this node took in itself."""
        before = {each.external_id: chain_of(each.external_id)[1:] for each in said}
        ancestors = sorted({event_id for chain in before.values() for event_id in chain})
        if not ancestors:
            return said
        own = await self._reader.database.run(partial(events.own_among, event_ids=ancestors))
        return [each for each in said if own.isdisjoint(before[each.external_id])]

    # --- what waits ------------------------------------------------------------------------------------------

    def _behind(self, stream: Stream | None, number: int) -> str:
        """Why a batch must wait for another of its stream; empty if it need not."""
        waits = any(other < number and aside.stream == stream for other, aside in self._aside.items())
        return "it waits for an earlier batch of its source" if waits and stream is not None else ""

    def _is_over(self, number: int) -> bool:
        since_ms = self._aside[number].since_ms if number in self._aside else clock_ms()
        return clock_ms() - since_ms >= 1000 * self._settings.wait_seconds

    def _set_aside(self, number: int, stream: Stream | None, why: str) -> None:
        aside = self._aside.setdefault(number, Aside(since_ms=clock_ms()))
        aside.stream, aside.why = stream, why
        if not self._behind(stream, number):
            aside.due_s = trio.current_time() + min(PAUSE_S_FIRST * 2**aside.attempts, PAUSE_S_MAX)
            aside.attempts = min(aside.attempts + 1, 16)
            log.info("overlay_source.waits", number=number, why=why, attempts=aside.attempts)

    def _pause_s(self) -> float:
        """How long until something set aside is due."""
        due_s = min((aside.due_s for _, aside in self._first()), default=trio.current_time() + LOOK_S)
        return max(0.0, due_s - trio.current_time())

    def _show(self) -> None:
        first = next(iter(sorted(self._aside.items())), None)
        self._intake.connected("" if first is None else f"{len(self._aside)} batches wait; the first: {first[1].why}")

    async def _take(self, said: Sequence[RawEvent]) -> None:
        self._marked = self._number
        await self._intake.take(said, position=self._mark())

    def _mark(self) -> SavedPosition:
        return {"number": self._number, "aside": [[number, each.since_ms] for number, each in self._aside.items()]}

    async def _reject(self, batch_id: str | None, why: str, remedy: str = "") -> None:
        """Keep what is given up, before the mark says so."""
        log.warning("overlay_source.given_up", batch=batch_id, why=why)
        given_up = Rejected(
            external_id=batch_id,
            field="/batch",
            reason=why,
            remedy=remedy or "read its events of the node that took them in",
            head=b"",
        )
        await self._reader.database.run(partial(_keep_rejected, self._intake.source_id, given_up))


def _keep_rejected(source_id: str, given_up: Rejected, connection: "Connection") -> None:
    sources.keep_rejected(connection, source_id, [given_up])


def _read_mark(mark: SavedPosition | None) -> tuple[int, dict[int, Aside]]:
    said: SavedPosition = mark or {"number": 0, "aside": []}
    aside = {int(number): Aside(since_ms=int(since_ms)) for number, since_ms in said["aside"]}
    return int(said["number"]), aside
