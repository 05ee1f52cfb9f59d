"""Nodes that advertise, for tests of what a node makes of it: a directory, its members and what it remembers."""

from collections.abc import Iterable, Sequence

import attrs

from node.network.discovery import Discovery, Offer, make_tokens
from node.network.known_peers import KnownPeers
from node.network.membership import Membership
from node.network.transport import PeerView
from node.runtime.clock import clock_ms
from node.runtime.containment import Quarantine
from protocols.envelope import sign
from protocols.messages import Advertisement, IdentityKey, Role, Signed
from storage.database import Database
from tests.node.certified_batches import NETWORK, KeySigner

WORK = (Role.NORMALIZE, Role.VALIDATE, Role.CERTIFY)


class Neighbours:
    """As much of a transport as discovery takes: who is connected, and what is learned and published."""

    def __init__(self, identity: IdentityKey, connected: Iterable[IdentityKey] = ()) -> None:
        self.identity = identity
        self.addresses = ("/ip4/127.0.0.1/tcp/1",)
        self.connected = set(connected)
        self.learned: dict[IdentityKey, tuple[str, ...]] = {}
        self.published: list[bytes] = []

    def peers(self) -> tuple[PeerView, ...]:
        return tuple(
            PeerView(identity=key, addresses=(), connected=True, connected_since_ms=0, queued=0)
            for key in sorted(self.connected)
        )

    def learn(self, identity: IdentityKey, addresses: Iterable[str]) -> None:
        self.learned[identity] = tuple(addresses)

    async def publish(self, topic: str, data: bytes) -> None:
        self.published.append(data)


def offer(*, roles: Sequence[Role] = WORK, topics: Sequence[str] = (), operator: str = "", region: str = "") -> Offer:
    return Offer(
        roles=tuple(roles),
        topics=tuple(topics),
        url="http://127.0.0.1:8080",
        capacity=1,
        price=0,
        operator=operator,
        region=region,
        build="test",
        ttl_ms=60_000,
        allow_local_urls=True,
    )


def advertisement(node: KeySigner, offered: Offer, *, membership: bytes = b"") -> Signed[Advertisement]:
    """What a node gossips of itself now."""
    now_ms = clock_ms()
    message = Advertisement(
        network=NETWORK,
        sequence=now_ms,
        issued_ms=now_ms,
        expires_ms=now_ms + offered.ttl_ms,
        tokens=make_tokens(node.key, offered),
        addresses=(f"/ip4/192.0.2.1/tcp/{node.identity[-1]}",),
        url=offered.url,
        capacity=offered.capacity,
        price=offered.price,
        operator=offered.operator,
        region=offered.region,
        build=offered.build,
        membership=membership,
    )
    return sign(node, message)


@attrs.frozen(kw_only=True)
class Directory:
    """One node's discovery, with all that it stands on."""

    transport: Neighbours
    membership: Membership
    known: KnownPeers
    discovery: Discovery


def directory_of(
    node: KeySigner,
    database: Database,
    *,
    membership: Membership | None = None,
    connected: Iterable[IdentityKey] = (),
) -> Directory:
    transport = Neighbours(node.identity, connected)
    membership = membership or Membership(own=node.identity)
    known = KnownPeers(
        network=NETWORK,
        database=database,
        transport=transport,  # type: ignore[arg-type]  # as much of one as discovery takes
        membership=membership,
        quarantine=Quarantine(),
    )
    own = offer()
    discovery = Discovery(
        network=NETWORK,
        signer=node,
        tokens=make_tokens(node.key, own),
        transport=transport,  # type: ignore[arg-type]
        offer=own,
        membership=membership,
        known=known,
    )
    return Directory(transport=transport, membership=membership, known=known, discovery=discovery)
