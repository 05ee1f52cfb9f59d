"""What can happen to a node's entities, each at a time of its clock: the only way into ``coordination.step``."""

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
)


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
class ProofReceived(Stimulus):
    """A proof against an agent that was checked and is news."""

    proof: FraudProof
    heard_from: IdentityKey


@attrs.frozen(kw_only=True)
class HoldReceived(Stimulus):
    hold: Signed[HoldBatch]


@attrs.frozen(kw_only=True)
class ReplicaStored(Stimulus):
    """A batch of another node is on this one's disk; after a restart, once for each."""

    hold: Signed[HoldBatch]


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
    """What this node's records say of the end of a batch: its certificate, or None.

    Attributes:
        asker: Whom to tell; empty where this node wants to know for ``successor``.
    """

    batch_id: str
    sealed: BatchSealed | None
    asker: IdentityKey | None
    successor: str


@attrs.frozen(kw_only=True)
class BatchReproduced(Stimulus):
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
class CertificateReceived(Stimulus):
    sealed: Signed[BatchSealed]


@attrs.frozen(kw_only=True)
class CertificateStored(Stimulus):
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
