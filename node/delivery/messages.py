"""Events as clients get them, in chunks that are made once for all clients that want the same."""

import functools
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import attrs
import trio

from node.delivery.cursor import Cursor

ENCODE_BYTES_MAX: Final = 256 * 1024  # smaller chunks are encoded on the event loop


@attrs.frozen(kw_only=True)
class EventMessage:
    """One event as clients get it: the position in the feed after it, and the JSON object."""

    cursor: Cursor
    body: bytes


@attrs.frozen(kw_only=True, slots=False, eq=False)
class Chunk:
    """Messages made once for all who want them, of one batch or of several in their order.

    Attributes:
        last: The position after all of it, whether its last event is a message or not.
    """

    last: Cursor
    messages: tuple[EventMessage, ...]
    _encoded: dict["Encoding", bytes] = attrs.field(init=False, factory=dict, repr=False)

    @functools.cached_property
    def size(self) -> int:
        """Bytes of its messages."""
        return sum(len(message.body) for message in self.messages)

    def after(self, cursor: Cursor) -> "Chunk":
        """The part of it that comes after a cursor: the chunk itself where that is all."""
        if not self.messages or cursor < self.messages[0].cursor:
            return self
        return Chunk(last=self.last, messages=tuple(each for each in self.messages if cursor < each.cursor))

    def is_encoded(self, encoding: "Encoding") -> bool:
        return encoding in self._encoded

    def encoded(self, encoding: "Encoding") -> bytes:
        """The chunk in an encoding; computed by the first who asks for it."""
        found = self._encoded.get(encoding)
        if found is None:
            found = self._encoded[encoding] = encoding(self)
        return found


Encoding: TypeAlias = Callable[[Chunk], bytes]


def merged(chunks: Sequence[Chunk]) -> Chunk:
    """Several chunks, in their order, as one. ``chunks`` is not empty."""
    if len(chunks) == 1:
        return chunks[0]
    return Chunk(last=chunks[-1].last, messages=tuple(message for chunk in chunks for message in chunk.messages))


async def encoded(chunk: Chunk, encoding: Encoding) -> bytes:
    """The bytes of a chunk, computed in a thread where that takes long."""
    if chunk.size <= ENCODE_BYTES_MAX or chunk.is_encoded(encoding):
        return chunk.encoded(encoding)
    return await trio.to_thread.run_sync(chunk.encoded, encoding)
