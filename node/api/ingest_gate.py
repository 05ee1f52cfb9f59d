"""Refuses posts of events for which there is no room before the framework handles them, or even the server does.

Through the framework a refusal costs as much as some tens of events that are taken in, and clients repeat what is
refused: an overloaded node would spend its time on refusals. The gate examines plain JSON posts whose beginning has
arrived. All other requests, and those for which there is room, go to the route, which applies the same rule.

A post that has arrived whole with its headers, as small ones do, is refused by the protocol itself
(``answer_early``), before there is a task for it.
"""

import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final

import h11
import orjson
import trio
from hypercorn.typing import ASGIReceiveCallable, ASGIReceiveEvent, ASGISendCallable, HTTPScope, Scope

from node.api.http1 import REFUSAL_PAUSE_S
from node.api.problems import MEDIA_TYPE, described
from node.api.wire import JSON_TYPE, payer_of
from node.ingest.backlog import Backlog, OverloadedError
from node.ingest.request_hints import source_of
from node.worker.parsing.bodies import RequestEncoding

PATH: Final = "/overlay/events/ingest"
TARGET: Final = PATH.encode()
BODY_MAX: Final = 1024 * 1024  # a larger one is read by the route, for which its refusal is a small part of the cost
BEGINNING: Final = 4 * 1024  # of a body, in which it says what it is
BEGINNING_S: Final = 0.02  # for a body that follows its headers
REST_S: Final = 2.0  # for the rest of one that is refused; if it takes longer, the connection ends with the answer
OTHERWISE: Final = (  # the route's business, by the names of their headers
    b"idempotency-key",  # an answer that was given before is given again, however full the node is
    b"content-encoding",
    b"expect",
    b"authorization",
    b"ce-specversion",
)
SIGNED: Final = b"x-"  # headers of the proofs of identity begin so
UNSIGNED: Final = (b"x-request-id", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip")

Headers = list[tuple[bytes, bytes]]
Application = Callable[[Scope, ASGIReceiveCallable, ASGISendCallable], Awaitable[None]]


class IngestGate:
    """An ASGI application in front of another."""

    def __init__(self, app: Application, backlog: Backlog, headers: Mapping[str, str]) -> None:
        """``headers``: Of each answer."""
        self._app = app
        self._backlog = backlog
        self._headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        size = _length_of_plain_post(scope) if scope["type"] == "http" and self._backlog.is_refusing else None
        if size is None or scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = scope["client"]
        events, body, is_whole = await _begin(receive)
        address = client[0] if client is not None else None
        refusal = self._refusal(address, size, body) if is_whole or len(body) >= BEGINNING else None
        if refusal is None:
            await self._app(scope, _replayed(events, receive), send)
        else:
            self._backlog.note_refused()
            if not is_whole:
                await _drop_rest(receive)
            await self._refuse(refusal, send)

    def answer_early(
        self, request: h11.Request, received: Callable[[], bytes], client: str | None
    ) -> tuple[Headers, bytes] | None:
        """The headers and the body of the answer 429 to a post that has arrived whole; None for all others.

        Args:
            received: Returns what arrived after the headers.
            client: The address that the request comes from.
        """
        if not self._backlog.is_refusing or request.method != b"POST" or request.target != TARGET:
            return None
        size = _length_of_plain(request.headers)
        if size is None or len(body := received()) < size:
            return None
        refusal = self._refusal(client, size, body[: min(size, BEGINNING)])
        if refusal is None:
            return None
        self._backlog.note_refused()
        return self._answer(refusal)

    def _refusal(self, client: str | None, size: int, body: bytes) -> OverloadedError | None:
        source_id = source_of(body, RequestEncoding())
        events = self._backlog.sizes.estimate(size, source_id)
        return self._backlog.refusal(events, source_id=source_id, caller=payer_of(client))

    async def _refuse(self, refusal: OverloadedError, send: ASGISendCallable) -> None:
        await trio.sleep(REFUSAL_PAUSE_S)
        headers, body = self._answer(refusal)
        await send({"type": "http.response.start", "status": 429, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    def _answer(self, refusal: OverloadedError) -> tuple[Headers, bytes]:
        _, document = described(refusal)
        body = orjson.dumps(document)
        headers = [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"retry-after", str(document["retryAfter"]).encode()),
            (b"x-request-id", secrets.token_hex(8).encode()),
            *self._headers,
        ]
        return headers, body


def _length_of_plain_post(scope: HTTPScope) -> int | None:
    """The length of a post of events as JSON by nobody in particular; None for any other request."""
    if scope["method"] != "POST" or scope["path"] != PATH or scope["query_string"]:
        return None
    return _length_of_plain(scope["headers"])


def _length_of_plain(headers: Iterable[tuple[bytes, bytes]]) -> int | None:
    size, is_json = None, False
    for name, value in headers:
        if name == b"content-length" and value.isdigit() and len(value) < len(str(BODY_MAX)) + 1:
            size = int(value)
        elif name == b"content-type":
            is_json = value.partition(b";")[0].strip().lower() == JSON_TYPE.encode()
        elif name in OTHERWISE or (name.startswith(SIGNED) and name not in UNSIGNED):
            return None
    return size if is_json and size is not None and size <= BODY_MAX else None


async def _begin(receive: ASGIReceiveCallable) -> tuple[Sequence[ASGIReceiveEvent], bytes, bool]:
    """What came of a body, the beginning of it, and whether that is the whole."""
    events: list[ASGIReceiveEvent] = []
    body = b""
    with trio.move_on_after(BEGINNING_S):
        while len(body) < BEGINNING:
            event = await receive()
            events.append(event)
            if event["type"] != "http.request":
                return events, b"", False
            body += event.get("body", b"")
            if not event.get("more_body", False):
                return events, body, True
    return events, body, False


async def _drop_rest(receive: ASGIReceiveCallable) -> None:
    """Let the rest of a body pass: its connection can be used again after the answer."""
    with trio.move_on_after(REST_S):
        while True:
            event = await receive()
            if event["type"] != "http.request" or not event.get("more_body", False):
                return


def _replayed(events: Sequence[ASGIReceiveEvent], receive: ASGIReceiveCallable) -> ASGIReceiveCallable:
    waiting = iter(events)

    async def replay() -> ASGIReceiveEvent:
        for event in waiting:
            return event
        return await receive()

    return replay
