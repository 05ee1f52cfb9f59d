"""The message catalogue: what nodes say to each other, as frozen values.

Every message names the network, and is signed (BRC-3, counterparty ``anyone``) under the protocol ID of its
class with the id of the thing it speaks of as key ID, so no signature can be replayed in another role, for
another thing, or in another network. ``Signed`` is the proof in the type: ``envelope`` alone makes it.
"""

import enum
import hashlib
from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

import attrs

from protocols import codec
from protocols.errors import MalformedError
from protocols.limits import (
    ADDRESSES_PER_PEER_MAX,
    CONTEXT_BYTES_MAX,
    EVENTS_PER_BATCH_MAX,
    HOLDERS_MAX,
    MEMBERSHIP_BYTES_MAX,
    NOTICE_BATCHES_MAX,
    ROLES_MAX,
    SIGNERS_MAX,
    TOKENS_PER_ADVERTISEMENT_MAX,
    TOPIC_CHARS_MAX,
    TOPICS_PER_BATCH_MAX,
)

Digest: TypeAlias = bytes  # SHA-256, 32 bytes
IdentityKey: TypeAlias = bytes  # compressed secp256k1 public key, 33 bytes
Protocol: TypeAlias = tuple[int, str]  # BRC-43 security level and protocol name

NO_DIGEST = bytes(32)
TEXT_CHARS_MAX = 512
MS_MAX = 253_402_300_799_999


class Role(enum.IntEnum):
    NORMALIZE = 1
    VALIDATE = 2
    CERTIFY = 3
    DISTRIBUTE = 4

    @property
    def word(self) -> str:
        return self.name.lower()


class Level(enum.IntEnum):
    """Certification levels, ordered: a greater one asks for more."""

    BASIC = 1
    ENHANCED = 2
    CRITICAL = 3

    @property
    def word(self) -> str:
        return self.name.lower()


def is_digest(_: object, attribute: "attrs.Attribute[bytes]", value: bytes) -> None:
    if len(value) != 32:
        raise ValueError(f"{attribute.name} has {len(value)} bytes, not 32")


def is_key(_: object, attribute: "attrs.Attribute[bytes]", value: bytes) -> None:
    if len(value) != 33 or value[0] not in (2, 3):
        raise ValueError(f"{attribute.name} is no compressed public key")


def is_text(_: object, attribute: "attrs.Attribute[str]", value: str) -> None:
    if len(value) > TEXT_CHARS_MAX:
        raise ValueError(f"{attribute.name} is longer than {TEXT_CHARS_MAX} characters")


def are_topics(_: object, attribute: "attrs.Attribute[tuple[str, ...]]", value: tuple[str, ...]) -> None:
    if any(not 0 < len(topic) <= TOPIC_CHARS_MAX for topic in value):
        raise ValueError(f"{attribute.name} has one without or with more than {TOPIC_CHARS_MAX} characters")


def at_most(bound: int) -> Callable[[object, "attrs.Attribute[Any]", Any], None]:
    def check(_: object, attribute: "attrs.Attribute[Any]", value: Any) -> None:
        if (value if isinstance(value, int) else len(value)) > bound:
            raise ValueError(f"{attribute.name} is over its bound of {bound}")

    return check


def not_negative(_: object, attribute: "attrs.Attribute[int]", value: int) -> None:
    if value < 0:
        raise ValueError(f"{attribute.name} is negative")


def count(bound: int = 2**63 - 1) -> int:
    """A field: an integer from 0 to ``bound``."""
    return attrs.field(validator=[not_negative, at_most(bound)])


def moment() -> int:
    """A field: milliseconds since 1970, UTC, up to the year 9999."""
    return count(MS_MAX)


def text() -> str:
    """A field: a string of at most ``TEXT_CHARS_MAX`` characters."""
    return attrs.field(validator=is_text)


def digest() -> bytes:
    """A field: 32 bytes."""
    return attrs.field(validator=is_digest)


def identity() -> bytes:
    """A field: a 33-byte compressed public key."""
    return attrs.field(validator=is_key)


@attrs.frozen(kw_only=True)
class Message:
    """Base of all signed statements."""

    TAG: ClassVar[int]
    PROTOCOL: ClassVar[Protocol]

    network: str = text()

    @property
    def key_id(self) -> str:
        raise AssertionError("every message class names the thing it speaks of")


M_co = TypeVar("M_co", bound=Message, covariant=True)


@attrs.frozen(kw_only=True)
class Signed(Generic[M_co]):
    """A message with a signature that was checked, or that this node made. Only ``envelope`` makes one."""

    message: M_co
    signer: IdentityKey = attrs.field(validator=is_key)
    signature: bytes = attrs.field(validator=at_most(80))

    @classmethod
    def __coders__(cls, message_class: type[Message]) -> tuple[codec.Encoder, codec.Decoder]:
        def from_value(raw: Any) -> "Signed[Message]":
            if not isinstance(raw, list) or len(raw) != 3 or not all(type(item) is bytes for item in raw):
                raise MalformedError("a signed message is an array of three byte strings")
            try:
                message = codec.decode(message_class, raw[2])
                return Signed(message=message, signer=raw[0], signature=raw[1])
            except ValueError as error:
                raise MalformedError(str(error)) from error

        return (lambda signed: [signed.signer, signed.signature, codec.encode(signed.message)]), from_value


@attrs.frozen(kw_only=True)
class Manifest(Message):
    """A coordinator's word that it took in this batch and made it durable: the receipt's core."""

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
        return "batch_" + hashlib.sha256(codec.encode(self)).hexdigest()

    @property
    def key_id(self) -> str:
        return self.batch_id


@attrs.frozen(kw_only=True)
class Announcement(Message):
    """Work for bidders: these roles at this level, for a lease of some time and some batches (BRC-22 job)."""

    TAG = 2
    PROTOCOL = (2, "overlay job announcement")

    announcement_id: str = text()
    roles: tuple[Role, ...] = attrs.field(validator=at_most(ROLES_MAX))
    level: Level
    quorum: int = count(SIGNERS_MAX)
    lease_ms: int = count()
    batches: int = count()
    price_max: int = count()
    closes_ms: int = moment()

    @property
    def key_id(self) -> str:
        return self.announcement_id


@attrs.frozen(kw_only=True)
class Bid(Message):
    """An agent's answer: the roles it offers, or none and a reason."""

    TAG = 3
    PROTOCOL = (2, "overlay job bid")

    announcement_id: str = text()
    roles: tuple[Role, ...] = attrs.field(validator=at_most(ROLES_MAX))
    capacity: int = count(2**31)
    price: int = count()
    operator: str = text()
    region: str = text()
    reason: str = text()

    @property
    def key_id(self) -> str:
        return self.announcement_id


@attrs.frozen(kw_only=True)
class Award(Message):
    """The coordinator's choice: a lease of these roles until a time, for so many batches."""

    TAG = 4
    PROTOCOL = (2, "overlay job award")

    lease_id: str = text()
    announcement_id: str = text()
    agent: IdentityKey = identity()
    roles: tuple[Role, ...] = attrs.field(validator=at_most(ROLES_MAX))
    batches: int = count()
    expires_ms: int = moment()

    @property
    def key_id(self) -> str:
        return self.lease_id


@attrs.frozen(kw_only=True)
class WorkOrder(Message):
    """Do your roles over this batch; its payload comes attached, its context is carried along.

    Attributes:
        claim: Why the sender may order it, where it is not the batch's coordinator.
    """

    TAG = 5
    PROTOCOL = (2, "overlay work order")

    award: Award
    manifest: Signed[Manifest]
    context: bytes = attrs.field(validator=at_most(CONTEXT_BYTES_MAX))
    attempt: int = count()
    claim: "Claim | None" = None

    @property
    def key_id(self) -> str:
        return self.manifest.message.batch_id


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
class WorkResult(Message):
    """An agent's evidence for the roles it holds, and the context its rules leave behind."""

    TAG = 7
    PROTOCOL = (2, "overlay work result")

    batch_id: str = text()
    evidence: tuple[Signed[Evidence], ...] = attrs.field(validator=at_most(ROLES_MAX))
    context_out: bytes = attrs.field(validator=at_most(CONTEXT_BYTES_MAX))

    @property
    def key_id(self) -> str:
        return self.batch_id


@attrs.frozen(kw_only=True)
class WorkRefused(Message):
    """An agent will not or cannot do this; the coordinator asks another or asks again."""

    TAG = 8
    PROTOCOL = (2, "overlay work refusal")

    batch_id: str = text()
    reason: str = text()

    @property
    def key_id(self) -> str:
        return self.batch_id


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
class CertifyOrder(Message):
    """Check this evidence, compare it with your own recomputation, and sign the statement."""

    TAG = 9
    PROTOCOL = (2, "overlay certify order")

    statement: Statement
    evidence: tuple[Signed[Evidence], ...] = attrs.field(validator=at_most(2 * SIGNERS_MAX))

    @property
    def key_id(self) -> str:
        return self.statement.batch_id


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
class Advertisement(Message):
    """What a node offers, until when: SHIP and SLAP tokens with the terms of its work.

    A later ``sequence`` replaces an earlier one; no tokens and an expiry in the past withdraw it.

    Attributes:
        membership: The signer's membership certificate (``protocols.membership``), where the network wants one.
    """

    TAG = 13
    PROTOCOL = (2, "overlay advertisement")

    sequence: int = count()
    issued_ms: int = moment()
    expires_ms: int = moment()
    tokens: tuple[bytes, ...] = attrs.field(validator=at_most(TOKENS_PER_ADVERTISEMENT_MAX))
    addresses: tuple[str, ...] = attrs.field(validator=at_most(ADDRESSES_PER_PEER_MAX))
    url: str = text()
    capacity: int = count(2**31)
    price: int = count()
    operator: str = text()
    region: str = text()
    build: str = text()
    membership: bytes = attrs.field(default=b"", validator=at_most(MEMBERSHIP_BYTES_MAX))

    @property
    def key_id(self) -> str:
        return str(self.sequence)


@attrs.frozen(kw_only=True)
class HoldBatch(Message):
    """A coordinator has others keep a batch, payload attached, and lets them finish it should it not come back.

    Attributes:
        holders: Who is asked to, and may.
        stateful: Whether the batch starts from what earlier ones of its source left behind.
        after: The batch whose context this one starts from; empty where ``context`` says it.
    """

    TAG = 14
    PROTOCOL = (2, "overlay batch hold")

    manifest: Signed[Manifest]
    holders: tuple[IdentityKey, ...] = attrs.field(validator=at_most(HOLDERS_MAX))
    stateful: bool
    after: str = text()
    context: bytes = attrs.field(validator=at_most(CONTEXT_BYTES_MAX))

    @property
    def key_id(self) -> str:
        return self.manifest.message.batch_id


@attrs.frozen(kw_only=True)
class Claim:
    """Why a node may have a batch processed that another took in: it holds it, and starts from the right context.

    Attributes:
        before: Certificate of the batch that ``hold`` names as the one before.
    """

    hold: Signed[HoldBatch]
    before: QuorumCertificate | None


@attrs.frozen(kw_only=True)
class BatchHeld(Message):
    """A holder has the batch on disk."""

    TAG = 15
    PROTOCOL = (2, "overlay batch held")

    batch_id: str = text()

    @property
    def key_id(self) -> str:
        return self.batch_id


@attrs.frozen(kw_only=True)
class BatchQuery(Message):
    """What became of a batch? Answered by ``BatchSealed`` where it is done, else by ``BatchStatus``."""

    TAG = 16
    PROTOCOL = (2, "overlay batch query")

    batch_id: str = text()

    @property
    def key_id(self) -> str:
        return self.batch_id


class BatchProgress(enum.IntEnum):
    """Where a batch stands with the node that is asked."""

    UNKNOWN = 0
    HELD = 1
    WORKING = 2  # the node is having it processed
    DEAD = 3


@attrs.frozen(kw_only=True)
class BatchStatus(Message):
    """The answer to a query about a batch that is not done."""

    TAG = 17
    PROTOCOL = (2, "overlay batch status")

    batch_id: str = text()
    progress: BatchProgress

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


@attrs.frozen(kw_only=True)
class CertifiedBatch:
    """Where a certified batch is to be had: addresses only, each of which proves what is found there.

    Attributes:
        batch: SHA-256 of its manifest, that of the batch id.
        topics: As its manifest says.
        certificate: SHA-256 of its quorum certificate, which is what a UHRP URL is made of.
        records, outputs: The roots of its statement over records and verdicts.
    """

    batch: Digest = digest()
    topics: tuple[str, ...] = attrs.field(validator=[at_most(TOPICS_PER_BATCH_MAX), are_topics])
    certificate: Digest = digest()
    records: Digest = digest()
    outputs: Digest = digest()


@attrs.frozen(kw_only=True)
class CertifiedNotice(Message):
    """A node has these certified batches; whoever follows one of their topics can have them of it, by stream."""

    TAG = 19
    PROTOCOL = (2, "overlay certified notice")

    issued_ms: int = moment()
    batches: tuple[CertifiedBatch, ...] = attrs.field(validator=at_most(NOTICE_BATCHES_MAX))

    @property
    def key_id(self) -> str:
        return str(self.issued_ms)


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
)
