"""HTTP calls to URLs that others name: to public addresses, and to those that the operator allows.

Connections are those of ``guarded_network``, which judges every address. ``fetch`` follows redirects, each judged as
if it had been named first; ``post`` follows none. Answers are read within bounds of time and of bytes, both as they
are sent and decompressed.

What goes wrong is an ``OutboundFault`` with a text for operators: it names scheme, host and port of the URL, never
user, path or query, which may hold secrets.
"""

import contextlib
import socket
import ssl
import zlib
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from types import MappingProxyType
from typing import Final, cast

import attrs
import httpcore
import httpx
import trio

from node.runtime.clock import clock_ms
from node.runtime.guarded_network import (
    PORTS,
    ForbiddenAddressError,
    GuardedBackend,
    Network,
    OutboundFault,
    public_authorities,
    tls_problem,
)

REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
REDIRECTS_MAX: Final = 5
PIECE_BYTES: Final = 64 * 1024  # that are decompressed without a pause
MEMBERS_MAX: Final = 1_024  # of a gzip body: empty ones would cost time and never come to anything
OVERHEAD_BYTES: Final = 64 * 1024  # by which a compressed body may be longer than what is in it
REASON_CHARS_MAX: Final = 200
RETRY_AFTER_S_MAX: Final = 3_600.0
AGENT: Final = "overlay-agent-node"
NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


@attrs.frozen(kw_only=True)
class Fetched:
    """An answer of any status.

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


class GuardedTransport(httpx.AsyncBaseTransport):
    """Sends requests over connections of a ``GuardedBackend``, each connection for one request."""

    def __init__(self, allowed: Sequence[Network], tls: ssl.SSLContext | None = None) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls or public_authorities(),
            max_connections=None,
            max_keepalive_connections=0,  # each request is judged anew
            network_backend=GuardedBackend(allowed),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        if url.scheme not in PORTS:
            raise ForbiddenAddressError(f"URLs of the scheme {url.scheme:.16} are not called, http and https are")
        assert isinstance(request.stream, httpx.AsyncByteStream), "the client is asynchronous"
        sent = httpcore.Request(
            request.method,
            httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        with _httpx_errors():
            response = await self._pool.handle_async_request(sent)
        assert isinstance(response.stream, AsyncIterable), "the pool is asynchronous"
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=_ResponseStream(response.stream, response.aclose),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        await self._pool.aclose()


class _ResponseStream(httpx.AsyncByteStream):
    """A response's body as httpx reads it."""

    def __init__(self, parts: AsyncIterable[bytes], close: Callable[[], Awaitable[None]]) -> None:
        self._parts = parts
        self._close = close

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        with _httpx_errors():
            async for part in self._parts:
                yield part

    async def aclose(self) -> None:
        with _httpx_errors():
            await self._close()


@contextlib.contextmanager
def _httpx_errors() -> Iterator[None]:
    """Errors of httpcore as those of httpx, whose names are the same."""
    try:
        yield
    except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
        kind: type[httpx.TransportError] = getattr(httpx, type(error).__name__, httpx.NetworkError)
        raise kind(str(error)) from error


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
    headers: Mapping[str, str] = NO_HEADERS,
    private_headers: Mapping[str, str] = NO_HEADERS,
    redirects_max: int = REDIRECTS_MAX,
) -> Fetched:
    """Get what is at a URL, or where that redirects to.

    Args:
        client: A ``guarded_client``.
        headers: Sent wherever redirects lead.
        private_headers: Credentials and other headers for the origin of ``url`` alone: left out from the
            first redirect to another origin on, even if a later one leads back.
        redirects_max: How many redirects are followed.
        timeout_s: For all of it, redirects and body too.

    Raises:
        OutboundFault: No answer; too many redirects; one to plain HTTP from HTTPS, or with credentials of its own.
    """
    with trio.move_on_after(timeout_s):
        return await _followed(client, _target(url), headers, private_headers, redirects_max, bytes_max)
    raise OutboundFault(f"{shown_origin(url)}: no whole answer within {timeout_s:g} s")


async def post(
    client: httpx.AsyncClient,
    url: str,
    *,
    content: bytes,
    bytes_max: int,
    timeout_s: float,
    headers: Mapping[str, str] = NO_HEADERS,
) -> Fetched:
    """Post to a URL, and to no other: a redirect is an answer like any. See ``fetch``.

    Raises:
        OutboundFault: No answer. The other side may have got the request all the same.
    """
    with trio.move_on_after(timeout_s):
        return await _once(client, "POST", _target(url), headers, content, bytes_max)
    raise OutboundFault(f"{shown_origin(url)}: no whole answer within {timeout_s:g} s")


def shown_origin(url: str | httpx.URL) -> str:
    """A URL as operators are shown it: scheme, host and port alone."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return "the URL"
    return f"{parsed.scheme}://{parsed.netloc.decode('ascii', 'replace')}"


def same_origin(one: str | httpx.URL, other: str | httpx.URL) -> bool:
    """Whether two URLs that can be called have the same scheme, host and port (RFC 6454)."""
    return _origin(httpx.URL(one)) == _origin(httpx.URL(other))


def following(url: str | httpx.URL, link: str) -> httpx.URL:
    """The URL of a link in an answer from ``url``: a redirect, the next page.

    Raises:
        OutboundFault: The URL cannot be called, or falls back from HTTPS to HTTP.
    """
    before = httpx.URL(url)
    try:
        target = _target(before.join(link))
    except httpx.InvalidURL as error:
        raise OutboundFault(f"{shown_origin(before)} leads to a malformed URL") from error
    if before.scheme == "https" and target.scheme != "https":
        raise OutboundFault(f"{shown_origin(before)} leads to {shown_origin(target)}, from HTTPS back to HTTP")
    return target


def retry_after_s(value: str) -> float | None:
    """How long an answer asks to be waited for, in seconds from now, at most ``RETRY_AFTER_S_MAX``.

    Args:
        value: The header ``Retry-After``: seconds or a date; empty where there is none.

    Returns: None where it makes no sense.

    Source: RFC 9110, section 10.2.3.
    """
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), RETRY_AFTER_S_MAX)
    try:
        moment_s = parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(moment_s - clock_ms() / 1000, 0.0), RETRY_AFTER_S_MAX)


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
            private_headers = NO_HEADERS
    raise OutboundFault(f"{shown_origin(first)}: more than {redirects_max} redirects")


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
        raise OutboundFault(f"{shown_origin(target)} leads to a malformed URL") from error
    except (httpx.HTTPError, OSError, zlib.error) as error:
        raise OutboundFault(f"{shown_origin(target)}: {_reason(error)}") from error


def _target(url: str | httpx.URL) -> httpx.URL:
    try:
        target = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise OutboundFault("the URL is malformed") from error
    if target.scheme not in PORTS or not target.host:
        raise ForbiddenAddressError(f"URLs of the scheme {target.scheme:.16} are not called, http and https are")
    if target.userinfo:
        raise OutboundFault(f"{shown_origin(target)}: the URL holds credentials; send them in headers")
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
        raise httpx.DecodingError(f"it is coded as {coding:.16}, which the request does not accept")
    gunzip = _Gunzip() if "gzip" in coding else None
    raw = cast(
        "AsyncGenerator[bytes, None]", response.aiter_raw(PIECE_BYTES)
    )  # must be closed where it is left early
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
    """Decompresses as bytes come, never more than a piece at once, however much they expand (RFC 1952)."""

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


def _reason(error: BaseException) -> str:
    """What happened, for operators. Texts of libraries name neither path nor query."""
    if reason := tls_problem(error):
        return f"TLS: {reason}"[:REASON_CHARS_MAX]
    if isinstance(error, socket.gaierror):
        return f"its name is not resolved: {error.strerror}"
    kinds: tuple[tuple[type[BaseException], str], ...] = (
        (httpx.TimeoutException, "it does not answer in time"),
        (httpx.ConnectError, "cannot connect"),
        (httpx.DecodingError, "the body cannot be decoded"),
        (httpx.ProtocolError, "the answer violates HTTP"),
        (zlib.error, "the body is not gzip"),
    )
    reason = next((words for kind, words in kinds if isinstance(error, kind)), "the connection broke")
    return (f"{reason}: {error}" if str(error) else reason)[:REASON_CHARS_MAX]
