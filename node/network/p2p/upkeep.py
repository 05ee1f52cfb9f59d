"""Tasks that keep a node in its network: links to peers that connect and to bootstrap peers, silent ones cut off."""

import random
from collections.abc import Sequence
from typing import Final

import structlog
import trio

from node.network.p2p.config import TransportConfig
from node.network.p2p.connector import LINK_ERRORS, Connector, identity_in, usable_address
from node.network.p2p.conversation import ALIVE_EVERY
from node.network.p2p.fence import PeerFence
from node.network.p2p.peer_links import PeerLinks
from protocols.limits import ADDRESSES_PER_PEER_MAX
from protocols.messages import IdentityKey

log = structlog.get_logger(__name__)

SWEEP_S: Final = 5.0
BOOTSTRAP_S_FIRST: Final = 0.5
FLUSH_S: Final = 1.0
GOSSIP_FLUSH_S: Final = 0.05


class Upkeep:
    """Tasks over all links."""

    def __init__(
        self,
        config: TransportConfig,
        identity: IdentityKey,
        connector: Connector,
        links: PeerLinks,
        nursery: trio.Nursery,
        fence: PeerFence,
    ) -> None:
        self._config = config
        self._identity = identity
        self._connector = connector
        self._links = links
        self._nursery = nursery
        self._fence = fence
        self._bootstrap: dict[str, trio.CancelScope] = {}
        self._found: dict[str, IdentityKey] = {}  # by bootstrap address
        self._rng = random.Random(identity)  # noqa: S311 -- jitter, no secret

    def connected(self) -> tuple[IdentityKey, ...]:
        """The peers that this node has a stream to."""
        return tuple(link.identity for link in self._links.all() if link.connected)

    async def watch_arrivals(self, arrivals: trio.MemoryReceiveChannel[IdentityKey]) -> None:
        """Open our own stream to every peer that connects."""
        async for identity in arrivals:
            link = None if self._links.faults.ignored(identity) else self._links.open(identity)
            if link is None:
                self._links.cut(identity)
                continue
            link.heard_s = trio.current_time()
            link.poke()

    async def sweep(self) -> None:
        """Cut off peers that were silent for too long: a connection can end without notice."""
        while True:
            await trio.sleep(min(SWEEP_S, self._config.silence_s / ALIVE_EVERY))
            silent_since_s = trio.current_time() - self._config.silence_s
            for link in self._links.all():
                if link.heard_s < silent_since_s and self._connector.live(link.identity):
                    log.info("peer.silent", peer=link.identity.hex(), silence_s=self._config.silence_s)
                    self._links.cut(link.identity)

    def follow(self, bootstrap: Sequence[str], members: frozenset[IdentityKey] | None) -> None:
        """Keep connected to the nodes that listen at these addresses, and to members alone where there are any."""
        self._config.members.identities = members
        for link in self._links.all():
            if not self._config.admits(link.identity):
                log.info("peer.no_member", peer=link.identity.hex())
                link.keep = link.bootstrap = False
                link.scope.cancel()
                self._links.cut(link.identity)
        self.join(bootstrap)

    def join(self, bootstrap: Sequence[str]) -> None:
        """Keep connected to the nodes that listen at these addresses; no longer to others for their address alone."""
        for address in set(self._bootstrap).difference(bootstrap):
            self._bootstrap.pop(address).cancel()
            identity = self._found.pop(address, None)
            link = None if identity is None else self._links.find(identity)
            if link is not None:
                link.bootstrap = False
        for address in bootstrap:
            if address not in self._bootstrap:
                scope = self._bootstrap[address] = trio.CancelScope()
                self._nursery.start_soon(self._keep_bootstrap, address, scope)

    async def _keep_bootstrap(self, address: str, scope: trio.CancelScope) -> None:
        with scope:
            await self._join_at(address)

    async def _join_at(self, address: str) -> None:
        """Keep connected to the node that listens at a bootstrap address."""
        identity = identity_in(address)
        delay_s = BOOTSTRAP_S_FIRST
        while identity is None:
            with self._fence.contain("connection", None, origin=address):
                try:
                    identity = await self._connector.who_is_at(address)
                except LINK_ERRORS as error:
                    log.info("bootstrap.unreached", address=address, retry_s=delay_s, why=str(error))
            if identity is None:
                await trio.sleep(delay_s * self._rng.uniform(0.5, 1.0))
                delay_s = min(2 * delay_s, self._config.redial_s_max)
        if identity == self._identity:
            return
        while not self._config.admits(identity):  # noqa: ASYNC110  # members change at a reload, which is rare
            await trio.sleep(self._config.redial_s_max)
        self._found[address] = identity
        usable = usable_address(address, identity)
        link = self._links.open(identity)
        if usable is None or link is None:
            log.error("bootstrap.unusable", address=address)
            return
        link.keep = link.bootstrap = True
        link.learn([usable], ADDRESSES_PER_PEER_MAX)

    async def flush(self) -> None:
        """Give what waits a moment to leave, at the shutdown."""
        with trio.move_on_after(FLUSH_S):
            while any(link.connected and len(link.outbox) for link in self._links.all()):  # noqa: ASYNC110
                await trio.sleep(0.01)
            await trio.sleep(GOSSIP_FLUSH_S)
