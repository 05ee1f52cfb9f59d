"""What simulated agents answer: the truth, or a lie, about a batch; and the stimulus that a message becomes."""

import hashlib
from collections.abc import Collection
from typing import Any

import attrs

from protocols.entities import Findings
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
    Evidence,
    FraudProof,
    HoldBatch,
    IdentityKey,
    Manifest,
    Message,
    Role,
    SealConfirmed,
    Signed,
    WorkOrder,
    WorkRefused,
    WorkResult,
    WorkStatus,
)
from protocols.stimuli import (
    AnnouncementReceived,
    AwardReceived,
    BidReceived,
    CertificateReceived,
    CertificationReceived,
    CertifyReceived,
    ConfirmationReceived,
    HoldConfirmed,
    HoldReceived,
    ProofReceived,
    QueryReceived,
    RefusalReceived,
    ResultReceived,
    StatusReceived,
    Stimulus,
    WorkReceived,
    WorkStatusReceived,
)

NETWORK = "world"
POLICY = hashlib.sha256(b"policy").digest()


def sign(key: IdentityKey, message: Message) -> Signed[Any]:
    return Signed(message=message, signer=key, signature=b"by " + key[:8])


def truth(batch_id: str, context: bytes) -> Findings:
    """What honest agents find: a function of batch and context alone."""
    seed = batch_id.encode() + context
    return Findings(
        input_root=hashlib.sha256(b"input" + batch_id[:4].encode()).digest(),
        normalized_root=hashlib.sha256(b"normalized" + seed).digest(),
        output_root=hashlib.sha256(b"output" + seed).digest(),
        context_out=b"after " + hashlib.sha256(seed).hexdigest().encode(),
        events=10,
        valid=9,
        invalid=1,
    )


def lie(found: Findings, flavour: int) -> Findings:
    root = hashlib.sha256(b"lie %d" % flavour + found.output_root).digest()
    return attrs.evolve(found, output_root=root, valid=found.valid + 1, invalid=found.invalid - 1)


def evidence_of(
    key: IdentityKey, manifest: Manifest, context: bytes, roles: Collection[Role], found: Findings, at_ms: int = 1
) -> tuple[Signed[Evidence], ...]:
    """What an agent with these roles signs that found this."""
    steps = {
        Role.NORMALIZE: (found.input_root, found.normalized_root),
        Role.VALIDATE: (found.normalized_root, found.output_root),
    }
    return tuple(
        sign(
            key,
            Evidence(
                network=manifest.network,
                batch_id=manifest.batch_id,
                role=role,
                policy_hash=manifest.policy_hash,
                input_digest=source,
                context_in=hashlib.sha256(context).digest(),
                output_digest=result,
                context_out=hashlib.sha256(found.context_out).digest(),
                valid=found.valid,
                invalid=found.invalid,
                build="simulated",
                finished_ms=at_ms,
                processing_us=1,
            ),
        )
        for role, (source, result) in steps.items()
        if role in roles
    )


def stimulus_of(now: int, signed: Signed[Any]) -> Stimulus:
    match signed.message:
        case Announcement():
            return AnnouncementReceived(now_ms=now, announcement=signed)
        case Bid():
            return BidReceived(now_ms=now, bid=signed)
        case Award():
            return AwardReceived(now_ms=now, award=signed)
        case WorkOrder():
            return WorkReceived(now_ms=now, order=signed)
        case WorkResult():
            return ResultReceived(now_ms=now, result=signed)
        case WorkRefused():
            return RefusalReceived(now_ms=now, refusal=signed)
        case WorkStatus():
            return WorkStatusReceived(now_ms=now, status=signed)
        case CertifyOrder():
            return CertifyReceived(now_ms=now, order=signed)
        case Certification():
            return CertificationReceived(now_ms=now, certification=signed)
        case BatchSealed():
            return CertificateReceived(now_ms=now, sealed=signed)
        case SealConfirmed():
            return ConfirmationReceived(now_ms=now, confirmation=signed)
        case FraudProof():
            return ProofReceived(now_ms=now, proof=signed.message, heard_from=signed.signer)
        case HoldBatch():
            return HoldReceived(now_ms=now, hold=signed)
        case BatchHeld():
            return HoldConfirmed(now_ms=now, held=signed)
        case BatchQuery():
            return QueryReceived(now_ms=now, query=signed)
        case BatchStatus():
            return StatusReceived(now_ms=now, status=signed)
    raise AssertionError(f"no stimulus for {signed.message}")
