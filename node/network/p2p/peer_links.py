"""The links to peers: each kept up by a task of its own for as long as it is wanted."""

import random
import time
from collections.abc import Iterable
from typing import Final

import structlog
import trio

from node.network.p2p.config import TransportConfig
from node.network.p2p.connector import LINK_ERRORS, Connector, usable_address
from node.network.p2p.conversation import converse
from node.network.p2p.faults import Faults
from node.network.p2p.fence import PeerFence
from node.network.p2p.links import Link
from node.network.p2p.requests import PendingRequests
from node.network.p2p.streams import Wire
from node.network.transport import PeerUnreachableError
from protocols.errors import PeerFault
from protocols.limits import ADDRESSES_PER_PEER_MAX
from protocols.messages import IdentityKey

log = structlog.get_logger(__name__)

PEERS_MAX: Final = 512
ROOM_WAIT_S: Final = 5.0  # how long a sender waits for room in a peer's queue
IGNORED_LOOK_S: Final = 5.0  # between two looks at whether a peer is still ignored
STABLE_S: Final = 5.0  # a stream that stood so long was a success
RESET_S: Final = 1.0


class PeerLinks:
    """Opens, serves and drops links, and queues frames on them."""

    def __init__(
        self,
        *,
        config: TransportConfig,
        identity: IdentityKey,
        connector: Connector,
        requests: PendingRequests,
        nursery: trio.Nursery,
        fence: PeerFence,
    ) -> None:
        self.faults = Faults(trio.current_time)
        self._config = config
        self._identity = identity
        self._connector = connector
        self._requests = requests
        self._nursery = nursery
        self._fence = fence
        fence.react_by(self.strike, self.cut)
        self._links: dict[IdentityKey, Link] = {}
        self._rng = random.Random(identity + time.time_ns().to_bytes(8, "big"))  # noqa: S311 -- jitter, no secret

    def all(self) -> tuple[Link, ...]:
        """Every link, by identity."""
        return tuple(link for _, link in sorted(self._links.items()))

    def find(self, identity: IdentityKey) -> Link | None:
        """A peer's link, if there is one."""
        return self._links.get(identity)

    def open(self, identity: IdentityKey) -> Link | None:
        """A peer's link, made and served if it is new; None where there are too many."""
        link = self._links.get(identity)
        if link is None:
            if len(self._links) >= PEERS_MAX:
                gone = _first_to_go(self._links.values())
                if gone is None:
                    log.warning("peer.too_many", peers=PEERS_MAX)
                    return None
                del self._links[gone.identity]
                gone.scope.cancel()
            link = self._links[identity] = Link(identity)
            self._nursery.start_soon(self._serve, link)
        return link

    def usable(self, peer: IdentityKey) -> Link:
        """The link to send by.

        Raises:
            PeerUnreachableError: There is none, or it failed lately.
        """
        if self.faults.ignored(peer):
            raise PeerUnreachableError("the peer is ignored for its faults")
        link = self._links.get(peer)
        if link is None or not (link.connected or link.addresses or self._connector.live(peer)):
            raise PeerUnreachableError("the peer's address is not known")
        if link.failures and not link.connected:
            raise PeerUnreachableError("the peer could not be reached just now")
        return link

    def learn(self, identity: IdentityKey, addresses: Iterable[str]) -> None:
        """Keep connected to a peer that listens at these addresses; unusable ones are left out."""
        if identity == self._identity or self.faults.ignored(identity) or not self._config.admits(identity):
            return
        usable = [address for text in addresses if (address := usable_address(text, identity)) is not None]
        link = self.open(identity) if usable else None
        if link is not None and not link.bootstrap:
            link.keep = True
            link.learn(usable, ADDRESSES_PER_PEER_MAX)

    def forget(self, identity: IdentityKey) -> None:
        """Stop keeping connected to a peer; bootstrap peers stay."""
        link = self._links.get(identity)
        if link is not None and not link.bootstrap:
            link.keep = False
            link.addresses = ()
            self._drop_waiting(link, "forgotten")

    def strike(self, identity: IdentityKey, reason: str) -> None:
        """Count a fault of a peer. Past a bound it is cut off and ignored for a time."""
        if identity == self._identity:
            return
        log.warning("peer.struck", peer=identity.hex(), reason=reason)
        if self.faults.strike(identity):
            log.warning("peer.ignored", peer=identity.hex(), reason=reason)
            link = self._links.get(identity)
            if link is not None and not link.bootstrap:
                del self._links[identity]
                link.scope.cancel()
            self.cut(identity)

    def cut(self, identity: IdentityKey) -> None:
        """Close the connections to a peer, in a task of its own."""
        self._nursery.start_soon(_cut, self._connector, self._fence, identity)

    async def _serve(self, link: Link) -> None:
        """Keep a link up for as long as something wants it."""
        with link.scope:
            while self._wanted(link):
                if self.faults.ignored(link.identity):
                    await trio.sleep(IGNORED_LOOK_S)
                    continue
                failures, ended = link.failures, False
                with self._fence.contain("connection", link.identity):
                    await self._attempt(link)
                    ended = True
                if not ended:
                    link.failures = failures + 1
                    self._requests.abandon(link.identity)
                await link.pause(link.redial_s(self._config.redial_s_max, self._rng))
        if self._links.get(link.identity) is link:
            del self._links[link.identity]
        self._drop_waiting(link, "no longer a peer")

    def _wanted(self, link: Link) -> bool:
        return link.keep or bool(self._connector.live(link.identity)) or (link.failures == 0 and len(link.outbox) > 0)

    async def _attempt(self, link: Link) -> None:
        """Reach the peer and talk until it ends; count how that went."""
        try:
            wire = await self._connector.open(link)
        except (*LINK_ERRORS, PeerUnreachableError) as error:
            link.failures += 1
            self._note_refusal(link)
            log.debug("peer.unreached", peer=link.identity.hex(), failures=link.failures, why=str(error))
            self._drop_waiting(link, "unreachable")
            return
        link.refusal = ""
        began_s = link.heard_s = trio.current_time()
        failures, link.failures = link.failures, 0
        link.outbox.renew()
        link.connected_since_ms = time.time_ns() // 1_000_000
        log.info("peer.connected", peer=link.identity.hex())
        try:
            await self._converse(link, wire)
        finally:
            link.connected_since_ms = None
        lasted_s = trio.current_time() - began_s
        link.failures = 0 if lasted_s > STABLE_S else failures + 1
        log.info("peer.disconnected", peer=link.identity.hex(), lasted_s=round(lasted_s, 1))
        self._requests.abandon(link.identity)

    def _note_refusal(self, link: Link) -> None:
        """A peer that can be reached and takes no stream of ours is of another network, or speaks another version."""
        if link.refusal or not self._connector.live(link.identity):
            return
        link.refusal = f"it does not speak {self._connector.protocol}: another network, or another protocol version"
        log.warning(
            "peer.refused", peer=link.identity.hex(), why=link.refusal, remedy="compare OVERLAY_NETWORK and versions"
        )

    async def _converse(self, link: Link, wire: Wire) -> None:
        try:
            await converse(link, wire, self._config.silence_s)
        except* PeerFault as faults:
            self.strike(link.identity, str(faults.exceptions[0]))
        except* LINK_ERRORS as errors:
            log.debug("peer.stream_ended", peer=link.identity.hex(), why=str(errors.exceptions[0]))
        with trio.move_on_after(RESET_S):
            await wire.reset()

    def _drop_waiting(self, link: Link, why: str) -> None:
        lost = link.outbox.clear()
        if lost:
            log.info("peer.frames_dropped", peer=link.identity.hex(), frames=lost, why=why)
        self._requests.abandon(link.identity)


def _first_to_go(links: Iterable[Link]) -> Link | None:
    """The link that makes room for another: one whose addresses lead nowhere, since they cost nothing to invent."""
    failing = [link for link in links if link.failures and not link.connected and not link.bootstrap]
    return max(failing, key=lambda link: link.failures, default=None)


async def _cut(connector: Connector, fence: PeerFence, identity: IdentityKey) -> None:
    with fence.contain("connection", None, origin=identity.hex()):
        await connector.cut(identity)


async def queue_frame(link: Link, frame: bytes, *, urgent: bool = False) -> None:
    """Queue a frame, waiting for room; for a peer that let one sender wait in vain, no other waits.

    Senders serve many peers in turn: one that takes nothing, or a frame now and then, must not hold them up.

    Raises:
        PeerUnreachableError: There was no room in ``ROOM_WAIT_S``, or none for the sender before.
    """
    link.stuck = link.stuck and not link.outbox.drained()
    if link.stuck and not urgent:
        raise PeerUnreachableError("the peer takes no more for now")
    if link.outbox.full(urgent=urgent):
        with trio.move_on_after(ROOM_WAIT_S) as waited:
            await link.outbox.room(urgent=urgent)
        if waited.cancelled_caught:
            link.stuck = link.stuck or not urgent
            raise PeerUnreachableError("the peer takes no more for now")
    link.outbox.put(frame, urgent=urgent)
    link.want()
