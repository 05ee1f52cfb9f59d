"""Bounds of the HTTP server, each with a name, and the proxies before it."""

from ipaddress import IPv4Network, IPv6Network

import attrs

from node.runtime.token_bucket import Rate


@attrs.frozen(kw_only=True)
class ServerLimits:
    """Bounds of the HTTP server. Times in seconds.

    Attributes:
        header_s: From the first byte of a request to the end of its headers.
        keep_alive_s: A connection without a request is closed after so long.
        stall_s: A connection whose client takes nothing for so long is dropped by the kernel: without it a
            stalled reader would hold its stream, and the shutdown, for ever.
        connections_max: Open at a time; fewer where the process may not open as many files.
        connections_per_client_max: Of them by one client's network, but for loopback, where proxies call from.
        idle_per_client_max: Of those, without a request; past it the one that is idle for longest is closed.
        reserved_max: Connections beside ``connections_max`` and what one client may have, for questions about the
            node's health alone: a node that is full must be able to say how it is.
        reserved_s: How long one of these lasts.
        resets: Streams of HTTP/2 that a client may give up, by connection (CVE-2023-44487).
        control_frames: Frames of HTTP/2 that ask for work and carry nothing, by connection: SETTINGS, PING, PRIORITY,
            empty DATA, unknown ones.
        trusted_proxies: Whose word on the address of their clients is believed (Forwarded, X-Forwarded-For). Bounds
            for one client's connections do not hold for them.
    """

    header_bytes_max: int = 16 * 1024
    header_s: float = 20.0
    keep_alive_s: float = 75.0
    requests_per_connection_max: int = 100_000
    graceful_s: float = 5.0
    stall_s: float = 30.0
    backlog: int = 512
    connections_max: int = 16_384
    connections_per_client_max: int = 4_096
    idle_per_client_max: int = 512
    reserved_max: int = 16
    reserved_s: float = 5.0
    resets: Rate = Rate(per_s=10, burst=200)
    control_frames: Rate = Rate(per_s=50, burst=500)
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
