"""Whether the node can be reached by others, reaches any, and has caught up with them."""

from collections.abc import Callable, Sequence
from typing import Final

from node.network.sync import Freshness
from node.network.transport import Transport
from node.runtime.conditions import Condition, Finding, Probe, Severity

P2P_CLOSED: Final = Condition(
    code="p2p-closed",
    severity=Severity.BLOCKING,
    remedy="let OVERLAY_P2P_LISTEN name an address of this machine, and restart the node",
)
NO_PEERS: Final = Condition(
    code="no-peers",
    severity=Severity.WARNING,
    remedy="let OVERLAY_BOOTSTRAP name the address of a running member that this machine can reach",
)
NOT_CAUGHT_UP: Final = Condition(
    code="not-caught-up",
    severity=Severity.BLOCKING,
    remedy="wait until the logs of the connected peers are read; where it lasts, check that peers can be reached",
)


def p2p_probe(transport: Transport) -> Probe:
    async def look() -> Sequence[Finding]:
        found = []
        if not transport.addresses:
            found.append(P2P_CLOSED.found("the node listens for peers nowhere"))
        if not any(peer.connected for peer in transport.peers()):
            found.append(NO_PEERS.found("no peer is connected"))
        return found

    return Probe(name="p2p", conditions=(P2P_CLOSED, NO_PEERS), look=look, silent=P2P_CLOSED)


def sync_probe(freshness: Callable[[], Freshness]) -> Probe:
    async def look() -> Sequence[Finding]:
        fresh = freshness()
        if fresh.alone or fresh.as_of_ms:
            return []
        return [
            NOT_CAUGHT_UP.found(f"caught up with {fresh.peers} of {fresh.connected} connected peers, never whole")
        ]

    return Probe(name="sync", conditions=(NOT_CAUGHT_UP,), look=look, silent=NOT_CAUGHT_UP)
