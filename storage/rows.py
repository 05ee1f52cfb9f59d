"""Rows of batches, of their events and of their evidence, as the functions of this package take and return them."""

from typing import Final

import attrs

RECORDS_BYTES_MAX: Final = 64 * 1024 * 1024
"""What a stored payload unpacks to at most; ``protocols.limits`` bounds it on the wire."""


@attrs.frozen(kw_only=True)
class NewBatch:
    """A batch as ingest commits it. The event columns have equal length, in batch order.

    Attributes:
        payload: The records, newline-joined, as a zstd frame.
        record_hashes: 64 hex digits each.
        versions: 1 for a new event; a greater number supersedes the version before.
        holders: Identity keys of the nodes that are to keep it too.
    """

    batch_id: str
    source_id: str
    source_sequence: int
    policy_hash: bytes
    level: int
    quorum: int
    stateful: bool
    topics: list[str]
    manifest: bytes
    payload: bytes
    received_ms: int
    event_ids: list[str]
    record_hashes: list[str]
    versions: list[int]
    holders: tuple[bytes, ...] = ()


@attrs.frozen(kw_only=True)
class EvidenceRow:
    """An agent's signed evidence about a batch; ``agrees``: with what was certified."""

    role: str
    signer: bytes
    agrees: bool
    frame: bytes
    processing_us: int
    events: int


@attrs.frozen(kw_only=True)
class SealedBatch:
    """A certified batch with its results.

    Attributes:
        leaves, normalized: Verdict and normalized data of each event as canonical JSON, newline-joined.
        outputs: zstd frame of both.
        context_out: What the batch's rules leave behind.
        agents: Agent ids of those who signed the certificate.
    """

    batch_id: str
    certificate: bytes
    context_out: bytes
    outputs: bytes
    valid: int
    invalid: int
    attempts: int
    certified_ms: int
    level: str
    agents: list[str]
    leaves: bytes
    normalized: bytes
    evidence: tuple[EvidenceRow, ...]


@attrs.frozen(kw_only=True)
class BatchRow:
    """A batch without its bytes; see ``schema.sql``. ``merged_into``: the batch that its events stand in now."""

    batch_id: str
    source_id: str
    source_sequence: int
    policy_hash: bytes
    level: int
    quorum: int
    stateful: bool
    events: int
    topics: list[str]
    manifest: bytes
    received_ms: int
    state: str
    seal_sequence: int | None
    certificate: bytes | None
    valid: int | None
    invalid: int | None
    certified_ms: int | None
    attempts: int
    reasons: list[str]
    published: int
    confirmed: int
    latency_ms: int
    merged_into: str | None = None


@attrs.frozen(kw_only=True)
class PendingBatch:
    """A batch without an end.

    Attributes:
        coordinator: None for this node's own.
        versioned: It holds later versions of events.
        payload_bytes: Its records, packed.
    """

    batch_id: str
    manifest: bytes
    stateful: bool
    events: int
    coordinator: bytes | None
    holders: tuple[bytes, ...]
    versioned: bool = False
    payload_bytes: int = 0
    received_ms: int = 0


@attrs.frozen(kw_only=True)
class IndexRow:
    """An event's place in a batch; ``record_hash`` 64 hex digits."""

    event_id: str
    version: int
    position: int
    record_hash: str


@attrs.frozen(kw_only=True)
class DeadBatch:
    """A dead batch of this node's own, with the events that are still its."""

    number: int
    manifest: bytes
    payload: bytes
    stateful: bool
    reasons: list[str]
    index: tuple[IndexRow, ...]
