"""One client's bounded buffer of the live feed."""

from collections import deque
from collections.abc import Callable, Collection
from typing import Final

import attrs
import trio

from node.delivery.cursor import Cursor
from node.delivery.filters import Filter
from node.delivery.messages import Chunk, Encoding

BUFFER_CHUNKS_MAX: Final = 256


@attrs.frozen(kw_only=True, eq=False)
class Sink:
    """How a client takes live messages without waiting.

    Attributes:
        encoding: How its bytes are written.
        try_write: Takes such bytes at once, or returns False and takes nothing. Called only while the buffer is
            empty.
    """

    encoding: Encoding
    try_write: Callable[[bytes], bool]


class Subscriber:
    """A buffer that the feed fills and one task empties. The feed cuts it off when it is full; its content stays.

    Attributes:
        cursor: Handed over, written or buffered, up to here.
        overflowed: Cut off, because the buffer was full.
        missed: Cut off, because the feed itself missed a batch.
    """

    def __init__(self, wanted: Filter, buffer_bytes_max: int, cursor: Cursor, sink: Sink | None = None) -> None:
        self.wanted = wanted
        self.cursor = cursor
        self.sink = sink
        self.overflowed = False
        self.missed = False
        self._bytes_max = buffer_bytes_max
        self._bytes = 0
        self._chunks: deque[Chunk] = deque()
        self._changed = trio.Event()
        self._waits = False

    @property
    def is_cut_off(self) -> bool:
        return self.overflowed or self.missed

    @property
    def is_empty(self) -> bool:
        """Whether everything that was handed over has been read."""
        return not self._chunks

    def offer(self, chunk: Chunk) -> None:
        """Hand a chunk over, or cut the subscriber off here if it does not fit."""
        if self.is_cut_off:
            return
        if chunk.messages[0].cursor <= self.cursor:
            chunk = chunk.after(self.cursor)
            if not chunk.messages:
                return
        sink = self.sink
        if sink is not None and self._waits and sink.try_write(chunk.encoded(sink.encoding)):
            self.cursor = chunk.last
            return
        full = len(self._chunks) >= BUFFER_CHUNKS_MAX or self._bytes + chunk.size > self._bytes_max
        if full and self._chunks:
            self.overflowed = True
        else:
            self.cursor = chunk.last
            self._chunks.append(chunk)
            self._bytes += chunk.size
        self.wake()

    def miss(self) -> None:
        """Cut the subscriber off here: a batch was not handed over."""
        self.missed = True
        self.wake()

    def wake(self) -> None:
        """Return from ``wait`` in the task that reads."""
        self._waits = False
        self._changed.set()

    def pop(self) -> Chunk | None:
        """The next chunk in the buffer, if there is one."""
        if not self._chunks:
            return None
        chunk = self._chunks.popleft()
        self._bytes -= chunk.size
        return chunk

    async def wait(self) -> None:
        """Wait for a chunk in the buffer, for being cut off, or for ``wake``."""
        if self._chunks or self.is_cut_off:
            return
        self._changed = trio.Event()
        self._waits = True
        try:
            await self._changed.wait()
        finally:
            self._waits = False


class SubscriberGroups:
    """Subscribers by filter: those with equal filters get the same chunks."""

    def __init__(self) -> None:
        self._groups: dict[Filter, set[Subscriber]] = {}
        self._count = 0

    def __len__(self) -> int:
        """How many subscribers there are."""
        return self._count

    @property
    def filters(self) -> Collection[Filter]:
        return self._groups.keys()

    def members(self, wanted: Filter) -> tuple[Subscriber, ...]:
        """The subscribers with a filter as of now."""
        return tuple(self._groups.get(wanted, ()))

    def everyone(self) -> list[Subscriber]:
        return [subscriber for group in self._groups.values() for subscriber in group]

    def add(self, subscriber: Subscriber) -> None:
        self._groups.setdefault(subscriber.wanted, set()).add(subscriber)
        self._count += 1

    def remove(self, subscriber: Subscriber) -> None:
        """Remove a subscriber; one that was removed before is ignored."""
        group = self._groups.get(subscriber.wanted, set())
        if subscriber in group:
            group.remove(subscriber)
            self._count -= 1
        if not group:
            self._groups.pop(subscriber.wanted, None)

    def expressions_with(self, wanted: Filter) -> int:
        """How many different expressions are evaluated for each batch once ``wanted`` is added."""
        expressions = [each.selection.expression for each in (*self._groups, wanted)]
        return len({expression.text for expression in expressions if expression is not None})
