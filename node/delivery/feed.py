"""The live feed of certified batches: each rendered once for all who want the same, then handed to every subscriber.

Nothing is computed while nobody subscribes. Subscribers with equal filters are one group: a batch is matched,
rendered and assembled once for the group. Batches that were sealed while others were handed out go out together, so
that the feed costs less for each event the more there is to do.

A subscriber may offer a sink that takes bytes at once, without waiting; what it does not take waits in its buffer. A
subscriber that cannot keep up is cut off with its cursor, from where it can go on later: its buffer never grows past
a bound, and it never delays the others.
"""

from collections.abc import Sequence
from typing import Final

import attrs
import structlog
import trio

from node.coordination.certified_result import CertifiedResult
from node.delivery.batch_order import BatchOrder
from node.delivery.cursor import START, Cursor
from node.delivery.filters import Filter
from node.delivery.messages import Chunk, encoded, merged
from node.delivery.rendering import BatchRenderer, RenderCounts, batch_end, rendered
from node.delivery.subscriber import Sink, Subscriber, SubscriberGroups
from protocols.errors import WorldFault

log = structlog.get_logger(__name__)

EXPRESSIONS_MAX: Final = 64  # different expressions evaluated for each batch
TURN_S: Final = 0.002  # then other tasks get the event loop
SWITCH_S: Final = 0.0002  # every write to a client lets other threads run: how long one keeps the interpreter
GATHER_SHARE: Final = 2.0  # of the time that handing out took, as a pause in which batches gather
GATHER_S_MAX: Final = 0.1


class TooManyExpressionsError(WorldFault):
    code = "too-many-expressions"


@attrs.frozen(kw_only=True)
class FeedStats:
    """Figures since the process started.

    Attributes:
        serialised: Events written as JSON. evaluated: Expressions, each for one event.
    """

    subscriptions: int
    events: int
    cut_off: int
    serialised: int
    evaluated: int


class Feed:
    """Takes certified batches and hands them, in the order of their sequence, to their subscribers.

    Attributes:
        closing: The node stops.
        counts: What rendering cost.
    """

    def __init__(self, *, buffer_bytes_max: int = 8 * 1024 * 1024) -> None:
        self._buffer_bytes_max = buffer_bytes_max
        self._order = BatchOrder()
        self._groups = SubscriberGroups()
        self._events = 0
        self._cut_off = 0
        self._head = START
        self._handed = START
        self._last_batch = ""
        self.closing = False
        self.counts = RenderCounts()

    @property
    def stats(self) -> FeedStats:
        return FeedStats(
            subscriptions=len(self._groups),
            events=self._events,
            cut_off=self._cut_off,
            serialised=self.counts.serialised,
            evaluated=self.counts.evaluated,
        )

    @property
    def handed(self) -> Cursor:
        """Up to here every subscriber was handed what it wants."""
        return self._handed

    @property
    def last_batch(self) -> str:
        """The id of the batch that was handed out last; empty where there is none yet."""
        return self._last_batch

    def begin(self, head: Cursor, batch_id: str) -> None:
        """Set where the feed stood when the process started, before anything is published."""
        self._head = self._handed = head
        self._last_batch = batch_id
        self._order.begin(head.sequence + 1)

    def publish(self, sealed: CertifiedResult) -> None:
        """Take in a batch that is certified and stored. Never waits."""
        self._events += sealed.certificate.statement.events
        self._head = max(self._head, batch_end(sealed))
        if not self._order.add(sealed):
            self._miss("feed.overrun", sealed.sequence)

    def close(self) -> None:
        """Wake all who wait: the node stops."""
        self.closing = True
        for subscriber in self._groups.everyone():
            subscriber.wake()

    def subscribe(self, wanted: Filter, sink: Sink | None = None) -> Subscriber:
        """Start buffering for a client; it is served from the next published batch on.

        Raises:
            TooManyExpressionsError: It brings an expression of its own, and there are many already.
        """
        self.refuse_expression(wanted)
        subscriber = Subscriber(wanted, self._buffer_bytes_max, self._head, sink)
        self._groups.add(subscriber)
        return subscriber

    def unsubscribe(self, subscriber: Subscriber) -> None:
        self._groups.remove(subscriber)

    def refuse_expression(self, wanted: Filter) -> None:
        """Raises TooManyExpressionsError where the filter brings one more than are evaluated at once."""
        if wanted.selection.expression is not None and self._groups.expressions_with(wanted) > EXPRESSIONS_MAX:
            raise TooManyExpressionsError(f"{EXPRESSIONS_MAX} different expressions are evaluated already")

    async def run(self) -> None:
        """Render and hand out, one round after the other, until cancelled."""
        while True:
            taken = await self._order.take()
            if taken.missing_before is not None:
                self._miss("feed.gap", taken.missing_before)
            started_s = trio.current_time()
            for wanted, chunk in await self._chunks(taken.batches):
                await self._hand_out(wanted, chunk)
            if taken.batches:
                self._handed = batch_end(taken.batches[-1])
                self._last_batch = taken.batches[-1].certificate.statement.batch_id
            took_s = trio.current_time() - started_s
            if took_s > TURN_S:
                await trio.sleep(min(GATHER_S_MAX, GATHER_SHARE * took_s))

    async def _chunks(self, batches: Sequence[CertifiedResult]) -> list[tuple[Filter, Chunk]]:
        """What each group gets of some batches; groups that get the same share it."""
        parts: dict[Filter, list[Chunk]] = {}
        for sealed in batches:
            wanting = [wanted for wanted in self._groups.filters if wanted.matches(sealed)]
            if not wanting:
                continue
            kinds = dict.fromkeys((wanted.selection, wanted.options) for wanted in wanting)
            chunks = dict(zip(kinds, await rendered(BatchRenderer(sealed, self.counts), kinds), strict=True))
            for wanted in wanting:
                chunk = chunks[wanted.selection, wanted.options]
                if chunk.messages:
                    parts.setdefault(wanted, []).append(chunk)
        made: dict[tuple[int, ...], Chunk] = {}
        found = []
        for wanted, wanted_chunks in parts.items():
            key = tuple(map(id, wanted_chunks))
            if key not in made:
                made[key] = merged(wanted_chunks)
            found.append((wanted, made[key]))
        return found

    async def _hand_out(self, wanted: Filter, chunk: Chunk) -> None:
        group = self._groups.members(wanted)
        for encoding in {each.sink.encoding for each in group if each.sink is not None}:
            await encoded(chunk, encoding)
        turn_s = trio.current_time() + TURN_S
        for subscriber in group:
            cut_before = subscriber.overflowed
            subscriber.offer(chunk)
            self._cut_off += subscriber.overflowed and not cut_before
            if trio.current_time() > turn_s:
                await trio.lowlevel.checkpoint()
                turn_s = trio.current_time() + TURN_S

    def _miss(self, event: str, sequence: int) -> None:
        log.warning(event, sequence=sequence)
        for subscriber in self._groups.everyone():
            subscriber.miss()
