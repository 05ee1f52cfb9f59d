"""What is to be done: each effect is carried out after the commit of the state that asks for it.

Effects are not stored. After a crash ``Restarted`` makes ``step`` emit them again, so a receiver must accept
repeats.
"""

import attrs

from protocols.entities import BidDecision, Entity, EntityId, ReceivedBid
from protocols.messages import (
    BatchSealed,
    Evidence,
    FraudProof,
    HoldBatch,
    IdentityKey,
    Level,
    Manifest,
    Message,
    QuorumCertificate,
    Role,
    Signed,
    Statement,
    WorkOrder,
)
from protocols.reputation import Outcome
from protocols.rules import Strategy


@attrs.frozen(kw_only=True)
class Effect:
    """Something to do once the state that asks for it is committed."""


@attrs.frozen(kw_only=True)
class Publish(Effect):
    """Sign a message and gossip it."""

    message: Message


@attrs.frozen(kw_only=True)
class Send(Effect):
    """Sign a message and send it to one node, which may be this one.

    Attributes:
        payload_of: Id of the batch whose payload is attached; empty for none.
    """

    to: IdentityKey
    message: Message
    payload_of: str = ""


@attrs.frozen(kw_only=True)
class RunRole(Effect):
    """Run the roles over a batch in the worker pool, sign evidence for ``roles``, then report RoleFinished."""

    order: Signed[WorkOrder]
    roles: tuple[Role, ...]


@attrs.frozen(kw_only=True)
class SignStatement(Effect):
    statement: Statement


@attrs.frozen(kw_only=True)
class WriteBatch(Effect):
    """Write a certified batch to disk, then report BatchWritten."""

    certificate: QuorumCertificate
    dissent: tuple[Signed[Evidence], ...]
    manifest: Manifest
    context: bytes
    context_out: bytes
    attempts: int


@attrs.frozen(kw_only=True)
class ReproduceBatch(Effect):
    """Run a batch that others certified; report BatchReproduced if the result is the same."""

    sealed: BatchSealed
    manifest: Manifest
    context: bytes


@attrs.frozen(kw_only=True)
class RecordLateEvidence(Effect):
    """Record evidence that came after the certificate, for or against the certified result."""

    evidence: Signed[Evidence]
    agrees: bool


@attrs.frozen(kw_only=True)
class StoreCertificate(Effect):
    """Write a checked certificate to the log, then report CertificateStored."""

    sealed: BatchSealed
    sender: IdentityKey


@attrs.frozen(kw_only=True)
class RecordDistribution(Effect):
    """Record how many nodes were sent the certificate, how many confirmed it, and their mean latency."""

    batch_id: str
    published: int
    confirmed: int
    latency_ms: int


@attrs.frozen(kw_only=True)
class MarkDead(Effect):
    """Mark a batch dead, with the reason of every failed attempt."""

    batch_id: str
    reasons: tuple[str, ...]


@attrs.frozen(kw_only=True)
class SetAlarm(Effect):
    entity_id: EntityId
    at_ms: int


@attrs.frozen(kw_only=True)
class StoreReplica(Effect):
    """Write another node's batch to disk with its payload and policy, then report ReplicaStored."""

    hold: Signed[HoldBatch]


@attrs.frozen(kw_only=True)
class DropReplica(Effect):
    """Delete a replica: the batch is finished."""

    batch_id: str


@attrs.frozen(kw_only=True)
class AdoptReplica(Effect):
    """Enter a replica among this node's own batches, then report BatchAdopted."""

    hold: Signed[HoldBatch]


@attrs.frozen(kw_only=True)
class ConfirmReplication(Effect):
    """Acknowledge a replicated batch to its client: enough peers hold it."""

    batch_id: str
    holders: tuple[IdentityKey, ...]


@attrs.frozen(kw_only=True)
class LookUpCertificate(Effect):
    """Look up the certificate of a batch, then report CertificateLookedUp with these fields."""

    batch_id: str
    asker: IdentityKey | None
    successor: str


@attrs.frozen(kw_only=True)
class ForgetPayload(Effect):
    """Drop the payload of a batch: it is not needed here any more.

    Attributes:
        sender: Only what this node sent; None: all.
    """

    batch_id: str
    sender: IdentityKey | None = None


@attrs.frozen(kw_only=True)
class ReportPeer(Effect):
    """Count an outcome for the reputation of a node in a role."""

    peer: IdentityKey
    role: Role
    outcome: Outcome
    batch_id: str


@attrs.frozen(kw_only=True)
class RecordAuction(Effect):
    """Record how an auction ended. ``lease_id`` is empty where too few agents could be chosen."""

    announcement_id: str
    level: Level
    quorum: int
    strategy: Strategy
    bids: tuple[ReceivedBid, ...]
    judged: tuple[BidDecision, ...]
    lease_id: str


@attrs.frozen(kw_only=True)
class StoreProof(Effect):
    """Store a proof against an agent: two signed answers of it that contradict each other.

    Attributes:
        heard_from: The node that sent the proof; None where this node found it.
    """

    proof: FraudProof
    heard_from: IdentityKey | None = None


@attrs.frozen(kw_only=True)
class Transition:
    """The outcome of a stimulus: entities to store, ids to delete, effects to carry out after the commit."""

    changed: tuple[Entity, ...] = ()
    removed: tuple[EntityId, ...] = ()
    effects: tuple[Effect, ...] = ()
