"""What coordination stores: the state of leases, batches, chains, awards, tasks and replicas. No behaviour.

An entity is keyed by a string id and stored as its deterministic encoding (``codec``): the order of its fields and
its ``TAG`` are part of what is on disk, its names are not.
"""

import enum
from typing import ClassVar, TypeAlias

import attrs

from protocols.codec import added
from protocols.load import Ask, Desk, Flow, Lane, Line
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
    """A bid, with what this node knew about the bidder when the bid came.

    Attributes:
        reputations: By role, 0 to 100.
        topics: The topics that the bidder advertises, besides roles.
    """

    bid: Signed[Bid]
    latency_ms: int
    reputations: tuple[tuple[Role, int], ...] = ()
    topics: tuple[str, ...] = ()

    def reputation_in(self, role: Role) -> int:
        return dict(self.reputations).get(role, NEWCOMER)


class Choice(enum.IntEnum):
    """The decision on a bid for a role."""

    REFUSED = 0
    EXECUTOR = 1  # its vote counts
    RESERVE = 2  # asked when an executor fails
    SHADOW = 3  # a newcomer that does the work to earn a reputation; its vote does not count


@attrs.frozen(kw_only=True)
class BidDecision:
    """The decision on a bid for a role with its reason, for the record. Smaller scores are better."""

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
    """A bidder that was ranked behind those awarded, and is asked when one of them fails."""

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
    """How long agents take to answer: mean and mean deviation in microseconds, estimated as in RFC 6298."""

    mean_us: int
    deviation_us: int


@attrs.frozen(kw_only=True)
class Lease:
    """The coordinator's side of leasing for one level and quorum.

    Attributes:
        waiting: The lane of the batches that wait for a grant, if any do.
        is_eager: A peer appeared while the auction was held: if it fails, the next one follows soon.
    """

    TAG: ClassVar[int] = 101
    level: Level
    quorum: int
    round: int = 0
    auction: Auction | None = None
    grant: Grant | None = None
    pace: Pace | None = None
    waiting: tuple[EntityId, ...] = ()
    failures: int = 0
    is_eager: bool = added(False)

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
    ASKING = 9  # taken in by an earlier run: the holders are asked whether they finished it


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
    """The coordinator's side of one batch, or that of a holder that finishes it in the coordinator's place.

    ``coordination.stages`` explains the stages. A failed attempt leaves the fields of its stages behind; the next
    attempt resets them. The order of the fields is that of the stored encoding.

    Attributes, in every stage:
        stateful: Its policy has rules that look at earlier batches of its source.
        holders: Nodes that keep the batch too; they are sent its certificate.
        claim: Of a holder that finishes the batch: what entitles it to order the work.
        recovered: An earlier run of this node took it in, so the holders are asked before anything else is done.
        agreed: A quorum agreed upon it once: later batches of its source start from what it leaves behind.
        context, context_out: What it starts from, and what it leaves behind once it is agreed upon.
        attempt: Attempts that failed by a cause in the batch. reasons: Why, the latest last.
        postponed: Attempts that came to nothing for lack of agents.
        payload_bytes: Its packed records; 0 where that is not known.
        alarm_ms: When the latest alarm is due; earlier alarms are ignored.
    In ASKING:
        without_news: Holders that answered that they do not work on it.
    From PROCESSING on:
        lease_id, awards, shadows: The executors and the newcomers beside them, as they were when it was dispatched.
        ballots: One for normalize, one for validate. shadow_votes: The newcomers' evidence.
        contexts: What each executor says its rules leave behind; until the statement is fixed.
        refusals: Executors that refused because of the batch, with their reasons.
        asked_ms: When the executors were asked for what the stage waits for. resends: How often again.
        patience_ends_ms: When silent executors are replaced. attempt_ends_ms: When they are given up.
    From CERTIFYING on:
        statement: What executors sign. certifications: Their signatures.
    From SEALING on:
        certificate: Complete, and final: later evidence does not change it.
        learned: The certificate came from a holder, not from this batch's own ballots.
    From PROCESSING to SEALED:
        asks: The orders to agents in this attempt, one for each agent that was sent one.
        dispatched_ms: When the attempt began.
    In SEALED:
        sealed_ms: When it was durable. confirmed: Who confirmed the certificate, after how many milliseconds.
        subscribers: Nodes that follow one of its topics; they are sent its certificate.
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
    asked_ms: int = 0
    patience_ends_ms: int = 0
    attempt_ends_ms: int = 0
    alarm_ms: int = 0
    lease_id: str = ""
    awards: tuple[Award, ...] = ()
    shadows: tuple[Award, ...] = ()
    ballots: tuple[Ballot, ...] = ()
    shadow_votes: tuple[Signed[Evidence], ...] = ()
    contexts: tuple[tuple[IdentityKey, bytes], ...] = ()
    refusals: tuple[tuple[IdentityKey, str], ...] = ()
    reasons: tuple[str, ...] = ()
    statement: Statement | None = None
    certifications: tuple[Signed[Certification], ...] = ()
    sealed_ms: int = 0
    confirmed: tuple[tuple[IdentityKey, int], ...] = ()
    payload_bytes: int = added(0)
    dispatched_ms: int = added(0)
    asks: tuple[Ask, ...] = added(())
    postponed: int = added(0)

    @property
    def batch_id(self) -> str:
        return self.manifest.message.batch_id

    @property
    def entity_id(self) -> EntityId:
        return batch_entity_id(self.batch_id)


@attrs.frozen(kw_only=True)
class Chain:
    """The order of a source's stateful batches, and the context that the last agreed one left behind."""

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
    """Where a batch stands at an agent."""

    RUNNING = 1  # given to a worker
    REPORTED = 2
    SIGNING = 3
    CERTIFIED = 4
    QUEUED = 5  # taken in, and waits for its turn (``Desk``)


@attrs.frozen(kw_only=True)
class Findings:
    """The result of running the roles over a batch: the roots that evidence and statement must show."""

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

    KEEPING = 1  # it is being written to disk
    HELD = 2  # the coordinator, or an earlier holder, is expected to finish it
    ASKING = 3  # it should be finished by now: coordinator and holders are asked about it
    WAITING = 4  # the certificate of the batch before it is being looked up
    ADOPTING = 5  # it is being entered among this node's own batches
    ADOPTED = 6  # this node has it processed
    FINISHED = 7  # it has its certificate, from which the next batch of its source may start


@attrs.frozen(kw_only=True)
class Replica:
    """A batch that this node holds for its coordinator, and finishes if the coordinator does not.

    Attributes:
        before, context: The certificate of the batch before it, and the context that it left behind.
        sealed: Its own certificate, once this node has it.
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
    """The coordinator's side of holding: who was asked to keep a batch, and who confirmed."""

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


StoredEntity: TypeAlias = Lease | Batch | Chain | HeldAward | Task | Replica | Replication
Entity: TypeAlias = StoredEntity | Flow | Lane | Line | Desk
"""The last four are of this run alone, and have no stored form."""

ENTITIES: tuple[type[StoredEntity], ...] = (Lease, Batch, Chain, HeldAward, Task, Replica, Replication)


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
