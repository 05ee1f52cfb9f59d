"""Delivery to other nodes: certified batches by address, on gossip, for active subscriptions of type ``overlay``.

What gathers in ``NOTICE_S`` goes out in few messages, each naming many batches: a gossiped message costs every node
milliseconds whatever its size. Whoever follows a topic has certificates and bytes by stream. A subscription is for
batches: it is a matter of ``status`` and ``eventTypes`` whether one event of a batch is wanted, and whoever reads it
chooses among its events. What an expression would choose is left to them, too.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final

import attrs
import orjson
import structlog
import trio

from node.clock import clock_ms
from node.delivery.chunks import WHOLE_BATCH
from node.delivery.filters import Filter
from node.log_pages import PREFIX
from node.stored import read_certificate, unpack_outputs
from node.subscription_documents import read_filter, status_of
from node.transport import Transport
from protocols.canonical import sha256
from protocols.envelope import Signer, sign, to_frame
from protocols.errors import ClientFault
from protocols.limits import NOTICE_BATCHES_MAX
from protocols.messages import CertifiedBatch, CertifiedNotice
from storage import notices, subscriptions
from storage.database import Database
from storage.notices import SealedRow
from storage.subscriptions import Step, Subscription

if TYPE_CHECKING:
    from psycopg import Connection

log = structlog.get_logger(__name__)

GOSSIP_CERTIFIED: Final = "certified"
NOTICE_S: Final = 1.0
NOTICES_AT_ONCE: Final = 3  # in one such time
PAGE: Final = NOTICES_AT_ONCE * NOTICE_BATCHES_MAX
PAGE_WITH_OUTPUTS: Final = 16
TOPICS_BYTES_MAX: Final = 40_000  # of one notice: the rest of it has a fixed size and fits
LOOK_S: Final = 5.0  # a subscription that was changed is seen after so long
SUBSCRIPTIONS_MAX: Final = 1_000


@attrs.frozen(kw_only=True)
class Watch:
    """A subscription in force: what it wants, and where it stands."""

    subscription_id: str
    revision: int
    after: int
    wanted: Filter

    def takes(self, row: SealedRow, event_types: frozenset[str]) -> bool:
        """Whether it is to be told of a batch, as far as that can be said of a batch as a whole."""
        wanted, chosen = self.wanted, self.wanted.selection
        return (
            row.sequence > self.after
            and len(row.topics) > 0  # without a topic it is not meant for others
            and (wanted.topics is None or wanted.topics.allow_any(row.topics))
            and row.level >= wanted.level
            and (wanted.source_ids is None or row.source_id in wanted.source_ids)
            and (("valid" in chosen.statuses and row.valid > 0) or ("invalid" in chosen.statuses and row.invalid > 0))
            and (chosen.event_types is None or any(map(chosen.event_types.allow, event_types)))
        )


@attrs.frozen(kw_only=True)
class Looked:
    """Batches to tell of with their sequences, in their order, and who wants which; ``end`` is how far was looked."""

    watches: Sequence[Watch] = ()
    batches: Sequence[tuple[int, CertifiedBatch]] = ()
    wanted: Mapping[str, Sequence[int]] = attrs.Factory(dict)
    end: int = 0
    more: bool = False


class Announcer:
    """Tells the network of batches that were sealed here and that a subscription wants told of."""

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
        self._news = trio.Event()
        self._news.set()  # the first look is at what an earlier run left

    def sealed(self) -> None:
        """A batch was sealed. Never waits."""
        self._news.set()

    async def run(self) -> None:
        """Tell of what is sealed, and of what subscriptions go back to, until cancelled."""
        while True:
            with trio.move_on_after(LOOK_S):
                await self._news.wait()
            self._news = trio.Event()
            await trio.sleep(NOTICE_S)
            if await self._tell():
                self._news.set()

    async def _tell(self) -> bool:
        """Tell of as much as one time allows. Returns whether there may be more."""
        looked = await self._database.run(_look)
        parts = list(islice(_parts(looked.batches), NOTICES_AT_ONCE))
        for part in parts:
            batches = tuple(batch for _, batch in part)
            message = CertifiedNotice(network=self._network, issued_ms=clock_ms(), batches=batches)
            frame = to_frame(sign(self._signer, message))
            await self._transport.publish(GOSSIP_CERTIFIED, frame)
            self._on_sent("gossip", CertifiedNotice.__name__, len(frame))
        told_all = sum(map(len, parts)) == len(looked.batches)
        steps = _steps(looked, looked.end if told_all else parts[-1][-1][0])
        if steps:
            await self._database.run(partial(subscriptions.take_steps, steps=steps))
        return looked.more or not told_all


def _look(connection: "Connection") -> Looked:
    """What was sealed and is wanted. Runs on a database thread."""
    watches = list(_watches(subscriptions.active(connection, "overlay", SUBSCRIPTIONS_MAX)))
    if not watches:
        return Looked()
    after = min(watch.after for watch in watches)
    by_type = any(watch.wanted.selection.event_types is not None for watch in watches)
    limit = PAGE_WITH_OUTPUTS if by_type else PAGE
    rows = notices.sealed_after(connection, after, limit, with_outputs=by_type)
    batches = []
    wanted: dict[str, list[int]] = {}
    for row in rows:
        event_types = _event_types(row)
        takers = [watch.subscription_id for watch in watches if watch.takes(row, event_types)]
        if takers:
            batches.append((row.sequence, _address(row)))
        for taker in takers:
            wanted.setdefault(taker, []).append(row.sequence)
    end = rows[-1].sequence if rows else after
    return Looked(watches=watches, batches=batches, wanted=wanted, end=end, more=len(rows) == limit)


def _watches(rows: Sequence[Subscription]) -> Iterator[Watch]:
    now_ms = clock_ms()
    for row in rows:
        if status_of(row, now_ms) != "active":
            continue
        try:
            wanted = read_filter(row.filter_criteria, row.overlay_topics)
        except ClientFault as error:
            log.warning("subscription.unreadable", subscription=row.subscription_id, why=str(error))
            continue
        yield Watch(
            subscription_id=row.subscription_id,
            revision=row.cursor_revision,
            after=row.cursor_sequence - (row.cursor_position < WHOLE_BATCH),  # within a batch: all of it again
            wanted=wanted,
        )


def _steps(looked: Looked, end: int) -> dict[str, Step]:
    """Where the subscriptions stand once all up to ``end`` is told; none for those that stood there before."""
    return {
        watch.subscription_id: Step(
            revision=watch.revision,
            cursor=(end, WHOLE_BATCH),
            deliveries=told,
            last_success_ms=clock_ms() if told else None,
        )
        for watch in looked.watches
        for told in [sum(sequence <= end for sequence in looked.wanted.get(watch.subscription_id, ()))]
        if watch.after < end
    }


def _event_types(row: SealedRow) -> frozenset[str]:
    """The types of a batch's events, where its outputs were read for them."""
    if row.outputs is None:
        return frozenset()
    leaves = unpack_outputs(row.outputs)[0]
    return frozenset(verdict["eventType"] for verdict in orjson.loads(b"[%b]" % leaves.replace(b"\n", b",")))


def _address(row: SealedRow) -> CertifiedBatch:
    statement = read_certificate(row.certificate).statement
    return CertifiedBatch(
        batch=bytes.fromhex(row.batch_id.removeprefix(PREFIX)),
        topics=row.topics,
        certificate=sha256(row.certificate),
        records=statement.input_root,
        outputs=statement.output_root,
    )


def _parts(batches: Sequence[tuple[int, CertifiedBatch]]) -> Iterator[list[tuple[int, CertifiedBatch]]]:
    """Batches in their order, as many at once as a notice may name."""
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
