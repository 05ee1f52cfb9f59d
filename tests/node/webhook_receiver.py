"""A real HTTP server that takes webhooks, verifies them with the official package, and misbehaves as it is told."""

import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import attrs
import h11
import orjson
import trio
from standardwebhooks import Webhook

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYqr"


@attrs.frozen(kw_only=True)
class Hook:
    """One request as it came; ``message`` its body, after the signature was checked."""

    path: str
    headers: dict[str, str]
    body: bytes
    message: dict[str, Any]

    @property
    def name(self) -> str:
        return self.headers["webhook-id"]

    @property
    def events(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.message["events"] if self.message["type"] == "events" else [self.message]
        return found


Behaviour = Callable[[trio.abc.Stream], Awaitable[bool]]
"""Answers a request that was read; whether the connection is kept."""


def answers(status: int, body: str = "", **headers: str) -> Behaviour:
    async def behave(stream: trio.abc.Stream) -> bool:
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        head = f"HTTP/1.1 {status} Whatever\r\n{lines}Content-Length: {len(body)}\r\n\r\n{body}"
        await stream.send_all(head.encode())
        return True

    return behave


async def closes(stream: trio.abc.Stream) -> bool:
    return False


async def never_answers(stream: trio.abc.Stream) -> bool:
    await trio.sleep_forever()
    return False


async def trickles(stream: trio.abc.Stream) -> bool:
    for letter in b"HTTP/1.1 200 OK\r\n" * 100:
        await stream.send_all(bytes([letter]))
        await trio.sleep(0.1)
    return False


async def endless_head(stream: trio.abc.Stream) -> bool:
    while True:
        await stream.send_all(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 100)


async def endless_body(stream: trio.abc.Stream) -> bool:
    await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        await stream.send_all(b"400\r\n" + b"x" * 1024 + b"\r\n")


async def no_http(stream: trio.abc.Stream) -> bool:
    await stream.send_all(b"220 mail.example ESMTP\r\n")
    return False


class Receiver:
    """``script``: what to do with the next requests; afterwards ``otherwise``."""

    def __init__(self, secret: str | None = SECRET) -> None:
        self.secret = secret
        self.script: deque[Behaviour] = deque()
        self.otherwise: Behaviour = answers(204)
        self.hooks: list[Hook] = []
        self.connections = 0
        self.open_connections = 0
        self.port = 0
        self.host = "127.0.0.1"
        self.scheme = "http"
        self._news = trio.Event()

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}/hook?a=1"

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for hook in self.hooks for event in hook.events]

    @property
    def first_arrivals(self) -> list[str]:
        """The ids of events, each where it came first."""
        return list(dict.fromkeys(event["eventId"] for event in self.events if event["type"] == "event"))

    async def until(self, condition: Callable[[], bool], seconds: float = 20.0) -> None:
        with trio.fail_after(seconds):
            while not condition():
                self._news = trio.Event()
                await self._news.wait()

    async def serve(self, stream: trio.abc.Stream) -> None:
        self.connections += 1
        self.open_connections += 1
        try:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
                async with stream:
                    await self._serve(stream)
        finally:
            self.open_connections -= 1
            self._news.set()

    async def _serve(self, stream: trio.abc.Stream) -> None:
        http = h11.Connection(h11.SERVER)
        while (hook := await self._read(stream, http)) is not None:
            behave = self.script.popleft() if self.script else self.otherwise
            self.hooks.append(hook)
            self._news.set()
            if not await behave(stream):
                return
            http = h11.Connection(h11.SERVER)

    async def _read(self, stream: trio.abc.Stream, http: h11.Connection) -> Hook | None:
        head: h11.Request | None = None
        body = b""
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await stream.receive_some(65_536))
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                return self._hook(head, body)
            else:
                return None

    def _hook(self, head: h11.Request, body: bytes) -> Hook:
        headers = {name.decode(): value.decode() for name, value in head.headers}
        if self.secret is not None:
            Webhook(self.secret).verify(body, headers)
        return Hook(path=head.target.decode(), headers=headers, body=body, message=orjson.loads(body))


@asynccontextmanager
async def receiving(
    receiver: Receiver | None = None, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[Receiver]:
    """Serve a receiver on a port of its own until the block ends."""
    receiver = receiver or Receiver()
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, receiver.serve) if tls is None else partial(serve_tls, receiver, tls)
        listeners = await nursery.start(partial(serve, port, host=host))
        listener = listeners[0] if tls is None else listeners[0].transport_listener
        receiver.port, receiver.host = listener.socket.getsockname()[1], host
        receiver.scheme = "http" if tls is None else "https"
        yield receiver
        nursery.cancel_scope.cancel()


async def serve_tls(receiver: Receiver, tls: ssl.SSLContext, port: int, *, host: str, task_status: Any) -> None:
    async def serve(stream: Any) -> None:
        with suppress(trio.BrokenResourceError):
            await stream.do_handshake()
            await receiver.serve(stream)

    await trio.serve_ssl_over_tcp(serve, port, tls, host=host, https_compatible=True, task_status=task_status)
