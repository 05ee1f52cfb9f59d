"""What a committed state still owes: each effect is carried out after the commit that caused it.

Effects are not stored. After a crash ``Restarted`` makes ``step`` emit them again, so whoever receives one must
accept a repeat.
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
class WriteBatch(Effect):
    """Write down a certified batch, then report BatchWritten."""

    certificate: QuorumCertificate
    dissent: tuple[Signed[Evidence], ...]
    manifest: Manifest
    context: bytes
    context_out: bytes
    attempts: int


@attrs.frozen(kw_only=True)
class ReproduceBatch(Effect):
    """Run a batch whose certificate others brought about; report BatchReproduced if that gives the same."""

    sealed: BatchSealed
    manifest: Manifest
    context: bytes


@attrs.frozen(kw_only=True)
class RecordLateEvidence(Effect):
    """Evidence that came after the seal, for or against the certified result: kept beside it."""

    evidence: Signed[Evidence]
    agrees: bool


@attrs.frozen(kw_only=True)
class StoreCertificate(Effect):
    """Write a certificate that was checked to the log, then report CertificateStored."""

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
class MarkDead(Effect):
    """A batch ran out of attempts: mark it dead, with every reason."""

    batch_id: str
    reasons: tuple[str, ...]


@attrs.frozen(kw_only=True)
class SetAlarm(Effect):
    entity_id: EntityId
    at_ms: int


@attrs.frozen(kw_only=True)
class StoreReplica(Effect):
    """Write another node's batch down, payload and policy with it, then report ReplicaStored."""

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
class ConfirmReplication(Effect):
    """Enough peers hold a batch: it can be acknowledged."""

    batch_id: str
    holders: tuple[IdentityKey, ...]


@attrs.frozen(kw_only=True)
class LookUpCertificate(Effect):
    """Look up whether a batch has its certificate, then report CertificateLookedUp with these."""

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
    bids: tuple[ReceivedBid, ...]
    judged: tuple[BidDecision, ...]
    lease_id: str


@attrs.frozen(kw_only=True)
class StoreProof(Effect):
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
