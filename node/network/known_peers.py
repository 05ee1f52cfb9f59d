"""The nodes that this node knew in earlier runs: their addresses, and their advertisements for their membership."""

from functools import partial
from typing import TYPE_CHECKING

import structlog

from node.coordination.serialization import read_advertisement
from node.network.membership import Membership
from node.network.transport import Transport
from node.runtime.containment import Quarantine
from protocols.envelope import to_frame
from protocols.errors import PeerFault
from protocols.limits import ADVERTISEMENTS_MAX
from protocols.messages import Advertisement, IdentityKey, Signed
from storage import peers
from storage.database import Database

if TYPE_CHECKING:
    from psycopg import Connection

log = structlog.get_logger(__name__)


class KnownPeers:
    """Identities that advertised to this node before, kept in the database."""

    def __init__(
        self,
        *,
        network: str,
        database: Database,
        transport: Transport,
        membership: Membership,
        quarantine: Quarantine,
    ) -> None:
        self._network = network
        self._database = database
        self._transport = transport
        self._membership = membership
        self._quarantine = quarantine
        self._identities = {transport.identity}

    def __contains__(self, identity: IdentityKey) -> bool:
        """Whether it is this node, or was known when this run began."""
        return identity in self._identities

    @property
    def has_others(self) -> bool:
        """Whether any other node was known when this run began."""
        return len(self._identities) > 1

    async def load(self) -> None:
        """Read what earlier runs stored: memberships are checked anew, addresses go to the transport.

        Raises:
            WorldFault: the database is away.
        """
        for frame in await self._database.run(peers.advertisements):
            with self._quarantine.contain("row", "peers", frame):
                await self._check(frame)
        for identity, addresses in await self._database.run(peers.remembered):
            with self._quarantine.contain("row", "peers", identity):
                self._transport.learn(identity, addresses)
                self._identities.add(identity)

    async def _check(self, frame: bytes) -> None:
        try:
            await self._membership.check(read_advertisement(frame, self._network))
        except PeerFault as fault:  # a certificate that is revoked by now makes no member
            log.info("peer.not_a_member_any_more", code=fault.code, why=str(fault))

    async def remember(self, signed: Signed[Advertisement], now_ms: int) -> None:
        """Store an advertisement for the next run.

        Raises:
            WorldFault: the database is away.
        """
        await self._database.run(partial(_remember, signed, now_ms))


def _remember(signed: Signed[Advertisement], now_ms: int, connection: "Connection") -> None:
    message = signed.message
    expires_ms = max(message.expires_ms, now_ms)
    peers.remember(connection, signed.signer, message.addresses, to_frame(signed), expires_ms)
    peers.prune(connection, ADVERTISEMENTS_MAX)
