"""Which nodes take part: all, those that the operator lists, or those that a trusted certifier certified.

An allowlist is enforced at the handshake: other nodes get no connection. Certificates come with advertisements, so in
a certified network any node can connect and advertise; until its certificate was accepted, its other messages are
dropped and its requests are refused.
"""

from collections.abc import Awaitable, Callable, Collection

import structlog

from node.runtime.access import never_spent
from protocols.errors import PeerFault, WorldFault
from protocols.membership import NotAMemberError, check_membership
from protocols.messages import Advertisement, IdentityKey, Signed

log = structlog.get_logger(__name__)


class StrangerError(WorldFault):
    """A request of a node that has not shown that it is a member; its advertisement may be on its way."""

    code = "not-a-member"


async def _never_revoked(serial_number: str, outpoint: str) -> bool:
    return await never_spent(outpoint)


class Membership:
    """The nodes whose certificates this node accepted."""

    def __init__(
        self,
        *,
        own: IdentityKey,
        trusted: Collection[tuple[IdentityKey, str]] | None = None,
        is_revoked: Callable[[str, str], Awaitable[bool]] = _never_revoked,
    ) -> None:
        """Args:
        trusted: (certifier, type) of certificates that are accepted; None: none is required.
        is_revoked: Whether the certificate of this serial number and outpoint is revoked.
        """
        self._trusted = trusted
        self._is_revoked = is_revoked
        self._own = own
        self._certified = {own}

    def trust(self, trusted: Collection[tuple[IdentityKey, str]] | None) -> None:
        """Accept certificates of these from now on; whose came from others is a member when it advertises anew."""
        if trusted != self._trusted:
            self._trusted = trusted
            self._certified = {self._own}

    def admits(self, identity: IdentityKey) -> bool:
        """Whether messages of a node are taken in."""
        return self._trusted is None or identity in self._certified

    def has_certificate(self, identity: IdentityKey) -> bool:
        """Whether a node showed a certificate that was accepted; this node needs none."""
        return identity in self._certified

    async def check(self, signed: Signed[Advertisement]) -> None:
        """Check the certificate in an advertisement: each one decides anew.

        Raises:
            NotAMemberError: it has none that is valid.
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
