"""A client of HTTP/1.1 that costs little: one connection, kept alive, one request at a time; and one of WebSocket."""

import base64
import struct
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Final

import trio

from protocols.messages import IdentityKey
from scripts.fuzzing.calls import Answered, Call, Nonces, signature_headers

READ_BYTES: Final = 65_536
BODY_BYTES_MAX: Final = 64 * 1024 * 1024
STREAM: Final = "text/event-stream"
PIECES: Final = 3
AT_ONCE_BYTES: Final = 32_768  # what a socket's buffer takes, whether the node reads it or not
TEXT_FRAME: Final = 0x81
CLOSE_FRAME: Final = b"\x88\x82\0\0\0\0" + struct.pack(">H", 1000)
MASK: Final = b"\0\0\0\0"


class NoAnswerError(Exception):
    """The connection ended, or what came is not HTTP."""


class Connection:
    """One connection to the node, opened when it is needed."""

    def __init__(self, port: int, node: IdentityKey, nonces: Nonces) -> None:
        self._port = port
        self._node = node
        self._nonces = nonces
        self._stream: trio.SocketStream | None = None
        self._buffer = bytearray()

    async def __aenter__(self) -> "Connection":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        stream, self._stream = self._stream, None
        self._buffer.clear()
        if stream is not None:
            await trio.aclose_forcefully(stream)

    async def send(self, call: Call) -> Answered:
        """Send a request and read its answer; of an endless one the head.

        Raises:
            NoAnswerError: There is none. OSError: The node cannot be reached.
        """
        data = self._encoded(call)
        for attempt in (1, 2):
            fresh = self._stream is None
            try:
                return await self._exchange(data, call.method)
            except (NoAnswerError, trio.BrokenResourceError) as error:
                await self.close()
                if fresh or attempt == 2:  # else the node closed a connection that it had kept
                    raise NoAnswerError(str(error) or repr(error)) from error
        raise AssertionError("not reached")

    async def talk(self, call: Call, messages: list[bytes], patience_s: float) -> Answered:
        """Open a WebSocket, send texts, read what comes until the node closes it or for so long."""
        await self.close()
        key = base64.b64encode(bytes(16))
        more = (("Upgrade", b"websocket"), ("Connection", b"Upgrade"), ("Sec-WebSocket-Version", b"13"))
        headers = {"Sec-WebSocket-Key": key.decode(), **signature_headers(call, self._node, self._nonces)}
        data = self._head(call, (*more, *call.headers), headers)
        stream = await self._opened()
        try:
            await stream.send_all(data)
            answered = await self._answer(call.method)
            if answered.status == 101:
                with trio.move_on_after(patience_s):
                    await stream.send_all(b"".join(map(_frame, messages)) + CLOSE_FRAME)
                    while await stream.receive_some(READ_BYTES):
                        pass
        except trio.BrokenResourceError as error:
            raise NoAnswerError(str(error)) from error
        finally:
            await self.close()
        return answered

    def _encoded(self, call: Call) -> bytes:
        signed = signature_headers(call, self._node, self._nonces)
        if call.body is None:
            return self._head(call, call.headers, signed)
        if call.chunked:
            size = max(1, len(call.body) // PIECES)
            pieces = [call.body[at : at + size] for at in range(0, len(call.body), size)]
            body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
            return self._head(call, call.headers, {**signed, "Transfer-Encoding": "chunked"}) + body
        return self._head(call, call.headers, {**signed, "Content-Length": str(len(call.body))}) + call.body

    def _head(self, call: Call, headers: tuple[tuple[str, bytes], ...], more: Mapping[str, str]) -> bytes:
        lines = [f"{call.method} {call.target} HTTP/1.1".encode(), b"Host: 127.0.0.1:%d" % self._port]
        lines += [name.encode() + b": " + value for name, value in headers]
        lines += [f"{name}: {value}".encode() for name, value in more.items()]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    async def _opened(self) -> trio.SocketStream:
        if self._stream is None:
            self._stream = await trio.open_tcp_stream("127.0.0.1", self._port)
        return self._stream

    async def _exchange(self, data: bytes, method: str) -> Answered:
        stream = await self._opened()
        if len(data) <= AT_ONCE_BYTES:
            await stream.send_all(data)
            return await self._answer(method)
        failure: NoAnswerError | None = None
        async with trio.open_nursery() as nursery:  # an early answer may come while a body is being sent
            nursery.start_soon(_send, stream, data)
            try:
                answered = await self._answer(method)
            except NoAnswerError as error:
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return answered

    async def _answer(self, method: str) -> Answered:
        while True:
            status, headers = _parsed(await self._until(b"\r\n\r\n"))
            if status >= 200 or status == 101:
                break
        if status == 101:
            return Answered(status=status, headers=headers, body=b"")
        if headers.get("content-type", "").startswith(STREAM):
            await self.close()
            return Answered(status=status, headers=headers, body=b"")
        body = b"" if method == "HEAD" or status in (204, 304) else await self._body(headers)
        if headers.get("connection", "").lower() == "close":
            await self.close()
        return Answered(status=status, headers=headers, body=body)

    async def _body(self, headers: Mapping[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() == "chunked":
            parts = []
            while size := int((await self._until(b"\r\n")).partition(b";")[0], 16):
                parts.append(await self._exactly(size))
                await self._exactly(2)
            await self._exactly(2)
            return b"".join(parts)
        if "content-length" in headers:
            return await self._exactly(int(headers["content-length"]))
        while await self._more():
            pass
        return bytes(self._buffer)

    async def _until(self, mark: bytes) -> bytes:
        while (at := self._buffer.find(mark)) < 0:
            if not await self._more():
                raise NoAnswerError("the connection ended")
        found = bytes(self._buffer[:at])
        del self._buffer[: at + len(mark)]
        return found

    async def _exactly(self, size: int) -> bytes:
        if size > BODY_BYTES_MAX:
            raise NoAnswerError(f"an answer of {size} bytes")
        while len(self._buffer) < size:
            if not await self._more():
                raise NoAnswerError("the connection ended in an answer")
        found = bytes(self._buffer[:size])
        del self._buffer[:size]
        return found

    async def _more(self) -> bool:
        assert self._stream is not None, "opened before"
        try:
            data = await self._stream.receive_some(READ_BYTES)
        except trio.BrokenResourceError as error:
            raise NoAnswerError(str(error.__cause__ or error)) from error
        self._buffer += data
        return bool(data)


async def _send(stream: trio.SocketStream, data: bytes) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # the answer says why
        await stream.send_all(data)


def _parsed(head: bytes) -> tuple[int, dict[str, str]]:
    line, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = line.partition(" ")
    if not version.startswith("HTTP/1.") or not rest[:3].isdigit():
        raise NoAnswerError(f"not an answer: {line[:80]!r}")
    headers = {name.strip().lower(): value.strip() for name, _, value in (each.partition(":") for each in lines)}
    return int(rest[:3]), headers


def _frame(text: bytes) -> bytes:
    """A masked text frame (RFC 6455); the mask is zero, so the text is as it is."""
    if len(text) < 126:
        head = bytes((TEXT_FRAME, 0x80 | len(text)))
    elif len(text) < 65_536:
        head = bytes((TEXT_FRAME, 0x80 | 126)) + struct.pack(">H", len(text))
    else:
        head = bytes((TEXT_FRAME, 0x80 | 127)) + struct.pack(">Q", len(text))
    return head + MASK + text
