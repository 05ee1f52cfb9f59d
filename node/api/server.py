"""Serving the app over HTTP, with every limit that the server has."""

import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Final

import attrs
import trio
from hypercorn.config import Config, Sockets
from hypercorn.trio import serve as hypercorn_serve
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, Scope
from quart_trio import QuartTrio

CLOSING_S: Final = 5.0


@attrs.frozen(kw_only=True)
class ServerLimits:
    """Bounds of the HTTP server. Times in seconds.

    Attributes:
        stall_s: A connection whose client takes nothing for so long is dropped by the kernel: without it a
            stalled reader would hold its stream, and the shutdown, for ever.
    """

    header_bytes_max: int = 16 * 1024
    keep_alive_s: float = 75.0
    requests_per_connection_max: int = 100_000
    graceful_s: float = 5.0
    stall_s: float = 30.0
    backlog: int = 512


class _Config(Config):
    """Hypercorn's settings, and one of TCP that it does not know."""

    stall_s = 30.0

    def create_sockets(self) -> Sockets:
        sockets = super().create_sockets()
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; accepted connections inherit it
            for listener in sockets.insecure_sockets:
                if listener.family in (socket.AF_INET, socket.AF_INET6):
                    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self.stall_s * 1000))
        return sockets


class FinishedResponses:
    """The app, with the end of every response seen through.

    Quart cancels a request's tasks as soon as it hears of the disconnect that ends it, and with them the
    server's closing of the connection where the request's body was not read to its end: a refused upload
    would go on being received for nothing.
    """

    def __init__(self, app: QuartTrio) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        async def send_through(message: ASGISendEvent) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                with trio.move_on_after(CLOSING_S) as closing:
                    closing.shield = True
                    await send(message)
            else:
                await send(message)

        await self._app(scope, receive, send_through)


def server_config(bind: str, limits: ServerLimits) -> Config:
    config = _Config()
    config.bind = [bind]
    config.stall_s = limits.stall_s
    config.h11_max_incomplete_size = limits.header_bytes_max
    config.h2_max_header_list_size = limits.header_bytes_max
    config.keep_alive_timeout = limits.keep_alive_s
    config.keep_alive_max_requests = limits.requests_per_connection_max
    config.graceful_timeout = limits.graceful_s
    config.backlog = limits.backlog
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    return config


async def serve(
    app: QuartTrio,
    bind: str,
    *,
    limits: ServerLimits | None = None,
    shutdown_trigger: Callable[[], Awaitable[None]] | None = None,
    task_status: "trio.TaskStatus[str]" = trio.TASK_STATUS_IGNORED,  # type: ignore[name-defined]
) -> None:
    """Serve until ``shutdown_trigger`` returns or the task is cancelled.

    Args:
        bind: ``host:port``; port 0 lets the system choose. The URL bound is reported to ``task_status``.
    """
    config = server_config(bind, limits or ServerLimits())
    async with trio.open_nursery() as nursery:
        urls: list[str] = await nursery.start(_serve, app, config, shutdown_trigger)
        task_status.started(urls[0])


async def _serve(
    app: QuartTrio,
    config: Config,
    shutdown_trigger: Callable[[], Awaitable[None]] | None,
    *,
    task_status: "trio.TaskStatus[list[str]]",  # type: ignore[name-defined]
) -> None:
    await hypercorn_serve(FinishedResponses(app), config, shutdown_trigger=shutdown_trigger, task_status=task_status)
