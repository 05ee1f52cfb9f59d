"""One client's server-sent events."""

import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Final

import orjson
import structlog
import trio

from node.api.connection import Connection
from node.delivery import encodings
from node.delivery.cursor import Cursor
from node.delivery.feed import Feed
from node.delivery.feed_reader import FeedReader
from node.delivery.heartbeats import Heartbeats
from node.delivery.messages import encoded
from node.delivery.subscriber import Sink
from node.runtime.clock import clock_ms
from protocols.certificate import rfc3339
from protocols.errors import WorldFault

log = structlog.get_logger(__name__)

WRITE_BYTES: Final = 64 * 1024
RETRY_MS: Final = 2_000  # after which clients come back by themselves
TOO_SLOW: Final = "the client read more slowly than events were certified"


def dropped(place: Cursor, **more: str) -> bytes:
    """Told to a client whose buffer overflowed: everything up to the place was sent."""
    return orjson.dumps(
        {
            "type": "dropped",
            "timestamp": rfc3339(clock_ms()),
            "lastEventId": str(place),
            "reason": TOO_SLOW,
            **more,
        }
    )


class EventStream:
    """The bytes that one client gets, in order.

    With a line they go straight to the connection, and what is live is taken from the feed's own hands; without
    one (HTTP/2) every part goes through the server.
    """

    def __init__(
        self,
        read: Callable[[Sink | None], FeedReader],
        feed: Feed,
        heartbeats: Heartbeats,
        line: Connection | None,
        *,
        gzip: bool,
        may_stay: Callable[[], Awaitable[bool]],
        ends_s: float = math.inf,
    ) -> None:
        """Args:
        may_stay: Asked with every heartbeat: whether the client may still read. It hears why when it comes back.
        ends_s: When the stream ends by itself, by trio's clock.
        """
        self._may_stay = may_stay
        self._ends_s = ends_s
        self._feed = feed
        self._heartbeats = heartbeats
        self._line = line
        self._gzip = gzip
        self._form = encodings.sse_gzip if gzip else encodings.sse
        self._in_parts = encodings.sse_gzip_parts if gzip else encodings.sse_parts
        self._reading = read(None if line is None else Sink(encoding=self._in_parts, try_write=self._take))
        self._reading.open()

    async def parts(self) -> AsyncGenerator[bytes, None]:
        """The stream's bytes, as far as they do not go to the line. Ends when the node or the client does."""
        yield (encodings.GZIP_HEADER if self._gzip else b"") + self._encoded(self._hello())
        try:
            async with aclosing(self._messages()) as messages:
                async for message in messages:
                    if self._line is None:
                        for start in range(0, len(message), WRITE_BYTES):
                            yield message[start : start + WRITE_BYTES]
                    else:
                        await self._line.send(message)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        except WorldFault as fault:  # the client comes back with its place
            log.warning("stream.failed", code=fault.code, why=str(fault))
        finally:
            self._reading.close()

    async def _messages(self) -> AsyncGenerator[bytes, None]:
        """Everything, in the form that goes out."""
        form = self._form if self._line is None else self._in_parts
        beat_s = self._heartbeats.next_s()
        async with aclosing(self._reading.chunks(lambda: min(beat_s, self._ends_s) - trio.current_time())) as chunks:
            async for chunk in chunks:
                if self._line is not None:
                    await self._line.flush()
                if chunk is not None:
                    yield await encoded(chunk, form)
                if trio.current_time() >= beat_s:
                    if not await self._may_stay():
                        return
                    beat_s = self._heartbeats.next_s()
                    yield self._written(self._heartbeat())
                if self._feed.closing or trio.current_time() >= self._ends_s:
                    return
        yield self._written(encodings.event(dropped(self._reading.cursor, remedy="reconnect with Last-Event-ID")))

    def _hello(self) -> bytes:
        """A heartbeat at once, so that a client cut off before the first event knows its place."""
        return b": connected\nretry: %d\n%b" % (RETRY_MS, self._heartbeat())

    def _heartbeat(self) -> bytes:
        """Its id moves the client on, also where nothing was for it."""
        beat, place = self._heartbeats.current(), self._reading.cursor
        return encodings.event(beat.body if place >= beat.head else beat.at(place), place)

    def _take(self, data: bytes) -> bool:
        assert self._line is not None, "it is the line's outlet"
        taken = self._line.take(data)
        if self._line.has_rest:
            self._reading.wake()
        return taken

    def _encoded(self, text: bytes) -> bytes:
        return encodings.block(text) if self._gzip else text

    def _written(self, text: bytes) -> bytes:
        encoded = self._encoded(text)
        return encoded if self._line is None else encodings.part(encoded)
