"""/overlay/events/stream: certified events as server-sent events or over WebSocket, from any place in the feed on.

A client that names a place (``Last-Event-ID`` or ``since``) first gets what was sealed after it, then the live feed;
one that names a subscription goes on where that stands, with its filter. A client too slow for its buffer is told
where it stopped and let go; it comes back with that place.
"""

import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit
from weakref import finalize

import attrs
import trio
from quart import Blueprint, Request, Response, Websocket, g, request, websocket

from node.api.connection import line_of
from node.api.events_socket import EventSocket, Own
from node.api.events_sse import EventStream
from node.api.services import Services
from node.api.wire import InvalidParameterError, only_parameters
from node.delivery.criteria import InvalidCriteriaError, read_criteria
from node.delivery.cursor import Cursor, read_cursor
from node.delivery.feed_reader import FeedReader
from node.delivery.filters import Filter
from node.delivery.heartbeats import Heartbeats
from node.delivery.subscriptions import follow
from node.runtime.access import Caller, Need, NotPermittedError
from node.runtime.clock import clock_ms
from protocols.errors import ClientFault, WorldFault

LISTS: Final = ("topics", "sourceIds", "eventTypes")
WORDS: Final = ("minCertificationLevel", "status")
FLAGS: Final = ("includeProcessingEvidence", "includeCertificate")
EXPRESSION: Final = "filter"
SUBSCRIPTION: Final = "subscriptionId"
PARAMETERS: Final = (*LISTS, *WORDS, *FLAGS, EXPRESSION, "since")
BOOLEANS: Final = {"true": True, "false": False}


@attrs.frozen(kw_only=True)
class Wish:
    """What a client asks for.

    Attributes:
        start: None for what comes from now on.
        acknowledge: Told what the client has taken, where a subscription keeps its place.
        ends_s: When its subscription expires, by trio's clock.
    """

    wanted: Filter
    start: Cursor | None
    acknowledge: Callable[[Cursor], None] | None = None
    ends_s: float = math.inf


class StreamDisabledError(ClientFault):
    code = "stream-disabled"


class TooManyStreamsError(WorldFault):
    code = "too-many-streams"


def routes(services: Services) -> Blueprint:
    blueprint = Blueprint("stream", __name__)
    settings, feed, database = services.settings, services.feed, services.database
    heartbeats = Heartbeats(
        feed=feed, key=services.key, network=settings.network, interval_s=settings.heartbeat_ms / 1000
    )
    places = Places(settings.stream_clients_max)

    @blueprint.get("/overlay/events/stream")
    async def stream_events() -> Response:
        if not settings.stream_enabled:
            raise StreamDisabledError("EVENT_STREAM_SSE_ENABLED is false on this node")
        wish = await wish_of(request, "sse")
        gzip = request.accept_encodings["gzip"] > 0
        if request.method == "HEAD":
            return _answer(b"", gzip=gzip)
        feed.refuse_expression(wish.wanted)
        ticket = places.take()
        line = line_of(request.scope)
        reading = partial(FeedReader, database, feed, wish.wanted, wish.start)
        stream = EventStream(
            reading, feed, heartbeats, line, gzip=gzip, may_stay=may_stay(g.caller), ends_s=wish.ends_s
        )

        async def body() -> AsyncGenerator[bytes, None]:
            with ticket:
                async with aclosing(stream.parts()) as parts:
                    async for part in parts:
                        yield part

        parts = body()
        finalize(parts, ticket.release)  # where the client leaves before the first part is asked for
        return _answer(parts, gzip=gzip)

    @blueprint.websocket("/overlay/events/stream")
    async def stream_socket() -> None:
        if not settings.websocket_enabled:
            raise StreamDisabledError("EVENT_STREAM_WEBSOCKET_ENABLED is false on this node")
        if services.access.open_admin:
            refuse_other_origins(websocket)
        wish = await wish_of(websocket, "websocket")
        feed.refuse_expression(wish.wanted)
        with places.take():
            await websocket.accept()
            line = line_of(websocket.scope)
            read = partial(FeedReader, database, feed)
            own = Own(may_stay=may_stay(g.caller), acknowledge=wish.acknowledge, ends_s=wish.ends_s)
            socket = EventSocket(read, feed, heartbeats, websocket, line, own)
            await socket.serve(wish.wanted, wish.start)

    def may_stay(caller: Caller) -> Callable[[], Awaitable[bool]]:
        return partial(services.access.still_permits, caller, Need.READ, "stream")

    async def wish_of(asked: Request | Websocket, kind: str) -> Wish:
        if SUBSCRIPTION not in asked.args:
            wanted, start = read_wish(asked)
            return Wish(wanted=wanted, start=start)
        only_parameters(asked, SUBSCRIPTION)
        followed = await follow(
            database,
            services.cursors,
            asked.args[SUBSCRIPTION],
            caller=g.caller,
            kind=kind,
            acknowledged=read_cursor_of(asked.headers.get("Last-Event-ID")),
        )
        return Wish(
            wanted=followed.wanted,
            start=followed.cursor,
            acknowledge=partial(services.cursors.moved, followed.subscription_id, followed.revision),
            ends_s=math.inf if followed.expires_ms is None else _moment_s(followed.expires_ms),
        )

    return blueprint


def _moment_s(moment_ms: int) -> float:
    """A moment by trio's clock."""
    return trio.current_time() + (moment_ms - clock_ms()) / 1000


class Places:
    """How many streams there may be at once, of both kinds together."""

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._taken = 0

    def take(self) -> "Ticket":
        """Raises TooManyStreamsError where there is no place left."""
        if self._taken >= self._count_max:
            raise TooManyStreamsError(f"{self._count_max} streams are served already")
        self._taken += 1
        return Ticket(self._give_back)

    def _give_back(self) -> None:
        self._taken -= 1


class Ticket:
    """A place that is taken; given back once, at the end of the block."""

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back = give_back
        self._held = True

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        if self._held:
            self._held = False
            self._give_back()


def read_wish(asked: Request | Websocket) -> tuple[Filter, Cursor | None]:
    """What the query asks for, and from where on.

    Raises:
        InvalidParameterError: A parameter is unknown or wrong.
    """
    only_parameters(asked, *PARAMETERS)
    arguments = asked.args
    document: dict[str, Any] = {name: _listed(arguments[name]) for name in LISTS if arguments.get(name)}
    document |= {name: arguments[name] for name in WORDS if name in arguments}
    document |= {name: BOOLEANS.get(arguments[name], arguments[name]) for name in FLAGS if name in arguments}
    if arguments.get(EXPRESSION):
        document["expression"] = arguments[EXPRESSION]
    try:
        wanted = read_criteria(document)
    except InvalidCriteriaError as error:
        member = str(error.fields["field"]).split("/")[1]
        field = EXPRESSION if member == "expression" else member
        raise InvalidParameterError(str(error), field=field, remedy=error.fields["remedy"]) from error
    return wanted, _read_start(asked)


def _listed(text: str) -> list[str] | None:
    return [item.strip() for item in text.split(",") if item.strip()] or None


def _read_start(asked: Request | Websocket) -> Cursor | None:
    """Where to go on; ``Last-Event-ID``, which a browser sends when it reconnects, goes before ``since``."""
    return read_cursor_of(asked.headers.get("Last-Event-ID") or asked.args.get("since"))


def read_cursor_of(text: str | None) -> Cursor | None:
    """A place as a client names it.

    Raises:
        InvalidParameterError: It is none.
    """
    if not text:
        return None
    try:
        return read_cursor(text)
    except ValueError as error:
        raise InvalidParameterError(
            f"{text[:40]!r} is no place in the feed",
            field="since",
            remedy="use the id of the last event received, or 0 for everything",
        ) from error


def refuse_other_origins(asked: Websocket) -> None:
    """Where everybody is an operator, pages of other origins are kept out, as the missing CORS headers do for HTTP.

    Raises:
        NotPermittedError: A browser says that the page is of another origin (RFC 6455, section 10.2).
    """
    origin = asked.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != asked.headers.get("Host"):
        raise NotPermittedError(
            f"a page of {origin[:200]!r} may not do this here", remedy="use the node's own origin"
        )


def _answer(body: AsyncGenerator[bytes, None] | bytes, *, gzip: bool) -> Response:
    response = Response(body, content_type="text/event-stream; charset=utf-8")
    response.timeout = None
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"
    response.headers["Vary"] = "Accept-Encoding"
    if gzip:
        response.headers["Content-Encoding"] = "gzip"
    return response
