"""An HTTP/1.1 server that says what a test has it say, and remembers what it was asked. And names for it."""

import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import attrs
import trio

HERE = "127.0.0.2"  # so that tests can allow it, and not 127.0.0.1


@attrs.frozen(kw_only=True)
class Asked:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    address: str  # that the connection came to


@attrs.frozen(kw_only=True)
class Said:
    """An answer. ``pieces``: a body of unknown length that comes as it comes, in place of ``body``."""

    status: int = 200
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""
    pieces: AsyncIterator[bytes] | None = None


@attrs.define(kw_only=True)
class Server:
    port: int
    scheme: str
    asked: list[Asked] = attrs.field(factory=list)

    @property
    def url(self) -> str:
        return f"{self.scheme}://{HERE}:{self.port}"


@asynccontextmanager
async def serving(
    handler: Callable[[Asked], Any], *, tls: ssl.SSLContext | None = None, host: str = "0.0.0.0", port: int = 0
) -> AsyncIterator[Server]:
    """Serve until the block ends; connections under way are cut off then."""
    (listener,) = await trio.open_tcp_listeners(port, host=host)
    server = Server(port=listener.socket.getsockname()[1], scheme="https" if tls else "http")

    async def serve_one(stream: trio.SocketStream) -> None:
        address = str(stream.socket.getsockname()[0])
        secure = trio.SSLStream(stream, tls, server_side=True, https_compatible=True) if tls else stream
        try:
            asked = await _read(secure, address)
            server.asked.append(asked)
            said = handler(asked)
            if not isinstance(said, Said):
                said = await said
            await _write(secure, said)
            await secure.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError, ConnectionError):
            pass  # the client has left, which some tests are about
        finally:
            await trio.aclose_forcefully(secure)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve_one, [listener])
        yield server
        nursery.cancel_scope.cancel()


async def _read(stream: Any, address: str) -> Asked:
    data = b""
    while b"\r\n\r\n" not in data:
        received = await stream.receive_some()
        if not received:
            raise ConnectionError("the client left")
        data += received
        if not data[:1].isalpha():  # a greeting of TLS, say
            await stream.send_all(b"HTTP/1.1 400 Said\r\n\r\n")
            raise ConnectionError("not HTTP")
    head, _, body = data.partition(b"\r\n\r\n")
    line, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = line.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        body += await stream.receive_some()
    parts = urlsplit(target)
    return Asked(
        method=method,
        path=parts.path,
        query=dict(parse_qsl(parts.query)),
        headers=headers,
        body=body,
        address=address,
    )


async def _write(stream: Any, said: Said) -> None:
    lines = [
        f"HTTP/1.1 {said.status} Said",
        "Connection: close",
        *(f"{name}: {value}" for name, value in said.headers),
    ]
    if said.pieces is None and said.status != 304:
        lines.append(f"Content-Length: {len(said.body)}")
    await stream.send_all("\r\n".join([*lines, "", ""]).encode() + said.body)
    if said.pieces is not None:
        async for piece in said.pieces:
            await stream.send_all(piece)


class Names(trio.abc.HostnameResolver):
    """A resolver of the test's own: the answers of a name one after the other, the last of them for ever."""

    def __init__(self, answers: Mapping[str, Sequence[Sequence[str]]]) -> None:
        self.answers = {name: list(each) for name, each in answers.items()}
        self.asked: list[str] = []

    async def getaddrinfo(
        self, host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[Any]:
        name = host.decode() if isinstance(host, bytes) else host
        self.asked.append(name)
        if name not in self.answers:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        answers = self.answers[name]
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [
            (
                socket.AF_INET6 if ":" in address else socket.AF_INET,
                socket.SOCK_STREAM,
                6,
                "",
                (address, int(port), 0, 0) if ":" in address else (address, int(port)),
            )
            for address in addresses
        ]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        raise NotImplementedError


def named(answers: Mapping[str, Sequence[Sequence[str]]]) -> Names:
    """Names for the rest of this test."""
    names = Names(answers)
    trio.socket.set_custom_hostname_resolver(names)
    return names
