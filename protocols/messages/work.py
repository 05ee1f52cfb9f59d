"""Having a batch processed: announcement, bid, award, work order, result, and the order to certify."""

import attrs

from protocols.levels import Level
from protocols.limits import CONTEXT_BYTES_MAX, ROLES_MAX, SIGNERS_MAX
from protocols.messages.fields import IdentityKey, at_most, count, identity, moment, text
from protocols.messages.holding import Claim
from protocols.messages.signed import Message, Signed
from protocols.messages.statements import Evidence, Manifest, Statement
from protocols.roles import Role


@attrs.frozen(kw_only=True)
class Announcement(Message):
    """Work for bidders: these roles at this level, for a lease of some time and some batches (BRC-22 job)."""

    TAG = 2
    PROTOCOL = (2, "overlay job announcement")

    announcement_id: str = text()
    roles: tuple[Role, ...] = attrs.field(validator=at_most(ROLES_MAX))
    level: Level
    quorum: int = count(SIGNERS_MAX)
    lease_ms: int = count()
    batches: int = count()
    price_max: int = count()
    closes_ms: int = moment()

    @property
    def key_id(self) -> str:
        return self.announcement_id


@attrs.frozen(kw_only=True)
class Bid(Message):
    """An agent's answer: the roles it offers, or none and a reason."""

    TAG = 3
    PROTOCOL = (2, "overlay job bid")

    announcement_id: str = text()
    roles: tuple[Role, ...] = attrs.field(validator=at_most(ROLES_MAX))
    capacity: int = count(2**31)
    price: int = count()
    operator: str = text()
    region: str = text()
    reason: str = text()

    @property
    def key_id(self) -> str:
        return self.announcement_id


@attrs.frozen(kw_only=True)
class Award(Message):
    """The coordinator's choice: a lease of these roles until a time, for so many batches."""

    TAG = 4
    PROTOCOL = (2, "overlay job award")

    lease_id: str = text()
    announcement_id: str = text()
    agent: IdentityKey = identity()
    roles: tuple[Role, ...] = attrs.field(validator=at_most(ROLES_MAX))
    batches: int = count()
    expires_ms: int = moment()

    @property
    def key_id(self) -> str:
        return self.lease_id


@attrs.frozen(kw_only=True)
class WorkOrder(Message):
    """Do your roles over this batch; its payload comes attached, its context is carried along.

    Attributes:
        claim: Why the sender may order it, where it is not the batch's coordinator.
    """

    TAG = 5
    PROTOCOL = (2, "overlay work order")

    award: Award
    manifest: Signed[Manifest]
    context: bytes = attrs.field(validator=at_most(CONTEXT_BYTES_MAX))
    attempt: int = count()
    claim: Claim | None = None

    @property
    def key_id(self) -> str:
        return self.manifest.message.batch_id


@attrs.frozen(kw_only=True)
class WorkResult(Message):
    """An agent's evidence for the roles it holds, and the context its rules leave behind."""

    TAG = 7
    PROTOCOL = (2, "overlay work result")

    batch_id: str = text()
    evidence: tuple[Signed[Evidence], ...] = attrs.field(validator=at_most(ROLES_MAX))
    context_out: bytes = attrs.field(validator=at_most(CONTEXT_BYTES_MAX))

    @property
    def key_id(self) -> str:
        return self.batch_id


@attrs.frozen(kw_only=True)
class WorkRefused(Message):
    """An agent will not or cannot do this; the coordinator asks another or asks again."""

    TAG = 8
    PROTOCOL = (2, "overlay work refusal")

    batch_id: str = text()
    reason: str = text()

    @property
    def key_id(self) -> str:
        return self.batch_id


@attrs.frozen(kw_only=True)
class CertifyOrder(Message):
    """Check this evidence, compare it with your own recomputation, and sign the statement."""

    TAG = 9
    PROTOCOL = (2, "overlay certify order")

    statement: Statement
    evidence: tuple[Signed[Evidence], ...] = attrs.field(validator=at_most(2 * SIGNERS_MAX))

    @property
    def key_id(self) -> str:
        return self.statement.batch_id
