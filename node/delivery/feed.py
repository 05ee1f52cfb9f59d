"""The live feed of certified batches: each rendered once per set of options, then shared by its subscribers.

Nothing is computed while nobody listens. A subscriber that cannot keep up is cut off with its place in the
feed, from where it can go on later: its buffer never grows past a bound, and it never slows the others.
"""

from collections import deque
from functools import partial
from typing import Final

import attrs
import structlog
import trio

from node.delivery.chunks import Chunk, Filter, Options, Place, render
from node.executor import Sealed

log = structlog.get_logger(__name__)

PENDING_MAX: Final = 1_024  # sealed batches that wait to be rendered
INLINE_BYTES_MAX: Final = 16 * 1024  # smaller batches are rendered on the loop, under a millisecond
BUFFER_CHUNKS_MAX: Final = 256


class Subscription:
    """One client's bounded buffer. Closed by the feed when it is full; what is in it can still be read."""

    def __init__(self, wanted: Filter, buffer_bytes_max: int) -> None:
        self.wanted = wanted
        self._bytes_max = buffer_bytes_max
        self._bytes = 0
        self._chunks: deque[Chunk] = deque()
        self._news = trio.Event()
        self.overflowed = False

    def offer(self, chunk: Chunk) -> None:
        """Put a chunk in, or cut the subscription off here if it does not fit."""
        if self.overflowed:
            return
        full = len(self._chunks) >= BUFFER_CHUNKS_MAX or self._bytes + len(chunk.sse) > self._bytes_max
        if full and self._chunks:
            self.overflowed = True
        else:
            self._chunks.append(chunk)
            self._bytes += len(chunk.sse)
        self._news.set()

    def cut_off(self) -> None:
        """Stop here: something was missed."""
        self.overflowed = True
        self._news.set()

    async def next(self) -> Chunk | None:
        """The next chunk; None when the subscription was cut off and all before that is read."""
        while not self._chunks:
            if self.overflowed:
                return None
            self._news = trio.Event()
            await self._news.wait()
        chunk = self._chunks.popleft()
        self._bytes -= len(chunk.sse)
        return chunk


@attrs.frozen(kw_only=True)
class FeedStats:
    """Figures since the process started."""

    subscriptions: int
    events: int
    cut_off: int


class Feed:
    """Takes sealed batches in the order of their sequence and hands them to whoever wants them."""

    def __init__(self, *, buffer_bytes_max: int = 8 * 1024 * 1024) -> None:
        self._buffer_bytes_max = buffer_bytes_max
        self._subscriptions: set[Subscription] = set()
        self._events = 0
        self._cut_off = 0
        self._send, self._receive = trio.open_memory_channel[Sealed](PENDING_MAX)

    @property
    def stats(self) -> FeedStats:
        return FeedStats(subscriptions=len(self._subscriptions), events=self._events, cut_off=self._cut_off)

    def publish(self, sealed: Sealed) -> None:
        """Take in a batch that is certified and written down. Never waits."""
        self._events += sealed.certificate.statement.events
        if not self._subscriptions:
            return
        try:
            self._send.send_nowait(sealed)
        except trio.WouldBlock:
            log.warning("feed.overrun", sequence=sealed.sequence)
            for subscription in self._subscriptions:
                self._cut(subscription)

    def subscribe(self, wanted: Filter) -> Subscription:
        """Start buffering for a client; it is served from the next published batch on."""
        subscription = Subscription(wanted, self._buffer_bytes_max)
        self._subscriptions.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        self._subscriptions.discard(subscription)

    async def run(self) -> None:
        """Render and hand out, one batch after the other, until cancelled."""
        async for sealed in self._receive:
            wanting: dict[Options, list[Subscription]] = {}
            for subscription in self._subscriptions:
                if not subscription.overflowed and subscription.wanted.wants(sealed):
                    wanting.setdefault(subscription.wanted.options, []).append(subscription)
            for options, subscriptions in wanting.items():
                chunk = await rendered(sealed, options)
                for subscription in subscriptions:
                    if chunk.messages:
                        self._hand(subscription, chunk)

    def _hand(self, subscription: Subscription, chunk: Chunk) -> None:
        if not subscription.overflowed:
            subscription.offer(chunk)
            self._cut_off += subscription.overflowed

    def _cut(self, subscription: Subscription) -> None:
        if not subscription.overflowed:
            subscription.cut_off()
            self._cut_off += 1


async def rendered(sealed: Sealed, options: Options, after: int = 0) -> Chunk:
    """Render on the loop where that is short, else in a thread."""
    if len(sealed.leaves) <= INLINE_BYTES_MAX:
        return render(sealed, options, after)
    return await trio.to_thread.run_sync(partial(render, sealed, options, after))


__all__ = ["Feed", "FeedStats", "Filter", "Options", "Place", "Subscription", "rendered"]
