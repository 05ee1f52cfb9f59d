"""Who a client is, as far as its address says: what limits by client are counted by."""

from ipaddress import IPv6Address, ip_address
from typing import Final

IPV6_PREFIX_BITS: Final = 64  # what one customer of a network gets, who can then use any address in it


def network_of(address: str | None) -> str:
    """The address of IPv4, or the network of IPv6, of a client. ``address``: None over a local socket."""
    try:
        found = ip_address((address or "").partition("%")[0])
    except ValueError:
        return "local"
    if not isinstance(found, IPv6Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    host_bits = 128 - IPV6_PREFIX_BITS
    return f"{IPv6Address(int(found) >> host_bits << host_bits)}/{IPV6_PREFIX_BITS}"


def is_loopback(network: str) -> bool:
    """Whether a network that ``network_of`` named is this machine, from which a proxy calls for all its clients."""
    try:
        return ip_address(network.partition("/")[0]).is_loopback or network == "::/64"
    except ValueError:  # a local socket
        return True
