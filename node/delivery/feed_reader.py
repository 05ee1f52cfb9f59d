"""One client's way through the feed: batches sealed after its cursor, from the database, then those to come, live.

There is no gap and no repeat: the reader subscribes before its last look at the database, and passes on once what
both hold. A client that reads too slowly for its buffer is let go with its cursor, from where it can go on.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from typing import Final

import trio

from node.coordination.certified_result import CertifiedResult
from node.delivery.cursor import START, Cursor
from node.delivery.feed import Feed
from node.delivery.filters import Filter
from node.delivery.history import sealed_since
from node.delivery.messages import Chunk
from node.delivery.rendering import BatchRenderer, batch_end, rendered
from node.delivery.subscriber import Sink, Subscriber
from storage import batches
from storage.database import Database

PAGE_BATCHES: Final = 16


class FeedReader:
    """Yields a client's chunks in order. ``cursor`` is where it stands: all before was yielded, or not wanted."""

    def __init__(
        self, database: Database, feed: Feed, wanted: Filter, start: Cursor | None, sink: Sink | None = None
    ) -> None:
        """Args:
        start: None for what comes from now on.
        sink: Takes live chunks at once where it can; ``chunks`` then yields only what it would not take.
        """
        self._database = database
        self._feed = feed
        self.wanted = wanted
        self._start = start
        self._sink = sink
        self._subscriber: Subscriber | None = None
        self._cursor = start or START
        self._is_live = False

    @property
    def cursor(self) -> Cursor:
        """Where the client stands, including all that was yielded or written."""
        subscriber = self._subscriber
        if subscriber is None or not self.is_live:
            return self._cursor
        if subscriber.is_cut_off or not subscriber.is_empty:
            return self._cursor
        return max(self._cursor, subscriber.cursor, self._feed.handed)

    @property
    def is_live(self) -> bool:
        """Whether all stored batches were read: what is handed out now is written or yielded next."""
        return self._subscriber is not None and self._is_live

    def open(self) -> None:
        """Fix the cursor of a client that wants what comes from now on; else it is fixed with the first chunk."""
        if self._start is None and self._subscriber is None:
            self._subscriber = self._feed.subscribe(self.wanted, self._sink)
            self._start = self._cursor = self._subscriber.cursor

    def close(self) -> None:
        """Buffer nothing more."""
        if self._subscriber is not None:
            self._feed.unsubscribe(self._subscriber)
            self._subscriber, self._is_live = None, False

    def wake(self) -> None:
        """Let ``chunks`` yield soon, if only None."""
        if self._subscriber is not None:
            self._subscriber.wake()

    async def chunks(self, patience_s: float | Callable[[], float]) -> AsyncGenerator[Chunk | None, None]:
        """Chunk after chunk; None whenever there was none for ``patience_s``, and now and then among old ones.

        Ends where the client was cut off: it read more slowly than events came.
        """
        patience = patience_s if callable(patience_s) else lambda: patience_s
        self.open()
        while True:
            if self._subscriber is None:
                async with aclosing(self._stored_chunks()) as stored:
                    async for chunk in stored:
                        yield chunk
            async with aclosing(self._live_chunks(patience)) as live:
                async for chunk in live:
                    yield chunk
            missed = self._subscriber is not None and self._subscriber.missed
            self.close()
            if not missed:
                return

    async def _live_chunks(self, patience: Callable[[], float]) -> AsyncGenerator[Chunk | None, None]:
        """What the feed hands out, until it cuts the client off."""
        subscriber = self._subscriber
        assert subscriber is not None, "open or the stored chunks subscribed"
        self._is_live = True
        while True:
            with trio.move_on_after(max(0.0, patience())):
                await subscriber.wait()
            chunk = subscriber.pop()
            if chunk is not None:
                chunk = chunk.after(self._cursor)
                self._cursor = max(self._cursor, chunk.last)
                if chunk.messages:
                    yield chunk
            elif subscriber.is_cut_off:
                self._cursor = max(self._cursor, subscriber.cursor)
                return
            else:
                yield None

    async def _stored_chunks(self) -> AsyncGenerator[Chunk | None, None]:
        """What was sealed after the cursor, page by page; subscribes when a page comes back short."""
        sealed_after = self._cursor.sequence - 1  # the batch of the cursor may have events left
        while True:
            page = await self._database.run(partial(sealed_since, sequence=sealed_after, limit=PAGE_BATCHES))
            for sealed in page:
                sealed_after = sealed.sequence
                chunk = await self._stored_chunk(sealed)
                self._cursor = max(self._cursor, batch_end(sealed))
                if chunk is not None and chunk.messages:
                    yield chunk
            yield None
            if len(page) == PAGE_BATCHES:
                continue
            if self._subscriber is not None:
                self._subscriber.cursor = max(self._subscriber.cursor, self._cursor)
                return
            self._subscriber = self._feed.subscribe(self.wanted, self._sink)  # and one more look

    async def _stored_chunk(self, sealed: CertifiedResult) -> Chunk | None:
        if not self.wanted.matches(sealed):
            return None
        after = self._cursor.position if sealed.sequence == self._cursor.sequence else 0
        renderer = BatchRenderer(sealed, self._feed.counts)
        [chunk] = await rendered(renderer, [(self.wanted.selection, self.wanted.options)], after)
        return chunk


async def begin(feed: Feed, database: Database) -> None:
    """Set where a feed stands, before anything is published."""
    found = await database.run(batches.last_sealed)
    if found is not None:
        sequence, events, batch_id = found
        feed.begin(Cursor(sequence=sequence, position=events), batch_id)
