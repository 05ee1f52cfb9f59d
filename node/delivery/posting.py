"""Posts to receivers that others name, over connections of their own that are kept between posts.

A connection goes to an address that was judged: a host's addresses are resolved and judged whenever a connection is
made, all of them, and it stays with the one it was made to, so that names that change their answer (DNS rebinding)
gain nothing. Redirects are answers like others, not followed. TLS is verified. Plain http is spoken only to networks
that the operator allows. Whatever a receiver does is bounded in time and bytes; it can hold up its own posts alone.

Nothing of an answer but its status and Retry-After is kept: a post is no way to read from where it goes.
"""

import email.utils
import functools
import ipaddress
import os
import re
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import attrs
import h11
import httpx
import trio

from node.runtime.clock import clock_ms
from node.runtime.guarded_http import PORTS, RESOLVE_S, Address, ForbiddenAddressError, Network, is_allowed
from protocols.errors import ClientFault, WorldFault

URL_CHARS_MAX: Final = 2_048
HOST: Final = re.compile(r"[A-Za-z0-9._-]{1,253}|\[?[0-9a-fA-F:.]{2,45}\]?")
CONNECT_S: Final = 5.0
ADDRESSES_MAX: Final = 4  # of a host, tried one after the other
LOOKUPS_AT_ONCE: Final = 32  # threads of their own: names that do not resolve hold up no other work
HEAD_BYTES_MAX: Final = 32 * 1024
BODY_BYTES_MAX: Final = 16 * 1024  # read so that the connection can be kept; a longer body ends it
BODY_S: Final = 1.0
RECEIVE_BYTES: Final = 16 * 1024
IDLE_S: Final = 60.0
RETRY_AFTER_S_MAX: Final = 3_600.0
USER_AGENT: Final = b"overlay-agent-node"

Headers = Sequence[tuple[bytes, bytes]]


class InvalidCallbackError(ClientFault):
    """Field ``field``: a JSON pointer."""

    code = "invalid-callback"


class UnreachableError(WorldFault):
    """A receiver cannot be connected to; the text says why."""

    code = "unreachable"


@attrs.frozen(kw_only=True)
class Answer:
    """What came of a post.

    Attributes:
        status: None where there was no answer in HTTP.
        reason: Why it is not taken as delivered; empty for a 2xx.
        retry_after_s: As the receiver asks, at most ``RETRY_AFTER_S_MAX``.
    """

    status: int | None = None
    reason: str = ""
    retry_after_s: float | None = None

    @property
    def delivered(self) -> bool:
        return not self.reason


@attrs.frozen(kw_only=True)
class Receiver:
    """A callback URL, taken apart."""

    host: str
    port: int
    authority: bytes
    target: bytes
    secure: bool


def read_receiver(url: str, allowed: Sequence[Network]) -> Receiver:
    """Take a callback URL apart; what can be seen to be wrong without asking anybody is refused at once.

    Raises:
        InvalidCallbackError: It is no http(s) URL without user and fragment, or can never be called from here.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise _refused("is no URL") from error
    if len(url) > URL_CHARS_MAX or not url.isprintable() or " " in url:
        raise _refused(f"is no URL of at most {URL_CHARS_MAX} printable characters")
    host, port = parsed.raw_host.decode("ascii"), parsed.port or PORTS.get(parsed.scheme, 0)
    if parsed.scheme not in PORTS or parsed.userinfo or parsed.fragment:
        raise _refused("is not https://host/path")
    if HOST.fullmatch(host) is None or not 0 < port < 2**16:
        raise _refused("has no host and port that can be called")
    secure = parsed.scheme == "https"
    if not secure and not allowed:
        raise _refused("is not https, and this node speaks plain http only to networks its operator allows")
    receiver = Receiver(
        host=host,
        port=port,
        authority=parsed.netloc,
        target=parsed.raw_path,
        secure=secure,
    )
    try:
        literal = ipaddress.ip_address(receiver.host.strip("[]"))
    except ValueError:
        return receiver
    if not _may_call(literal, receiver, allowed):
        raise _refused("leads to an address that this node does not call")
    return receiver


def _refused(why: str) -> InvalidCallbackError:
    return InvalidCallbackError(
        f"/callbackUrl: {why}",
        field="/callbackUrl",
        remedy="send an https URL of a public host; OVERLAY_OUTBOUND_ALLOW allows others",
    )


def _may_call(address: Address, receiver: Receiver, allowed: Sequence[Network]) -> bool:
    named = any(address.version == network.version and address in network for network in allowed)
    return named or (receiver.secure and is_allowed(address, allowed))


@functools.lru_cache(maxsize=1)
def _authorities() -> ssl.SSLContext:
    """The certificate authorities, read once: it takes 15 ms."""
    return httpx.create_ssl_context(trust_env=False)


class Dialler:
    """Makes connections to receivers, after judging where they lead."""

    def __init__(self, allowed: Sequence[Network], tls: ssl.SSLContext | None = None) -> None:
        """Args:
        allowed: Networks besides public addresses that may be called, also in plain http.
        tls: None for the certificate authorities of the public web.
        """
        self.allowed = tuple(allowed)
        self._tls = tls
        self._lookups = trio.CapacityLimiter(LOOKUPS_AT_ONCE)

    async def connect(self, receiver: Receiver) -> trio.abc.Stream:
        """A connection to one of a receiver's addresses.

        Raises:
            ForbiddenAddressError: One of its addresses may not be called. UnreachableError: None answers.
        """
        problem = "it has no address"
        for address in (await self._judged(receiver))[:ADDRESSES_MAX]:
            try:
                return await self._opened(address, receiver)
            except ssl.SSLError as error:
                raise UnreachableError(_tls_problem(error)) from error
            except OSError as error:  # whose text names the address
                problem = os.strerror(error.errno).lower() if error.errno else "it takes too long"
            except trio.BrokenResourceError as error:
                if isinstance(error.__cause__, ssl.SSLError):
                    raise UnreachableError(_tls_problem(error.__cause__)) from error
                problem = "the connection broke while it was made"
        raise UnreachableError(f"cannot connect: {problem}")

    async def _judged(self, receiver: Receiver) -> list[Address]:
        """The addresses of a receiver, every one of which may be called."""
        look_up = functools.partial(
            socket.getaddrinfo, receiver.host.strip("[]"), receiver.port, 0, socket.SOCK_STREAM
        )
        try:
            with trio.fail_after(RESOLVE_S):
                found = await trio.to_thread.run_sync(  # type: ignore[call-arg]  # newer than its stubs
                    look_up, abandon_on_cancel=True, limiter=self._lookups
                )
        except trio.TooSlowError as error:
            raise UnreachableError("its name is not resolved in time") from error
        except (OSError, UnicodeError) as error:
            raise UnreachableError("its name is not resolved") from error
        addresses = list(dict.fromkeys(ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in found))
        if not all(_may_call(address, receiver, self.allowed) for address in addresses):
            raise ForbiddenAddressError("it leads to an address that this node does not call")
        return addresses

    async def _opened(self, address: Address, receiver: Receiver) -> trio.abc.Stream:
        try:
            with trio.fail_after(CONNECT_S):
                return await self._secured(await _stream_to(address, receiver.port), receiver)
        except trio.TooSlowError as error:
            raise TimeoutError from error

    async def _secured(self, stream: trio.SocketStream, receiver: Receiver) -> trio.abc.Stream:
        if not receiver.secure:
            return stream
        secured = trio.SSLStream(
            stream, self._tls or _authorities(), server_hostname=receiver.host.strip("[]"), https_compatible=True
        )
        try:
            await secured.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return secured


async def _stream_to(address: Address, port: int) -> trio.SocketStream:
    family = trio.socket.AF_INET if address.version == 4 else trio.socket.AF_INET6
    connecting = trio.socket.socket(family, trio.socket.SOCK_STREAM)
    try:
        await connecting.connect((str(address), port))
    except BaseException:
        connecting.close()
        raise
    return trio.SocketStream(connecting)


def _tls_problem(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: its certificate is refused: {error.verify_message}"
    return f"TLS: {(error.reason or 'the handshake failed').lower().replace('_', ' ')}"


class _Broken(Exception):
    """The connection ended, or what came over it is no HTTP. ``heard`` tells whether anything came at all."""

    def __init__(self, reason: str, *, heard: bool) -> None:
        super().__init__(reason)
        self.heard = heard


class Line:
    """The way to one receiver: one post at a time, over one connection while it lasts."""

    def __init__(self, receiver: Receiver, dialler: Dialler) -> None:
        self._receiver = receiver
        self._dialler = dialler
        self._stream: trio.abc.Stream | None = None
        self._http = h11.Connection(h11.CLIENT)
        self._idle_since_s = 0.0

    async def post(self, headers: Headers, body: bytes, timeout_s: float) -> Answer:
        """Post JSON; never raises for what the receiver or the world does."""
        try:
            with trio.move_on_after(timeout_s):
                return await self._post(headers, body)
            return Answer(reason=f"no answer within {timeout_s:g} s")
        except _Broken as error:
            return Answer(reason=str(error))
        except ForbiddenAddressError as error:
            return Answer(reason=f"forbidden address: {error}")
        except UnreachableError as error:
            return Answer(reason=str(error))

    async def aclose(self) -> None:
        """End the connection; the next post makes another."""
        stream, self._stream = self._stream, None
        if stream is not None:
            await trio.aclose_forcefully(stream)

    async def _post(self, headers: Headers, body: bytes) -> Answer:
        kept = await self._is_kept()
        try:
            try:
                return await self._exchange(headers, body)
            except _Broken as error:
                if not kept or error.heard:
                    raise
                await self.aclose()  # the receiver closed it as the post went out: that is nobody's failure
                return await self._exchange(headers, body)
        except BaseException:
            await self.aclose()
            raise

    async def _is_kept(self) -> bool:
        """Whether there is a connection that can still be used; what is idle and readable was closed."""
        if self._stream is None:
            return False
        inner = self._stream.transport_stream if isinstance(self._stream, trio.SSLStream) else self._stream
        assert isinstance(inner, trio.SocketStream), "connections are sockets"
        if inner.socket.is_readable() or trio.current_time() - self._idle_since_s > IDLE_S:
            await self.aclose()
            return False
        return True

    async def _exchange(self, headers: Headers, body: bytes) -> Answer:
        if self._stream is None:
            self._stream = await self._dialler.connect(self._receiver)
            self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES_MAX)
        head = h11.Request(
            method=b"POST",
            target=self._receiver.target,
            headers=[
                (b"host", self._receiver.authority),
                (b"user-agent", USER_AGENT),
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
                *headers,
            ],
        )
        parts = [self._http.send(event) or b"" for event in (head, h11.Data(data=body), h11.EndOfMessage())]
        with suppress(trio.BrokenResourceError):  # it may have answered before it closed
            await self._stream.send_all(b"".join(parts))
        response = await self._response(self._stream)
        if not await self._ends(self._stream):
            await self.aclose()
        self._idle_since_s = trio.current_time()
        return _judge(response)

    async def _response(self, stream: trio.abc.Stream) -> h11.Response:
        """The head of the answer; interim ones (1xx) are passed over within the bound of the head."""
        heard = 0
        while heard <= HEAD_BYTES_MAX:
            try:
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    received = await stream.receive_some(RECEIVE_BYTES)
                    heard += len(received)
                    self._http.receive_data(received)
                elif isinstance(event, h11.Response):
                    return event
                elif not isinstance(event, h11.InformationalResponse):
                    raise _Broken("it closed without an answer", heard=heard > 0)
            except h11.RemoteProtocolError as error:
                why = "its answer is no HTTP" if heard else "it closed without an answer"
                raise _Broken(why, heard=heard > 0) from error
            except trio.BrokenResourceError as error:
                raise _Broken("it closed without an answer", heard=heard > 0) from error
        raise _Broken("the head of its answer is too long", heard=True)

    async def _ends(self, stream: trio.abc.Stream) -> bool:
        """Read the answer's body, within bounds. Whether the connection can be used again."""
        left = BODY_BYTES_MAX
        with trio.move_on_after(BODY_S):
            while left >= 0:
                try:
                    event = self._http.next_event()
                    if event is h11.NEED_DATA:
                        self._http.receive_data(await stream.receive_some(RECEIVE_BYTES))
                    elif isinstance(event, h11.Data):
                        left -= len(event.data)
                    else:
                        break
                except (h11.RemoteProtocolError, trio.BrokenResourceError):
                    return False
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True


def _judge(response: h11.Response) -> Answer:
    status = response.status_code
    if 200 <= status < 300:
        return Answer(status=status)
    reason = f"answered {status}"
    if 300 <= status < 400:
        reason += ": redirects are not followed; set callbackUrl to where it leads"
    return Answer(status=status, reason=reason, retry_after_s=_retry_after_s(response))


def _retry_after_s(response: h11.Response) -> float | None:
    """Retry-After in seconds from now (RFC 9110, section 10.2.3); None where there is none that makes sense."""
    text = next((value for name, value in response.headers if name == b"retry-after"), b"").decode("latin-1").strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return min(float(text), RETRY_AFTER_S_MAX)
    try:
        moment = email.utils.parsedate_to_datetime(text)
        seconds = moment.timestamp() - clock_ms() / 1000
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(seconds, 0.0), RETRY_AFTER_S_MAX)
