"""A first-in, first-out line of ids as a value: adding and taking copies few references, however long it is."""

from typing import Final

import attrs

CHUNK: Final = 256


@attrs.frozen
class Fifo:
    """Ids in their order, in chunks of at most ``CHUNK``: a change copies one chunk and the list of chunks.

    At 100,000 ids that is at most 650 references; one flat tuple would copy them all.
    """

    chunks: tuple[tuple[str, ...], ...] = ()
    size: int = 0

    def added(self, item: str) -> "Fifo":
        """The line with an id at its end."""
        if self.chunks and len(self.chunks[-1]) < CHUNK:
            return Fifo((*self.chunks[:-1], (*self.chunks[-1], item)), self.size + 1)
        return Fifo((*self.chunks, (item,)), self.size + 1)

    def put_first(self, item: str) -> "Fifo":
        """The line with an id at its head."""
        if self.chunks and len(self.chunks[0]) < CHUNK:
            return Fifo(((item, *self.chunks[0]), *self.chunks[1:]), self.size + 1)
        return Fifo(((item,), *self.chunks), self.size + 1)

    def taken(self) -> tuple[str, "Fifo"]:
        """The first id, and the line without it."""
        assert self.chunks, "an empty line has no first"
        first, *rest = self.chunks[0]
        return first, Fifo((tuple(rest), *self.chunks[1:]) if rest else self.chunks[1:], self.size - 1)
