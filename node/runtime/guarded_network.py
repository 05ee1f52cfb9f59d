"""Connections to hosts that others name: to public addresses, and to those that the operator allows.

A name is resolved here, every address it leads to is judged, and the connection is made to a judged address, so that
a name whose answer changes meanwhile (DNS rebinding) gains nothing. ``GuardedBackend`` is httpcore's network
interface: httpx and the webhook client connect through it, and neither can reach an address that was not judged.
"""

import functools
import ipaddress
import os
import socket
import ssl
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, Final, NoReturn, TypeAlias

import httpcore
import httpx
import trio

from protocols.errors import WorldFault

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

PORT_MAX: Final = 65_535
RESOLVE_S: Final = 5.0
CONNECT_S: Final = 5.0  # to one address, where the caller sets no bound of its own
ADDRESSES_MAX: Final = 4  # of one name that are tried, one after the other
PORTS: Final = {"http": 80, "https": 443}
NAT64: Final = ipaddress.ip_network("64:ff9b::/96")


class OutboundFault(WorldFault):
    """A host could not be called, or did not answer as it should."""

    code = "outbound-fault"


class ForbiddenAddressError(OutboundFault):
    """A URL leads to an address that is not public, and not allowed by the operator."""

    code = "forbidden-address"


def is_allowed(address: Address, allowed: Sequence[Network], *, public: bool = True) -> bool:
    """Whether an address may be called.

    Args:
        allowed: Networks that the operator allows.
        public: Whether public addresses may be called too.
    """
    inner = _embedded(address)
    if any(each.version == network.version and each in network for each in {address, inner} for network in allowed):
        return True
    return public and _is_public(address) and _is_public(inner)


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and address.is_site_local:
        return False  # deprecated (RFC 3879), and still routed inside networks that use it
    return address.is_global and not address.is_multicast and not address.is_reserved


def _embedded(address: Address) -> Address:
    """The IPv4 address inside an IPv6 one that leads to it (mapped, 6to4, NAT64); itself where there is none."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        return address.ipv4_mapped or address.sixtofour or address
    return address


async def resolve(
    host: str,
    port: int,
    allowed: Sequence[Network],
    *,
    public: bool = True,
    lookups: trio.CapacityLimiter | None = None,
) -> tuple[Address, ...]:
    """The addresses to call for a host, at least one, in the order in which to try them.

    Args:
        allowed: Networks that may be called besides public addresses.
        public: Whether public addresses may be called.
        lookups: Threads for look-ups, for callers whose hosts could occupy all the others.

    Raises:
        ForbiddenAddressError: One of its addresses may not be called.
        OutboundFault: The name or port is malformed, or the name is not resolved in time.
        OSError: The name has no address.
    """
    if not 0 <= port <= PORT_MAX:
        raise OutboundFault(f"the port of {host:.255} must be at most {PORT_MAX}, found {port}")
    try:
        with trio.fail_after(RESOLVE_S):
            found = await _look_up(host, port, lookups)
    except UnicodeError as error:
        raise OutboundFault(f"{host:.255} is not a valid host name") from error
    except trio.TooSlowError as error:
        raise OutboundFault(f"{host:.255} is not resolved within {RESOLVE_S:g} s") from error
    addresses = tuple(dict.fromkeys(ipaddress.ip_address(text.partition("%")[0]) for text in found))
    for address in addresses:
        if not is_allowed(address, allowed, public=public):
            what = f"{host} leads to {address}, which" if host.strip("[]") != str(address) else host
            kind = "public" if public else "in an allowed network"
            raise ForbiddenAddressError(f"{what} is not {kind}; OVERLAY_OUTBOUND_ALLOW allows networks")
    return addresses


async def _look_up(host: str, port: int, lookups: trio.CapacityLimiter | None) -> list[str]:
    if lookups is None:
        found: list[Any] = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    else:
        found = await trio.to_thread.run_sync(  # type: ignore[call-arg]  # newer than its stubs
            _stdlib_look_up, host, port, abandon_on_cancel=True, limiter=lookups
        )
    return [str(entry[4][0]) for entry in found]


def _stdlib_look_up(host: str, port: int) -> list[Any]:
    return list(socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM))


@functools.lru_cache(maxsize=1)
def public_authorities() -> ssl.SSLContext:
    """Verification by the certificate authorities of the public web; read once, since it takes 15 ms."""
    return httpx.create_ssl_context(trust_env=False)


class GuardedStream(httpcore.AsyncNetworkStream):
    """A trio stream as httpcore wants it; its errors are httpcore's."""

    def __init__(self, stream: trio.SocketStream | trio.SSLStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        try:
            with _time_limit(timeout):
                return bytes(await self._stream.receive_some(max_bytes))
        except trio.TooSlowError as error:
            raise httpcore.ReadTimeout from error
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise httpcore.ReadError from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        try:
            with _time_limit(timeout):
                await self._stream.send_all(buffer)
        except trio.TooSlowError as error:
            raise httpcore.WriteTimeout from error
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise httpcore.WriteError from error

    async def aclose(self) -> None:
        """Close at once, without TLS's good-bye: what was not read is not wanted any more."""
        await trio.aclose_forcefully(self._stream)

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> "GuardedStream":
        assert isinstance(self._stream, trio.SocketStream), "TLS is started once"
        secured = trio.SSLStream(self._stream, ssl_context, server_hostname=server_hostname, https_compatible=True)
        try:
            with _time_limit(timeout):
                await secured.do_handshake()
        except BaseException as error:
            await self.aclose()
            if isinstance(error, trio.TooSlowError):
                raise httpcore.ConnectTimeout from error
            if isinstance(error, trio.BrokenResourceError | ssl.SSLError):
                raise httpcore.ConnectError("the TLS handshake failed") from error
            raise
        return GuardedStream(secured)

    @property
    def is_readable(self) -> bool:
        """Whether bytes, or the end of the stream, have come: an idle connection that is was closed."""
        stream = self._stream.transport_stream if isinstance(self._stream, trio.SSLStream) else self._stream
        assert isinstance(stream, trio.SocketStream), "connections are sockets"
        return stream.socket.is_readable()

    def get_extra_info(self, info: str) -> Any:
        return self.is_readable if info == "is_readable" else None


def _time_limit(timeout_s: float | None) -> AbstractContextManager[object]:
    return nullcontext() if timeout_s is None else trio.fail_after(timeout_s)


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Connects to hosts by name, to judged addresses alone."""

    def __init__(
        self, allowed: Sequence[Network], *, public: bool = True, lookups: trio.CapacityLimiter | None = None
    ) -> None:
        """See ``resolve`` for the arguments."""
        self._allowed = tuple(allowed)
        self._public = public
        self._lookups = lookups

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> GuardedStream:
        """Connect to the first address of a host that answers.

        Args:
            timeout: For each address; None: ``CONNECT_S``.

        Raises:
            httpcore.ConnectError, httpcore.ConnectTimeout: None of them answers.
            Exception: What ``resolve`` raises.
        """
        addresses = await resolve(host.strip("[]"), port, self._allowed, public=self._public, lookups=self._lookups)
        problem: httpcore.ConnectError | httpcore.ConnectTimeout = httpcore.ConnectError("it has no address")
        for address in addresses[:ADDRESSES_MAX]:
            try:
                with trio.fail_after(CONNECT_S if timeout is None else timeout):
                    return GuardedStream(await _connected(address, port))
            except trio.TooSlowError:
                problem = httpcore.ConnectTimeout("connecting takes too long")
            except OSError as error:  # whose text names the address
                reason = os.strerror(error.errno).lower() if error.errno else "the connection broke"
                problem = httpcore.ConnectError(reason)
        raise problem

    async def connect_unix_socket(self, *arguments: Any, **options: Any) -> NoReturn:
        raise AssertionError("hosts are called over TCP alone")

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)


async def _connected(address: Address, port: int) -> trio.SocketStream:
    family = trio.socket.AF_INET if address.version == 4 else trio.socket.AF_INET6
    connecting = trio.socket.socket(family, trio.socket.SOCK_STREAM)
    with ExitStack() as undo:
        undo.callback(connecting.close)
        await connecting.connect((str(address), port))
        undo.pop_all()
    return trio.SocketStream(connecting)


def tls_problem(error: BaseException) -> str:
    """What failed in TLS, where that is the cause of an error; empty otherwise."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is refused: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return (cause.reason or "the handshake failed").lower().replace("_", " ")
        cause = cause.__cause__ or cause.__context__
    return ""
