"""Dials peers over libp2p, opens streams to them, and closes connections."""

from typing import Final

import trio
from libp2p.abc import INetConn, INetStream, INetwork, INotifee
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from node.network.p2p.identities import identity_of, peer_id_of
from node.network.p2p.links import Link
from node.network.p2p.stack import Host
from node.network.p2p.streams import Wire
from node.network.transport import PeerUnreachableError
from protocols.errors import OverlayError
from protocols.messages import IdentityKey

DIAL_S: Final = 8.0
DIALS_AT_ONCE: Final = 8  # a network that comes back all at once is dialled a few at a time
OPEN_S: Final = 8.0
CUT_S: Final = 1.0
TIE_S: Final = 0.6
ADDRESS_TTL_S: Final = 120
WILDCARDS: Final = ("/ip4/0.0.0.0/", "/ip6/::/")

LINK_ERRORS: Final = (BaseLibp2pError, OSError, trio.TooSlowError, trio.BrokenResourceError, trio.ClosedResourceError)
"""What libp2p raises when a connection or a peer fails."""


def usable_address(text: str, identity: IdentityKey) -> str | None:
    """An address that can be dialled for a peer, with its ``/p2p`` part; None if it is not one, or names another."""
    try:
        address = Multiaddr(text)
        names = [protocol.name for protocol in address.protocols()]
        named = str(address.value_for_protocol("p2p")) if "p2p" in names else None
    except (MultiaddrError, ValueError):
        return None
    peer = str(peer_id_of(identity))
    if not names or names[0] not in ("ip4", "ip6", "dns", "dns4", "dns6") or names[1:2] != ["tcp"]:
        return None
    if named not in (None, peer) or names[2:] not in ([], ["p2p"]) or text.startswith(WILDCARDS):
        return None
    return text if named else f"{text}/p2p/{peer}"


class AddressError(OverlayError, ValueError):
    """An address of a peer cannot be read."""

    code = "config"


def identity_in(text: str) -> IdentityKey | None:
    """The identity that a multiaddr's ``/p2p`` part names; None if it has no such part.

    Raises:
        AddressError: It is not a multiaddr, or its peer id holds another kind of key.
    """
    try:
        address = Multiaddr(text)
        if not any(protocol.name == "p2p" for protocol in address.protocols()):
            return None
        peer_id = ID.from_string(str(address.value_for_protocol("p2p")))
    except MultiaddrError as error:
        raise AddressError(f"{text!r} must be a multiaddr") from error
    identity = identity_of(peer_id.to_bytes())
    if identity is None:
        raise AddressError(f"the peer id in {text!r} must hold a secp256k1 key")
    return identity


class Connector:
    """Dials, opens streams, closes connections."""

    def __init__(self, host: Host, identity: IdentityKey, protocol: str) -> None:
        self._host = host
        self._identity = identity
        self.protocol = TProtocol(protocol)
        self._swarm = host.swarm
        self._dialling = trio.CapacityLimiter(DIALS_AT_ONCE)

    def live(self, identity: IdentityKey) -> list[INetConn]:
        """The connections to a peer."""
        return [conn for conn in self._swarm.get_connections(peer_id_of(identity)) if not conn.is_closed]

    async def open(self, link: Link) -> Wire:
        """A stream to a peer, over the connection that stands or a new one.

        Raises:
            PeerUnreachableError: There is no connection and no address.
            LINK_ERRORS: It did not work.
        """
        peer_id = peer_id_of(link.identity)
        if not self.live(link.identity):
            await self._dial(link, peer_id)
        with trio.fail_after(OPEN_S):
            return Wire(await self._host.new_stream(peer_id, [self.protocol]))

    async def _dial(self, link: Link, peer_id: ID) -> None:
        if link.failures == 0 and self._identity > link.identity:
            # both sides of a new pair want to dial: the lower key goes first, so that one connection comes of it
            await link.pause(TIE_S)
            if self.live(link.identity):
                return
        address = link.next_address()
        if address is None:
            raise PeerUnreachableError("the peer's address is not known")
        # the library tries one address of a kind, and none at all for 60 s after a failure
        self._swarm.unblock_peer(peer_id)
        self._swarm.peerstore.clear_addrs(peer_id)
        bare = Multiaddr(address).decapsulate(Multiaddr(f"/p2p/{peer_id}"))
        self._swarm.peerstore.add_addrs(peer_id, [bare], ADDRESS_TTL_S)
        async with self._dialling:
            with trio.fail_after(DIAL_S):
                await self._host.connect(PeerInfo(peer_id, [bare]))

    async def who_is_at(self, address: str) -> IdentityKey:
        """Connect to the node that listens at an address. Raises ``LINK_ERRORS``."""
        with trio.fail_after(DIAL_S):
            peer_id = await self._host.connect_unknown(Multiaddr(address))
        identity = identity_of(peer_id.to_bytes())
        assert identity is not None, "the handshake lets no other key in"
        return identity

    async def cut(self, identity: IdentityKey) -> None:
        """Close the connections to a peer, even where it no longer answers: the sockets first, then the swarm."""
        for connection in self.live(identity):
            with trio.move_on_after(CUT_S):
                await connection.muxed_conn.secured_conn.close()  # type: ignore[attr-defined]
        with trio.move_on_after(CUT_S):
            await self._swarm.close_peer(peer_id_of(identity))

    async def cut_all(self) -> None:
        """Close all connections, for the shutdown."""
        async with trio.open_nursery() as nursery:
            for peer_id in list(self._swarm.connections):
                identity = identity_of(peer_id.to_bytes())
                if identity is not None:
                    nursery.start_soon(self.cut, identity)


class Arrivals(INotifee):
    """Reports every new connection."""

    def __init__(self, arrivals: trio.MemorySendChannel[IdentityKey]) -> None:
        self._arrivals = arrivals

    async def connected(self, network: INetwork, conn: INetConn) -> None:
        identity = identity_of(conn.muxed_conn.peer_id.to_bytes())
        if identity is not None:
            await self._arrivals.send(identity)

    async def disconnected(self, network: INetwork, conn: INetConn) -> None:
        """Streams end by themselves."""

    async def opened_stream(self, network: INetwork, stream: INetStream) -> None:
        """Not used."""

    async def closed_stream(self, network: INetwork, stream: INetStream) -> None:
        """Not used."""

    async def listen(self, network: INetwork, multiaddr: Multiaddr) -> None:
        """Not used."""

    async def listen_close(self, network: INetwork, multiaddr: Multiaddr) -> None:
        """Not used."""
