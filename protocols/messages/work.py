"""Having a batch processed: announcement, bid, award, work order, its status and result, the order to certify."""

import enum

import attrs

from protocols.levels import Level
from protocols.limits import CONTEXT_BYTES_MAX, ROLES_MAX, SIGNERS_MAX
from protocols.messages.fields import (
    DURATION_MS_MAX,
    IdentityKey,
    added_count,
    at_most,
    count,
    identity,
    moment,
    text,
)
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
    """An agent's answer: the roles it offers, or none and a reason.

    Attributes:
        capacity: How many batches of this coordinator it takes at once.
    """

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

    Times are relative to its arrival, since clocks differ.

    Attributes:
        claim: Why the sender may order it, where it is not the batch's coordinator.
        wanted_ms: Work that has not begun by then is dropped, since nobody waits for it any more; 0: not said.
        status_ms: An agent that has not answered by then says where it is (``WorkStatus``); 0: not said.
    """

    TAG = 5
    PROTOCOL = (2, "overlay work order")

    award: Award
    manifest: Signed[Manifest]
    context: bytes = attrs.field(validator=at_most(CONTEXT_BYTES_MAX))
    attempt: int = count()
    claim: Claim | None = None
    wanted_ms: int = added_count(DURATION_MS_MAX)
    status_ms: int = added_count(DURATION_MS_MAX)

    @property
    def key_id(self) -> str:
        return self.manifest.message.batch_id


class WorkPhase(enum.IntEnum):
    """Where an order is at its agent, while there is no result."""

    QUEUED = 1  # taken in, and not begun
    RUNNING = 2  # begun
    NO_ROOM = 3  # not taken in: as much is under way as may be
    UNABLE = 4  # not done, for a reason that lies with the agent and not with the batch
    DROPPED = 5  # not done: nobody waited for it any more


@attrs.frozen(kw_only=True)
class WorkStatus(Message):
    """An agent's word on an order, sent only when there is something to say: no room, no turn yet, not done yet.

    Attributes:
        ahead: QUEUED: how many orders have their turn before it.
        running_ms: RUNNING: for how long.
        wait_ms: When the agent expects to be done with it; NO_ROOM, UNABLE: when to ask again, 0 for never.
        credit: How many batches of this coordinator the agent takes at once.
        reason: UNABLE: what is in the way.
    """

    TAG = 20
    PROTOCOL = (2, "overlay work status")

    batch_id: str = text()
    phase: WorkPhase
    ahead: int = count(2**31)
    running_ms: int = count(DURATION_MS_MAX)
    wait_ms: int = count(DURATION_MS_MAX)
    credit: int = count(2**31)
    reason: str = text()

    @property
    def key_id(self) -> str:
        return self.batch_id


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
    """An agent will not do this because of the batch: its roles fail over it, or it finds something else."""

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
