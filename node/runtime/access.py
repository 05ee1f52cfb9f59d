"""Who calls: one typed value whatever the form of authentication, the roles it holds, and what each may do."""

from collections.abc import Awaitable, Callable, Iterable
from enum import Enum
from typing import Literal

import attrs

from protocols.errors import ClientFault
from protocols.messages import IdentityKey

Form = Literal["anonymous", "session", "headers", "authrite"]


class CallerRole(Enum):
    """What an identity is to this node."""

    OPERATOR = "operator"  # may do everything
    OWNER = "owner"  # may create sources bound to itself, and change those
    READER = "reader"  # may read what is not public


class Need(Enum):
    """What a route asks of its caller."""

    NOTHING = "nothing"
    READ = "read"  # nothing while the route's group is public, else any role
    SEND = "send"  # a proven identity, if the operator wants one
    OWN = "own"  # an owner or operator; the route itself looks whose source it is
    OPERATE = "operate"


class IdentityRequiredError(ClientFault):
    """The route is not for anonymous callers. Whoever proves an identity may try again."""

    code = "identity-required"


class NotPermittedError(ClientFault):
    """The caller is known, and may not do this."""

    code = "not-permitted"


@attrs.frozen(kw_only=True)
class Credential:
    """A certificate that an identity showed: what tells later whether it still gives a role (BRC-52).

    Attributes:
        certifier: Its identity key in hex.
        type: 32 bytes in base64, as ``serial_number`` is.
        revocation_outpoint: ``txid.index``; spent, once the certifier revokes.
    """

    certifier: str
    type: str
    serial_number: str
    revocation_outpoint: str


@attrs.frozen(kw_only=True)
class Caller:
    """Whoever sent a request. ``identity`` is proven, or None; ``credentials`` are what it showed for its roles."""

    identity: IdentityKey | None = None
    form: Form = "anonymous"
    roles: frozenset[CallerRole] = frozenset()
    credentials: tuple[Credential, ...] = ()

    @property
    def operates(self) -> bool:
        return CallerRole.OPERATOR in self.roles


ANONYMOUS = Caller()


@attrs.frozen(kw_only=True)
class TrustedCertifier:
    """Holders of this certifier's certificates of this type have a role here (BRC-52).

    Attributes:
        type: 32 bytes in base64.
        fields: What the holder must reveal; may be empty.
    """

    certifier: IdentityKey
    type: str
    role: CallerRole
    fields: tuple[str, ...] = ()


async def never_spent(outpoint: str) -> bool:
    """The revocation hook of a node that sees no transactions."""
    return False


@attrs.frozen(kw_only=True)
class Access:
    """The operator's word on who may do what.

    Attributes:
        is_spent: The revocation hook: whether an outpoint ``txid.index`` is known to be spent (BRC-52).
        public_reads: Groups of routes that anybody may read.
        identity_required: EVENT_IDENTITY_VERIFICATION_REQUIRED: events come from proven identities only.
        open_admin: Everybody is an operator.
    """

    operators: frozenset[IdentityKey] = frozenset()
    owners: frozenset[IdentityKey] = frozenset()
    readers: frozenset[IdentityKey] = frozenset()
    certifiers: tuple[TrustedCertifier, ...] = ()
    revoked_serials: frozenset[str] = frozenset()
    is_spent: Callable[[str], Awaitable[bool]] = never_spent
    public_reads: frozenset[str] = frozenset()
    identity_required: bool = False
    open_admin: bool = False

    def roles_of(self, identity: IdentityKey | None, granted: Iterable[CallerRole] = ()) -> frozenset[CallerRole]:
        """The roles of an identity: as listed, and as ``granted`` by its certificates."""
        listed = {
            CallerRole.OPERATOR: identity in self.operators or self.open_admin,
            CallerRole.OWNER: identity in self.owners,
            CallerRole.READER: identity in self.readers,
        }
        return frozenset(role for role, holds in listed.items() if holds).union(granted)

    async def granted(self, credentials: Iterable[Credential]) -> list[CallerRole]:
        """The roles that certificates give, as far as they are not revoked."""
        return [
            trusted.role
            for shown in credentials
            if not await self.is_revoked(shown.serial_number, shown.revocation_outpoint)
            for trusted in self.certifiers
            if (trusted.certifier.hex(), trusted.type) == (shown.certifier, shown.type)
        ]

    async def is_revoked(self, serial_number: str, revocation_outpoint: str) -> bool:
        """Whether a certificate counts no more: listed by the operator, or taken back by its certifier."""
        return serial_number in self.revoked_serials or await self.is_spent(revocation_outpoint)

    def permits(self, caller: Caller, need: Need, group: str = "") -> bool:
        """Whether a caller may use a route."""
        if need is Need.NOTHING or caller.operates:
            return True
        if need is Need.READ:
            return group in self.public_reads or bool(caller.roles)
        if need is Need.SEND:
            return caller.identity is not None or not self.identity_required
        return need is Need.OWN and CallerRole.OWNER in caller.roles

    async def still_permits(self, caller: Caller, need: Need, group: str = "") -> bool:
        """Whether who called once could now: as listed today, and by the certificates shown then."""
        roles = self.roles_of(caller.identity, await self.granted(caller.credentials))
        return self.permits(attrs.evolve(caller, roles=roles), need, group)

    def refusal(self, caller: Caller, need: Need) -> ClientFault:
        """Why ``permits`` says no."""
        if caller.identity is None:
            return IdentityRequiredError(
                "this route is not for anonymous callers",
                remedy="prove your identity: BRC-104, X-Identity-Key with X-Nonce and X-Signature, or Authrite",
            )
        return NotPermittedError(
            f"{caller.identity.hex()} may not do this here: it takes {_WANTED[need]}",
            identity=caller.identity.hex(),
            remedy="ask the node's operator to list your identity key, or to trust your certifier",
        )


_WANTED = {
    Need.NOTHING: "nothing",
    Need.READ: "a reader",
    Need.SEND: "a proven identity",
    Need.OWN: "a source owner or an operator",
    Need.OPERATE: "an operator",
}
