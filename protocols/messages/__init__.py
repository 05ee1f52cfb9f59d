"""The message catalogue: what nodes send to each other, as frozen values.

Every message names the network and is signed (BRC-3, counterparty ``anyone``) under the protocol ID of its class,
with the id of its subject as key ID, so no signature can be replayed in another role, for another subject, or in
another network. ``Signed`` is the proof in the type: ``envelope`` alone makes it.
"""

from protocols.levels import Level
from protocols.messages.fields import Digest, IdentityKey, Protocol
from protocols.messages.gossip import Advertisement, CertifiedBatch, CertifiedNotice
from protocols.messages.holding import BatchHeld, BatchProgress, BatchQuery, BatchStatus, Claim, HoldBatch
from protocols.messages.signed import Message, Signed
from protocols.messages.statements import (
    BatchSealed,
    Certification,
    Evidence,
    FraudProof,
    Manifest,
    QuorumCertificate,
    SealConfirmed,
    Statement,
)
from protocols.messages.work import (
    Announcement,
    Award,
    Bid,
    CertifyOrder,
    WorkOrder,
    WorkPhase,
    WorkRefused,
    WorkResult,
    WorkStatus,
)
from protocols.roles import Role

__all__ = [
    "MESSAGES",
    "Advertisement",
    "Announcement",
    "Award",
    "BatchHeld",
    "BatchProgress",
    "BatchQuery",
    "BatchSealed",
    "BatchStatus",
    "Bid",
    "Certification",
    "CertifiedBatch",
    "CertifiedNotice",
    "CertifyOrder",
    "Claim",
    "Digest",
    "Evidence",
    "FraudProof",
    "HoldBatch",
    "IdentityKey",
    "Level",
    "Manifest",
    "Message",
    "Protocol",
    "QuorumCertificate",
    "Role",
    "SealConfirmed",
    "Signed",
    "Statement",
    "WorkOrder",
    "WorkPhase",
    "WorkRefused",
    "WorkResult",
    "WorkStatus",
]

MESSAGES: tuple[type[Message], ...] = (
    Manifest,
    Announcement,
    Bid,
    Award,
    WorkOrder,
    Evidence,
    WorkResult,
    WorkRefused,
    CertifyOrder,
    Certification,
    BatchSealed,
    SealConfirmed,
    Advertisement,
    HoldBatch,
    BatchHeld,
    BatchQuery,
    BatchStatus,
    FraudProof,
    CertifiedNotice,
    WorkStatus,
)
