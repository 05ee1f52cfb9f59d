"""What can happen to a node's entities, each at a time of its clock: the only way into ``coordination.step``."""

import enum

import attrs

from protocols.entities import EntityId, Findings
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
    Digest,
    Evidence,
    FraudProof,
    HoldBatch,
    IdentityKey,
    Manifest,
    QuorumCertificate,
    Role,
    SealConfirmed,
    Signed,
    WorkOrder,
    WorkRefused,
    WorkResult,
    WorkStatus,
)


@attrs.frozen(kw_only=True)
class Stimulus:
    """Something that happened, at a time of this node's clock."""

    now_ms: int


@attrs.frozen(kw_only=True)
class BatchCommitted(Stimulus):
    """Ingest made a batch durable.

    Attributes:
        stateful: Its policy has rules that look at earlier batches.
        holders: Nodes that are to keep it too; none unless it is to be replicated.
        recovered: An earlier run of this node took it in, so others may have finished it since.
        payload_bytes: Its packed records; 0 where that is not known.
    """

    manifest: Signed[Manifest]
    stateful: bool
    holders: tuple[IdentityKey, ...] = ()
    recovered: bool = False
    payload_bytes: int = 0


@attrs.frozen(kw_only=True)
class BatchReplayed(Stimulus):
    """An operator has a dead batch tried again."""

    manifest: Signed[Manifest]
    stateful: bool
    holders: tuple[IdentityKey, ...] = ()


@attrs.frozen(kw_only=True)
class ProofReceived(Stimulus):
    """A proof against an agent, checked, and not known here before."""

    proof: FraudProof
    heard_from: IdentityKey


@attrs.frozen(kw_only=True)
class HoldReceived(Stimulus):
    hold: Signed[HoldBatch]


@attrs.frozen(kw_only=True)
class ReplicaStored(Stimulus):
    """A batch of another node is on this node's disk; reported again for each after a restart."""

    hold: Signed[HoldBatch]


@attrs.frozen(kw_only=True)
class ReplicaLost(Stimulus):
    """A batch of another node is not on this node's disk any more: it made room for another."""

    batch_id: str


@attrs.frozen(kw_only=True)
class HoldConfirmed(Stimulus):
    held: Signed[BatchHeld]


@attrs.frozen(kw_only=True)
class QueryReceived(Stimulus):
    query: Signed[BatchQuery]


@attrs.frozen(kw_only=True)
class StatusReceived(Stimulus):
    status: Signed[BatchStatus]


@attrs.frozen(kw_only=True)
class CertificateLookedUp(Stimulus):
    """The certificate of a batch as this node has it on record, or None.

    Attributes:
        asker: The node that asked; None where this node looked it up for the batch ``successor``.
    """

    batch_id: str
    sealed: BatchSealed | None
    asker: IdentityKey | None
    successor: str


@attrs.frozen(kw_only=True)
class BatchReproduced(Stimulus):
    """This node ran a batch itself, with the result that a certificate of others states."""

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
class PeerAppeared(Stimulus):
    """A node that offers roles joined the network, or can be reached again."""

    peer: IdentityKey


@attrs.frozen(kw_only=True)
class AwardReceived(Stimulus):
    award: Signed[Award]


@attrs.frozen(kw_only=True)
class WorkReceived(Stimulus):
    """``payload_bytes``: of the payload that came with the order and is kept in memory; 0 for an order to itself."""

    order: Signed[WorkOrder]
    payload_bytes: int = 0


@attrs.frozen(kw_only=True)
class RoleFinished(Stimulus):
    """The worker pool ran the roles over a batch, and the node signed evidence of the result."""

    batch_id: str
    findings: Findings
    evidence: tuple[Signed[Evidence], ...]


class FailureCause(enum.IntEnum):
    """Where the cause lies when an agent does not do a batch."""

    BATCH = 1  # its roles fail over it, or its policy forbids it: so it would be at any agent
    NODE = 2  # something is missing here, or busy
    UNWANTED = 3  # nobody waits for it any more


@attrs.frozen(kw_only=True)
class RoleFailed(Stimulus):
    batch_id: str
    reason: str
    cause: FailureCause = FailureCause.BATCH


@attrs.frozen(kw_only=True)
class ResultReceived(Stimulus):
    result: Signed[WorkResult]


@attrs.frozen(kw_only=True)
class RefusalReceived(Stimulus):
    refusal: Signed[WorkRefused]


@attrs.frozen(kw_only=True)
class WorkStatusReceived(Stimulus):
    status: Signed[WorkStatus]


@attrs.frozen(kw_only=True)
class CertifyReceived(Stimulus):
    order: Signed[CertifyOrder]


@attrs.frozen(kw_only=True)
class StatementSigned(Stimulus):
    """This node signed a statement that it agrees to."""

    certification: Signed[Certification]


@attrs.frozen(kw_only=True)
class CertificationReceived(Stimulus):
    certification: Signed[Certification]


@attrs.frozen(kw_only=True)
class BatchWritten(Stimulus):
    """A batch is durable with its events, certificate and evidence.

    Attributes:
        subscribers: Nodes that advertise a topic of the batch, without this one.
        earlier: The certificate that was stored before, if the batch had been written already. It is kept.
    """

    batch_id: str
    subscribers: tuple[IdentityKey, ...] = ()
    earlier: QuorumCertificate | None = None


@attrs.frozen(kw_only=True)
class CertificateReceived(Stimulus):
    sealed: Signed[BatchSealed]


@attrs.frozen(kw_only=True)
class CertificateStored(Stimulus):
    """A certificate is on disk, which can be confirmed to its sender."""

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
    """The process started and loaded this entity: emit again the effects that it still owes."""

    entity_id: EntityId
