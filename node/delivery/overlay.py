"""Delivery to other nodes: certified batches by address, on gossip, for active subscriptions of type ``overlay``.

What gathers in ``NOTICE_S`` goes out in few messages, each naming many batches: a gossiped message costs every node
milliseconds whatever its size. Whoever follows a topic has certificates and bytes by stream. A subscription is for
batches: it is a matter of ``status`` and ``eventTypes`` whether one event of a batch is wanted, and whoever reads it
chooses among its events. What an expression would choose is left to them, too.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import attrs
import orjson
import structlog
import trio

from node.clock import clock_ms
from node.log_pages import PREFIX
from node.stored import read_certificate, unpack_outputs
from node.topic_patterns import EVERYTHING, matches_any
from node.transport import PeerUnreachableError, Transport
from protocols.canonical import sha256
from protocols.envelope import Signer, sign, to_frame
from protocols.limits import NOTICE_BATCHES_MAX
from protocols.messages import CertifiedBatch, CertifiedNotice, Level
from storage import notices
from storage.database import Database
from storage.notices import OverlaySubscription, SealedRow

if TYPE_CHECKING:
    from psycopg import Connection

log = structlog.get_logger(__name__)

GOSSIP_CERTIFIED: Final = "certified"
NOTICE_S: Final = 1.0
NOTICES_AT_ONCE: Final = 3  # in one such time
PAGE: Final = NOTICES_AT_ONCE * NOTICE_BATCHES_MAX
PAGE_WITH_OUTPUTS: Final = 16
TOPICS_BYTES_MAX: Final = 40_000  # of one notice: the rest of it has a fixed size and fits
AGAIN_MS: Final = 60_000  # a node that starts says again what it sealed so lately: it may not have said it


@attrs.frozen(kw_only=True)
class Wanted:
    """A subscription's filter, for batches. None stands for all."""

    topics: tuple[str, ...]
    source_ids: frozenset[str] | None
    event_types: frozenset[str] | None
    level: Level
    statuses: frozenset[str]

    def takes(self, row: SealedRow, event_types: frozenset[str]) -> bool:
        return (
            matches_any(self.topics, row.topics)
            and row.level >= self.level
            and (self.source_ids is None or row.source_id in self.source_ids)
            and (("valid" in self.statuses and row.valid > 0) or ("invalid" in self.statuses and row.invalid > 0))
            and (self.event_types is None or not self.event_types.isdisjoint(event_types))
        )


def read_wanted(subscription: OverlaySubscription) -> Wanted:
    """The filter of a row.

    Raises:
        ValueError: It is none.
    """
    said = subscription.criteria
    status = said.get("status", "valid")
    word = said.get("minCertificationLevel", "basic")
    if status not in ("valid", "invalid", "any") or word not in [level.word for level in Level]:
        raise ValueError("filter_criteria names a status or a level that there is not")
    topics = subscription.topics or tuple(_texts(said, "topics") or EVERYTHING)
    return Wanted(
        topics=topics,
        source_ids=_texts(said, "sourceIds"),
        event_types=_texts(said, "eventTypes"),
        level=Level[word.upper()],
        statuses=frozenset(("valid", "invalid") if status == "any" else (status,)),
    )


def _texts(said: dict[str, Any], name: str) -> frozenset[str] | None:
    value = said.get(name)
    if value is not None and not (isinstance(value, list) and all(isinstance(each, str) for each in value)):
        raise ValueError(f"filter_criteria: {name} is no list of texts")
    return frozenset(value) if value else None


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
        self._sequence = 0
        self._news = trio.Event()
        self._news.set()  # the first look is at what an earlier run left

    def sealed(self) -> None:
        """A batch was sealed. Never waits."""
        self._news.set()

    async def run(self) -> None:
        """Tell of what is sealed, until cancelled."""
        self._sequence = await self._database.run(partial(notices.sequence_at, certified_ms=clock_ms() - AGAIN_MS))
        while True:
            await self._news.wait()
            self._news = trio.Event()
            await trio.sleep(NOTICE_S)
            if await self._tell():
                self._news.set()

    async def _tell(self) -> bool:
        """Tell of as much as one time allows. Returns whether there may be more."""
        looked = await self._database.run(partial(_look, after=self._sequence))
        parts = list(islice(_parts(looked.batches), NOTICES_AT_ONCE))
        for part in parts:
            batches = tuple(batch for _, batch in part)
            message = CertifiedNotice(network=self._network, issued_ms=clock_ms(), batches=batches)
            frame = to_frame(sign(self._signer, message))
            try:
                await self._transport.publish(GOSSIP_CERTIFIED, frame)
            except PeerUnreachableError as error:
                log.info("notice.unheard", why=str(error))
            else:
                self._on_sent("gossip", CertifiedNotice.__name__, len(frame))
        told_all = sum(map(len, parts)) == len(looked.batches)
        self._sequence = looked.end if told_all else parts[-1][-1][0]
        return looked.more or not told_all


@attrs.frozen(kw_only=True)
class Looked:
    """Batches to tell of, each with its sequence; ``end`` is how far was looked."""

    batches: Sequence[tuple[int, CertifiedBatch]]
    end: int
    more: bool


def _look(connection: "Connection", *, after: int) -> Looked:
    """What was sealed and is wanted. Runs on a database thread."""
    wanted = list(_wanted(notices.overlay_subscriptions(connection)))
    if not wanted:
        return Looked(batches=(), end=max(after, notices.last_sequence(connection)), more=False)
    by_type = any(each.event_types is not None for each in wanted)
    limit = PAGE_WITH_OUTPUTS if by_type else PAGE
    rows = notices.sealed_after(connection, after, limit, with_outputs=by_type)
    batches = []
    for row in rows:
        event_types = _event_types(row)
        if any(each.takes(row, event_types) for each in wanted):
            batches.append((row.sequence, _address(row)))
    return Looked(batches=batches, end=rows[-1].sequence if rows else after, more=len(rows) == limit)


def _wanted(subscriptions: Sequence[OverlaySubscription]) -> Iterator[Wanted]:
    for subscription in subscriptions:
        try:
            yield read_wanted(subscription)
        except ValueError as error:
            log.warning("subscription.unreadable", subscription=subscription.subscription_id, why=str(error))


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
