"""One client's server-sent events."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

import orjson
import structlog
import trio

from node.api.connection import Connection
from node.api.stream_clients import StreamClient
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


def dropped(cursor: Cursor, **more: str) -> bytes:
    """The message to a client whose buffer overflowed: everything up to the cursor was sent."""
    return orjson.dumps(
        {
            "type": "dropped",
            "timestamp": rfc3339(clock_ms()),
            "lastEventId": str(cursor),
            "reason": TOO_SLOW,
            **more,
        }
    )


class EventStream:
    """The bytes that one client gets, in order.

    With a connection they are written to it directly, and the feed writes live messages itself; without one (HTTP/2)
    every part goes through the server.
    """

    def __init__(
        self,
        read: Callable[[Sink | None], FeedReader],
        feed: Feed,
        heartbeats: Heartbeats,
        connection: Connection | None,
        *,
        gzip: bool,
        client: StreamClient,
    ) -> None:
        self._client = client
        self._feed = feed
        self._heartbeats = heartbeats
        self._connection = connection
        self._gzip = gzip
        self._encoding = encodings.sse_gzip if gzip else encodings.sse
        self._in_parts = encodings.sse_gzip_parts if gzip else encodings.sse_parts
        self._reader = read(None if connection is None else Sink(encoding=self._in_parts, try_write=self._take))
        self._reader.open()

    async def parts(self) -> AsyncGenerator[bytes, None]:
        """What is not written to the connection directly. Ends when the node or the client does."""
        yield (encodings.GZIP_HEADER if self._gzip else b"") + self._encoded(self._hello())
        try:
            async with aclosing(self._messages()) as messages:
                async for message in messages:
                    if self._connection is None:
                        for start in range(0, len(message), WRITE_BYTES):
                            yield message[start : start + WRITE_BYTES]
                    else:
                        await self._connection.send(message)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        except WorldFault as fault:  # the client comes back with its place
            log.warning("stream.failed", code=fault.code, why=str(fault))
        finally:
            self._reader.close()

    async def _messages(self) -> AsyncGenerator[bytes, None]:
        """Everything, in the form that goes out."""
        encoding = self._encoding if self._connection is None else self._in_parts
        heartbeat_s = self._heartbeats.next_s()
        async with aclosing(
            self._reader.chunks(lambda: min(heartbeat_s, self._client.ends_s) - trio.current_time())
        ) as chunks:
            async for chunk in chunks:
                if self._connection is not None:
                    await self._connection.flush()
                if chunk is not None:
                    yield await encoded(chunk, encoding)
                if trio.current_time() >= heartbeat_s:
                    if not await self._client.may_stay():
                        return
                    heartbeat_s = self._heartbeats.next_s()
                    yield self._written(self._heartbeat())
                if self._feed.closing or trio.current_time() >= self._client.ends_s:
                    return
        yield self._written(encodings.event(dropped(self._reader.cursor, remedy="reconnect with Last-Event-ID")))

    def _hello(self) -> bytes:
        """A heartbeat at once, so that a client cut off before the first event knows its place."""
        return b": connected\nretry: %d\n%b" % (RETRY_MS, self._heartbeat())

    def _heartbeat(self) -> bytes:
        """Its id moves the client on, also where nothing was for it."""
        cursor = self._reader.cursor
        return encodings.event(self._heartbeats.current().message_for(cursor), cursor)

    def _take(self, data: bytes) -> bool:
        assert self._connection is not None, "it is the connection's sink"
        taken = self._connection.take(data)
        if self._connection.has_rest:
            self._reader.wake()
        return taken

    def _encoded(self, text: bytes) -> bytes:
        return encodings.block(text) if self._gzip else text

    def _written(self, text: bytes) -> bytes:
        encoded = self._encoded(text)
        return encoded if self._connection is None else encodings.part(encoded)
