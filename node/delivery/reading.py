"""One client's way through the feed: what was sealed after its place, from the database, then what comes, live.

Without a gap and without a repeat: it is subscribed before the last look at the database, and what both hold is
handed on once. Whoever reads too slowly for its buffer is let go with its place, from where it can go on.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Final

import trio

from node.delivery.chunks import Chunk, Filter, Place
from node.delivery.feed import Feed, Subscription, rendered
from node.history import sealed_since
from storage.database import Database

PAGE_BATCHES: Final = 16


class Reading:
    """What a client gets, in order. ``place`` is where it stands: all up to there was handed on, or not wanted."""

    def __init__(self, database: Database, feed: Feed, wanted: Filter, start: Place | None) -> None:
        """``start``: None for what comes from now on."""
        self._database = database
        self._feed = feed
        self._wanted = wanted
        self._start = start
        self._subscription: Subscription | None = None
        self.place = start or Place(sequence=0, position=0)

    def close(self) -> None:
        """Buffer nothing more."""
        if self._subscription is not None:
            self._feed.unsubscribe(self._subscription)

    async def chunks(self, patience_s: float) -> AsyncGenerator[Chunk | None, None]:
        """Chunk after chunk; None whenever there was none for ``patience_s``, and now and then among old ones.

        Ends where the client was cut off: it read more slowly than events came.
        """
        if self._start is None:
            self._subscription = self._feed.subscribe(self._wanted)
        else:
            async with aclosing(self._past(self._start)) as past:
                async for chunk in past:
                    yield self._passed(chunk)
        assert self._subscription is not None, "both ways in end with a subscription"
        while True:
            found: Chunk | None = None
            with trio.move_on_after(patience_s) as patience:
                found = await self._subscription.next()
            if found is None and not patience.cancelled_caught:
                return
            if found is None or found.last > self.place:
                yield self._passed(found)

    def _passed(self, chunk: Chunk | None) -> Chunk | None:
        if chunk is not None:
            self.place = max(self.place, chunk.last)
        return chunk

    async def _past(self, start: Place) -> AsyncGenerator[Chunk | None, None]:
        """What was sealed after ``start``, page by page; subscribes when a page comes back short."""
        sealed_after = start.sequence - 1  # the batch of ``start`` may have events left
        while True:
            page = await self._database.run(partial(sealed_since, sequence=sealed_after, limit=PAGE_BATCHES))
            for sealed in page:
                sealed_after = sealed.sequence
                after = start.position if sealed.sequence == start.sequence else 0
                end = Place(sequence=sealed.sequence, position=sealed.certificate.statement.events)
                if self._wanted.wants(sealed):
                    yield await rendered(sealed, self._wanted.options, after)
                self.place = max(self.place, end)
            yield None
            if len(page) == PAGE_BATCHES:
                continue
            if self._subscription is not None:
                return
            self._subscription = self._feed.subscribe(self._wanted)  # and one more look
