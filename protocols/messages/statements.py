"""What is signed about a batch and lasts: the receipt, evidence, certificates, and proofs against signers."""

import hashlib
from functools import cached_property

import attrs

from protocols import codec, identifiers
from protocols.levels import Level
from protocols.limits import CONTEXT_BYTES_MAX, EVENTS_PER_BATCH_MAX, SIGNERS_MAX, TOPICS_PER_BATCH_MAX
from protocols.messages.fields import Digest, IdentityKey, at_most, count, digest, identity, moment, text
from protocols.messages.signed import Message, Signed
from protocols.roles import Role


@attrs.frozen(kw_only=True)
class Manifest(Message):
    """A coordinator's statement that it took in this batch and made it durable: the core of a receipt."""

    TAG = 1
    PROTOCOL = (2, "overlay batch manifest")

    coordinator: IdentityKey = identity()
    source_id: str = text()
    source_sequence: int = count()
    policy_hash: Digest = digest()
    level: Level
    quorum: int = count(SIGNERS_MAX)
    input_root: Digest = digest()
    events: int = count(EVENTS_PER_BATCH_MAX)
    topics: tuple[str, ...] = attrs.field(validator=at_most(TOPICS_PER_BATCH_MAX))
    durability: str = text()
    received_ms: int = moment()

    @cached_property
    def batch_id(self) -> str:
        return identifiers.batch_id(codec.encode(self))

    @property
    def key_id(self) -> str:
        return self.batch_id


@attrs.frozen(kw_only=True)
class Evidence(Message):
    """An agent's statement: this input under this policy and context gave this output.

    Time and duration say when this agent did it; two statements differ in substance only by ``outcome``.
    """

    TAG = 6
    PROTOCOL = (2, "overlay processing evidence")

    batch_id: str = text()
    role: Role
    policy_hash: Digest = digest()
    input_digest: Digest = digest()
    context_in: Digest = digest()
    output_digest: Digest = digest()
    context_out: Digest = digest()
    valid: int = count(EVENTS_PER_BATCH_MAX)
    invalid: int = count(EVENTS_PER_BATCH_MAX)
    build: str = text()
    finished_ms: int = moment()
    processing_us: int = count()

    @property
    def key_id(self) -> str:
        return f"{self.batch_id} {self.role.word}"

    @property
    def question(self) -> tuple[str, Role, bytes, bytes, bytes]:
        """What was asked: one honest agent gives one answer to it, ever."""
        return self.batch_id, self.role, self.policy_hash, self.input_digest, self.context_in

    @cached_property
    def outcome(self) -> Digest:
        """What was answered, question included, as one digest to count votes by."""
        parts = (self.role.to_bytes(1, "big"), self.policy_hash, self.input_digest, self.context_in)
        answer = (self.output_digest, self.context_out, self.valid.to_bytes(4, "big"))
        return hashlib.sha256(b"".join((*parts, *answer, self.invalid.to_bytes(4, "big")))).digest()


@attrs.frozen(kw_only=True)
class Statement:
    """What a quorum certifies about a batch. No time stands in it: honest signers sign the same bytes."""

    network: str = text()
    batch_id: str = text()
    coordinator: IdentityKey = identity()
    source_id: str = text()
    policy_hash: Digest = digest()
    level: Level
    quorum: int = count(SIGNERS_MAX)
    input_root: Digest = digest()
    normalized_root: Digest = digest()
    output_root: Digest = digest()
    context_in: Digest = digest()
    context_out: Digest = digest()
    events: int = count(EVENTS_PER_BATCH_MAX)
    valid: int = count(EVENTS_PER_BATCH_MAX)
    invalid: int = count(EVENTS_PER_BATCH_MAX)

    @cached_property
    def digest(self) -> Digest:
        return hashlib.sha256(codec.encode(self)).digest()


@attrs.frozen(kw_only=True)
class Certification(Message):
    """One certify agent's signature over a batch statement; a quorum of them is the certificate."""

    TAG = 10
    PROTOCOL = (2, "overlay event certificate")

    batch_id: str = text()
    statement_digest: Digest = digest()
    build: str = text()
    issued_ms: int = moment()

    @property
    def key_id(self) -> str:
        return self.batch_id


@attrs.frozen(kw_only=True)
class QuorumCertificate:
    """Enough certifications over one statement, with the evidence they rest on."""

    statement: Statement
    certifications: tuple[Signed[Certification], ...] = attrs.field(validator=at_most(SIGNERS_MAX))
    evidence: tuple[Signed[Evidence], ...] = attrs.field(validator=at_most(2 * SIGNERS_MAX))


@attrs.frozen(kw_only=True)
class BatchSealed(Message):
    """The batch is done: here is its certificate.

    Attributes:
        context: What the batch's rules leave behind, of which the statement has the digest.
    """

    TAG = 11
    PROTOCOL = (2, "overlay batch sealed")

    certificate: QuorumCertificate
    context: bytes = attrs.field(default=b"", validator=at_most(CONTEXT_BYTES_MAX))

    @property
    def key_id(self) -> str:
        return self.certificate.statement.batch_id


@attrs.frozen(kw_only=True)
class SealConfirmed(Message):
    """A receiver checked the certificate and keeps it."""

    TAG = 12
    PROTOCOL = (2, "overlay seal confirmation")

    batch_id: str = text()
    statement_digest: Digest = digest()

    @property
    def key_id(self) -> str:
        return self.batch_id


@attrs.frozen(kw_only=True)
class FraudProof(Message):
    """Two answers of one agent to one question; ``proofs`` says when they prove something."""

    TAG = 18
    PROTOCOL = (2, "overlay fraud proof")

    first: Signed[Evidence]
    second: Signed[Evidence]

    @property
    def key_id(self) -> str:
        return self.first.message.key_id
