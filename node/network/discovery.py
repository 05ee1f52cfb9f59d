"""The directory of nodes: advertises this node, takes in the advertisements of others, expires and withdraws."""

from collections.abc import Callable, Iterator, Sequence

import attrs
import structlog
import trio

from node.network.known_peers import KnownPeers
from node.network.membership import Membership
from node.network.transport import PeerUnreachableError, Transport
from node.runtime.clock import clock_ms
from protocols import directory
from protocols.advertisement import Token, build_token, topic_manager_name
from protocols.directory import Directory, role_topic
from protocols.envelope import Signer, sign, to_frame
from protocols.keys import PrivateKey
from protocols.limits import SUBSCRIBERS_MAX
from protocols.messages import Advertisement, IdentityKey, Role, Signed

log = structlog.get_logger(__name__)

GOSSIP_WHO = "who"
CHECK_S = 1.0


@attrs.frozen(kw_only=True)
class Offer:
    """What this node advertises."""

    roles: tuple[Role, ...]
    topics: tuple[str, ...]
    url: str
    capacity: int
    price: int
    operator: str
    region: str
    build: str
    ttl_ms: int
    allow_local_urls: bool
    managers: tuple[str, ...] = ()
    services: tuple[str, ...] = ()


class Discovery:
    """Keeps the directory current.

    Attributes:
        certificate: This node's membership certificate, shown in its advertisements; can be replaced.
    """

    def __init__(
        self,
        *,
        network: str,
        signer: Signer,
        tokens: tuple[bytes, ...],
        transport: Transport,
        offer: Offer,
        membership: Membership,
        known: KnownPeers,
        has_worked: Callable[[IdentityKey], bool] = lambda identity: False,
        certificate: bytes = b"",
        on_sent: Callable[[str, str, int], None] = lambda carrier, message, size: None,
    ) -> None:
        """``has_worked``: whether an identity did work that this node knows of: it stays in a full directory."""
        self.directory = Directory()
        self._network = network
        self._signer = signer
        self._tokens = tokens
        self._transport = transport
        self._offer = offer
        self._membership = membership
        self.certificate = certificate
        self._known = known
        self._has_worked = has_worked
        self._on_sent = on_sent
        self._seen: frozenset[bytes] = frozenset()
        self.on_appeared: list[Callable[[IdentityKey], None]] = []
        """Called with each node that offers roles when it begins to, and when it can be reached again."""

    def tokens(self) -> Iterator[tuple[Token, bytes]]:
        """The tokens in force with their locking scripts, this node's own among them."""
        for entry in self.directory.entries.values():
            yield from zip(entry.tokens, entry.advertisement.message.tokens, strict=True)

    def knows(self, identity: IdentityKey) -> bool:
        """Whether an identity advertises in this network now."""
        return identity in self.directory.entries

    def is_known(self, identity: IdentityKey) -> bool:
        """Whether an identity is a member's that advertises in this network now, or did in an earlier run."""
        return (identity in self._known or self.knows(identity)) and self._membership.admits(identity)

    def topics_of(self, identity: IdentityKey) -> tuple[str, ...]:
        """The topics that an identity advertises now."""
        entry = self.directory.entries.get(identity)
        return () if entry is None else entry.topics

    def able(self, roles: Sequence[Role]) -> tuple[IdentityKey, ...]:
        """The identities that advertise all of these roles now."""
        return tuple(key for key, entry in self.directory.entries.items() if set(roles) <= set(entry.roles))

    def subscribers(self, topics: Sequence[str]) -> tuple[IdentityKey, ...]:
        """Other identities that advertise one of these topics now, sorted; at most ``SUBSCRIBERS_MAX``."""
        wanted = set(topics)
        found = (key for key, entry in self.directory.entries.items() if wanted & set(entry.topics))
        return tuple(sorted(key for key in found if key != self._signer.identity)[:SUBSCRIBERS_MAX])

    async def on_advertisement(self, signed: Signed[Advertisement]) -> None:
        """Enter a peer's advertisement, and pass its addresses to the transport.

        Raises:
            PeerFault: It is malformed, or its signer is not a member.
        """
        await self._membership.check(signed)
        now_ms = clock_ms()
        local = self._offer.allow_local_urls
        self.directory, entry = directory.hear(
            self.directory, signed, now_ms, allow_local_urls=local, stays=self.has_standing
        )
        if entry is None:
            return
        if entry.first_heard_ms == now_ms:
            roles = [role.word for role in entry.roles]
            log.info("peer.advertised", peer=signed.signer.hex(), roles=roles, operator=signed.message.operator)
            self._tell_appeared(signed.signer)
        self._transport.learn(signed.signer, signed.message.addresses)
        await self._known.remember(signed, now_ms)

    def has_standing(self, identity: IdentityKey) -> bool:
        """Whether an identity is more than a key: certified as a member, or known to have worked."""
        return self._membership.has_certificate(identity) or self._has_worked(identity)

    async def run(self) -> None:
        """Advertise at once, whenever a new peer connects, and well before the advertisement expires."""
        due_ms = 0
        while True:
            now_ms = clock_ms()
            self.directory = directory.expire(self.directory, now_ms)
            connected = frozenset(peer.identity for peer in self._transport.peers() if peer.connected)
            newcomers = connected - self._seen
            self._seen = connected
            for newcomer in sorted(newcomers):
                self._tell_appeared(newcomer)
            if now_ms >= due_ms or newcomers:
                await self._advertise(now_ms, now_ms + self._offer.ttl_ms, self._tokens)
                due_ms = now_ms + self._offer.ttl_ms // 3
            await trio.sleep(CHECK_S)

    def _tell_appeared(self, identity: IdentityKey) -> None:
        entry = self.directory.entries.get(identity)
        if entry is not None and entry.roles and identity != self._signer.identity:
            for listener in self.on_appeared:
                listener(identity)

    async def withdraw(self) -> None:
        """Withdraw the advertisement: publish a later one that has expired already."""
        now_ms = clock_ms()
        await self._advertise(now_ms, now_ms, ())

    async def _advertise(self, now_ms: int, expires_ms: int, tokens: tuple[bytes, ...]) -> None:
        offer = self._offer
        message = Advertisement(
            network=self._network,
            sequence=now_ms,
            issued_ms=now_ms,
            expires_ms=expires_ms,
            tokens=tokens,
            addresses=self._transport.addresses,
            url=offer.url,
            capacity=offer.capacity,
            price=offer.price,
            operator=offer.operator,
            region=offer.region,
            build=offer.build,
            membership=self.certificate,
        )
        signed = sign(self._signer, message)
        if tokens:
            self.directory, _ = directory.hear(
                self.directory, signed, now_ms, allow_local_urls=offer.allow_local_urls
            )
        frame = to_frame(signed)
        try:
            await self._transport.publish(GOSSIP_WHO, frame)
        except PeerUnreachableError as error:
            log.info("discovery.unpublished", why=str(error))
        else:
            self._on_sent("gossip", type(message).__name__, len(frame))


def make_tokens(key: PrivateKey, offer: Offer) -> tuple[bytes, ...]:
    """SHIP tokens for every role, topic and topic manager on offer, SLAP tokens for the lookup services."""
    topics = [role_topic(role) for role in offer.roles] + list(offer.topics)
    names = sorted({*map(topic_manager_name, topics), *offer.managers})
    ship = [build_token(key, "SHIP", offer.url, name) for name in names]
    return (*ship, *(build_token(key, "SLAP", offer.url, name) for name in offer.services))
