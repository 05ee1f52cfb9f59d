"""What coordination stores: the durable state of leases, batches, chains, awards, tasks and replicas. No behaviour.

An entity is keyed by a string id and stored as its deterministic encoding (``codec``): the order of its fields and
its ``TAG`` are part of what is on disk, its names are not.
"""

import enum
from typing import ClassVar, TypeAlias

import attrs

from protocols.messages import (
    Award,
    BatchSealed,
    Bid,
    Certification,
    CertifyOrder,
    Claim,
    Digest,
    Evidence,
    HoldBatch,
    IdentityKey,
    Level,
    Manifest,
    QuorumCertificate,
    Role,
    Signed,
    Statement,
    WorkOrder,
)
from protocols.reputation import NEWCOMER

EntityId: TypeAlias = str


@attrs.frozen(kw_only=True)
class ReceivedBid:
    """A bid with what this node knew of the bidder when it came.

    Attributes:
        reputations: By role, 0 to 100.
        topics: What it advertises besides roles.
    """

    bid: Signed[Bid]
    latency_ms: int
    reputations: tuple[tuple[Role, int], ...] = ()
    topics: tuple[str, ...] = ()

    def reputation_in(self, role: Role) -> int:
        return dict(self.reputations).get(role, NEWCOMER)


class Choice(enum.IntEnum):
    """What became of a bid for a role."""

    REFUSED = 0
    EXECUTOR = 1  # its vote counts
    RESERVE = 2  # asked when an executor fails
    SHADOW = 3  # does the work to be judged by it; its vote does not count


@attrs.frozen(kw_only=True)
class BidDecision:
    """A bid for a role, what was made of it, and why: readable afterwards. Smaller scores are better."""

    bidder: IdentityKey
    role: Role
    choice: Choice
    scores: tuple[int, ...]
    reason: str


@attrs.frozen(kw_only=True)
class Auction:
    announcement_id: str
    closes_ms: int
    bids: tuple[ReceivedBid, ...] = ()


@attrs.frozen(kw_only=True)
class Reserve:
    """A bidder that was ranked behind those awarded: who is asked when one of them fails."""

    agent: IdentityKey
    roles: tuple[Role, ...]
    operator: str


@attrs.frozen(kw_only=True)
class Grant:
    """A lease in force: one award for each agent that holds a role.

    Attributes:
        operators: Of the agents awarded, in the order of ``awards``.
        reserves: Best first.
        shadows: Awards to newcomers, whose evidence is judged and not counted.
    """

    lease_id: str
    awards: tuple[Award, ...]
    expires_ms: int
    batches_left: int
    operators: tuple[str, ...] = ()
    reserves: tuple[Reserve, ...] = ()
    shadows: tuple[Award, ...] = ()


@attrs.frozen(kw_only=True)
class Pace:
    """How long agents take to answer: mean and mean deviation, in microseconds, as RFC 6298 estimates them."""

    mean_us: int
    deviation_us: int


@attrs.frozen(kw_only=True)
class Lease:
    """The coordinator's side of leasing for one level and quorum."""

    TAG: ClassVar[int] = 101
    level: Level
    quorum: int
    round: int = 0
    auction: Auction | None = None
    grant: Grant | None = None
    pace: Pace | None = None
    waiting: tuple[EntityId, ...] = ()
    failures: int = 0

    @property
    def entity_id(self) -> EntityId:
        return lease_entity_id(self.level, self.quorum)


class Stage(enum.IntEnum):
    """Where a batch stands at its coordinator."""

    CHAINED = 1  # waits for the context that the batch before it leaves behind
    LEASING = 2  # waits for agents
    PROCESSING = 3  # agents normalize and validate
    CERTIFYING = 4  # agents check the evidence and sign
    SEALING = 5  # the quorum certificate is being written down
    SEALED = 6  # award-holders are confirming
    BACKOFF = 7  # an attempt failed; the next one comes at the alarm
    DEAD = 8  # out of attempts; an operator decides
    ASKING = 9  # was left behind by an earlier run: the holders are asked whether they finished it


@attrs.frozen(kw_only=True)
class Ballot:
    """The votes of a role's executors, one each; sorted by signer, so equal ballots have equal bytes."""

    role: Role
    executors: tuple[IdentityKey, ...]
    quorum: int
    votes: tuple[Signed[Evidence], ...] = ()
    equivocators: tuple[IdentityKey, ...] = ()
    agreed: Digest | None = None


@attrs.frozen(kw_only=True)
class Batch:
    """The coordinator's side of one batch; or that of a holder who finishes it in the coordinator's place.

    Attributes:
        holders: Who keeps it too, and is told of its end.
        subscribers: Who is told of its end for a topic that it goes to.
        claim: Of a holder: what lets it order the work.
        certificate: What it is sealed with. Votes that come later are counted, and change it no more.
        learned: Others brought the certificate about.
        recovered: It was left behind by an earlier run, so the holders are to be asked about it.
        without_news: Holders that said they are not at it.
        agreed: A quorum agreed upon it once: the batches after it in its source rest on its context.
    """

    TAG: ClassVar[int] = 102
    manifest: Signed[Manifest]
    stage: Stage
    stateful: bool
    holders: tuple[IdentityKey, ...] = ()
    subscribers: tuple[IdentityKey, ...] = ()
    claim: Claim | None = None
    certificate: QuorumCertificate | None = None
    learned: bool = False
    recovered: bool = False
    without_news: tuple[IdentityKey, ...] = ()
    agreed: bool = False
    context: bytes = b"{}"
    context_out: bytes = b""
    attempt: int = 0
    resends: int = 0
    asked_ms: int = 0  # when the agents were asked what the stage waits for
    patience_ends_ms: int = 0  # when those who have not answered are replaced
    attempt_ends_ms: int = 0
    alarm_ms: int = 0
    lease_id: str = ""
    awards: tuple[Award, ...] = ()
    shadows: tuple[Award, ...] = ()
    ballots: tuple[Ballot, ...] = ()
    shadow_votes: tuple[Signed[Evidence], ...] = ()
    contexts: tuple[tuple[IdentityKey, bytes], ...] = ()  # what each agent says its rules leave behind
    refusals: tuple[tuple[IdentityKey, str], ...] = ()
    reasons: tuple[str, ...] = ()
    statement: Statement | None = None
    certifications: tuple[Signed[Certification], ...] = ()
    sealed_ms: int = 0
    confirmed: tuple[tuple[IdentityKey, int], ...] = ()

    @property
    def batch_id(self) -> str:
        return self.manifest.message.batch_id

    @property
    def entity_id(self) -> EntityId:
        return batch_entity_id(self.batch_id)


@attrs.frozen(kw_only=True)
class Chain:
    """The order of a source's stateful batches, and the context the last agreed one left behind."""

    TAG: ClassVar[int] = 103
    source_id: str
    context: bytes = b"{}"
    running: str = ""
    queue: tuple[str, ...] = ()

    @property
    def entity_id(self) -> EntityId:
        return chain_entity_id(self.source_id)


@attrs.frozen(kw_only=True)
class HeldAward:
    """An award that this node holds from a coordinator."""

    TAG: ClassVar[int] = 104
    coordinator: IdentityKey
    award: Award

    @property
    def entity_id(self) -> EntityId:
        return held_entity_id(self.award.lease_id)


class TaskStage(enum.IntEnum):
    RUNNING = 1
    REPORTED = 2
    SIGNING = 3
    CERTIFIED = 4


@attrs.frozen(kw_only=True)
class Findings:
    """What a run of the roles over a batch found: the roots that evidence and statement must show."""

    input_root: Digest
    normalized_root: Digest
    output_root: Digest
    context_out: bytes
    events: int
    valid: int
    invalid: int


@attrs.frozen(kw_only=True)
class Task:
    """The agent's side of one batch."""

    TAG: ClassVar[int] = 105
    order: Signed[WorkOrder]
    roles: tuple[Role, ...]
    stage: TaskStage
    expires_ms: int
    findings: Findings | None = None
    evidence: tuple[Signed[Evidence], ...] = ()
    pending: Signed[CertifyOrder] | None = None
    certification: Signed[Certification] | None = None
    sealed: bool = False

    @property
    def batch_id(self) -> str:
        return self.order.message.manifest.message.batch_id

    @property
    def entity_id(self) -> EntityId:
        return task_entity_id(self.batch_id)


class ReplicaStage(enum.IntEnum):
    """Where a batch stands at a node that holds it for its coordinator."""

    KEEPING = 1  # it is being written down
    HELD = 2  # it is the coordinator's to finish, or an earlier holder's
    ASKING = 3  # it should have ended: coordinator and holders are asked what became of it
    WAITING = 4  # the certificate of the batch before it is looked for
    ADOPTING = 5  # it is being entered among this node's own
    ADOPTED = 6  # this node has it processed
    FINISHED = 7  # it has its certificate, which the next of its source may start from


@attrs.frozen(kw_only=True)
class Replica:
    """A batch that this node holds for its coordinator, and finishes if that stays away.

    Attributes:
        before: The certificate of the batch before it, and ``context`` what that left behind.
        sealed: Its own end.
    """

    TAG: ClassVar[int] = 106
    hold: Signed[HoldBatch]
    stage: ReplicaStage
    alarm_ms: int
    before: QuorumCertificate | None = None
    context: bytes = b"{}"
    sealed: BatchSealed | None = None

    @property
    def batch_id(self) -> str:
        return self.hold.message.manifest.message.batch_id

    @property
    def coordinator(self) -> IdentityKey:
        return self.hold.message.manifest.message.coordinator

    @property
    def entity_id(self) -> EntityId:
        return replica_entity_id(self.batch_id)


@attrs.frozen(kw_only=True)
class Replication:
    """The coordinator's side of holding: who was asked to keep a batch, and who does."""

    TAG: ClassVar[int] = 107
    order: HoldBatch
    alarm_ms: int
    resends: int = 0
    held: tuple[IdentityKey, ...] = ()

    @property
    def batch_id(self) -> str:
        return self.order.manifest.message.batch_id

    @property
    def entity_id(self) -> EntityId:
        return replication_entity_id(self.batch_id)


Entity: TypeAlias = Lease | Batch | Chain | HeldAward | Task | Replica | Replication

ENTITIES: tuple[type[Entity], ...] = (Lease, Batch, Chain, HeldAward, Task, Replica, Replication)


def lease_entity_id(level: Level, quorum: int) -> EntityId:
    return f"lease:{level.word}:{quorum}"


def batch_entity_id(batch_id: str) -> EntityId:
    return f"batch:{batch_id}"


def chain_entity_id(source_id: str) -> EntityId:
    return f"chain:{source_id}"


def held_entity_id(lease_id: str) -> EntityId:
    return f"held:{lease_id}"


def task_entity_id(batch_id: str) -> EntityId:
    return f"task:{batch_id}"


def replica_entity_id(batch_id: str) -> EntityId:
    return f"replica:{batch_id}"


def replication_entity_id(batch_id: str) -> EntityId:
    return f"replication:{batch_id}"
