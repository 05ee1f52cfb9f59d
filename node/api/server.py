"""Serving the app over HTTP, with every limit that the server has."""

import logging
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, TypeAlias

import h11
import trio
from hypercorn.config import Config, Sockets
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import (
    ASGIReceiveCallable,
    ASGISendCallable,
    ASGISendEvent,
    ConnectionState,
    HTTPScope,
    Scope,
    WebsocketScope,
)
from hypercorn.utils import repr_socket_addr, wrap_app

from node.api.connection import Connection
from node.api.forwarded import Networks, client_of
from node.api.http1 import AnswerEarly
from node.api.open_connections import OpenConnections
from node.api.server_limits import ServerLimits
from node.runtime.containment import Quarantine

Application: TypeAlias = Callable[[Any, ASGIReceiveCallable, ASGISendCallable], Awaitable[None]]
CLOSING_S: Final = 5.0
CLIENT_MESSAGE_BYTES_MAX: Final = 64 * 1024  # of a WebSocket; longer ones close it, 1009


class _Config(Config):
    """Hypercorn's settings, and what it does not know."""

    limits = ServerLimits()

    def create_sockets(self) -> Sockets:
        sockets = super().create_sockets()
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; accepted connections inherit it
            for listener in sockets.insecure_sockets:
                if listener.family in (socket.AF_INET, socket.AF_INET6):
                    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self.limits.stall_s * 1000))
        return sockets


class FinishedResponses:
    """The app, with the end of every response seen through, a fence around every request, and the address of its
    client in its scope.

    Quart cancels a request's tasks as soon as it is notified of the disconnect that ends it, and with them the
    server's closing of the connection where the request's body was not read to its end: a refused upload
    would go on being received for nothing.
    """

    def __init__(self, app: Application, quarantine: Quarantine, trusted_proxies: Networks = ()) -> None:
        self._app = app
        self._quarantine = quarantine
        self._trusted_proxies = trusted_proxies

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        async def send_through(message: ASGISendEvent) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                with trio.move_on_after(CLOSING_S) as closing:
                    closing.shield = True
                    await send(message)
            else:
                await send(message)

        if scope["type"] == "lifespan":
            await self._app(scope, receive, send_through)
            return
        self._name_client(scope)
        # what fails before an answer begins, the app answers; what fails later can only end the request
        with self._quarantine.contain("request", origin_of(scope), scope["raw_path"] or b""):
            await self._app(scope, receive, send_through)

    def _name_client(self, scope: HTTPScope | WebsocketScope) -> None:
        client = scope["client"]
        if client is not None and self._trusted_proxies:
            address = client_of(client[0], scope["headers"], self._trusted_proxies)
            if address != client[0]:
                scope["client"] = (address, 0)  # the port is not known


def origin_of(scope: HTTPScope | WebsocketScope) -> str:
    """The address of a request's client."""
    client = scope["client"]
    return client[0] if client is not None else "local"


def server_config(bind: str, limits: ServerLimits) -> _Config:
    config = _Config()
    config.bind = [bind]
    config.limits = limits
    config.h11_max_incomplete_size = limits.header_bytes_max
    config.h2_max_header_list_size = limits.header_bytes_max
    config.keep_alive_max_requests = limits.requests_per_connection_max
    config.graceful_timeout = limits.graceful_s
    config.backlog = limits.backlog
    config.websocket_max_message_size = CLIENT_MESSAGE_BYTES_MAX
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    return config


async def serve(
    app: Application,
    bind: str,
    *,
    quarantine: Quarantine | None = None,
    limits: ServerLimits | None = None,
    answer_early: AnswerEarly = lambda request, received, client: None,
    shutdown_trigger: Callable[[], Awaitable[None]] | None = None,
    task_status: "trio.TaskStatus[str]" = trio.TASK_STATUS_IGNORED,  # type: ignore[name-defined]
) -> None:
    """Serve until ``shutdown_trigger`` returns or the task is cancelled.

    Args:
        bind: ``host:port``; port 0 lets the system choose. The URL bound is reported to ``task_status``.
        answer_early: Asked about each request of HTTP/1.1 before the app is.
    """
    config = server_config(bind, limits or ServerLimits())
    async with trio.open_nursery() as nursery:
        answer = _with_client(answer_early, config.limits.trusted_proxies)
        serving = partial(_serve, app, config, quarantine or Quarantine(), answer, shutdown_trigger)
        urls: list[str] = await nursery.start(serving)
        task_status.started(urls[0])


def _with_client(answer_early: AnswerEarly, trusted_proxies: Networks) -> AnswerEarly:
    """The same, of the client itself where a proxy of ours names it."""

    def answer(request: h11.Request, received: Callable[[], bytes], peer: str | None) -> Any:
        if peer is not None and trusted_proxies:
            peer = client_of(peer, request.headers, trusted_proxies)
        return answer_early(request, received, peer)

    return answer


async def _serve(
    app: Application,
    config: _Config,
    quarantine: Quarantine,
    answer_early: AnswerEarly,
    shutdown_trigger: Callable[[], Awaitable[None]] | None,
    *,
    task_status: "trio.TaskStatus[list[str]]",  # type: ignore[name-defined]
) -> None:
    """Hypercorn's worker, with connections that streams can write to directly, and without TLS and HTTP/3."""
    wrapped = wrap_app(
        FinishedResponses(app, quarantine, config.limits.trusted_proxies), config.wsgi_max_body_size, "asgi"
    )
    lifespan = Lifespan(wrapped, config, {})
    context = WorkerContext(None)
    open_connections = OpenConnections(config.limits)
    async with trio.open_nursery() as life:
        await life.start(lifespan.handle_lifespan)
        await lifespan.wait_for_startup()
        async with trio.open_nursery() as connections:
            sockets = config.create_sockets().insecure_sockets
            for each in sockets:
                each.listen(config.backlog)
            listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(each)) for each in sockets]
            urls = [f"http://{repr_socket_addr(each.family, each.getsockname())}" for each in sockets]
            logging.getLogger("hypercorn.error").info("Running on %s", ", ".join(urls))
            task_status.started(urls)

            async def serve_connection(stream: trio.SocketStream) -> None:
                place = partial(
                    Connection, limits=config.limits, open_connections=open_connections, answer_early=answer_early
                )
                await place(wrapped, config, context, ConnectionState({}), stream, quarantine=quarantine)

            try:
                async with trio.open_nursery() as listening:
                    listening.start_soon(
                        partial(trio.serve_listeners, serve_connection, listeners, handler_nursery=connections)
                    )
                    await (shutdown_trigger or trio.sleep_forever)()
                    listening.cancel_scope.cancel()
            finally:
                await context.terminated.set()
                for connection in open_connections.idle:
                    connection.drop()
                connections.cancel_scope.deadline = trio.current_time() + config.graceful_timeout
        await lifespan.wait_for_shutdown()
        life.cancel_scope.cancel()
