"""Messages read ahead of a receiver: enough to fill its next delivery, and no more."""

from collections import deque
from typing import Final

import trio

from node.delivery.cursor import Cursor
from node.delivery.messages import EventMessage

PREFETCH_MIN: Final = 64  # messages: fewer would have reader and sender take turns


class Prefetch:
    """A bounded buffer between one reader and one sender, which takes as much at once as there is."""

    def __init__(self, *, events_max: int, bytes_max: int) -> None:
        """Args:
        events_max: Messages taken at once at most, and ``bytes_max`` their bytes; one alone may be longer.
        """
        self._events_max = events_max
        self._bytes_max = bytes_max
        self._items: deque[EventMessage | Cursor] = deque()  # a cursor: nothing up to it is wanted
        self._messages = 0
        self._bytes = 0
        self._added = trio.Event()
        self._room = trio.Event()

    async def put(self, message: EventMessage) -> None:
        """Wait for room and take a message in."""
        while self._messages >= max(self._events_max, PREFETCH_MIN) or self._bytes >= self._bytes_max:
            self._room = trio.Event()
            await self._room.wait()
        self._items.append(message)
        self._messages += 1
        self._bytes += len(message.body)
        self._added.set()

    def passed(self, cursor: Cursor) -> None:
        """Nothing more comes up to ``cursor``."""
        if self._items and isinstance(self._items[-1], Cursor):
            self._items.pop()
        self._items.append(cursor)
        self._added.set()

    async def take(self) -> tuple[list[EventMessage], Cursor]:
        """Messages for one delivery, and the cursor after them. No messages: nothing up to the cursor is wanted."""
        while not self._items:
            self._added = trio.Event()
            await self._added.wait()
        found: list[EventMessage] = []
        size, upto = 0, Cursor(sequence=0, position=0)
        while self._items:
            item = self._items[0]
            if isinstance(item, Cursor):
                upto = item
            elif len(found) == self._events_max or (found and size + len(item.body) > self._bytes_max):
                break
            else:
                found.append(item)
                size += len(item.body)
                upto = item.cursor
            self._items.popleft()
        self._messages -= len(found)
        self._bytes -= size
        self._room.set()
        return found, upto
