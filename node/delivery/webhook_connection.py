"""HTTP connections to the receivers of webhooks, kept between requests: a client for one fixed request, over h11.

A delivery with httpx costs the node 3.5 times the CPU (1,006 us instead of 284), hence this client beside it.
Addresses are judged, and connections made, by the same ``guarded_network``; a connection stays with the address that
it was made to. Redirects are answers like others, not followed. TLS is verified. Plain http is used only in networks
that the operator allows. What a receiver does is bounded in time and bytes; it can delay its own requests alone.

Of a response only the status and Retry-After are kept: a webhook cannot be used to read from where it goes.
"""

import socket
import ssl
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from typing import Final

import attrs
import h11
import httpcore
import trio

from node.delivery.callback_url import CallbackTarget
from node.runtime.guarded_http import AGENT, retry_after_s
from node.runtime.guarded_network import (
    CONNECT_S,
    ForbiddenAddressError,
    GuardedBackend,
    GuardedStream,
    Network,
    OutboundFault,
    public_authorities,
    tls_problem,
)
from protocols.errors import WorldFault

LOOKUPS_AT_ONCE: Final = 32  # threads of their own: names that do not resolve hold up no other work
HEAD_BYTES_MAX: Final = 32 * 1024
BODY_BYTES_MAX: Final = 16 * 1024  # read so that the connection can be kept; a longer body ends it
BODY_S: Final = 1.0
RECEIVE_BYTES: Final = 16 * 1024
IDLE_S: Final = 60.0

Headers = Sequence[tuple[bytes, bytes]]


class UnreachableError(WorldFault):
    """No connection to a receiver can be made; the text says why."""

    code = "unreachable"


@attrs.frozen(kw_only=True)
class WebhookResponse:
    """The outcome of a request.

    Attributes:
        status: None where there was no answer in HTTP.
        reason: Why it does not count as delivered; empty for a 2xx.
        retry_after_s: As the receiver asks, bounded.
    """

    status: int | None = None
    reason: str = ""
    retry_after_s: float | None = None

    @property
    def delivered(self) -> bool:
        return not self.reason


class WebhookConnector:
    """Makes connections to receivers, to judged addresses alone."""

    def __init__(self, allowed: Sequence[Network], tls: ssl.SSLContext | None = None) -> None:
        """Args:
        allowed: Networks besides public addresses that may be called, also in plain http.
        tls: None for the certificate authorities of the public web.
        """
        self.allowed = tuple(allowed)
        self._tls = tls
        lookups = trio.CapacityLimiter(LOOKUPS_AT_ONCE)
        self._secure = GuardedBackend(allowed, lookups=lookups)
        self._plain = GuardedBackend(allowed, public=False, lookups=lookups)

    async def connect(self, target: CallbackTarget) -> GuardedStream:
        """Connect to one of a receiver's addresses.

        Raises:
            UnreachableError: One of its addresses may not be called, or none of them answers. The text names no
                address: a caller that names a URL must not learn where it leads.
        """
        host = target.host.strip("[]")
        try:
            if not target.secure:
                return await self._plain.connect_tcp(host, target.port)
            stream = await self._secure.connect_tcp(host, target.port)
            return await stream.start_tls(self._tls or public_authorities(), host, CONNECT_S)
        except ForbiddenAddressError as error:
            raise UnreachableError(
                "forbidden address: it leads to an address that this node does not call"
            ) from error
        except (OutboundFault, socket.gaierror, UnicodeError) as error:
            raise UnreachableError("its name is not resolved") from error
        except (httpcore.NetworkError, httpcore.TimeoutException) as error:
            problem = tls_problem(error)
            raise UnreachableError(f"TLS: {problem}" if problem else f"cannot connect: {error}") from error


class _BrokenConnectionError(Exception):
    """The connection ended, or the answer is not HTTP. ``answered`` tells whether anything came at all."""

    def __init__(self, reason: str, *, answered: bool) -> None:
        super().__init__(reason)
        self.answered = answered


class WebhookConnection:
    """Sends requests to one receiver: one at a time, over one connection while it lasts."""

    def __init__(self, target: CallbackTarget, connector: WebhookConnector) -> None:
        self._target = target
        self._connector = connector
        self._stream: GuardedStream | None = None
        self._http = h11.Connection(h11.CLIENT)
        self._idle_since_s = 0.0

    async def post(self, headers: Headers, body: bytes, timeout_s: float) -> WebhookResponse:
        """Post JSON; never raises for what the receiver or the network does."""
        try:
            with trio.move_on_after(timeout_s):
                return await self._post(headers, body)
            return WebhookResponse(reason=f"no answer within {timeout_s:g} s")
        except (_BrokenConnectionError, UnreachableError) as error:
            return WebhookResponse(reason=str(error))

    async def aclose(self) -> None:
        """Close the connection; the next request makes another."""
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.aclose()

    async def _post(self, headers: Headers, body: bytes) -> WebhookResponse:
        kept = await self._is_kept()
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self.aclose)
            try:
                answered = await self._exchange(headers, body)
            except _BrokenConnectionError as error:
                if not kept or error.answered:
                    raise
                await self.aclose()  # the receiver closed it as the request went out: that is no failure
                answered = await self._exchange(headers, body)
            undo.pop_all()
        return answered

    async def _is_kept(self) -> bool:
        """Whether there is a connection that can still be used; one that is idle and readable was closed."""
        if self._stream is None:
            return False
        if self._stream.is_readable or trio.current_time() - self._idle_since_s > IDLE_S:
            await self.aclose()
            return False
        return True

    async def _exchange(self, headers: Headers, body: bytes) -> WebhookResponse:
        if self._stream is None:
            self._stream = await self._connector.connect(self._target)
            self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES_MAX)
        with suppress(httpcore.WriteError):  # it may have answered before it closed
            await self._stream.write(self._request(headers, body))
        response = await self._response(self._stream)
        if not await self._body_ends(self._stream):
            await self.aclose()
        self._idle_since_s = trio.current_time()
        return _outcome(response)

    def _request(self, headers: Headers, body: bytes) -> bytes:
        head = h11.Request(
            method=b"POST",
            target=self._target.target,
            headers=[
                (b"host", self._target.authority),
                (b"user-agent", AGENT.encode()),
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
                *headers,
            ],
        )
        return b"".join(self._http.send(event) or b"" for event in (head, h11.Data(data=body), h11.EndOfMessage()))

    async def _response(self, stream: GuardedStream) -> h11.Response:
        """The head of the answer; interim ones (1xx) are passed over within the bound of the head."""
        received_bytes = 0
        while received_bytes <= HEAD_BYTES_MAX:
            try:
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    received = await stream.read(RECEIVE_BYTES)
                    received_bytes += len(received)
                    self._http.receive_data(received)
                elif isinstance(event, h11.Response):
                    return event
                elif not isinstance(event, h11.InformationalResponse):
                    raise _BrokenConnectionError("it closed without an answer", answered=received_bytes > 0)
            except h11.RemoteProtocolError as error:
                reason = "its answer is not HTTP" if received_bytes else "it closed without an answer"
                raise _BrokenConnectionError(reason, answered=received_bytes > 0) from error
            except httpcore.ReadError as error:
                raise _BrokenConnectionError("it closed without an answer", answered=received_bytes > 0) from error
        raise _BrokenConnectionError("the head of its answer is too long", answered=True)

    async def _body_ends(self, stream: GuardedStream) -> bool:
        """Read the answer's body, within bounds. Returns whether the connection can be used again."""
        left = BODY_BYTES_MAX
        with trio.move_on_after(BODY_S):
            while left >= 0:
                try:
                    event = self._http.next_event()
                    if event is h11.NEED_DATA:
                        self._http.receive_data(await stream.read(RECEIVE_BYTES))
                    elif isinstance(event, h11.Data):
                        left -= len(event.data)
                    else:
                        break
                except (h11.RemoteProtocolError, httpcore.ReadError):
                    return False
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True


def _outcome(response: h11.Response) -> WebhookResponse:
    status = response.status_code
    if 200 <= status < 300:
        return WebhookResponse(status=status)
    reason = f"answered {status}"
    if 300 <= status < 400:
        reason += ": redirects are not followed; set callbackUrl to where it leads"
    wait = next((value for name, value in response.headers if name == b"retry-after"), b"").decode("latin-1")
    return WebhookResponse(status=status, reason=reason, retry_after_s=retry_after_s(wait))
