"""Who takes part: everybody, those whom the operator lists, or those whom a trusted certifier certified.

An allowlist is held at the handshake: nobody else gets a connection. Certificates come with advertisements, so in a
certified network anybody can connect and advertise; until that certificate holds, nothing else a node says is heard,
and no request of it is answered.
"""

from collections.abc import Awaitable, Callable, Collection

import structlog

from node.runtime.access import never_spent
from protocols.errors import PeerFault, WorldFault
from protocols.membership import NotAMemberError, check_membership
from protocols.messages import Advertisement, IdentityKey, Signed

log = structlog.get_logger(__name__)


class StrangerError(WorldFault):
    """A request of somebody who has not shown that it is a member; its advertisement may be on its way."""

    code = "not-a-member"


async def _never_revoked(serial_number: str, outpoint: str) -> bool:
    return await never_spent(outpoint)


class Membership:
    """What this node has seen of the members' certificates."""

    def __init__(
        self,
        *,
        own: IdentityKey,
        trusted: Collection[tuple[IdentityKey, str]] | None = None,
        is_revoked: Callable[[str, str], Awaitable[bool]] = _never_revoked,
    ) -> None:
        """Args:
        trusted: (certifier, type); None: no certificate is wanted.
        is_revoked: Whether a certificate of this serial number and outpoint counts no more.
        """
        self._trusted = trusted
        self._is_revoked = is_revoked
        self._certified = {own}

    def admits(self, identity: IdentityKey) -> bool:
        """Whether what a node says is heard."""
        return self._trusted is None or identity in self._certified

    async def hear(self, signed: Signed[Advertisement]) -> None:
        """Look at the certificate in an advertisement: each one decides anew.

        Raises:
            NotAMemberError: it has none that counts.
        """
        if self._trusted is None:
            return
        try:
            found = check_membership(signed.message.membership, signed.signer, self._trusted)
            if await self._is_revoked(found.serial_number, found.revocation_outpoint):
                raise NotAMemberError("the membership certificate is revoked")
        except PeerFault as fault:
            self._certified.discard(signed.signer)
            log.warning("peer.not_a_member", peer=signed.signer.hex(), why=str(fault))
            raise
        self._certified.add(signed.signer)
