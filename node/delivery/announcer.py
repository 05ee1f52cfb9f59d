"""Delivery to other nodes: certified batches by address, on gossip, for active subscriptions of type ``overlay``.

Batches that gather in ``NOTICE_S`` go out in few messages, each naming many: a gossiped message costs every node
milliseconds whatever its size. Nodes that follow a topic fetch certificates and bytes over streams. A batch is
announced if one of its events matches a subscription; who reads the batch chooses among its events.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import islice
from typing import TYPE_CHECKING, Final

import attrs
import structlog
import trio

from node.coordination.certified_result import CertifiedResult
from node.coordination.serialization import read_certificate, unpack_outputs
from node.delivery.cursor import WHOLE_BATCH
from node.delivery.filters import Filter, Selection
from node.delivery.rendering import BatchRenderer
from node.delivery.subscription_documents import read_filter, status_of
from node.network.transport import Transport
from node.runtime.clock import clock_ms
from protocols.canonical import sha256
from protocols.envelope import Signer, sign, to_frame
from protocols.errors import ClientFault
from protocols.identifiers import batch_digest
from protocols.limits import NOTICE_BATCHES_MAX
from protocols.messages import CertifiedBatch, CertifiedNotice
from storage import notices, subscriptions
from storage.database import Database
from storage.notices import CertifiedBatchRow
from storage.subscriptions import Step, Subscription

if TYPE_CHECKING:
    from psycopg import Connection

log = structlog.get_logger(__name__)

GOSSIP_CERTIFIED: Final = "certified"
NOTICE_S: Final = 1.0
NOTICES_AT_ONCE: Final = 3  # in one such round
PAGE: Final = NOTICES_AT_ONCE * NOTICE_BATCHES_MAX
PAGE_WITH_OUTPUTS: Final = 16
TOPICS_BYTES_MAX: Final = 40_000  # of one notice: the rest of it has a fixed size and fits
LOOK_S: Final = 5.0  # a subscription that was changed is seen after so long
SUBSCRIPTIONS_MAX: Final = 1_000
EXPRESSIONS_MAX: Final = 64  # different ones


@attrs.frozen(kw_only=True)
class OverlaySubscription:
    """A subscription in force: what it wants, and where it stands."""

    subscription_id: str
    revision: int
    after: int
    wanted: Filter

    @property
    def looks_inside(self) -> bool:
        """Whether a batch can be matched only by its events."""
        chosen = self.wanted.selection
        return chosen.event_types is not None or chosen.expression is not None

    def takes(self, row: CertifiedBatchRow, events: "_Events") -> bool:
        """Whether a batch is to be announced for it."""
        wanted, chosen = self.wanted, self.wanted.selection
        return (
            row.sequence > self.after
            and len(row.topics) > 0  # without a topic it is not for others
            and (wanted.topics is None or wanted.topics.allow_any(row.topics))
            and row.level >= wanted.level
            and (wanted.source_ids is None or row.source_id in wanted.source_ids)
            and (("valid" in chosen.statuses and row.valid > 0) or ("invalid" in chosen.statuses and row.invalid > 0))
            and (not self.looks_inside or events.have(chosen))
        )


class _Events:
    """The events of a batch, parsed by the first subscription that needs them."""

    def __init__(self, row: CertifiedBatchRow) -> None:
        self._row = row

    def have(self, selection: Selection) -> bool:
        """Whether an event is selected; none is where they were deleted."""
        return self._rendering is not None and self._rendering.has(selection)

    @cached_property
    def _rendering(self) -> BatchRenderer | None:
        row = self._row
        if row.outputs is None:
            return None
        leaves, normalized = unpack_outputs(row.outputs)
        return BatchRenderer(
            CertifiedResult(
                certificate=read_certificate(row.certificate),
                topics=row.topics,
                leaves=leaves,
                normalized=normalized,
                received_ms=row.received_ms,
                certified_ms=row.certified_ms,
                sequence=row.sequence,
            )
        )


@attrs.frozen(kw_only=True)
class MatchedBatches:
    """The outcome of one look at what was sealed.

    Attributes:
        batches: Those to announce with their sequences, in order.
        wanted: By subscription, the sequences of the batches that match it.
        end: The sequence up to which batches were matched.
        more: Whether there may be batches after it.
    """

    subscribed: Sequence[OverlaySubscription]
    batches: Sequence[tuple[int, CertifiedBatch]]
    wanted: Mapping[str, Sequence[int]]
    end: int
    more: bool


class Announcer:
    """Announces batches to the network that were sealed here and match a subscription."""

    def __init__(
        self,
        *,
        network: str,
        database: Database,
        signer: Signer,
        transport: Transport,
        on_sent: Callable[[str, str, int], None] = lambda carrier, message, size: None,
    ) -> None:
        self._network = network
        self._database = database
        self._signer = signer
        self._transport = transport
        self._on_sent = on_sent
        self._sealed = trio.Event()
        self._sealed.set()  # the first look is for what an earlier run left

    def sealed(self) -> None:
        """A batch was sealed. Never waits."""
        self._sealed.set()

    async def run(self) -> None:
        """Announce what is sealed, and what subscriptions go back to, until cancelled."""
        while True:
            with trio.move_on_after(LOOK_S):
                await self._sealed.wait()
            self._sealed = trio.Event()
            await trio.sleep(NOTICE_S)
            if await self._announce():
                self._sealed.set()

    async def _announce(self) -> bool:
        """Announce as much as one round allows. Returns whether there may be more."""
        subscribed, rows, more = await self._database.run(_look)
        if not rows:
            return False
        matched = await trio.to_thread.run_sync(_choose, subscribed, rows, more)
        parts = list(islice(_parts(matched.batches), NOTICES_AT_ONCE))
        for part in parts:
            batches = tuple(batch for _, batch in part)
            message = CertifiedNotice(network=self._network, issued_ms=clock_ms(), batches=batches)
            frame = to_frame(sign(self._signer, message))
            await self._transport.publish(GOSSIP_CERTIFIED, frame)
            self._on_sent("gossip", CertifiedNotice.__name__, len(frame))
        announced_all = sum(map(len, parts)) == len(matched.batches)
        steps = _steps(matched, matched.end if announced_all else parts[-1][-1][0])
        if steps:
            await self._database.run(partial(subscriptions.take_steps, steps=steps))
        return matched.more or not announced_all


def _look(connection: "Connection") -> tuple[Sequence[OverlaySubscription], Sequence[CertifiedBatchRow], bool]:
    """The subscriptions in force, what was sealed after them, and whether there may be more."""
    subscribed = list(_subscribed(subscriptions.active(connection, "overlay", SUBSCRIPTIONS_MAX)))
    if not subscribed:
        return [], [], False
    after = min(each.after for each in subscribed)
    looks_inside = any(each.looks_inside for each in subscribed)
    limit = PAGE_WITH_OUTPUTS if looks_inside else PAGE
    rows = notices.sealed_after(connection, after, limit, with_outputs=looks_inside)
    return subscribed, rows, len(rows) == limit


def _choose(
    subscribed: Sequence[OverlaySubscription], rows: Sequence[CertifiedBatchRow], more: bool
) -> MatchedBatches:
    """Match ``rows``, at least one. Takes long: not for the event loop, nor while a connection is held."""
    batches = []
    wanted: dict[str, list[int]] = {}
    for row in rows:
        events = _Events(row)
        matching = [each.subscription_id for each in subscribed if each.takes(row, events)]
        if matching:
            batches.append((row.sequence, _address(row)))
        for subscription_id in matching:
            wanted.setdefault(subscription_id, []).append(row.sequence)
    return MatchedBatches(subscribed=subscribed, batches=batches, wanted=wanted, end=rows[-1].sequence, more=more)


def _subscribed(rows: Sequence[Subscription]) -> Iterator[OverlaySubscription]:
    """The subscriptions in force. Expressions past ``EXPRESSIONS_MAX`` are ignored: more is announced, never less."""
    now_ms = clock_ms()
    expressions: set[str] = set()
    for row in rows:
        if status_of(row, now_ms) != "active":
            continue
        try:
            wanted = read_filter(row.filter_criteria, row.overlay_topics)
        except ClientFault as error:
            log.warning("subscription.unreadable", subscription=row.subscription_id, why=str(error))
            continue
        expression = wanted.selection.expression
        if expression is not None and expression.text not in expressions:
            if len(expressions) < EXPRESSIONS_MAX:
                expressions.add(expression.text)
            else:
                wanted = attrs.evolve(wanted, selection=attrs.evolve(wanted.selection, expression=None))
        yield OverlaySubscription(
            subscription_id=row.subscription_id,
            revision=row.cursor_revision,
            after=row.cursor_sequence - (row.cursor_position < WHOLE_BATCH),  # within a batch: all of it again
            wanted=wanted,
        )


def _steps(matched: MatchedBatches, end: int) -> dict[str, Step]:
    """The progress of subscriptions once all up to ``end`` is announced; none for those that stood there before."""
    return {
        each.subscription_id: Step(
            revision=each.revision,
            cursor=(end, WHOLE_BATCH),
            deliveries=announced,
            last_success_ms=clock_ms() if announced else None,
        )
        for each in matched.subscribed
        for announced in [sum(sequence <= end for sequence in matched.wanted.get(each.subscription_id, ()))]
        if each.after < end
    }


def _address(row: CertifiedBatchRow) -> CertifiedBatch:
    statement = read_certificate(row.certificate).statement
    return CertifiedBatch(
        batch=batch_digest(row.batch_id),
        topics=row.topics,
        certificate=sha256(row.certificate),
        records=statement.input_root,
        outputs=statement.output_root,
    )


def _parts(batches: Sequence[tuple[int, CertifiedBatch]]) -> Iterator[list[tuple[int, CertifiedBatch]]]:
    """Batches in their order, in parts that one notice can name."""
    part: list[tuple[int, CertifiedBatch]] = []
    left = TOPICS_BYTES_MAX
    for sequence, batch in batches:
        size = sum(len(topic.encode()) + 3 for topic in batch.topics)
        if part and (len(part) == NOTICE_BATCHES_MAX or size > left):
            yield part
            part, left = [], TOPICS_BYTES_MAX
        part.append((sequence, batch))
        left -= size
    if part:
        yield part
