"""HTTP/1.1 as hypercorn speaks it, less what it lets pass.

A request whose end two readers could see in different places is refused, and the connection closed (RFC 9112, section
6.1 to 6.3): else a proxy before the node could be made to take one client's bytes for another's request. h11 refuses
differing Content-Lengths and unknown transfer codings itself. The upgrade to HTTP/2 is ignored, as any server may
(RFC 9110, section 7.8) and RFC 9113 has it no more; HTTP/2 begins with its preface.
"""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import h11
import trio
from hypercorn.events import Closed, RawData
from hypercorn.protocol.events import EndBody
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h11 import H11Protocol, H11WSConnection
from hypercorn.protocol.ws_stream import WSStream

from node.api.handshakes import is_waiting
from node.api.host_names import is_host
from node.api.problems import MEDIA_TYPE, unread_problem

REFUSAL_PAUSE_S: Final = (
    0.25  # before a refusal: the next one of its client would cost the node time, and help nobody
)
AnswerEarly: TypeAlias = Callable[
    [h11.Request, Callable[[], bytes], str | None], tuple[list[tuple[bytes, bytes]], bytes] | None
]
"""Headers and body of the answer 429 to a request, by what has arrived after its headers, and the address of its
client; None where the application is to handle it.
"""


class Http1(H11Protocol):
    """One connection of HTTP/1.1."""

    def __init__(self, *args: Any, answer_early: AnswerEarly = lambda request, received, client: None) -> None:
        super().__init__(*args)
        self._answer_early = answer_early

    async def _send_error_response(self, status_code: int) -> None:
        """Refuse a request that is not understood as HTTP; the connection ends with it."""
        body = unread_problem(status_code)
        headers = [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        await self._send_h11_event(
            h11.Response(status_code=status_code, headers=headers + self.config.response_headers("h11"))
        )
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())

    async def _check_protocol(self, event: h11.Request) -> None:
        if event.method == b"PRI":
            await super()._check_protocol(event)

    async def _create_stream(self, request: h11.Request) -> None:
        if is_ambiguous(request) or not all(is_host(value) for name, value in request.headers if name == b"host"):
            await self._send_error_response(400)
            await self.send(Closed())
        elif (early := self._early(request)) is not None:
            self.stream = early  # type: ignore[assignment]  # it has what is used of a stream
            self.keep_alive_requests += 1
            await self.context.mark_request()
        else:
            await super()._create_stream(request)
            if isinstance(self.stream, WSStream) and self.stream.closed:  # a handshake that hypercorn refused
                await self.send(Closed())
            await self._refuse_early()

    def _early(self, request: h11.Request) -> "EarlyAnswer | None":
        client = None if self.client is None else self.client[0]
        answer = self._answer_early(request, lambda: self.connection.trailing_data[0], client)
        return None if answer is None else EarlyAnswer(self, *answer)

    async def answer(self, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Answer the request under way, which has come to its end, and go on with the next."""
        headers = [*headers, *self.config.response_headers("h11")]
        if self.keep_alive_requests >= self.config.keep_alive_max_requests:
            headers.append((b"connection", b"close"))
        connection = self.connection
        assert isinstance(connection, h11.Connection)
        parts = (
            connection.send(h11.Response(status_code=429, headers=headers)),
            connection.send(h11.Data(data=body)),
            connection.send(h11.EndOfMessage()),
        )
        await self.send(RawData(data=b"".join(part or b"" for part in parts)))
        await self._maybe_recycle()

    async def _handle_events(self) -> None:
        await self._refuse_early()
        await super()._handle_events()

    async def _refuse_early(self) -> None:
        """Refuse a WebSocket whose client sends messages before its handshake is answered (RFC 6455, section 4.1).

        Hypercorn answers it too, but goes on with the handshake meanwhile, which then fails.
        """
        if not isinstance(self.connection, H11WSConnection) or not self.connection.buffer:
            return
        if is_waiting(self.stream):
            self.connection.buffer.clear()
            if self.connection.h11_connection.our_state is not h11.SEND_RESPONSE:
                return  # the application has begun to refuse the handshake itself
            await self._close_stream()  # first: an answer of the app to the handshake is ignored from here on
            await self._send_error_response(400)
            await self.send(Closed())


class EarlyAnswer:
    """In the place of a stream: a request whose answer is known, and whose body is to be read past."""

    def __init__(self, protocol: Http1, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self._protocol = protocol
        self._headers = headers
        self._body = body

    async def handle(self, event: StreamEvent) -> None:
        """Answer after the end of the request's body. Meanwhile nothing is read from its connection."""
        if isinstance(event, EndBody):
            await trio.sleep(REFUSAL_PAUSE_S)
            await self._protocol.answer(self._headers, self._body)


def is_ambiguous(request: h11.Request) -> bool:
    """Whether a request has a Transfer-Encoding beside a Content-Length, or in a version that has none."""
    names = {name for name, _ in request.headers}
    return b"transfer-encoding" in names and (b"content-length" in names or request.http_version < b"1.1")
