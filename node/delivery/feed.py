"""The live feed of certified batches: each rendered once for all who want the same, then handed to every one.

Nothing is computed while nobody listens. Subscribers with equal filters are one group: a batch is decided, written
and assembled once for the group. Batches that were sealed while others were handed out go out together, so that
the feed costs the less per event the more there is to do.

A subscriber may offer a way to take bytes at once, without waiting; what it does not take waits in its buffer. One
that cannot keep up is cut off with its place in the feed, from where it can go on later: its buffer never grows
past a bound, and it never slows the others.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from math import inf
from typing import Final

import attrs
import structlog
import trio

from node.coordination.certified_result import CertifiedResult
from node.delivery.chunks import START, Chunk, Form, Place, Rendering, Tally, chunks_of, merged
from node.delivery.filters import Filter, MessageOptions, Selection
from protocols.errors import WorldFault

log = structlog.get_logger(__name__)

PENDING_MAX: Final = 1_024  # sealed batches that wait to be rendered
INLINE_BYTES_MAX: Final = 16 * 1024  # smaller batches are rendered on the loop, under a millisecond
FORM_BYTES_MAX: Final = 256 * 1024  # smaller chunks are put in their form on the loop
BUFFER_CHUNKS_MAX: Final = 256
ROUND_BATCHES_MAX: Final = 64  # batches handed out together
EXPRESSIONS_MAX: Final = 64  # different expressions evaluated for each batch
GAP_S: Final = 1.0  # a batch sealed before others is waited for so long; then clients read it from the database
TURN_S: Final = 0.002  # then others get the loop
SWITCH_S: Final = 0.0002  # every write to a client lets other threads run: how long one keeps the interpreter
GATHER_SHARE: Final = 2.0  # of the time that handing out took, as a pause in which batches gather
GATHER_S_MAX: Final = 0.1


@attrs.frozen(kw_only=True, eq=False)
class Outlet:
    """How a client takes what is live, without waiting.

    Attributes:
        form: How its bytes are written.
        take: Takes such bytes at once, or says no and takes nothing. Asked only while nothing waits in the buffer.
    """

    form: Form
    take: Callable[[bytes], bool]


class TooManyExpressionsError(WorldFault):
    code = "too-many-expressions"


class Subscription:
    """One client's bounded buffer. Closed by the feed when it is full; what is in it can still be read.

    Attributes:
        place: Handed over, taken or buffered, up to here.
        overflowed: Cut off, because the buffer was full.
        missed: Cut off, because the feed itself missed something.
    """

    def __init__(self, wanted: Filter, buffer_bytes_max: int, place: Place, outlet: Outlet | None = None) -> None:
        self.wanted = wanted
        self.place = place
        self.outlet = outlet
        self.overflowed = False
        self.missed = False
        self._bytes_max = buffer_bytes_max
        self._bytes = 0
        self._chunks: deque[Chunk] = deque()
        self._news = trio.Event()
        self._waits = False

    @property
    def is_cut_off(self) -> bool:
        return self.overflowed or self.missed

    @property
    def is_empty(self) -> bool:
        """Whether all that was handed over is read."""
        return not self._chunks

    def offer(self, chunk: Chunk) -> None:
        """Hand a chunk over, or cut the subscription off here if it does not fit."""
        if self.is_cut_off:
            return
        if chunk.messages[0].place <= self.place:
            chunk = chunk.after(self.place)
            if not chunk.messages:
                return
        outlet = self.outlet
        if outlet is not None and self._waits and outlet.take(chunk.written(outlet.form)):
            self.place = chunk.last
            return
        full = len(self._chunks) >= BUFFER_CHUNKS_MAX or self._bytes + chunk.size > self._bytes_max
        if full and self._chunks:
            self.overflowed = True
        else:
            self.place = chunk.last
            self._chunks.append(chunk)
            self._bytes += chunk.size
        self.nudge()

    def miss(self) -> None:
        """Stop here: something was not handed over."""
        self.missed = True
        self.nudge()

    def nudge(self) -> None:
        """Have whoever waits look around."""
        self._waits = False
        self._news.set()

    def pop(self) -> Chunk | None:
        """The next chunk in the buffer, if there is one."""
        if not self._chunks:
            return None
        chunk = self._chunks.popleft()
        self._bytes -= chunk.size
        return chunk

    async def wait(self) -> None:
        """Wait for a chunk in the buffer, for being cut off, or for a nudge."""
        if self._chunks or self.is_cut_off:
            return
        self._news = trio.Event()
        self._waits = True
        try:
            await self._news.wait()
        finally:
            self._waits = False


@attrs.frozen(kw_only=True)
class FeedStats:
    """Figures since the process started.

    Attributes:
        serialised: Events written as JSON. evaluated: expressions, each for one event.
    """

    subscriptions: int
    events: int
    cut_off: int
    serialised: int
    evaluated: int


class Feed:
    """Takes sealed batches in the order of their sequence and hands them to whoever wants them."""

    def __init__(self, *, buffer_bytes_max: int = 8 * 1024 * 1024) -> None:
        self._buffer_bytes_max = buffer_bytes_max
        self._groups: dict[Filter, set[Subscription]] = {}
        self._count = 0
        self._events = 0
        self._cut_off = 0
        self._head = START
        self._handed = START
        self._last_batch = ""
        self._next = 0  # the sequence that is handed out next; 0 while nothing is known of it
        self._early: dict[int, CertifiedResult] = {}
        self.closing = False
        self.tally = Tally()
        self._send, self._receive = trio.open_memory_channel[CertifiedResult](PENDING_MAX)

    @property
    def stats(self) -> FeedStats:
        return FeedStats(
            subscriptions=self._count,
            events=self._events,
            cut_off=self._cut_off,
            serialised=self.tally.serialised,
            evaluated=self.tally.evaluated,
        )

    @property
    def handed(self) -> Place:
        """Up to here every subscriber was handed what it wants."""
        return self._handed

    @property
    def last_batch(self) -> str:
        """The id of the batch that was handed out last; empty where there is none yet."""
        return self._last_batch

    def begin(self, head: Place, batch_id: str) -> None:
        """Say where the feed stood when the process started, before anything is published."""
        self._head = self._handed = head
        self._last_batch = batch_id
        self._next = head.sequence + 1

    def publish(self, sealed: CertifiedResult) -> None:
        """Take in a batch that is certified and written down. Never waits."""
        self._events += sealed.certificate.statement.events
        self._head = max(self._head, _end(sealed))
        try:
            self._send.send_nowait(sealed)
        except trio.WouldBlock:
            self._miss("feed.overrun", sealed.sequence)

    def close(self) -> None:
        """Say to all who wait that the node stops."""
        self.closing = True
        for subscription in self._everyone():
            subscription.nudge()

    def subscribe(self, wanted: Filter, outlet: Outlet | None = None) -> Subscription:
        """Start buffering for a client; it is served from the next published batch on.

        Raises:
            TooManyExpressionsError: It brings an expression of its own, and there are many already.
        """
        self.refuse_expression(wanted)
        subscription = Subscription(wanted, self._buffer_bytes_max, self._head, outlet)
        self._groups.setdefault(wanted, set()).add(subscription)
        self._count += 1
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        group = self._groups.get(subscription.wanted, set())
        if subscription in group:
            group.remove(subscription)
            self._count -= 1
        if not group:
            self._groups.pop(subscription.wanted, None)

    async def run(self) -> None:
        """Render and hand out, one round after the other, until cancelled."""
        while True:
            batches = await self._gathered()
            started_s = trio.current_time()
            for wanted, chunk in await self._round(batches):
                await self._hand_out(wanted, chunk)
            if batches:
                self._handed = _end(batches[-1])
                self._last_batch = batches[-1].certificate.statement.batch_id
            took_s = trio.current_time() - started_s
            if took_s > TURN_S:
                await trio.sleep(min(GATHER_S_MAX, GATHER_SHARE * took_s))

    async def _gathered(self) -> list[CertifiedResult]:
        """What was published and is next, in the order of sequence. Empty when a batch did not come."""
        with trio.move_on_after(GAP_S if self._early else inf) as patience:
            self._admit(await self._receive.receive())
        with suppress(trio.WouldBlock):
            for _ in range(PENDING_MAX):
                self._admit(self._receive.receive_nowait())
        if patience.cancelled_caught and self._early:
            self._next = min(self._early)
            self._miss("feed.gap", self._next)
        found: list[CertifiedResult] = []
        while len(found) < ROUND_BATCHES_MAX and self._next in self._early:
            found.append(self._early.pop(self._next))
            self._next += 1
        return found

    def _admit(self, sealed: CertifiedResult) -> None:
        """Batches are sealed one after the other, and told of in any order: who is early waits."""
        if self._next == 0:
            self._next = sealed.sequence
        if sealed.sequence >= self._next:
            self._early[sealed.sequence] = sealed

    async def _round(self, batches: Sequence[CertifiedResult]) -> list[tuple[Filter, Chunk]]:
        """What each group gets of some batches; groups that get the same share it."""
        parts: dict[Filter, list[Chunk]] = {}
        for sealed in batches:
            wanting = [wanted for wanted in self._groups if wanted.wants(sealed)]
            if not wanting:
                continue
            kinds = dict.fromkeys((wanted.selection, wanted.options) for wanted in wanting)
            chunks = dict(zip(kinds, await written(Rendering(sealed, self.tally), kinds), strict=True))
            for wanted in wanting:
                chunk = chunks[wanted.selection, wanted.options]
                if chunk.messages:
                    parts.setdefault(wanted, []).append(chunk)
        made: dict[tuple[int, ...], Chunk] = {}
        found = []
        for wanted, chunks_wanted in parts.items():
            key = tuple(map(id, chunks_wanted))
            if key not in made:
                made[key] = merged(chunks_wanted)
            found.append((wanted, made[key]))
        return found

    async def _hand_out(self, wanted: Filter, chunk: Chunk) -> None:
        group = tuple(self._groups.get(wanted, ()))
        for form in {each.outlet.form for each in group if each.outlet is not None}:
            await in_form(chunk, form)
        turn_s = trio.current_time() + TURN_S
        for subscription in group:
            cut_before = subscription.overflowed
            subscription.offer(chunk)
            self._cut_off += subscription.overflowed and not cut_before
            if trio.current_time() > turn_s:
                await trio.lowlevel.checkpoint()
                turn_s = trio.current_time() + TURN_S

    def _everyone(self) -> Iterable[Subscription]:
        return [subscription for group in self._groups.values() for subscription in group]

    def _miss(self, what: str, sequence: int) -> None:
        log.warning(what, sequence=sequence)
        for subscription in self._everyone():
            subscription.miss()

    def refuse_expression(self, wanted: Filter) -> None:
        """Raises TooManyExpressionsError where the filter brings one more than are evaluated at once."""
        if wanted.selection.expression is None:
            return
        texts = {each.selection.expression.text for each in self._groups if each.selection.expression is not None}
        if len(texts | {wanted.selection.expression.text}) > EXPRESSIONS_MAX:
            raise TooManyExpressionsError(f"{EXPRESSIONS_MAX} different expressions are evaluated already")


def _end(sealed: CertifiedResult) -> Place:
    return Place(sequence=sealed.sequence, position=sealed.certificate.statement.events)


async def in_form(chunk: Chunk, form: Form) -> bytes:
    """The bytes of a chunk, written in a thread where that is long."""
    if chunk.size <= FORM_BYTES_MAX or chunk.is_written(form):
        return chunk.written(form)
    return await trio.to_thread.run_sync(chunk.written, form)


async def written(
    rendering: Rendering, kinds: Iterable[tuple[Selection, MessageOptions]], after: int = 0
) -> list[Chunk]:
    """Render on the loop where that is short, else in a thread."""
    kinds = tuple(kinds)
    make = partial(chunks_of, rendering, kinds, after)
    long = any(selection.expression is not None or options.certificate for selection, options in kinds)
    if long or len(rendering.sealed.leaves) > INLINE_BYTES_MAX:
        return await trio.to_thread.run_sync(make)
    return make()
