"""/overlay/events/stream: certified events as server-sent events or over WebSocket, from any place in the feed on.

A client that names a place (``Last-Event-ID`` or ``since``) first gets what was sealed after it, then the live feed;
one that names a subscription continues from its stored place, with its filter. A client too slow for its buffer gets
a message with the place where it stopped and is disconnected; it comes back with that place.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Final
from weakref import finalize

from quart import Response, g, request, websocket

from node.api.connection import connection_of
from node.api.events_socket import EventSocket
from node.api.events_sse import EventStream
from node.api.models.stream import SOCKET_REQUESTS, ServerSentEvent, StreamHeaders, StreamQuery
from node.api.operations import Answer, Operation, Resource
from node.api.services import Services
from node.api.stream_clients import StreamClient, StreamSlots
from node.api.stream_requests import StreamRequest, check_place, read_stream_request, refuse_other_origins
from node.api.wire import read_query
from node.delivery.feed_reader import FeedReader
from node.delivery.heartbeats import Heartbeats
from node.runtime.access import Caller, Need
from protocols.errors import ClientFault

PATH: Final = "/overlay/events/stream"
EVENT_STREAM: Final = "text/event-stream"
EXAMPLE_EVENT: Final = {
    "id": "12.1",
    "data": (
        '{"type":"event","eventId":"event_…","eventType":"sensor_reading","certificationLevel":"enhanced",'
        '"timestamp":"2024-01-15T10:30:00Z","data":{"value":23.5},"certification":{"agentId":"agent_…",'
        '"signature":"3045…","consensusNodes":3},"overlayMetadata":{"latency":120,"reliability":1.0,'
        '"sourceId":"farm-1","batchId":"…"}}'
    ),
}
EVENTS: Final = (
    "Server-sent events, plain or gzip; described is one of them. The id of each is its place in the feed. "
    "Heartbeats come at an interval, "
    "with the signed head of the feed: a client has all it wants up to there, or up to 'place' where that is given. "
    "A client slower than its buffer gets a last message of type dropped with lastEventId, and comes back with it."
)
SOCKET: Final = (
    "The same address takes WebSocket handshakes with the same parameters, signed headers included. Messages are "
    "those of the stream, each event with its place as 'sequence'; the first is a heartbeat. A client "
    'may send {"type":"subscribe","filter":{…},"since":"12.5"} (answered by subscribed, with the sequence from which '
    "the filter holds; members topics, sourceIds, eventTypes, minCertificationLevel, status, expression, "
    'includeProcessingEvidence, includeCertificate), {"type":"credit","events":N} (at most so many further events, '
    'until the next credit), {"type":"ack","sequence":"12.5"} and {"type":"ping"}; subscribe and ping may carry an '
    "'id', which is answered. What is not understood is answered by a message of type error; repeated, it closes the "
    "connection. Closing codes: 1001 the node stops, 1008 too many messages, or messages that are not understood, or "
    "no right to read any more, 1011 a fault of the node, 1013 too slow, after a dropped message."
)


class StreamDisabledError(ClientFault):
    code = "stream-disabled"


class StreamRoutes:
    """What the routes work with."""

    def __init__(self, services: Services) -> None:
        settings = services.settings
        self.services = services
        self.slots = StreamSlots(settings.stream_clients_max)
        self.heartbeats = Heartbeats(
            feed=services.feed,
            key=services.key,
            network=settings.network,
            interval_s=settings.heartbeat_ms / 1000,
        )

    def client(self, caller: Caller, asked: StreamRequest) -> StreamClient:
        return StreamClient(
            may_stay=partial(self.services.access.still_permits, caller, Need.READ, "stream"),
            check_place=partial(check_place, self.services.database, field="/since"),
            acknowledge=asked.acknowledge,
            ends_s=asked.ends_s,
        )


stream = Resource("stream", StreamRoutes)


@stream.get(
    PATH,
    Operation(
        operation_id="streamEvents",
        tag="events",
        summary="Certified events, live",
        description=SOCKET,
        query=StreamQuery,
        headers=StreamHeaders,
        socket_messages=SOCKET_REQUESTS,
        answers={
            200: Answer(
                description=EVENTS, content={EVENT_STREAM: ServerSentEvent}, examples={EVENT_STREAM: EXAMPLE_EVENT}
            )
        },
        problems=(
            "unknown-subscription",
            "subscription-not-active",
            "ahead-of-feed",
            "too-many-streams",
            "too-many-expressions",
            "stream-disabled",
        ),
    ),
)
async def stream_events(context: StreamRoutes, query: StreamQuery) -> Response:
    services = context.services
    if not services.settings.stream_enabled:
        raise StreamDisabledError("EVENT_STREAM_SSE_ENABLED is false on this node")
    asked = await read_stream_request(services, request, query, "sse")
    gzip = request.accept_encodings["gzip"] > 0
    if request.method == "HEAD":
        return _answer(b"", gzip=gzip)
    services.feed.refuse_expression(asked.wanted)
    slot = context.slots.take()
    events = EventStream(
        partial(FeedReader, services.database, services.feed, asked.wanted, asked.start),
        services.feed,
        context.heartbeats,
        connection_of(request.scope),
        gzip=gzip,
        client=context.client(g.caller, asked),
    )

    async def body() -> AsyncGenerator[bytes, None]:
        with slot:
            async with aclosing(events.parts()) as parts:
                async for part in parts:
                    yield part

    parts = body()
    finalize(parts, slot.release)  # where the client leaves before the first part is asked for
    return _answer(parts, gzip=gzip)


@stream.websocket(PATH)
async def stream_socket(context: StreamRoutes) -> None:
    services = context.services
    if not services.settings.websocket_enabled:
        raise StreamDisabledError("EVENT_STREAM_WEBSOCKET_ENABLED is false on this node")
    if services.access.open_admin:
        refuse_other_origins(websocket)
    asked = await read_stream_request(services, websocket, read_query(StreamQuery, websocket), "websocket")
    services.feed.refuse_expression(asked.wanted)
    with context.slots.take():
        await websocket.accept()
        connection = connection_of(websocket.scope)
        if connection is not None and not connection.is_socket:
            return
        client = context.client(g.caller, asked)
        read = partial(FeedReader, services.database, services.feed)
        socket = EventSocket(read, services.feed, context.heartbeats, websocket, connection, client)
        await socket.serve(asked.wanted, asked.start)


def _answer(body: AsyncGenerator[bytes, None] | bytes, *, gzip: bool) -> Response:
    response = Response(body, content_type="text/event-stream; charset=utf-8")
    response.timeout = None
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"
    response.headers["Vary"] = "Accept-Encoding"
    if gzip:
        response.headers["Content-Encoding"] = "gzip"
    return response
