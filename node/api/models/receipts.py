"""Signed documents that a client keeps: receipts and certificates. Verified offline by ``overlay-node verify``."""

from typing import Annotated, Any

from pydantic import Field

from node.api.models.base import AnswerModel, Hex, JsonObject, LevelName, OneOf, Sha256, Time, Topics
from node.runtime.document_models import optional_member


class SignedStatement(AnswerModel):
    """A BRC-3 signature over ``signed``, the canonical CBOR of the message."""

    agent_id: str
    identity_key: Hex
    protocol_id: list[int | str] = Field(alias="protocolID", description="BRC-43: security level and name.")
    key_id: str = Field(alias="keyID")
    signed: Hex
    signature: Hex


class InclusionProof(AnswerModel):
    """The path from a leaf to the root of a Merkle tree (RFC 9162, section 2.1.3)."""

    leaf_hash: Hex
    index: int = Field(ge=0)
    size: int = Field(ge=1)
    path: list[Hex]


class Receipt(AnswerModel):
    """The coordinator's signed statement that a batch is durable."""

    type: str
    version: int
    network: str
    batch_id: str
    source_id: str
    source_sequence: int
    policy_hash: Hex
    level: LevelName
    quorum: int
    input_root: Hex
    events: int
    topics: Topics
    durability: Annotated[str, OneOf(("local", "replicated"))]
    received_at: Time
    coordinator: SignedStatement
    verification: str = Field(description="How to check it.")
    record_hashes: list[Hex] = optional_member(
        description="Of every event in batch order; absent from a minimal answer."
    )


class CertifiedStatement(AnswerModel):
    """What the agents signed about the batch."""

    coordinator: Hex
    source_id: str
    input_root: Hex
    normalized_root: Hex
    output_root: Hex
    context_in: Hex
    context_out: Hex
    events: int
    valid: int
    invalid: int
    digest: Hex
    signed: Hex = Field(description="The statement in canonical CBOR.")


class CertificateSignature(SignedStatement):
    """One agent's signature on the statement."""

    issued_at: Time
    build: str


class CertificateEvidence(SignedStatement):
    """One agent's signed result of one step."""

    step: str
    input_hash: Sha256
    output_hash: Sha256
    processing_time: float = Field(description="Milliseconds of CPU for the whole batch.")
    finished_at: Time
    build: str


class Certificate(AnswerModel):
    """Proves one event's verdict offline, to anyone who trusts the agents that signed."""

    type: str
    version: int
    network: str
    status: Annotated[str, OneOf(("certified", "rejected"))]
    level: LevelName
    quorum: int
    policy_hash: Hex
    batch_id: str
    event: JsonObject = Field(description="The leaf of the tree: the event's ids, verdict and content hash.")
    data: Any = Field(description="The normalized data.")
    proof: InclusionProof
    statement: CertifiedStatement
    signatures: list[CertificateSignature]
    evidence: list[CertificateEvidence]
    verification: str = Field(description="How to check it.")
    record: JsonObject = optional_member(
        description="The event as the source sent it; absent from messages of the stream."
    )
