"""One client's WebSocket: messages with their sequence, filters that change, acknowledgements, credit."""

import math
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any, Final, TypeAlias

import attrs
import orjson
import structlog
import trio
from quart import Websocket

from node.api.connection import Connection
from node.api.events_sse import dropped
from node.api.problems import PROBLEMS
from node.delivery import encodings
from node.delivery.criteria import criteria_document, read_criteria
from node.delivery.cursor import Cursor, read_cursor
from node.delivery.feed import Feed
from node.delivery.feed_reader import FeedReader
from node.delivery.filters import Filter
from node.delivery.heartbeats import Heartbeats
from node.delivery.messages import Chunk, encoded
from node.delivery.subscriber import Sink
from node.runtime.clock import clock_ms
from node.runtime.token_bucket import Rate, TokenBucket
from protocols.canonical import parse_json
from protocols.certificate import rfc3339
from protocols.errors import ClientFault, OverlayError, WorldFault

log = structlog.get_logger(__name__)

MESSAGE_CHARS_MAX: Final = 32 * 1024
MESSAGE_RATE: Final = Rate(per_s=20.0, burst=50.0)  # of one client
FAULTS_MAX: Final = 5  # then the connection is closed
CREDIT_MAX: Final = 1_000_000
ID_CHARS_MAX: Final = 64
TOLD_MAX: Final = 16  # answers that wait to be written; then the client is not heard further
CLOSING_S: Final = 2.0
LOOK_S: Final = 1.0
NORMAL, GOING_AWAY, POLICY, FAILED, TRY_LATER = (
    1000,
    1001,
    1008,
    1011,
    1013,
)  # RFC 6455, section 7.4.1, and its registry

MEMBERS: Final = {
    "subscribe": ("filter", "since", "id"),
    "ack": ("sequence",),
    "credit": ("events",),
    "ping": ("id",),
}


class InvalidMessageError(ClientFault):
    """A client's message that is not understood; ``field`` is a JSON pointer."""

    code = "invalid-message"


class TooManyMessagesError(ClientFault):
    code = "too-many-messages"


@attrs.frozen(kw_only=True)
class Wish:
    """A new filter. ``start``: None for where the client stands."""

    wanted: Filter
    start: Cursor | None
    name: str | None


@attrs.frozen
class Ending:
    """How a connection is closed."""

    code: int
    reason: str


Told: TypeAlias = Wish | Ending | Callable[[], bytes]  # the last: an answer, made when it is written


@attrs.frozen(kw_only=True)
class Own:
    """What a socket has of its client and of the subscription it serves.

    Attributes:
        may_stay: Asked with every heartbeat: whether the client may still read.
        acknowledge: Told what the client has taken; None where there is no subscription.
        ends_s: When it expires, by trio's clock.
    """

    may_stay: Callable[[], Awaitable[bool]]
    acknowledge: Callable[[Cursor], None] | None = None
    ends_s: float = math.inf


class EventSocket:
    """Two tasks: one hears the client, one writes; what is heard goes to the writer in order."""

    def __init__(
        self,
        read: Callable[[Filter, Cursor | None, Sink | None], FeedReader],
        feed: Feed,
        heartbeats: Heartbeats,
        socket: Websocket,
        line: Connection | None,
        own: Own,
    ) -> None:
        self._own = own
        self._read = read
        self._feed = feed
        self._heartbeats = heartbeats
        self._socket = socket
        self._line = line
        self._beat_s = 0.0
        self._credit: int | None = None
        self._acknowledged: Cursor | None = None
        self._inside: Cursor | None = None  # the last message sent of a chunk that is not sent whole
        self._wish: Wish | None = None
        self._ending: Ending | None = None
        self._news = trio.Event()
        self._tell, self._told = trio.open_memory_channel[Told](TOLD_MAX)

    async def serve(self, wanted: Filter, start: Cursor | None) -> None:
        """Serve an accepted WebSocket until the client, the node or a fault ends it."""
        self._reading = self._reader(wanted, start)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen)
            try:
                await self._write()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # the client is gone
            finally:
                self._reading.close()
            nursery.cancel_scope.cancel()

    @property
    def _place(self) -> Cursor:
        return self._inside or self._reading.cursor

    # --- writing ---------------------------------------------------------------------------------------------

    async def _write(self) -> None:
        """Write until there is an ending, then close with it."""
        try:
            self._beat_s = self._heartbeats.next_s()
            await self._say(
                self._heartbeats.current().at(self._place)
            )  # so that the client has a place from the start
            while self._ending is None:
                await self._read_on()
                if self._wish is not None:
                    await self._change(self._wish)
        except WorldFault as fault:
            log.warning("stream.failed", code=fault.code, why=str(fault))
            await self._say(error_message(fault))
            self._ending = Ending(FAILED, fault.code)
        await self._socket.close(self._ending.code, self._ending.reason)
        await trio.sleep(CLOSING_S)  # cut short when the client closes; what it still sends must not reset this

    async def _read_on(self) -> None:
        """Write one reading, until a wish, an ending, or being cut off."""
        async with aclosing(self._reading.chunks(self._patience)) as chunks:
            async for chunk in chunks:
                if self._line is not None:
                    await self._line.flush()
                if chunk is not None:
                    await self._pay(chunk)
                await self._between()
                if self._wish is not None or self._ending is not None:
                    return
        if self._credit is not None:  # it holds back by agreement: what it missed is read from the database
            self._reading = self._reader(self._reading.wanted, self._reading.cursor)
            return
        more = {} if self._acknowledged is None else {"acknowledged": str(self._acknowledged)}
        await self._say(dropped(self._place, remedy="reconnect with since", **more))
        self._ending = Ending(TRY_LATER, "too slow")

    async def _pay(self, chunk: Chunk) -> None:
        """Write a chunk, as far as there is credit; wait for more, and let be what a new filter replaces."""
        if self._credit is None:
            await self._send(chunk)
            return
        messages = chunk.messages
        first = messages[0].cursor
        self._inside = first._replace(position=first.position - 1)
        while messages:
            if not self._credit:
                await self._wait_for_credit()
                if self._wish is not None or self._ending is not None:
                    return
                continue
            paid, messages = messages[: self._credit], messages[self._credit :]
            self._credit -= len(paid)
            self._inside = paid[-1].cursor
            await self._send(Chunk(last=self._inside, messages=paid))
        self._inside = None

    async def _wait_for_credit(self) -> None:
        self._news = trio.Event()
        if not self._told.statistics().current_buffer_used:
            with trio.move_on_after(min(LOOK_S, max(0.0, self._beat_s - trio.current_time()))):
                await self._news.wait()
        await self._between()

    async def _between(self) -> None:
        """What is not of the feed: answers, heartbeats, the end."""
        while self._wish is None and self._ending is None:
            try:
                told = self._told.receive_nowait()
            except trio.WouldBlock:
                break
            if isinstance(told, Wish):
                self._wish = told
            elif isinstance(told, Ending):
                self._ending = told
            else:
                await self._say(told())
        if trio.current_time() >= self._beat_s:
            await self._say(self._heartbeat())
            if self._ending is None and not await self._own.may_stay():
                self._ending = Ending(POLICY, "the stream may not be read any more")
        if self._feed.closing and self._ending is None:
            self._ending = Ending(GOING_AWAY, "the node stops")
        elif trio.current_time() >= self._own.ends_s and self._ending is None:
            self._ending = Ending(NORMAL, "the subscription has expired")

    async def _change(self, wish: Wish) -> None:
        """Go on with another filter, from where the client stands or says."""
        self._wish = None
        place = self._place if wish.start is None else wish.start
        self._reading.close()
        self._inside = None
        self._reading = self._reader(wish.wanted, place)
        answer = {"type": "subscribed", "sequence": str(place), "filter": criteria_document(wish.wanted)}
        await self._say(orjson.dumps(answer if wish.name is None else {**answer, "id": wish.name}))

    def _reader(self, wanted: Filter, start: Cursor | None) -> FeedReader:
        outlet = None if self._line is None else Sink(encoding=encodings.frames, try_write=self._take)
        reading = self._read(wanted, start, outlet)
        reading.open()
        return reading

    def _take(self, data: bytes) -> bool:
        assert self._line is not None, "it is the line's outlet"
        if self._credit is not None or not self._line.take(data):
            return False
        if self._line.has_rest:
            self._reading.wake()
        return True

    def _patience(self) -> float:
        next_s = min(self._beat_s, self._own.ends_s)
        return 0.0 if self._told.statistics().current_buffer_used else next_s - trio.current_time()

    def _heartbeat(self) -> bytes:
        self._beat_s = self._heartbeats.next_s()
        beat, place = self._heartbeats.current(), self._place
        return beat.body if place >= beat.head else beat.at(place)

    async def _send(self, chunk: Chunk) -> None:
        if self._line is not None:
            await self._line.send(await encoded(chunk, encodings.frames))
            return
        for message in chunk.messages:
            await self._socket.send(encodings.numbered(message.body, message.cursor).decode())

    async def _say(self, body: bytes) -> None:
        if self._line is not None:
            await self._line.send(encodings.frame(body))
        else:
            await self._socket.send(body.decode())

    # --- hearing ---------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        """Hear the client out, within bounds; whoever talks nonsense too often is sent away."""
        allowed, faults = TokenBucket(MESSAGE_RATE, trio.current_time), 0
        while faults < FAULTS_MAX:
            text = await self._socket.receive()
            try:
                if not allowed.take():
                    raise TooManyMessagesError(
                        f"more than {MESSAGE_RATE.per_s:.0f} messages a second", remedy="send fewer"
                    )
                answer = self._understood(text)
            except ClientFault as fault:
                faults += 1
                answer = partial(error_message, fault)
            await self._tell.send(answer)
            self._nudge()
        await self._tell.send(Ending(POLICY, "too many messages that were not understood"))
        self._nudge()
        while True:
            await self._socket.receive()

    def _nudge(self) -> None:
        self._news.set()
        self._reading.wake()

    def _understood(self, text: str | bytes) -> "Told":
        """What the writer is to do about a message.

        Raises:
            ClientFault: It is not understood.
        """
        document = read_message(text)
        match document["type"]:
            case "subscribe":
                if self._own.acknowledge is not None:
                    raise InvalidMessageError(
                        "the subscription says what is sent", field="/type", remedy="change the subscription"
                    )
                return _wish(document)
            case "ack":
                return self._acknowledge(document)
            case "credit":
                return self._grant(document)
        return partial(self._pong, document)

    def _pong(self, document: Mapping[str, Any]) -> bytes:
        pong = {"type": "pong", "timestamp": rfc3339(clock_ms()), "sequence": str(self._place)}
        return orjson.dumps({**pong, "id": document["id"]} if "id" in document else pong)

    def _acknowledge(self, document: Mapping[str, Any]) -> "Told":
        place = _read_sequence(document, "sequence")
        if place > self._place:
            raise InvalidMessageError(
                f"nothing was sent past {self._place}", field="/sequence", remedy="acknowledge what was received"
            )
        self._acknowledged = place if self._acknowledged is None else max(place, self._acknowledged)
        if self._own.acknowledge is not None:
            self._own.acknowledge(self._acknowledged)
        return partial(orjson.dumps, {"type": "acked", "sequence": str(self._acknowledged)})

    def _grant(self, document: Mapping[str, Any]) -> "Told":
        events = document.get("events")
        if type(events) is not int or not 0 <= events <= CREDIT_MAX:
            raise InvalidMessageError(
                "'events' is no window", field="/events", remedy=f"send a number from 0 to {CREDIT_MAX}"
            )
        return partial(self._granted, events)

    def _granted(self, events: int) -> bytes:
        self._credit = events
        return orjson.dumps({"type": "credit", "events": events, "sequence": str(self._place)})


def read_message(text: str | bytes) -> dict[str, Any]:
    """A client's message in its form.

    Raises:
        InvalidJsonError, InvalidMessageError: It is none.
    """
    if not isinstance(text, str) or len(text) > MESSAGE_CHARS_MAX:
        raise InvalidMessageError(
            f"no text of at most {MESSAGE_CHARS_MAX} characters", field="", remedy="send JSON objects as text"
        )
    document = parse_json(text.encode())
    kind = document.get("type") if isinstance(document, dict) else None
    known = MEMBERS.get(kind) if isinstance(kind, str) else None
    if not isinstance(document, dict) or known is None:
        raise InvalidMessageError(
            "no message that is known here", field="/type", remedy=f"send an object of type {', '.join(MEMBERS)}"
        )
    for name in document:
        if name != "type" and name not in known:
            raise InvalidMessageError(
                f"unknown member {name[:80]!r}", field=f"/{name[:80]}", remedy=f"known are {', '.join(known)}"
            )
    own_id = document.get("id", "")
    if not isinstance(own_id, str) or len(own_id) > ID_CHARS_MAX:
        raise InvalidMessageError("'id' is no short text", field="/id", remedy=f"up to {ID_CHARS_MAX} characters")
    return document


def _wish(document: Mapping[str, Any]) -> Wish:
    criteria = document.get("filter", {})
    if not isinstance(criteria, dict):
        raise InvalidMessageError("'filter' is no object", field="/filter", remedy="send filter criteria")
    start = _read_sequence(document, "since") if "since" in document else None
    return Wish(wanted=read_criteria(criteria), start=start, name=document.get("id"))


def _read_sequence(document: Mapping[str, Any], member: str) -> Cursor:
    text = document.get(member)
    try:
        return read_cursor(text if isinstance(text, str) else "")
    except ValueError as error:
        raise InvalidMessageError(
            f"{member!r} is no place in the feed", field=f"/{member}", remedy="use a sequence that was received"
        ) from error


def error_message(fault: OverlayError) -> bytes:
    """A fault as a message: the members of a problem document, with the code by itself."""
    status, title, remedy = PROBLEMS.get(fault.code, PROBLEMS["internal"])
    problem = {"title": title, "status": status, "detail": str(fault), "remedy": remedy, **fault.fields}
    return orjson.dumps({"type": "error", "code": fault.code, **problem})
