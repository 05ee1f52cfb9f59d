"""Whom a request comes from where proxies forwarded it: the Forwarded header (RFC 7239) and X-Forwarded-For.

A proxy appends the address that called it. Addresses are examined from the last to the first: the first one that is
not a trusted proxy is the client's. Those before it were sent by the client and prove nothing.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final, TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Networks: TypeAlias = Sequence[IPv4Network | IPv6Network]
Headers: TypeAlias = Iterable[tuple[bytes, bytes]]
"""Names in lower case."""

HOPS_MAX: Final = 32
_NAME: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_VALUE: Final = rf'(?:{_NAME}|"(?:[^"\\]|\\.)*")'
_PAIR: Final = re.compile(rf"[ \t]*({_NAME})=({_VALUE})[ \t]*")
_PORT: Final = r"(?::[0-9]{1,5})?"
_NODE: Final = re.compile(rf"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<four>[0-9.]+)){_PORT}")


def client_of(peer: str, headers: Headers, trusted: Networks) -> str:
    """The address of a request's client.

    Args:
        peer: The address at the other end of the connection.
        trusted: Proxies of ours. What any other peer sends is not believed.

    Where the two headers lead to different clients, one of them was written by the client, and nobody knows which:
    the request is counted as the proxy's. So is one whose proxy names no address (``unknown``, ``_hidden``).
    """
    connected = address_in(peer)
    if connected is None or not is_among(connected, trusted):
        return peer
    found = list(headers)
    claims = [
        _first_stranger(connected, hops, trusted)
        for name, read in ((b"forwarded", _forwarded), (b"x-forwarded-for", _x_forwarded_for))
        if (hops := _hops(found, name, read)) is not None
    ]
    return str(claims[0]) if claims and claims.count(claims[0]) == len(claims) else peer


def is_proxy(peer: str, trusted: Networks) -> bool:
    """Whether the peer of a connection is a proxy of ours."""
    connected = address_in(peer)
    return connected is not None and is_among(connected, trusted)


def is_among(address: Address, networks: Networks) -> bool:
    return any(address in network for network in networks)


def address_in(text: str) -> Address | None:
    """An address as it stands in one of the headers, with or without a port; None where it is none.

    An IPv4 address that is mapped to IPv6 is the one of IPv4.
    """
    node = _NODE.fullmatch(text)
    try:
        found = ip_address((node["six"] or node["four"]) if node else text.partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found


def _first_stranger(peer: Address, hops: Sequence[str], trusted: Networks) -> Address:
    """The last address that a proxy of ours reports and that is none of ours; else the last one of ours."""
    nearest = peer
    for hop in hops[: -HOPS_MAX - 1 : -1]:
        address = address_in(hop)
        if address is None:
            break
        nearest = address
        if not is_among(address, trusted):
            break
    return nearest


def _hops(headers: Headers, name: bytes, read: Callable[[str], list[str]]) -> list[str] | None:
    """The addresses that a header lists, the client's first; None where it is not sent."""
    values = [value.decode("latin-1") for each, value in headers if each == name]
    return read(",".join(values)) if values else None


def _x_forwarded_for(value: str) -> list[str]:
    return [part.strip() for part in value.split(",")]


def _forwarded(value: str) -> list[str]:
    """The ``for`` of each element; no element where the header is malformed. Source: RFC 7239, section 4."""
    hops, place, node = [], 0, ""
    while True:
        pair = _PAIR.match(value, place)
        if pair is None:
            return []
        if pair[1].lower() == "for":
            node = re.sub(r"\\(.)", r"\1", pair[2].strip('"'))
        place = pair.end()
        if value[place : place + 1] not in (";", ","):
            break
        if value[place] == ",":
            hops.append(node)
            node = ""
        place += 1
    return [*hops, node] if place == len(value) else []
