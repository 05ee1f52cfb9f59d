"""Data of the coordination: entities (durable), stimuli (what happened), effects (what to do). No behaviour.

Entities are keyed by a string id and stored as their deterministic encoding. Effects are not stored: they are
what a committed state still owes, so ``Restarted`` makes ``step`` utter them again after a crash, and every
receiver takes a repeat in its stride.
"""

import enum
from typing import ClassVar, TypeAlias

import attrs

from protocols.messages import (
    Announcement,
    Award,
    BatchHeld,
    BatchQuery,
    BatchSealed,
    BatchStatus,
    Bid,
    Certification,
    CertifyOrder,
    Claim,
    Digest,
    Evidence,
    FraudProof,
    HoldBatch,
    IdentityKey,
    Level,
    Manifest,
    Message,
    QuorumCertificate,
    Role,
    SealConfirmed,
    Signed,
    Statement,
    WorkOrder,
    WorkRefused,
    WorkResult,
)
from protocols.reputation import NEWCOMER, Outcome
from protocols.templates import BUILT_IN, JobTemplate

EntityId: TypeAlias = str

WORK_ROLES = (Role.NORMALIZE, Role.VALIDATE, Role.CERTIFY)


class Strategy(enum.IntEnum):
    """EVENT_AGENT_SELECTION_STRATEGY."""

    REPUTATION = 1
    LATENCY = 2
    COST = 3


@attrs.frozen(kw_only=True)
class Rules:
    """What ``step`` needs to know of its node; constant while the process runs. Times in milliseconds."""

    network: str
    self_key: IdentityKey
    roles: tuple[Role, ...] = WORK_ROLES
    operator: str = ""
    region: str = ""
    price: int = 0
    price_max: int = 2**62
    capacity: int = 64
    strategy: Strategy = Strategy.REPUTATION
    templates: tuple[JobTemplate, ...] = ()  # an operator's own; others are built in
    bid_window_ms: int = 300
    lease_ms: int = 60_000
    lease_batches: int = 1_000
    resend_ms: int = 2_000
    attempt_ms: int = 30_000
    attempts_max: int = 5
    backoff_ms: int = 500
    backoff_max_ms: int = 30_000
    confirm_ms: int = 2_000
    patience_ms_min: int = 250
    task_ttl_ms: int = 120_000
    replicas: int = 2  # peers that hold a replicated batch before it is acknowledged
    adopt_ms: int = 3_000  # how long a holder leaves a batch to its coordinator, and to each holder before it
    ask_ms: int = 1_000  # how long an answer to a query is waited for

    def template(self, role: Role, level: Level) -> JobTemplate:
        """What is asked of agents in a role at a level."""
        own = (each for each in self.templates if (each.role, each.level) == (role, level))
        return next(own, BUILT_IN[role, level])

    def quorum_floor(self, level: Level) -> int:
        """How many must agree at least, as an operator's templates of the level say; 0 where they do not."""
        return max((each.quorum for each in self.templates if each.level is level), default=0)

    def attempt_ms_at(self, level: Level) -> int:
        """How long an attempt may take: as an operator's templates of the level say, within the node's own bound."""
        own = [each.time_ms_max for each in self.templates if each.level is level]
        return min(self.attempt_ms, sum(own)) if own else self.attempt_ms

    def attempts_at(self, level: Level) -> int:
        """How many attempts a batch gets."""
        own = [each.retries_max + 1 for each in self.templates if each.level is level]
        return max(own, default=self.attempts_max)


# --- entities -----------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class BidSeen:
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
class Judged:
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
    bids: tuple[BidSeen, ...] = ()


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
class Held:
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


Entity: TypeAlias = Lease | Batch | Chain | Held | Task | Replica | Replication
ENTITIES: tuple[type[Entity], ...] = (Lease, Batch, Chain, Held, Task, Replica, Replication)


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


# --- stimuli ------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Stimulus:
    """Something happened, at a time of this node's clock."""

    now_ms: int


@attrs.frozen(kw_only=True)
class BatchCommitted(Stimulus):
    """Ingest made a batch durable.

    Attributes:
        stateful: Its policy has rules that look at the past.
        holders: Who is to keep it too, where it is to be replicated.
        recovered: An earlier run of this node took it in: it may have been finished by others since.
    """

    manifest: Signed[Manifest]
    stateful: bool
    holders: tuple[IdentityKey, ...] = ()
    recovered: bool = False


@attrs.frozen(kw_only=True)
class BatchReplayed(Stimulus):
    """An operator put a dead batch back among those that wait."""

    manifest: Signed[Manifest]
    stateful: bool
    holders: tuple[IdentityKey, ...] = ()


@attrs.frozen(kw_only=True)
class ProofHeard(Stimulus):
    """A proof against an agent that was checked and is news."""

    proof: FraudProof
    heard_from: IdentityKey


@attrs.frozen(kw_only=True)
class HoldReceived(Stimulus):
    hold: Signed[HoldBatch]


@attrs.frozen(kw_only=True)
class ReplicaKept(Stimulus):
    """A batch of another node is on this one's disk; after a restart, once for each."""

    hold: Signed[HoldBatch]


@attrs.frozen(kw_only=True)
class HeldReceived(Stimulus):
    held: Signed[BatchHeld]


@attrs.frozen(kw_only=True)
class QueryReceived(Stimulus):
    query: Signed[BatchQuery]


@attrs.frozen(kw_only=True)
class StatusReceived(Stimulus):
    status: Signed[BatchStatus]


@attrs.frozen(kw_only=True)
class EndFound(Stimulus):
    """What this node's records say of the end of a batch: its certificate, or None.

    Attributes:
        asker: Whom to tell; empty where this node wants to know for ``successor``.
    """

    batch_id: str
    sealed: BatchSealed | None
    asker: IdentityKey | None
    successor: str


@attrs.frozen(kw_only=True)
class SealChecked(Stimulus):
    """This node's own run of a batch gives what a certificate of others says."""

    sealed: BatchSealed


@attrs.frozen(kw_only=True)
class BatchAdopted(Stimulus):
    """A replica was entered among this node's own batches."""

    batch_id: str


@attrs.frozen(kw_only=True)
class AnnouncementReceived(Stimulus):
    announcement: Signed[Announcement]


@attrs.frozen(kw_only=True)
class BidReceived(Stimulus):
    bid: Signed[Bid]
    reputations: tuple[tuple[Role, int], ...] = ()
    topics: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class AwardReceived(Stimulus):
    award: Signed[Award]


@attrs.frozen(kw_only=True)
class WorkReceived(Stimulus):
    order: Signed[WorkOrder]


@attrs.frozen(kw_only=True)
class RoleFinished(Stimulus):
    """The worker pool ran the roles over a batch; the node signed what it found."""

    batch_id: str
    findings: Findings
    evidence: tuple[Signed[Evidence], ...]


@attrs.frozen(kw_only=True)
class RoleFailed(Stimulus):
    batch_id: str
    reason: str


@attrs.frozen(kw_only=True)
class ResultReceived(Stimulus):
    result: Signed[WorkResult]


@attrs.frozen(kw_only=True)
class RefusalReceived(Stimulus):
    refusal: Signed[WorkRefused]


@attrs.frozen(kw_only=True)
class CertifyReceived(Stimulus):
    order: Signed[CertifyOrder]


@attrs.frozen(kw_only=True)
class StatementSigned(Stimulus):
    """This node's own signature over a statement it agreed to."""

    certification: Signed[Certification]


@attrs.frozen(kw_only=True)
class CertificationReceived(Stimulus):
    certification: Signed[Certification]


@attrs.frozen(kw_only=True)
class BatchWritten(Stimulus):
    """The sealed batch is durable: events, certificate, evidence.

    Attributes:
        subscribers: Who advertises a topic of the batch, this node left out.
        earlier: The certificate that is kept, where the batch had been written before.
    """

    batch_id: str
    subscribers: tuple[IdentityKey, ...] = ()
    earlier: QuorumCertificate | None = None


@attrs.frozen(kw_only=True)
class SealReceived(Stimulus):
    sealed: Signed[BatchSealed]


@attrs.frozen(kw_only=True)
class CertificateKept(Stimulus):
    """A certificate is on disk, and whoever sent it can be told so."""

    batch_id: str
    statement_digest: Digest
    sender: IdentityKey


@attrs.frozen(kw_only=True)
class ConfirmationReceived(Stimulus):
    confirmation: Signed[SealConfirmed]


@attrs.frozen(kw_only=True)
class AlarmRang(Stimulus):
    entity_id: EntityId


@attrs.frozen(kw_only=True)
class Restarted(Stimulus):
    """The process came up and loaded this entity: utter again what it still owes."""

    entity_id: EntityId


# --- effects ------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Effect:
    """Something to do once the state that asks for it is committed."""


@attrs.frozen(kw_only=True)
class Publish(Effect):
    """Sign and gossip."""

    message: Message


@attrs.frozen(kw_only=True)
class Send(Effect):
    """Sign and send to one node, this one included; ``payload_of`` attaches the payload of that batch."""

    to: IdentityKey
    message: Message
    payload_of: str = ""


@attrs.frozen(kw_only=True)
class RunRole(Effect):
    """Run the roles over a batch in the worker pool, sign evidence for ``roles``, report RoleFinished."""

    order: Signed[WorkOrder]
    roles: tuple[Role, ...]


@attrs.frozen(kw_only=True)
class SignStatement(Effect):
    statement: Statement


@attrs.frozen(kw_only=True)
class Seal(Effect):
    """Write down a certified batch, then report BatchWritten."""

    certificate: QuorumCertificate
    dissent: tuple[Signed[Evidence], ...]
    manifest: Manifest
    context: bytes
    context_out: bytes
    attempts: int


@attrs.frozen(kw_only=True)
class CheckSeal(Effect):
    """Run a batch whose certificate others brought about; report SealChecked if that gives the same."""

    sealed: BatchSealed
    manifest: Manifest
    context: bytes


@attrs.frozen(kw_only=True)
class RecordLate(Effect):
    """Evidence that came after the seal, for or against the certified result: kept beside it."""

    evidence: Signed[Evidence]
    agrees: bool


@attrs.frozen(kw_only=True)
class KeepCertificate(Effect):
    """Write a certificate that was checked to the log, then report CertificateKept."""

    sealed: BatchSealed
    sender: IdentityKey


@attrs.frozen(kw_only=True)
class RecordDistribution(Effect):
    """How many nodes got the certificate, how many confirmed that they keep it, after how long in the mean."""

    batch_id: str
    published: int
    confirmed: int
    latency_ms: int


@attrs.frozen(kw_only=True)
class Bury(Effect):
    """A batch ran out of attempts: mark it dead, with every reason."""

    batch_id: str
    reasons: tuple[str, ...]


@attrs.frozen(kw_only=True)
class SetAlarm(Effect):
    entity_id: EntityId
    at_ms: int


@attrs.frozen(kw_only=True)
class KeepReplica(Effect):
    """Write another node's batch down, payload and policy with it, then report ReplicaKept."""

    hold: Signed[HoldBatch]


@attrs.frozen(kw_only=True)
class DropReplica(Effect):
    """A batch that was held has its end."""

    batch_id: str


@attrs.frozen(kw_only=True)
class AdoptReplica(Effect):
    """Enter a replica among this node's own batches, then report BatchAdopted."""

    hold: Signed[HoldBatch]


@attrs.frozen(kw_only=True)
class Replicated(Effect):
    """Enough peers hold a batch: it can be acknowledged."""

    batch_id: str
    holders: tuple[IdentityKey, ...]


@attrs.frozen(kw_only=True)
class FindEnd(Effect):
    """Look up whether a batch has its certificate, then report EndFound with these."""

    batch_id: str
    asker: IdentityKey | None
    successor: str


@attrs.frozen(kw_only=True)
class ForgetPayload(Effect):
    """The bytes of a batch are no longer needed here."""

    batch_id: str


@attrs.frozen(kw_only=True)
class ReportPeer(Effect):
    """A node did this well or badly in a role."""

    peer: IdentityKey
    role: Role
    outcome: Outcome
    batch_id: str


@attrs.frozen(kw_only=True)
class RecordAuction(Effect):
    """How an auction ended. ``lease_id`` is empty where too few could be chosen."""

    announcement_id: str
    level: Level
    quorum: int
    strategy: Strategy
    bids: tuple[BidSeen, ...]
    judged: tuple[Judged, ...]
    lease_id: str


@attrs.frozen(kw_only=True)
class KeepProof(Effect):
    """Two signed statements that contradict each other: proof against their signer.

    Attributes:
        heard_from: Who told of it; None where this node found it.
    """

    proof: FraudProof
    heard_from: IdentityKey | None = None


@attrs.frozen(kw_only=True)
class Transition:
    """What a stimulus changed: entities to store, ids to delete, effects to carry out after the commit."""

    changed: tuple[Entity, ...] = ()
    removed: tuple[EntityId, ...] = ()
    effects: tuple[Effect, ...] = ()
