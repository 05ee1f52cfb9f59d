"""Access control: the caller of a request, the roles it holds, and what each role may do."""

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
    """What a route requires of its caller."""

    NOTHING = "nothing"
    READ = "read"  # nothing while the route's group is public, else any role
    SEND = "send"  # a proven identity, where EVENT_IDENTITY_VERIFICATION_REQUIRED is true
    OWN = "own"  # an owner or operator; the route itself checks who owns the source
    OPERATE = "operate"


class IdentityRequiredError(ClientFault):
    """The route is not for anonymous callers. A caller that proves an identity may try again."""

    code = "identity-required"


class NotPermittedError(ClientFault):
    """The caller's identity is proven, and its roles do not allow this."""

    code = "not-permitted"


@attrs.frozen(kw_only=True)
class Credential:
    """A certificate that an identity presented: what is needed to tell later if it still gives a role (BRC-52).

    Attributes:
        certifier: Its identity key in hex.
        type: 32 bytes in base64, as ``serial_number`` is.
        revocation_outpoint: ``txid.index``; the certifier revokes the certificate by spending it.
    """

    certifier: str
    type: str
    serial_number: str
    revocation_outpoint: str


@attrs.frozen(kw_only=True)
class Caller:
    """The sender of a request. ``identity`` is proven, or None; ``credentials`` are the certificates it presented."""

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


@attrs.define(kw_only=True, eq=False)
class Access:
    """Who may do what at this node, as its operator configured it. All who ask have the same object, which ``adopt``
    alone changes.

    Attributes:
        certifiers: Whose certificates give a role.
        revoked_serials: Serial numbers of certificates that the operator no longer accepts.
        is_spent: Whether an outpoint ``txid.index`` is known to be spent: how certifiers revoke (BRC-52).
        public_reads: Groups of routes that anonymous callers may read.
        identity_required: EVENT_IDENTITY_VERIFICATION_REQUIRED: only proven identities send events.
        open_admin: Every caller is an operator.
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

    def adopt(self, other: "Access") -> None:
        """Decide as ``other`` from now on."""
        for field in attrs.fields(Access):
            setattr(self, field.name, getattr(other, field.name))

    def roles_of(self, identity: IdentityKey | None, granted: Iterable[CallerRole] = ()) -> frozenset[CallerRole]:
        """The roles of an identity: as listed, and as ``granted`` by its certificates."""
        listed = {
            CallerRole.OPERATOR: identity in self.operators or self.open_admin,
            CallerRole.OWNER: identity in self.owners,
            CallerRole.READER: identity in self.readers,
        }
        return frozenset(role for role, holds in listed.items() if holds).union(granted)

    async def granted(self, credentials: Iterable[Credential]) -> list[CallerRole]:
        """The roles that certificates give, revoked ones left out."""
        return [
            trusted.role
            for shown in credentials
            if not await self.is_revoked(shown.serial_number, shown.revocation_outpoint)
            for trusted in self.certifiers
            if (trusted.certifier.hex(), trusted.type) == (shown.certifier, shown.type)
        ]

    async def is_revoked(self, serial_number: str, revocation_outpoint: str) -> bool:
        """Whether a certificate is revoked: listed by the operator, or its outpoint spent by the certifier."""
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
        """Whether an earlier caller still has the right: as listed now, and by the certificates it presented then."""
        roles = self.roles_of(caller.identity, await self.granted(caller.credentials))
        return self.permits(attrs.evolve(caller, roles=roles), need, group)

    def refusal(self, caller: Caller, need: Need) -> ClientFault:
        """The error for a caller that ``permits`` refuses."""
        if caller.identity is None:
            return IdentityRequiredError(
                "this route is not for anonymous callers",
                remedy="prove your identity: BRC-104, X-Identity-Key with X-Nonce and X-Signature, or Authrite",
            )
        return NotPermittedError(
            f"{caller.identity.hex()} may not do this here: the route is for {_WANTED[need]}",
            identity=caller.identity.hex(),
            remedy="ask the node's operator to list your identity key, or to trust your certifier",
        )


_WANTED = {
    Need.NOTHING: "anybody",
    Need.READ: "readers, source owners and operators",
    Need.SEND: "proven identities",
    Need.OWN: "source owners and operators",
    Need.OPERATE: "operators",
}
