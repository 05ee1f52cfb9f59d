"""Calls to places that others name: public addresses only, but for those the operator allows.

A name is resolved here, every address it leads to is judged, and the connection goes to a judged address: a name
that answers otherwise the second time (DNS rebinding) gains nothing. ``fetch`` follows redirects, each judged as if
it had been named first; ``post`` follows none. Answers are read within bounds of bytes, as they come and as they are
once they are not compressed, and of time.

What goes wrong is an ``OutboundFault``, in words for operators: it names scheme, host and port of the place, never
user, path or query, which may hold secrets.
"""

import contextlib
import functools
import ipaddress
import socket
import ssl
import zlib
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from types import MappingProxyType
from typing import Final, TypeAlias, cast

import attrs
import httpx
import trio

from node.runtime.clock import clock_ms
from protocols.errors import WorldFault

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

RESOLVE_S: Final = 5.0
ADDRESSES_MAX: Final = 4  # of one name that are tried, one after the other
PORTS: Final = {"http": 80, "https": 443}
NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
REDIRECTS_MAX: Final = 5
PIECE_BYTES: Final = 64 * 1024  # that are decompressed without a pause
MEMBERS_MAX: Final = 1_024  # of a gzip body: empty ones would cost time and never come to anything
OVERHEAD_BYTES: Final = 64 * 1024  # by which a compressed body may be longer than what is in it
WHY_CHARS_MAX: Final = 200
RETRY_AFTER_MAX_S: Final = 3_600.0
AGENT: Final = "overlay-agent-node"
NONE: Final[Mapping[str, str]] = MappingProxyType({})


class OutboundFault(WorldFault):
    """A place could not be called, or did not answer as it should."""

    code = "outbound-fault"


class ForbiddenAddressError(OutboundFault):
    """A URL leads to an address that is not public, and not allowed by the operator."""

    code = "forbidden-address"


@attrs.frozen(kw_only=True)
class Fetched:
    """An answer, whatever its status.

    Attributes:
        headers: By lower-case name; values of a name that stands several times are joined by ``, ``.
        body: At most as many bytes as were asked for, not compressed.
        is_cut: There would have been more.
        url: Where the answer came from, after all redirects.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    is_cut: bool
    url: str


def is_allowed(address: Address, allowed: Sequence[Network]) -> bool:
    """Whether an address may be called: public, or in a network that the operator allows."""
    inner = _embedded(address)
    if any(each.version == network.version and each in network for each in {address, inner} for network in allowed):
        return True
    return all(each.is_global and not each.is_multicast and not each.is_reserved for each in {address, inner})


async def resolve(host: str, port: int, allowed: Sequence[Network]) -> tuple[Address, ...]:
    """The addresses to call for a host, at least one, in the order in which to try them.

    Raises:
        ForbiddenAddressError: any of its addresses may not be called. OutboundFault: its name cannot be looked up.
        OSError: it has none.
    """
    try:
        with trio.fail_after(RESOLVE_S):
            found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (UnicodeError, trio.TooSlowError) as error:
        why = "is no name" if isinstance(error, UnicodeError) else f"is not resolved within {RESOLVE_S:g} s"
        raise OutboundFault(f"{host:.255} {why}") from error
    addresses = tuple(dict.fromkeys(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found))
    for address in addresses:
        if not is_allowed(address, allowed):
            what = f"{host} leads to {address}, which" if host.strip("[]") != str(address) else host
            raise ForbiddenAddressError(f"{what} is not public; OVERLAY_OUTBOUND_ALLOW allows networks")
    return addresses


@functools.lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    """The certificate authorities, read once: it takes 15 ms."""
    return httpx.create_ssl_context(trust_env=False)


class GuardedTransport(httpx.AsyncBaseTransport):
    """Sends requests to judged addresses, under the names that their URLs have."""

    def __init__(self, allowed: Sequence[Network], tls: ssl.SSLContext | None = None) -> None:
        self._allowed = tuple(allowed)
        # a pool would know connections by address: one made under a name must not serve another name
        self._inner = httpx.AsyncHTTPTransport(
            verify=tls or _tls(), retries=0, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        if url.scheme not in PORTS:
            raise ForbiddenAddressError(f"{url.scheme:.16}: is not called")
        addresses = await resolve(url.host, url.port or PORTS[url.scheme], self._allowed)
        request.extensions = {**request.extensions, "sni_hostname": url.host}
        *others, last = addresses[:ADDRESSES_MAX]
        for address in others:
            request.url = url.copy_with(host=str(address))
            with contextlib.suppress(httpx.ConnectError):  # nothing was sent
                return await self._inner.handle_async_request(request)
        request.url = url.copy_with(host=str(last))
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()


def guarded_client(
    allowed: Sequence[Network], timeout_s: float, *, tls: ssl.SSLContext | None = None
) -> httpx.AsyncClient:
    """A client whose every call is guarded. The Host header stays that of the URL; cookies are not kept.

    Args:
        allowed: Networks besides public addresses that may be called.
        timeout_s: For each step of a call; ``fetch`` and ``post`` bound the whole.
        tls: How certificates are verified; None: by the public authorities.
    """
    client = httpx.AsyncClient(
        transport=GuardedTransport(allowed, tls),
        timeout=timeout_s,
        follow_redirects=False,
        trust_env=False,
        headers={"User-Agent": AGENT},
    )
    client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=()))
    return client


async def fetch(
    client: httpx.AsyncClient,
    url: str,
    *,
    bytes_max: int,
    timeout_s: float,
    headers: Mapping[str, str] = NONE,
    private_headers: Mapping[str, str] = NONE,
    redirects_max: int = REDIRECTS_MAX,
) -> Fetched:
    """Get what is at a URL, or where that redirects to.

    Args:
        client: A ``guarded_client``.
        headers: Sent wherever redirects lead.
        private_headers: Credentials, and whatever else is meant for the origin of ``url`` alone: left out from the
            first redirect to another origin on, even if a later one leads back.
        redirects_max: How many redirects are followed.
        timeout_s: For all of it, redirects and body too.

    Raises:
        OutboundFault: No answer; too many redirects; one to plain HTTP from HTTPS, or with credentials of its own.
    """
    with trio.move_on_after(timeout_s):
        return await _followed(client, _target(url), headers, private_headers, redirects_max, bytes_max)
    raise OutboundFault(f"{place(url)}: no whole answer within {timeout_s:g} s")


async def post(
    client: httpx.AsyncClient,
    url: str,
    *,
    content: bytes,
    bytes_max: int,
    timeout_s: float,
    headers: Mapping[str, str] = NONE,
) -> Fetched:
    """Post to a URL, and to no other: a redirect is an answer like any. See ``fetch``.

    Raises:
        OutboundFault: No answer. The other side may have got the request all the same.
    """
    with trio.move_on_after(timeout_s):
        return await _once(client, "POST", _target(url), headers, content, bytes_max)
    raise OutboundFault(f"{place(url)}: no whole answer within {timeout_s:g} s")


def place(url: str | httpx.URL) -> str:
    """A URL as operators are shown it: scheme, host and port."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return "the URL"
    return f"{parsed.scheme}://{parsed.netloc.decode('ascii', 'replace')}"


def same_origin(one: str | httpx.URL, other: str | httpx.URL) -> bool:
    """Whether two URLs that can be called have the same scheme, host and port (RFC 6454)."""
    return _origin(httpx.URL(one)) == _origin(httpx.URL(other))


def following(url: str | httpx.URL, link: str) -> httpx.URL:
    """Where a link that an answer from ``url`` gives leads: a redirect, the next page.

    Raises:
        OutboundFault: It is no URL to be called, or falls back from HTTPS to HTTP.
    """
    before = httpx.URL(url)
    try:
        target = _target(before.join(link))
    except httpx.InvalidURL as error:
        raise OutboundFault(f"{place(before)} leads to what is no URL") from error
    if before.scheme == "https" and target.scheme != "https":
        raise OutboundFault(f"{place(before)} leads to {place(target)}, from HTTPS back to HTTP")
    return target


def retry_after_s(answer: Fetched) -> float | None:
    """How long an answer asks to be waited for, at most ``RETRY_AFTER_MAX_S``; None where it does not say.

    Source: RFC 9110, section 10.2.3.
    """
    said = answer.headers.get("retry-after", "").strip()
    if said.isascii() and said.isdigit():
        return min(float(said[:9]), RETRY_AFTER_MAX_S)
    try:
        moment_s = parsedate_to_datetime(said).timestamp()
    except (ValueError, OverflowError):
        return None
    return min(max(moment_s - clock_ms() / 1000, 0.0), RETRY_AFTER_MAX_S)


async def _followed(
    client: httpx.AsyncClient,
    target: httpx.URL,
    headers: Mapping[str, str],
    private_headers: Mapping[str, str],
    redirects_max: int,
    bytes_max: int,
) -> Fetched:
    first = target
    for _ in range(redirects_max + 1):
        sent = httpx.Headers(headers)
        sent.update(private_headers)
        answer = await _once(client, "GET", target, sent, None, bytes_max)
        if answer.status not in REDIRECTS or "location" not in answer.headers:
            return answer
        before, target = target, following(target, answer.headers["location"])
        if not same_origin(before, target):
            private_headers = NONE
    raise OutboundFault(f"{place(first)}: more than {redirects_max} redirects")


async def _once(
    client: httpx.AsyncClient,
    method: str,
    target: httpx.URL,
    headers: Mapping[str, str],
    content: bytes | None,
    bytes_max: int,
) -> Fetched:
    sent = httpx.Headers({"Accept-Encoding": "gzip"})
    sent.update(headers)
    try:
        async with client.stream(method, target, headers=sent, content=content) as response:
            is_redirect = response.status_code in REDIRECTS
            body, is_cut = (b"", False) if is_redirect else await _body(response, bytes_max)
            return Fetched(
                status=response.status_code,
                headers={name.lower(): value for name, value in response.headers.items()},
                body=body,
                is_cut=is_cut,
                url=str(target),
            )
    except httpx.InvalidURL as error:  # httpx looks at where a redirect leads, though it does not follow it
        raise OutboundFault(f"{place(target)} leads to what is no URL") from error
    except (httpx.HTTPError, OSError, zlib.error) as error:
        raise OutboundFault(f"{place(target)}: {_why(error)}") from error


def _target(url: str | httpx.URL) -> httpx.URL:
    try:
        target = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise OutboundFault("the URL is none") from error
    if target.scheme not in PORTS or not target.host:
        raise ForbiddenAddressError(f"{target.scheme:.16}: is not called, http and https are")
    if target.userinfo:
        raise OutboundFault(f"{place(target)}: the URL holds credentials; they belong into headers")
    return target


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or PORTS.get(url.scheme)


async def _body(response: httpx.Response, bytes_max: int) -> tuple[bytes, bool]:
    """The body, not compressed; whether it was cut off."""
    parts: list[bytes] = []
    left = bytes_max
    async with aclosing(_pieces(response, bytes_max + OVERHEAD_BYTES)) as pieces:
        async for piece in pieces:
            if piece is None or len(piece) > left:
                parts.append((piece or b"")[:left])
                return b"".join(parts), True
            parts.append(piece)
            left -= len(piece)
    return b"".join(parts), False


async def _pieces(response: httpx.Response, coded_max: int) -> AsyncGenerator[bytes | None, None]:
    """The body piece by piece, each small; None where it is longer than ``coded_max`` as it comes."""
    coding = response.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("identity", "gzip", "x-gzip", ""):
        raise httpx.DecodingError(f"it is coded as {coding:.16}, which was not asked for")
    gunzip = _Gunzip() if "gzip" in coding else None
    raw = cast("AsyncGenerator[bytes, None]", response.aiter_raw(PIECE_BYTES))  # left early, it wants to be closed
    async with aclosing(raw) as chunks:
        async for chunk in chunks:
            coded_max -= len(chunk)
            for piece in [chunk] if gunzip is None else gunzip.pieces(chunk):
                yield piece
                await trio.lowlevel.checkpoint()
            if coded_max < 0:
                yield None
    if gunzip is not None and not gunzip.is_whole:
        raise zlib.error("the stream ends early")


class _Gunzip:
    """Decompresses as bytes come, never more than a piece at once, whatever they would grow to (RFC 1952)."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(wbits=31)
        self._members = 1
        self.is_whole = True

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        while chunk:
            if self._member.eof:
                self._members += 1
                if self._members > MEMBERS_MAX:
                    raise zlib.error(f"more than {MEMBERS_MAX} members")
                self._member = zlib.decompressobj(wbits=31)
            yield self._member.decompress(chunk, PIECE_BYTES)
            chunk = self._member.unconsumed_tail or self._member.unused_data
            self.is_whole = self._member.eof


def _why(error: BaseException) -> str:
    """What happened, for people. Texts of libraries name neither path nor query."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is refused: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return f"no TLS: {cause.reason or cause}"[:WHY_CHARS_MAX]
        if isinstance(cause, socket.gaierror):
            return f"its name leads nowhere: {cause.strerror}"
        cause = cause.__cause__ or cause.__context__
    kinds: tuple[tuple[type[BaseException], str], ...] = (
        (httpx.TimeoutException, "it does not answer in time"),
        (httpx.ConnectError, "no connection"),
        (httpx.DecodingError, "the body cannot be read"),
        (httpx.ProtocolError, "no HTTP"),
        (zlib.error, "the body is no gzip"),
    )
    said = next((words for kind, words in kinds if isinstance(error, kind)), "the connection broke")
    return (f"{said}: {error}" if str(error) else said)[:WHY_CHARS_MAX]


def _embedded(address: Address) -> Address:
    """The IPv4 address inside an IPv6 one that leads to it (mapped, 6to4, NAT64); itself where there is none."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        return address.ipv4_mapped or address.sixtofour or address
    return address
