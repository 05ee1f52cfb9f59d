"""A connection of the HTTP server that a stream can also write to directly.

What a thousand clients get is encoded once, as the bytes that go over the wire; passing them to each client through
the layers of server and framework would cost more than everything else. So a stream that has sent its headers (or
accepted its WebSocket) writes to the connection itself: chunks of a chunked body, or frames. Neither has state in the
layers above, which go on reading requests, answering pings and closing; their bytes are written in turn here.

A connection is closed as RFC 9112, section 9.6, requires: announced by the answer where more of the request was to
come, first in its writing half, then, once the client has closed too or its time is over, in the other. A client that
is refused while it is still sending can then read why.

A connection is an item from outside: what its bytes make fail in the layers above ends it, and nothing else.
"""

import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import inf
from typing import Any, Final

import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import MAX_RECV, TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ASGIReceiveCallable, ConnectionState, HTTPScope, Scope, WebsocketScope
from hypercorn.utils import parse_socket_addr

from node.api.client_address import is_loopback, network_of
from node.api.forwarded import is_proxy as is_proxy_at
from node.api.handshakes import is_closing, is_open
from node.api.http1 import AnswerEarly, Http1
from node.api.open_connections import OpenConnections
from node.api.problems import MEDIA_TYPE, unread_problem
from node.api.protocols import Protocols
from node.api.server_limits import ServerLimits
from node.runtime.containment import SAMPLE_BYTES, Quarantine

CONNECTION: Final = "overlay.connection"  # in the extensions of a request's scope
LINGER_S: Final = 2.0
LINGER_BYTES: Final = 16 * 1024 * 1024
HEALTH_PATHS: Final = ("/healthz", "/livez", "/readyz")
REFUSED: Final = unread_problem(503)
REFUSAL: Final = (
    b"HTTP/1.1 503 \r\nContent-Type: %b\r\nContent-Length: %d\r\nRetry-After: 5\r\nConnection: close\r\n\r\n%b"
    % (MEDIA_TYPE.encode(), len(REFUSED), REFUSED)
)
GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError)


class Connection(TCPServer):
    """One client's connection. Streams use ``take``, ``send`` and ``flush``."""

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        state: ConnectionState,
        stream: trio.SocketStream,
        *,
        quarantine: Quarantine,
        limits: ServerLimits,
        open_connections: OpenConnections,
        answer_early: AnswerEarly,
    ) -> None:
        super().__init__(_WithConnection(app, self), config, context, state, stream)  # type: ignore[arg-type]
        self._socket = stream.socket
        self._quarantine = quarantine
        self._limits = limits
        self._answer_early = answer_early
        self._open_connections = open_connections
        self._received = bytearray()  # its first bytes
        self._rest: bytes | memoryview = b""
        self._is_writing = False
        self._reading = trio.CancelScope()
        self._leaves = False
        self._is_idle = True
        self._is_reserved = False
        self._has_begun = False  # some of a request's headers are there
        self._client = "local"
        self._is_shared = True

    @property
    def client(self) -> str:
        """The network that it comes from."""
        return self._client

    @property
    def is_shared(self) -> bool:
        """Whether many clients call through it: from this machine, or from a proxy."""
        return self._is_shared

    @property
    def has_request(self) -> bool:
        return not self._is_idle

    @property
    def is_reserved(self) -> bool:
        """Whether there was no place for it: it may only ask how the node is, once."""
        return self._is_reserved

    def drop(self) -> None:
        """Close now; for one without a request."""
        if self._is_reserved and not self.has_request:
            self.take(REFUSAL)
        self._reading.cancel()

    async def run(self) -> None:
        """Serve the client until it or we close."""
        try:
            client, server = (
                parse_socket_addr(self._socket.family, address)
                for address in (self._socket.getpeername(), self._socket.getsockname())
            )
        except OSError:  # the client is gone
            await trio.aclose_forcefully(self.stream)
            return
        self._client = network_of(client[0] if client is not None else None)
        is_proxy = client is not None and is_proxy_at(client[0], self._limits.trusted_proxies)
        self._is_shared = is_proxy or is_loopback(self._client)
        self._is_reserved = not self._open_connections.admit(self)
        if self._is_reserved:
            self._open_connections.reserve(self)
        with self._quarantine.contain("connection", self._client, self._received):
            try:
                async with TaskGroup() as tasks:
                    await self._serve(tasks, client, server)
            finally:
                self._open_connections.forget(self)
                await self._close()

    async def _serve(self, tasks: TaskGroup, client: tuple[str, int] | None, server: tuple[str, int] | None) -> None:
        self._task_group = tasks
        self.protocol = Protocols(
            self._limits,
            _by_application if self._is_reserved else self._answer_early,
            self.app,
            self.config,
            self.context,
            tasks,
            ConnectionState(self.state),
            False,  # no TLS here
            client,
            server,
            self.protocol_send,
        )
        lasts_s = self._limits.reserved_s if self._is_reserved else self._limits.keep_alive_s
        self._reading.deadline = trio.current_time() + lasts_s
        await self._read_data()

    @property
    def has_rest(self) -> bool:
        """Whether ``take`` took more than the system would: ``flush`` waits until that is gone."""
        return len(self._rest) > 0

    @property
    def is_being_sent_to(self) -> bool:
        """Whether a request has not come to its end: after its answer, the connection cannot be used again."""
        protocol = self.protocol.protocol
        return isinstance(protocol, H11Protocol) and protocol.connection.their_state is h11.SEND_BODY

    @property
    def is_socket(self) -> bool:
        """Whether a WebSocket is open on it: where it was refused meanwhile, accepting it does nothing."""
        protocol = self.protocol.protocol
        return isinstance(protocol, Http1) and is_open(protocol.stream)

    def take(self, data: bytes) -> bool:
        """Write without waiting. False where something else is being written: then nothing was taken."""
        if self._rest or self.send_lock.locked():
            return False
        if self._is_over:
            return True  # the task that reads tells the application
        try:
            count = os.write(self._socket.fileno(), data)
        except BlockingIOError:
            count = 0
        except OSError:
            return True  # the client is gone: the task that reads from it notices
        if count < len(data):
            self._rest = memoryview(data)[count:]
        return True

    async def flush(self) -> None:
        """Wait until all that was taken is written.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: The client is gone.
        """
        if self._rest:
            await self.send(b"")

    async def send(self, data: bytes) -> None:
        """Write, after all that was taken; raises as ``flush``. Cancelled in its middle, the connection is lost.

        Nothing follows the end: what waited while it was sent is not written (RFC 6455, section 5.5.1).
        """
        async with self.send_lock:
            if self._is_over:
                raise trio.ClosedResourceError
            await self._write(data)

    async def _write(self, data: bytes) -> None:
        if not (whole := bytes(self._rest) + data):
            return
        self._rest, self._is_writing = b"", True
        try:
            await self.stream.send_all(whole)
        finally:
            self._is_writing = False
        if self._leaves:  # meanwhile
            await self._send_eof()

    @property
    def _is_over(self) -> bool:
        """Whether the last of what the client gets is sent, or under way: of a WebSocket its close frame."""
        protocol = self.protocol.protocol
        return self._leaves or (isinstance(protocol, Http1) and is_closing(protocol.stream))

    async def protocol_send(self, event: Event) -> None:
        """What the server writes: answers, headers, control frames; whole, whatever is cancelled."""
        if isinstance(event, Closed):
            await self._leave()
            return
        if not isinstance(event, RawData):
            assert isinstance(event, Updated), "there are no others"
            self._become(idle=event.idle)
            return
        with trio.CancelScope(shield=True):
            try:
                async with self.send_lock:
                    await self._write(event.data)
            except GONE:
                await self.protocol.handle(Closed())

    def _become(self, *, idle: bool) -> None:
        """A request has begun, or the last one has ended: a connection without one is closed after a while."""
        self._is_idle, self._has_begun = idle, False
        if self._leaves or self._is_reserved:  # its time is over anyway
            return
        if idle and self.context.terminated.is_set():
            self.drop()
        if idle:
            self._open_connections.become_idle(self)
            self._reading.deadline = trio.current_time() + self._limits.keep_alive_s
        else:
            self._open_connections.become_busy(self)
            self._reading.deadline = inf

    def _expect_headers(self) -> None:
        """Where a request of HTTP/1.1 has begun to come, the rest of its headers is due."""
        protocol = self.protocol.protocol
        if self._is_idle and not self._leaves and not self._has_begun and isinstance(protocol, Http1):
            self._has_begun = len(protocol.connection.trailing_data[0]) > 0
            if self._has_begun:
                due_s = trio.current_time() + self._limits.header_s
                self._reading.deadline = min(self._reading.deadline, due_s)

    async def _leave(self) -> None:
        """Write no more. What the client still sends is discarded by the task that reads, which then closes."""
        self._leaves = True
        self._reading.deadline = min(self._reading.deadline, trio.current_time() + LINGER_S)
        if not self._is_writing:  # else the task that writes ends it: the one that reads must not wait for it
            await self._send_eof()
        await self.protocol.handle(Closed())

    async def _send_eof(self) -> None:
        # shielded: the application whose last write this follows may be cancelled by now
        with trio.CancelScope(shield=True), suppress(*GONE):
            await self.stream.send_eof()  # type: ignore[attr-defined]  # no TLS here

    async def _read_data(self) -> None:
        discarded = 0
        with self._reading:
            while discarded <= LINGER_BYTES:
                try:
                    data = await self.stream.receive_some(MAX_RECV)
                except GONE:
                    break
                if len(self._received) < SAMPLE_BYTES:
                    self._received += data[: SAMPLE_BYTES - len(self._received)]
                if not self._leaves:
                    await self.protocol.handle(RawData(bytes(data)))
                    self._expect_headers()
                if not data:
                    break
                discarded += len(data) if self._leaves else 0
        await self.protocol.handle(Closed())


def _by_application(request: h11.Request, received: Callable[[], bytes], client: str | None) -> None:
    """A connection without a place gets no answer but that."""


class _WithConnection:
    """The app, with the connection in the scope of every request of HTTP/1.1: in HTTP/2 frames have state."""

    def __init__(self, app: AppWrapper, connection: Connection) -> None:
        self._app = app
        self._connection = connection

    async def __call__(
        self,
        scope: Scope,
        receive: ASGIReceiveCallable,
        send: Callable[..., Awaitable[None]],
        sync_spawn: Callable[..., Any],
        call_soon: Callable[..., Any],
    ) -> None:
        if scope["type"] != "lifespan" and self._connection.is_reserved and scope["path"] not in HEALTH_PATHS:
            await self._refuse(scope, send)
            return
        if scope["type"] == "lifespan" or scope["http_version"] != "1.1":
            await self._app(scope, receive, send, sync_spawn, call_soon)
            return
        connection = self._connection

        async def announce(message: Any) -> None:
            closes = connection.is_being_sent_to or connection.is_reserved
            if message is not None and message["type"] == "http.response.start" and closes:
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        scope["extensions"][CONNECTION] = connection  # type: ignore[assignment]
        await self._app(scope, receive, announce, sync_spawn, call_soon)

    async def _refuse(self, scope: HTTPScope | WebsocketScope, send: Callable[..., Awaitable[None]]) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        headers = [(b"retry-after", b"5"), (b"content-length", b"0")]
        if scope["http_version"] == "1.1":
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def connection_of(scope: HTTPScope | WebsocketScope) -> Connection | None:
    """The connection of a request, where a stream may write to it."""
    connection = (scope.get("extensions") or {}).get(CONNECTION)
    return connection if isinstance(connection, Connection) else None
