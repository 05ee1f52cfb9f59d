"""One client's way through the feed: what was sealed after its place, from the database, then what comes, live.

Without a gap and without a repeat: it is subscribed before the last look at the database, and what both hold is
handed on once. Whoever reads too slowly for its buffer is let go with its place, from where it can go on.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from typing import Final

import trio

from node.coordination.certified_result import CertifiedResult
from node.delivery.chunks import START, Chunk, Place, Rendering
from node.delivery.feed import Feed, Outlet, Subscription, written
from node.delivery.filters import Filter
from node.delivery.history import sealed_since
from storage import batches
from storage.database import Database

PAGE_BATCHES: Final = 16


class Reading:
    """What a client gets, in order. ``place`` is where it stands: all up to there was handed on, or not wanted."""

    def __init__(
        self, database: Database, feed: Feed, wanted: Filter, start: Place | None, outlet: Outlet | None = None
    ) -> None:
        """Args:
        start: None for what comes from now on.
        outlet: Takes live chunks at once where it can; ``chunks`` then yields only what it would not take.
        """
        self._database = database
        self._feed = feed
        self.wanted = wanted
        self._start = start
        self._outlet = outlet
        self._subscription: Subscription | None = None
        self._place = start or START
        self._live = False

    @property
    def place(self) -> Place:
        """Where the client stands, all that was yielded or taken included."""
        subscription = self._subscription
        if subscription is None or not self.is_live:
            return self._place
        if subscription.is_cut_off or not subscription.is_empty:
            return self._place
        return max(self._place, subscription.place, self._feed.handed)

    @property
    def is_live(self) -> bool:
        """Whether the past is read: what is handed out now is taken or yielded next."""
        return self._subscription is not None and self._live

    def open(self) -> None:
        """Fix the place of a client that wants what comes from now on; else it is fixed with the first chunk."""
        if self._start is None and self._subscription is None:
            self._subscription = self._feed.subscribe(self.wanted, self._outlet)
            self._start = self._place = self._subscription.place

    def close(self) -> None:
        """Buffer nothing more."""
        if self._subscription is not None:
            self._feed.unsubscribe(self._subscription)
            self._subscription, self._live = None, False

    def nudge(self) -> None:
        """Have ``chunks`` yield soon, be it None."""
        if self._subscription is not None:
            self._subscription.nudge()

    async def chunks(self, patience_s: float | Callable[[], float]) -> AsyncGenerator[Chunk | None, None]:
        """Chunk after chunk; None whenever there was none for ``patience_s``, and now and then among old ones.

        Ends where the client was cut off: it read more slowly than events came.
        """
        patience = patience_s if callable(patience_s) else lambda: patience_s
        self.open()
        while True:
            if self._subscription is None:
                async with aclosing(self._past()) as past:
                    async for chunk in past:
                        yield chunk
            async with aclosing(self._present(patience)) as present:
                async for chunk in present:
                    yield chunk
            missed = self._subscription is not None and self._subscription.missed
            self.close()
            if not missed:
                return

    async def _present(self, patience: Callable[[], float]) -> AsyncGenerator[Chunk | None, None]:
        """What the feed hands out, until it cuts the client off."""
        subscription = self._subscription
        assert subscription is not None, "both ways in end with a subscription"
        self._live = True
        while True:
            with trio.move_on_after(max(0.0, patience())):
                await subscription.wait()
            chunk = subscription.pop()
            if chunk is not None:
                chunk = chunk.after(self._place)
                self._place = max(self._place, chunk.last)
                if chunk.messages:
                    yield chunk
            elif subscription.is_cut_off:
                self._place = max(self._place, subscription.place)
                return
            else:
                yield None

    async def _past(self) -> AsyncGenerator[Chunk | None, None]:
        """What was sealed after the place, page by page; subscribes when a page comes back short."""
        sealed_after = self._place.sequence - 1  # the batch of the place may have events left
        while True:
            page = await self._database.run(partial(sealed_since, sequence=sealed_after, limit=PAGE_BATCHES))
            for sealed in page:
                sealed_after = sealed.sequence
                chunk = await self._old(sealed)
                self._place = max(self._place, Place(sequence=sealed.sequence, position=_events(sealed)))
                if chunk is not None and chunk.messages:
                    yield chunk
            yield None
            if len(page) == PAGE_BATCHES:
                continue
            if self._subscription is not None:
                self._subscription.place = max(self._subscription.place, self._place)
                return
            self._subscription = self._feed.subscribe(self.wanted, self._outlet)  # and one more look

    async def _old(self, sealed: CertifiedResult) -> Chunk | None:
        if not self.wanted.wants(sealed):
            return None
        after = self._place.position if sealed.sequence == self._place.sequence else 0
        rendering = Rendering(sealed, self._feed.tally)
        [chunk] = await written(rendering, [(self.wanted.selection, self.wanted.options)], after)
        return chunk


def _events(sealed: CertifiedResult) -> int:
    return sealed.certificate.statement.events


async def begin(feed: Feed, database: Database) -> None:
    """Tell a feed where it stands, before anything is published."""
    found = await database.run(batches.last_sealed)
    if found is not None:
        sequence, events, batch_id = found
        feed.begin(Place(sequence=sequence, position=events), batch_id)
