"""Calls to places that others name: public addresses only, but for those the operator allows.

A name is resolved here, every address it leads to is judged, and the connection goes to a judged address: a name
that answers otherwise the second time (DNS rebinding) gains nothing. Redirects are not followed.
"""

import functools
import ipaddress
import socket
import ssl
from collections.abc import Sequence
from typing import Final, TypeAlias

import httpx
import trio

from protocols.errors import WorldFault

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

RESOLVE_S: Final = 5.0
PORTS: Final = {"http": 80, "https": 443}
NAT64: Final = ipaddress.ip_network("64:ff9b::/96")


class ForbiddenAddressError(WorldFault):
    """A URL leads to an address that is not public, and not allowed by the operator."""

    code = "forbidden-address"


def is_allowed(address: Address, allowed: Sequence[Network]) -> bool:
    """Whether an address may be called: public, or in a network that the operator allows."""
    inner = _embedded(address)
    if any(each.version == network.version and each in network for each in {address, inner} for network in allowed):
        return True
    return all(each.is_global and not each.is_multicast and not each.is_reserved for each in {address, inner})


async def resolve(host: str, port: int, allowed: Sequence[Network]) -> Address:
    """The address to call for a host.

    Raises:
        ForbiddenAddressError: any of its addresses may not be called. OSError: it has none.
    """
    with trio.fail_after(RESOLVE_S):
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    for address in addresses:
        if not is_allowed(address, allowed):
            raise ForbiddenAddressError(
                f"{host} leads to {address}, which is not public; OVERLAY_OUTBOUND_ALLOW allows networks"
            )
    return addresses[0]


@functools.lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    """The certificate authorities, read once: it takes 15 ms."""
    return httpx.create_ssl_context(trust_env=False)


class GuardedTransport(httpx.AsyncBaseTransport):
    """Sends requests to judged addresses, under the names that their URLs have."""

    def __init__(self, allowed: Sequence[Network]) -> None:
        self._allowed = tuple(allowed)
        # a pool would know connections by address: one made under a name must not serve another name
        self._inner = httpx.AsyncHTTPTransport(
            verify=_tls(), retries=0, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        if url.scheme not in PORTS:
            raise ForbiddenAddressError(f"{url.scheme}: is not called")
        address = await resolve(url.host, url.port or PORTS[url.scheme], self._allowed)
        request.extensions = {**request.extensions, "sni_hostname": url.host}
        request.url = url.copy_with(host=str(address))
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()


def guarded_client(allowed: Sequence[Network], timeout_s: float) -> httpx.AsyncClient:
    """A client whose every call is guarded. The Host header stays that of the URL."""
    return httpx.AsyncClient(transport=GuardedTransport(allowed), timeout=timeout_s, follow_redirects=False)


def _embedded(address: Address) -> Address:
    """The IPv4 address inside an IPv6 one that leads to it (mapped, 6to4, NAT64); itself where there is none."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        return address.ipv4_mapped or address.sixtofour or address
    return address
