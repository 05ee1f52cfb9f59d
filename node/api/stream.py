"""GET /overlay/events/stream: certified events as server-sent events, from any place in the feed onwards.

A client that names a place (``Last-Event-ID`` or ``since``) first gets what was sealed after it, then the live
feed. A client too slow for its buffer is told where it stopped and let go; it comes back with that place.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

import orjson
import trio
from quart import Blueprint, Request, Response, request

from node.api.services import Services
from node.api.wire import (
    InvalidParameterError,
    choice_parameter,
    list_parameter,
    only_parameters,
)
from node.clock import clock_ms
from node.delivery.chunks import STATUSES, Chunk, Filter, Options, Place, read_place
from node.delivery.feed import Feed
from node.delivery.reading import Reading
from protocols.certificate import rfc3339
from protocols.errors import ClientFault
from protocols.messages import Level
from storage.database import Database

WRITE_BYTES: Final = 64 * 1024
PARAMETERS: Final = ("topics", "sourceIds", "minCertificationLevel", "includeProcessingEvidence", "status", "since")


class StreamDisabledError(ClientFault):
    code = "stream-disabled"


class TooManyStreamsError(ClientFault):
    code = "too-many-streams"


def routes(services: Services) -> Blueprint:
    blueprint = Blueprint("stream", __name__)
    settings, feed = services.settings, services.feed
    places = trio.CapacityLimiter(max(1, settings.stream_clients_max))

    @blueprint.get("/overlay/events/stream")
    async def stream_events() -> Response:
        if not settings.stream_enabled:
            raise StreamDisabledError("EVENT_STREAM_SSE_ENABLED is false on this node")
        only_parameters(request, *PARAMETERS)
        wanted, start = read_filter(request), read_start(request)
        ticket = object()
        try:
            places.acquire_on_behalf_of_nowait(ticket)
        except trio.WouldBlock as full:
            raise TooManyStreamsError(f"{settings.stream_clients_max} streams are served already") from full
        stream = Stream(services.database, feed, wanted, settings.heartbeat_ms, start)

        async def body() -> AsyncGenerator[bytes, None]:
            try:
                async with aclosing(stream.parts()) as parts:
                    async for part in parts:
                        yield part
            finally:
                stream.close()
                places.release_on_behalf_of(ticket)

        response = Response(body(), content_type="text/event-stream; charset=utf-8")
        response.timeout = None
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Accel-Buffering"] = "no"
        return response

    return blueprint


def read_filter(asked: Request) -> Filter:
    level = choice_parameter(asked, "minCertificationLevel", tuple(level.word for level in Level), Level.BASIC.word)
    evidence = choice_parameter(asked, "includeProcessingEvidence", ("true", "false"), "false")
    status = choice_parameter(asked, "status", (*STATUSES, "all"), "valid")
    statuses = frozenset(STATUSES) if status == "all" else frozenset({status})
    return Filter(
        topics=list_parameter(asked, "topics"),
        source_ids=list_parameter(asked, "sourceIds"),
        level=Level[level.upper()],
        options=Options(evidence=evidence == "true", statuses=statuses),
    )


def read_start(asked: Request) -> Place | None:
    """Where to go on; ``Last-Event-ID``, which a browser sends when it reconnects, goes before ``since``."""
    text = asked.headers.get("Last-Event-ID") or asked.args.get("since")
    if not text:
        return None
    try:
        return read_place(text)
    except ValueError as error:
        raise InvalidParameterError(
            f"{text[:40]!r} is no place in the feed",
            field="since",
            remedy="use the id of the last event received, or 0 for everything",
        ) from error


class Stream:
    """One client: the bytes it gets, in order."""

    def __init__(
        self, database: Database, feed: Feed, wanted: Filter, heartbeat_ms: int, start: Place | None
    ) -> None:
        self._feed = feed
        self._reading = Reading(database, feed, wanted, start)
        self._heartbeat_s = heartbeat_ms / 1000
        self._next_beat_s = 0.0

    def close(self) -> None:
        self._reading.close()

    async def parts(self) -> AsyncGenerator[bytes, None]:
        """The stream's bytes, without an end but for a client that is too slow."""
        self._next_beat_s = trio.current_time() + self._heartbeat_s
        yield b": connected\n\n"  # so that the client knows at once
        async with aclosing(self._reading.chunks(self._heartbeat_s)) as chunks:
            async for chunk in chunks:
                for part in _written(chunk):
                    yield part
                if trio.current_time() >= self._next_beat_s:
                    yield self._heartbeat()
        yield self._farewell()

    def _heartbeat(self) -> bytes:
        self._next_beat_s = trio.current_time() + self._heartbeat_s
        stats = self._feed.stats
        return _message(
            {
                "type": "heartbeat",
                "timestamp": rfc3339(clock_ms()),
                "activeSubscriptions": stats.subscriptions,
                "eventsProcessed": stats.events,
            }
        )

    def _farewell(self) -> bytes:
        """Told to a client whose buffer overflowed: everything up to ``lastEventId`` was sent."""
        return _message(
            {
                "type": "dropped",
                "timestamp": rfc3339(clock_ms()),
                "lastEventId": str(self._reading.place),
                "reason": "the client read more slowly than events were certified",
                "remedy": "reconnect with Last-Event-ID",
            }
        )


def _written(chunk: Chunk | None) -> list[bytes]:
    """A chunk in parts of some size, so that cancellation comes through."""
    text = b"" if chunk is None else chunk.sse
    return [text[start : start + WRITE_BYTES] for start in range(0, len(text), WRITE_BYTES)]


def _message(value: dict[str, object]) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"
