"""The ASGI application of a process from its first moment to its last: the node's interface while the node serves
clients, and before and after that a standby, which says how the node is and refuses all else.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import h11
import orjson
import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, HTTPScope, Scope, WebsocketScope
from quart_trio import QuartTrio

from node.api.health import RETRY_AFTER_S, readiness_document
from node.api.ingest_gate import IngestGate
from node.api.problems import MEDIA_TYPE
from node.api.problems import document as problem_document
from node.api.wire import JSON_TYPE
from node.runtime.conditions import HealthReport

ALIVE: Final = {"status": "ok"}
HEADERS: Final = [
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"retry-after", str(RETRY_AFTER_S).encode()),
]


class StandbyApp:
    """Passes requests on to the node's interface while there is one."""

    def __init__(self, report: Callable[[], Awaitable[HealthReport]], describe: Callable[[], str]) -> None:
        """Args:
        report: What is wrong with the node; answers within 2 s.
        describe: Why the node does not serve clients now.
        """
        self._report = report
        self._describe = describe
        self._app: QuartTrio | None = None
        self._under_way: set[trio.CancelScope] = set()
        self._ended = trio.Event()

    @asynccontextmanager
    async def serving(self, app: QuartTrio, graceful_s: float) -> AsyncIterator[None]:
        """Serve the node's interface within the block; those requests that are in progress at its end are given
        ``graceful_s`` to be answered.
        """
        async with trio.open_nursery() as nursery:
            app.nursery = nursery
            await app.startup()
            self._app = app
            try:
                yield
            finally:
                self._app = None
                await self._finish(graceful_s)
            await app.shutdown()
            nursery.cancel_scope.cancel()

    def answer_early(
        self, request: h11.Request, received: Callable[[], bytes], client: str | None
    ) -> tuple[list[tuple[bytes, bytes]], bytes] | None:
        """As the node's interface does, where it can without being asked for the whole answer."""
        gate = None if self._app is None else self._app.asgi_app
        return gate.answer_early(request, received, client) if isinstance(gate, IngestGate) else None

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif self._app is None:
            await self._stand_by(scope, send)
        else:
            await self._pass_on(self._app, scope, receive, send)

    async def _pass_on(
        self, app: QuartTrio, scope: HTTPScope | WebsocketScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        has_begun = False

        async def noticed(message: ASGISendEvent) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        under_way = trio.CancelScope()
        self._under_way.add(under_way)
        try:
            with under_way:
                await app(scope, receive, noticed)
        finally:
            self._under_way.discard(under_way)
            ended, self._ended = self._ended, trio.Event()
            ended.set()
        if under_way.cancelled_caught and not has_begun:
            await self._stand_by(scope, send)

    async def _finish(self, graceful_s: float) -> None:
        try:
            with trio.move_on_after(graceful_s):
                while self._under_way:
                    await self._ended.wait()
        finally:
            for each in self._under_way:
                each.cancel()

    async def _stand_by(self, scope: HTTPScope | WebsocketScope, send: ASGISendCallable) -> None:
        is_socket = scope["type"] == "websocket"
        status, media_type, document = await self._answer("" if is_socket else scope["path"])
        body = b"" if scope["type"] == "http" and scope["method"] == "HEAD" else orjson.dumps(document)
        headers = [*HEADERS, (b"content-type", media_type.encode()), (b"content-length", str(len(body)).encode())]
        if scope["http_version"] == "1.1":
            headers.append((b"connection", b"close"))  # the next request may find the node serving, or another one
        kind = "websocket.http.response" if is_socket else "http.response"
        start: Any = {"type": f"{kind}.start", "status": status, "headers": headers}
        end: Any = {"type": f"{kind}.body", "body": body, "more_body": False}
        await send(start)
        await send(end)

    async def _answer(self, path: str) -> tuple[int, str, Mapping[str, Any]]:
        if path in ("/healthz", "/livez"):
            return 200, JSON_TYPE, ALIVE
        if path == "/readyz":
            return 503, JSON_TYPE, readiness_document(await self._report())
        return 503, MEDIA_TYPE, problem_document("unavailable", self._describe(), {})


async def _live(receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """The life of the process is not that of the node's interface, which ``serving`` starts and ends."""
    while True:
        event = await receive()
        if event["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif event["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return
