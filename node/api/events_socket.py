"""One client's WebSocket: messages with their sequence, filters that change, acknowledgements, credit."""

from collections.abc import Callable
from contextlib import aclosing
from typing import Final

import structlog
import trio
from quart import Websocket

from node.api.connection import Connection
from node.api.events_sse import dropped
from node.api.socket_listener import POLICY, Command, SocketListener
from node.api.socket_messages import (
    ChangeFilter,
    Ending,
    GrantCredit,
    Ping,
    credit_message,
    error_message,
    pong_message,
    subscribed_message,
)
from node.api.socket_output import SocketOutput
from node.api.stream_clients import StreamClient
from node.delivery import encodings
from node.delivery.cursor import AheadOfFeedError, Cursor
from node.delivery.feed import Feed
from node.delivery.feed_reader import FeedReader
from node.delivery.filters import Filter
from node.delivery.heartbeats import Heartbeats
from node.delivery.messages import Chunk
from node.delivery.subscriber import Sink
from protocols.errors import WorldFault

log = structlog.get_logger(__name__)

CLOSING_S: Final = 2.0
LOOK_S: Final = 1.0
NORMAL, GOING_AWAY, FAILED, TRY_LATER = (1000, 1001, 1011, 1013)  # RFC 6455, section 7.4.1, and its registry


class EventSocket:
    """Two tasks: one reads what the client sends, one writes; commands go to the writer in their order."""

    def __init__(
        self,
        read: Callable[[Filter, Cursor | None, Sink | None], FeedReader],
        feed: Feed,
        heartbeats: Heartbeats,
        socket: Websocket,
        connection: Connection | None,
        client: StreamClient,
    ) -> None:
        self._client = client
        self._read = read
        self._feed = feed
        self._heartbeats = heartbeats
        self._output = SocketOutput(socket, connection)
        self._listener = SocketListener(socket, client, sent=lambda: self._cursor, wake=self._wake)
        self._heartbeat_s = 0.0
        self._credit: int | None = None
        self._inside: Cursor | None = None  # the last message sent of a chunk that is not sent whole
        self._change: ChangeFilter | None = None
        self._ending: Ending | None = None
        self._woken = trio.Event()

    async def serve(self, wanted: Filter, start: Cursor | None) -> None:
        """Serve an accepted WebSocket until the client, the node or a fault ends it."""
        self._reader = self._opened(wanted, start)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listener.run)
            try:
                await self._write()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # the client is gone
            finally:
                self._reader.close()
            nursery.cancel_scope.cancel()

    @property
    def _cursor(self) -> Cursor:
        return self._inside or self._reader.cursor

    async def _write(self) -> None:
        """Write until there is an ending, then close with it."""
        try:
            self._heartbeat_s = self._heartbeats.next_s()
            # at once, so that the client has a place from the start
            await self._output.send(self._heartbeats.current().at(self._cursor))
            while self._ending is None:
                await self._write_reading()
                if self._change is not None:
                    await self._change_filter(self._change)
        except WorldFault as fault:
            log.warning("stream.failed", code=fault.code, why=str(fault))
            await self._output.send(error_message(fault))
            self._ending = Ending(FAILED, fault.code)
        await self._output.close(self._ending.code, self._ending.reason)
        await trio.sleep(CLOSING_S)  # cut short when the client closes; what it still sends must not reset this

    async def _write_reading(self) -> None:
        """Write one reading, until another filter, an ending, or an overflow."""
        async with aclosing(self._reader.chunks(self._patience)) as chunks:
            async for chunk in chunks:
                await self._output.flush()
                if chunk is not None:
                    await self._write_chunk(chunk)
                await self._attend()
                if self._is_interrupted:
                    return
        if self._credit is not None:  # it holds back by agreement: what it missed is read from the database
            self._reader = self._opened(self._reader.wanted, self._reader.cursor)
            return
        acknowledged = self._listener.acknowledged
        more = {} if acknowledged is None else {"acknowledged": str(acknowledged)}
        await self._output.send(dropped(self._cursor, remedy="reconnect with since", **more))
        self._ending = Ending(TRY_LATER, "too slow")

    @property
    def _is_interrupted(self) -> bool:
        return self._change is not None or self._ending is not None

    async def _write_chunk(self, chunk: Chunk) -> None:
        """Write a chunk as far as there is credit; wait for more, and leave the rest where the filter changes."""
        if self._credit is None:
            await self._output.send_chunk(chunk)
            return
        messages = chunk.messages
        first = messages[0].cursor
        self._inside = first._replace(position=first.position - 1)
        while messages:
            if not self._credit:
                await self._wait_for_credit()
                if self._is_interrupted:
                    return
                continue
            paid, messages = messages[: self._credit], messages[self._credit :]
            self._credit -= len(paid)
            self._inside = paid[-1].cursor
            await self._output.send_chunk(Chunk(last=self._inside, messages=paid))
        self._inside = None

    async def _wait_for_credit(self) -> None:
        self._woken = trio.Event()
        if not self._listener.has_commands:
            with trio.move_on_after(min(LOOK_S, max(0.0, self._heartbeat_s - trio.current_time()))):
                await self._woken.wait()
        await self._attend()

    async def _attend(self) -> None:
        """Everything that is not of the feed: commands, heartbeats, the end."""
        while not self._is_interrupted and (command := self._listener.next_command()) is not None:
            await self._obey(command)
        if trio.current_time() >= self._heartbeat_s:
            self._heartbeat_s = self._heartbeats.next_s()
            await self._output.send(self._heartbeats.current().message_for(self._cursor))
            if self._ending is None and not await self._client.may_stay():
                self._ending = Ending(POLICY, "the stream may not be read any more")
        if self._feed.closing and self._ending is None:
            self._ending = Ending(GOING_AWAY, "the node stops")
        elif trio.current_time() >= self._client.ends_s and self._ending is None:
            self._ending = Ending(NORMAL, "the subscription has expired")

    async def _obey(self, command: Command) -> None:
        match command:
            case ChangeFilter():
                self._change = command
            case Ending():
                self._ending = command
            case GrantCredit(events):
                self._credit = events
                await self._output.send(credit_message(events, self._cursor))
            case Ping():
                await self._output.send(pong_message(command, self._cursor))
            case reply:
                await self._output.send(reply())

    async def _change_filter(self, change: ChangeFilter) -> None:
        """Go on with another filter, from the place requested, else from the client's own."""
        self._change = None
        if change.start is not None:
            try:
                await self._client.check_place(change.start)
            except AheadOfFeedError as fault:
                await self._output.send(error_message(fault))
                return
        cursor = self._cursor if change.start is None else change.start
        self._reader.close()
        self._inside = None
        self._reader = self._opened(change.wanted, cursor)
        await self._output.send(subscribed_message(change, cursor))

    def _opened(self, wanted: Filter, start: Cursor | None) -> FeedReader:
        sink = Sink(encoding=encodings.frames, try_write=self._try_write) if self._output.is_direct else None
        reader = self._read(wanted, start, sink)
        reader.open()
        return reader

    def _try_write(self, frames: bytes) -> bool:
        if self._credit is not None or not self._output.try_write(frames):
            return False
        if self._output.is_behind:
            self._reader.wake()
        return True

    def _patience(self) -> float:
        next_s = min(self._heartbeat_s, self._client.ends_s)
        return 0.0 if self._listener.has_commands else next_s - trio.current_time()

    def _wake(self) -> None:
        self._woken.set()
        self._reader.wake()
