"""What a quorum leaves behind: the certificate of a batch, of one event, and the receipt of an ingest.

A document repeats in readable form what stands in the signed bytes it carries, so that whoever checks it can say
which part was changed, and whoever reads it needs no decoder. ``verification`` checks such documents; this
module makes them, and checks the quorum certificate itself.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from protocols import codec, envelope
from protocols.canonical import canonical_json
from protocols.errors import InvalidProofError, WrongNetworkError
from protocols.levels import LEVELS
from protocols.merkle import inclusion_path, leaf_hash
from protocols.messages import (
    Certification,
    Evidence,
    IdentityKey,
    Manifest,
    Message,
    QuorumCertificate,
    Role,
    Signed,
    Statement,
)

CERTIFICATE_TYPE = "overlay-event-certificate"
RECEIPT_TYPE = "overlay-ingest-receipt"
VERSION = 1
STEPS = {Role.NORMALIZE: "normalization", Role.VALIDATE: "validation"}
HOW_TO_VERIFY = (
    "Each 'signature' is a BRC-3 signature (ECDSA secp256k1 over SHA-256) of the bytes in 'signed' by 'identityKey' "
    "under 'protocolID' and 'keyID', counterparty 'anyone'. The bytes are deterministic CBOR and say what the "
    "readable fields say. The event's canonical JSON (RFC 8785) is a leaf of the tree (RFC 6962) with the "
    "statement's outputRoot; contentHash is the SHA-256 of the canonical data."
)


class QuorumError(InvalidProofError):
    """The certificate does not carry what its level asks for."""

    code = "no-quorum"


def agent_id(identity: IdentityKey) -> str:
    """An agent's name: ``agent_`` and its identity key, 66 hex digits."""
    return f"agent_{identity.hex()}"


def rfc3339(ms: int) -> str:
    """UTC with milliseconds."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def verify_quorum(certificate: QuorumCertificate, *, network: str) -> None:
    """Check a quorum certificate whole: signatures, distinct signers, evidence, level.

    Raises:
        WrongNetworkError, BadSignatureError, QuorumError: which part does not hold, and why.
    """
    statement = certificate.statement
    if statement.network != network:
        raise WrongNetworkError(f"the certificate is of another network: {statement.network!r:.80}")
    for signed in (*certificate.certifications, *certificate.evidence):
        if signed.message.network != network:
            raise WrongNetworkError(f"a signature is of another network: {signed.message.network!r:.80}")
        envelope.check(signed)
    problem = quorum_problem(certificate)
    if problem:
        raise QuorumError(problem)


def quorum_problem(certificate: QuorumCertificate) -> str:
    """What is wrong with a quorum whose signatures are checked; empty if nothing is."""
    statement = certificate.statement
    if statement.quorum < LEVELS[statement.level].quorum:
        return f"level {statement.level.word} asks for {LEVELS[statement.level].quorum} signatures"
    if statement.valid + statement.invalid != statement.events:
        return "valid and invalid events do not add up"
    problems = [certification_problem(signed.message, statement) for signed in certificate.certifications]
    problems += [evidence_problem(signed.message, statement) for signed in certificate.evidence]
    problem = next(filter(None, problems), "") or _order_problem(certificate)
    if problem:
        return problem
    if len(certificate.certifications) < statement.quorum:
        return f"{len(certificate.certifications)} of {statement.quorum} signatures"
    for role in STEPS:
        backing = sum(signed.message.role is role for signed in certificate.evidence)
        if backing < statement.quorum:
            return f"{backing} of {statement.quorum} pieces of evidence for {STEPS[role]}"
    return ""


def _order_problem(certificate: QuorumCertificate) -> str:
    """Signers stand once and sorted, evidence by role first: the same signatures are one certificate."""
    signers = [signed.signer for signed in certificate.certifications]
    witnesses = [(signed.message.role, signed.signer) for signed in certificate.evidence]
    if len(set(signers)) != len(signers):
        return "a signer stands twice"
    if len(set(witnesses)) != len(witnesses):
        return "a signer's evidence stands twice"
    if signers != sorted(signers) or witnesses != sorted(witnesses):
        return "signatures and evidence are not in the order of roles and signers"
    return ""


def certification_problem(message: Certification, statement: Statement) -> str:
    """Why a certification is not of this statement; empty if it is."""
    if message.network != statement.network:
        return "a signature of another network"
    same = message.batch_id == statement.batch_id and message.statement_digest == statement.digest
    return "" if same else "a signature is over another statement"


def evidence_problem(message: Evidence, statement: Statement) -> str:
    """Why evidence does not carry this statement; empty if it does."""
    roots = {
        Role.NORMALIZE: (statement.input_root, statement.normalized_root),
        Role.VALIDATE: (statement.normalized_root, statement.output_root),
    }
    if message.network != statement.network:
        return "evidence of another network"
    if message.batch_id != statement.batch_id:
        return "evidence of another batch"
    if message.policy_hash != statement.policy_hash:
        return "evidence under another policy"
    if (message.input_digest, message.output_digest) != roots.get(message.role):
        return f"evidence of {message.role.word} with other roots"
    if (message.context_in, message.context_out) != (statement.context_in, statement.context_out):
        return "evidence with another context"
    same = (message.valid, message.invalid) == (statement.valid, statement.invalid)
    return "" if same else "evidence with other counts"


def event_document(
    certificate: QuorumCertificate,
    *,
    leaves: Sequence[bytes],
    index: int,
    data: bytes,
    record: bytes | None = None,
) -> dict[str, Any]:
    """The document that proves one event's verdict.

    Args:
        leaves: All leaves of the batch, canonical JSON, in batch order.
        index: The event's place among them.
        data: Its normalized data, canonical JSON. record: The raw record, to be shown as well.
    """
    hashes = [leaf_hash(leaf) for leaf in leaves]
    return certificate_document(
        certificate,
        leaf=orjson.loads(leaves[index]),
        data=orjson.loads(data),
        record=None if record is None else orjson.loads(record),
        index=index,
        path=inclusion_path(hashes, index),
    )


def certificate_document(
    certificate: QuorumCertificate,
    *,
    leaf: Any,
    data: Any,
    record: Any,
    index: int,
    path: Sequence[bytes],
) -> dict[str, Any]:
    """As ``event_document``, from the parts that a document carries."""
    statement = certificate.statement
    document = {
        "type": CERTIFICATE_TYPE,
        "version": VERSION,
        "network": statement.network,
        "status": "certified" if leaf.get("status") == "valid" else "rejected",
        "level": statement.level.word,
        "quorum": statement.quorum,
        "policyHash": statement.policy_hash.hex(),
        "batchId": statement.batch_id,
        "event": leaf,
        "data": data,
        "proof": proof_document(leaf_hash(canonical_json(leaf)), index, statement.events, path),
        "statement": _statement(statement),
        "signatures": [_signature(signed) for signed in certificate.certifications],
        "evidence": [_evidence(signed) for signed in certificate.evidence],
        "verification": HOW_TO_VERIFY,
    }
    return document if record is None else document | {"record": record}


def receipt_document(manifest: Signed[Manifest], record_hashes: Sequence[bytes] | None = None) -> dict[str, Any]:
    """The coordinator's signed word that a batch is durable.

    Args:
        record_hashes: The record hash of every event in batch order: with them the receipt proves each of them.
    """
    statement_made = manifest.message
    document = {
        "type": RECEIPT_TYPE,
        "version": VERSION,
        "network": statement_made.network,
        "batchId": statement_made.batch_id,
        "sourceId": statement_made.source_id,
        "sourceSequence": statement_made.source_sequence,
        "policyHash": statement_made.policy_hash.hex(),
        "level": statement_made.level.word,
        "quorum": statement_made.quorum,
        "inputRoot": statement_made.input_root.hex(),
        "events": statement_made.events,
        "topics": list(statement_made.topics),
        "durability": statement_made.durability,
        "receivedAt": rfc3339(statement_made.received_ms),
        "coordinator": _signed(manifest),
        "verification": HOW_TO_VERIFY,
    }
    return document if record_hashes is None else document | {"recordHashes": [each.hex() for each in record_hashes]}


def event_receipt_document(manifest: Signed[Manifest], record_hashes: Sequence[bytes], index: int) -> dict[str, Any]:
    """The receipt of one event: the batch's, with the proof that the record at ``index`` is in it.

    Args:
        record_hashes: The record hash of every event in batch order.
    """
    path = inclusion_path(record_hashes, index)
    proof = proof_document(record_hashes[index], index, manifest.message.events, path)
    return receipt_document(manifest) | {"proof": proof}


def proof_document(hashed: bytes, index: int, size: int, path: Sequence[bytes]) -> dict[str, Any]:
    """An inclusion proof in readable form."""
    return {
        "leafHash": hashed.hex(),
        "index": index,
        "size": size,
        "path": [sibling.hex() for sibling in path],
    }


def _statement(statement: Statement) -> dict[str, Any]:
    return {
        "coordinator": statement.coordinator.hex(),
        "sourceId": statement.source_id,
        "inputRoot": statement.input_root.hex(),
        "normalizedRoot": statement.normalized_root.hex(),
        "outputRoot": statement.output_root.hex(),
        "contextIn": statement.context_in.hex(),
        "contextOut": statement.context_out.hex(),
        "events": statement.events,
        "valid": statement.valid,
        "invalid": statement.invalid,
        "digest": statement.digest.hex(),
        "signed": codec.encode(statement).hex(),
    }


def _signature(signed: Signed[Certification]) -> dict[str, Any]:
    message = signed.message
    return {"issuedAt": rfc3339(message.issued_ms), "build": message.build, **_signed(signed)}


def _evidence(signed: Signed[Evidence]) -> dict[str, Any]:
    message = signed.message
    return {
        "step": STEPS.get(message.role, message.role.word),
        "inputHash": f"sha256:{message.input_digest.hex()}",
        "outputHash": f"sha256:{message.output_digest.hex()}",
        "processingTime": message.processing_us / 1000,
        "finishedAt": rfc3339(message.finished_ms),
        "build": message.build,
        **_signed(signed),
    }


def _signed(signed: Signed[Message]) -> dict[str, Any]:
    message = signed.message
    return {
        "agentId": agent_id(signed.signer),
        "identityKey": signed.signer.hex(),
        "protocolID": list(message.PROTOCOL),
        "keyID": message.key_id,
        "signed": codec.encode(message).hex(),
        "signature": signed.signature.hex(),
    }
