"""Batches: taken in with all their events in one go, sealed with all their results in one go."""

from collections.abc import Sequence
from typing import Any

import attrs
import psycopg
from psycopg.rows import dict_row

SEAL_LOCK = 0x7365616C  # any number, unlike the other advisory locks


@attrs.frozen(kw_only=True)
class NewBatch:
    """A batch as ingest commits it. The event columns have equal length, in batch order.

    Attributes:
        payload: The records, newline-joined, as a zstd frame.
        records: The records one by one: canonical JSON, what ``raw_data`` holds.
        record_hashes: 64 hex digits each.
        versions: 1 for a new event; a greater number supersedes the version before.
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
    external_ids: list[str | None]
    event_types: list[str]
    records: list[bytes]
    record_hashes: list[str]
    versions: list[int]
    job_id: str


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
    """A certified batch with its verdicts as columns in batch order; JSON columns as text.

    Attributes:
        outputs: zstd frame of leaves and normalized data.
        agents: Agent ids of those who signed the certificate.
    """

    batch_id: str
    certificate: bytes
    outputs: bytes
    valid: int
    invalid: int
    attempts: int
    certified_ms: int
    level: str
    agents: list[str]
    event_ids: list[str]
    statuses: list[str]
    content_hashes: list[str]
    version_ids: list[str]
    issues: list[str]
    normalized: list[str]
    evidence: tuple[EvidenceRow, ...]


@attrs.frozen(kw_only=True)
class BatchRow:
    """A batch without its bytes; see ``schema.sql``."""

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


COLUMNS = ", ".join(field.name for field in attrs.fields(BatchRow))


def insert_ingested(connection: psycopg.Connection, batches: Sequence[NewBatch]) -> None:
    """Store batches with their events and their normalize jobs: a few statements a batch, none per event."""
    for batch in batches:
        with connection.pipeline():
            _insert_batch(connection, batch)
            if any(version > 1 for version in batch.versions):
                _supersede(connection, batch)
            _insert_events(connection, batch)
            connection.execute(
                """INSERT INTO overlay_event_jobs (job_id, event_id, job_type, batch_id, overlay_job_template_id)
                   VALUES (%s, %s, 'normalize', %s, 'normalize')""",
                (batch.job_id, batch.event_ids[0], batch.batch_id),
            )


def _insert_batch(connection: psycopg.Connection, batch: NewBatch) -> None:
    connection.execute(
        """INSERT INTO batches (batch_id, source_id, source_sequence, policy_hash, level, quorum, stateful,
                                events, topics, manifest, payload, received_ms)
           VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %b, %s)""",
        (
            batch.batch_id,
            batch.source_id,
            batch.source_sequence,
            batch.policy_hash,
            batch.level,
            batch.quorum,
            batch.stateful,
            len(batch.event_ids),
            batch.topics,
            batch.manifest,
            batch.payload,
            batch.received_ms,
        ),
    )


def _supersede(connection: psycopg.Connection, batch: NewBatch) -> None:
    """Copy the rows that this batch's events replace to ``event_versions``."""
    replaced = [key for key, version in zip(batch.event_ids, batch.versions, strict=True) if version > 1]
    connection.execute(
        """INSERT INTO event_versions (event_id, version, batch_id, position, record_hash, raw_data,
               normalized_data, validation_status, validation_issues, content_hash, version_id, ingested_at,
               certified_at)
           SELECT event_id, version, batch_id, position, record_hash, raw_data, normalized_data,
               validation_status, validation_issues, content_hash, version_id, ingested_at, certified_at
           FROM overlay_events WHERE event_id = ANY(%b)""",
        (replaced,),
    )


def _insert_events(connection: psycopg.Connection, batch: NewBatch) -> None:
    connection.execute(
        """INSERT INTO overlay_events (event_id, source_id, external_id, event_type, raw_data, overlay_job_id,
                                       overlay_distribution, ingested_at, batch_id, position, record_hash, version)
           SELECT event_id, %s, external_id, event_type, convert_from(record, 'UTF8')::jsonb, %s,
                  jsonb_build_object('topics', %b::text[]), to_timestamp(%s / 1000.0) AT TIME ZONE 'UTC', %s,
                  place - 1, decode(record_hash, 'hex'), version
           FROM unnest(%b::text[], %b::text[], %b::text[], %b::bytea[], %b::text[], %b::int[])
                WITH ORDINALITY AS t(event_id, external_id, event_type, record, record_hash, version, place)
           ON CONFLICT (event_id) DO UPDATE SET event_type = EXCLUDED.event_type, raw_data = EXCLUDED.raw_data,
               normalized_data = NULL, validation_status = 'pending', validation_issues = '[]', content_hash = NULL,
               version_id = NULL, overlay_job_id = EXCLUDED.overlay_job_id, processing_agents = '{}',
               certification_evidence = '{}', overlay_distribution = EXCLUDED.overlay_distribution,
               ingested_at = EXCLUDED.ingested_at, processed_at = NULL, certified_at = NULL,
               batch_id = EXCLUDED.batch_id, position = EXCLUDED.position, record_hash = EXCLUDED.record_hash,
               version = EXCLUDED.version
           WHERE overlay_events.version < EXCLUDED.version""",
        (
            batch.source_id,
            batch.job_id,
            batch.topics,
            batch.received_ms,
            batch.batch_id,
            batch.event_ids,
            batch.external_ids,
            batch.event_types,
            batch.records,
            batch.record_hashes,
            batch.versions,
        ),
    )


def seal(connection: psycopg.Connection, sealed: SealedBatch) -> int | None:
    """Write a certified batch down. Returns its seal sequence, or None if it was sealed or buried before.

    Sequences have no gaps and are visible in their order: the lock on them is taken last and held until the
    commit, so that batches can be sealed side by side.
    """
    row = connection.execute(
        """UPDATE batches SET state = 'certified', certificate = %b, outputs = %b, valid = %s, invalid = %s,
                  attempts = %s, certified_ms = %s
           WHERE batch_id = %s AND state = 'pending' RETURNING events""",
        (
            sealed.certificate,
            sealed.outputs,
            sealed.valid,
            sealed.invalid,
            sealed.attempts,
            sealed.certified_ms,
            sealed.batch_id,
        ),
    ).fetchone()
    if row is None:
        return None
    updated = connection.execute(_SEAL_EVENTS.format(extra=_EXTRA).encode(), _seal_parameters(sealed)).rowcount
    if updated < int(row[0]):  # some were superseded meanwhile
        statement = _SEAL_EVENTS.replace("overlay_events", "event_versions").format(extra="")
        connection.execute(statement.encode(), _seal_parameters(sealed))
    with connection.pipeline():
        insert_evidence(connection, sealed.batch_id, sealed.evidence)
        _complete_jobs(connection, sealed)
        _record_metrics(connection, sealed)
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (SEAL_LOCK,))
        cursor = connection.execute(
            """UPDATE batches SET seal_sequence = (SELECT coalesce(max(seal_sequence), 0) + 1 FROM batches)
               WHERE batch_id = %s RETURNING seal_sequence""",
            (sealed.batch_id,),
        )
        numbered = cursor.fetchone()
    assert numbered is not None, "the row was updated above"
    return int(numbered[0])


_EXTRA = """, processing_agents = %(agents)s,
    certification_evidence = jsonb_build_object('batchId', e.batch_id, 'position', e.position, 'level',
        %(level)s::text),
    processed_at = to_timestamp(%(certified_ms)s / 1000.0) AT TIME ZONE 'UTC'"""

_SEAL_EVENTS = """
    UPDATE overlay_events e SET
        normalized_data = t.normalized::jsonb,
        validation_status = CASE WHEN t.status = 'valid' THEN 'certified' ELSE 'invalid' END,
        validation_issues = t.issues::jsonb,
        content_hash = t.content_hash,
        version_id = t.version_id,
        certified_at = to_timestamp(%(certified_ms)s / 1000.0) AT TIME ZONE 'UTC'
        {extra}
    FROM unnest(%(event_ids)b::text[], %(normalized)b::text[], %(statuses)b::text[], %(issues)b::text[],
                %(content_hashes)b::text[], %(version_ids)b::text[])
         AS t(event_id, normalized, status, issues, content_hash, version_id)
    WHERE e.event_id = t.event_id AND e.batch_id = %(batch_id)s"""


def _seal_parameters(sealed: SealedBatch) -> dict[str, Any]:
    return {
        "batch_id": sealed.batch_id,
        "certified_ms": sealed.certified_ms,
        "level": sealed.level,
        "agents": sealed.agents,
        "event_ids": sealed.event_ids,
        "normalized": sealed.normalized,
        "statuses": sealed.statuses,
        "issues": sealed.issues,
        "content_hashes": sealed.content_hashes,
        "version_ids": sealed.version_ids,
    }


def insert_evidence(connection: psycopg.Connection, batch_id: str, rows: Sequence[EvidenceRow]) -> None:
    """Store evidence once per batch, role and signer."""
    for row in rows:
        connection.execute(
            """INSERT INTO evidence (batch_id, role, signer, agrees, frame, processing_us, events)
               VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING""",
            (batch_id, row.role, row.signer, row.agrees, row.frame, row.processing_us, row.events),
        )


def _complete_jobs(connection: psycopg.Connection, sealed: SealedBatch) -> None:
    """One completed job row per role; the normalize row stands since ingest."""
    for role in ("normalize", "validate", "certify"):
        connection.execute(
            """INSERT INTO overlay_event_jobs AS j (job_id, event_id, job_type, batch_id, job_status,
                   overlay_job_template_id, attempts, completed_at, output_data)
               SELECT 'job_' || %(role)s || '_' || substr(batch_id, 7), event_id, %(role)s, batch_id, 'completed',
                      %(role)s, %(attempts)s, NOW(),
                      jsonb_build_object('valid', %(valid)s::int, 'invalid', %(invalid)s::int)
               FROM overlay_event_jobs WHERE batch_id = %(batch_id)s AND job_type = 'normalize'
               ON CONFLICT (job_id) DO UPDATE SET job_status = 'completed', attempts = EXCLUDED.attempts,
                   completed_at = EXCLUDED.completed_at, output_data = EXCLUDED.output_data""",
            {
                "role": role,
                "batch_id": sealed.batch_id,
                "attempts": sealed.attempts,
                "valid": sealed.valid,
                "invalid": sealed.invalid,
            },
        )


def _record_metrics(connection: psycopg.Connection, sealed: SealedBatch) -> None:
    connection.execute(
        """INSERT INTO overlay_event_metrics (metric_type, source_id, event_count, success_count, error_count,
                                              processing_time_ms)
           SELECT 'certification', source_id, events, %s, %s, (%s - received_ms)::int
           FROM batches WHERE batch_id = %s""",
        (sealed.valid, sealed.invalid, sealed.certified_ms, sealed.batch_id),
    )


def bury(connection: psycopg.Connection, batch_id: str, reasons: Sequence[str]) -> int:
    """Mark a batch dead with the reason of every attempt. Returns its number of events, 0 if it had an end."""
    row = connection.execute(
        """UPDATE batches SET state = 'dead', reasons = %s, attempts = %s
           WHERE batch_id = %s AND state = 'pending' RETURNING events""",
        (list(reasons), len(reasons), batch_id),
    ).fetchone()
    if row is None:
        return 0
    connection.execute("UPDATE overlay_events SET validation_status = 'dead' WHERE batch_id = %s", (batch_id,))
    connection.execute(
        """UPDATE overlay_event_jobs SET job_status = 'dead', attempts = %s, completed_at = NOW(),
                  error_details = jsonb_build_object('reasons', %s::text[])
           WHERE batch_id = %s AND job_status <> 'completed'""",
        (len(reasons), list(reasons), batch_id),
    )
    return int(row[0])


def record_distribution(
    connection: psycopg.Connection, batch_id: str, published: int, confirmed: int, latency_ms: int
) -> None:
    connection.execute(
        "UPDATE batches SET published = %s, confirmed = %s, latency_ms = %s WHERE batch_id = %s",
        (published, confirmed, latency_ms, batch_id),
    )


def get(connection: psycopg.Connection, batch_id: str) -> BatchRow | None:
    query = f"SELECT {COLUMNS} FROM batches WHERE batch_id = %s".encode()  # noqa: S608  # our own columns
    with connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(query, (batch_id,)).fetchone()
    return _row(row) if row is not None else None


def payload(connection: psycopg.Connection, batch_id: str) -> bytes | None:
    """The records as a zstd frame."""
    row = connection.execute("SELECT payload FROM batches WHERE batch_id = %s", (batch_id,)).fetchone()
    return bytes(row[0]) if row is not None else None


def outputs(connection: psycopg.Connection, batch_id: str) -> bytes | None:
    """Leaves and normalized data as a zstd frame; None until the batch is sealed."""
    row = connection.execute("SELECT outputs FROM batches WHERE batch_id = %s", (batch_id,)).fetchone()
    return bytes(row[0]) if row is not None and row[0] is not None else None


def sealed_since(connection: psycopg.Connection, sequence: int, limit: int) -> list[tuple[BatchRow, bytes]]:
    """Sealed batches after ``sequence`` in their order, with their outputs."""
    query = f"""SELECT {COLUMNS}, outputs FROM batches WHERE seal_sequence > %s
                ORDER BY seal_sequence LIMIT %s""".encode()  # noqa: S608
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(query, (sequence, limit)).fetchall()
    return [(_row(row), bytes(row["outputs"])) for row in rows]


def last_sequence(connection: psycopg.Connection) -> int:
    """The sequence of the batch sealed last; 0 if there is none."""
    row = connection.execute("SELECT coalesce(max(seal_sequence), 0) FROM batches").fetchone()
    return int(row[0]) if row is not None else 0


def pending(connection: psycopg.Connection) -> list[tuple[str, bytes, bool, int]]:
    """(batch id, manifest, stateful, events) of all batches without an end, in the order they came in."""
    rows = connection.execute(
        """SELECT batch_id, manifest, stateful, events FROM batches WHERE state = 'pending'
           ORDER BY received_ms, source_sequence"""
    ).fetchall()
    return [(str(row[0]), bytes(row[1]), bool(row[2]), int(row[3])) for row in rows]


def evidence(connection: psycopg.Connection, batch_id: str) -> list[EvidenceRow]:
    rows = connection.execute(
        """SELECT role, signer, agrees, frame, processing_us, events FROM evidence
           WHERE batch_id = %s ORDER BY role, signer""",
        (batch_id,),
    ).fetchall()
    names = ("role", "signer", "agrees", "frame", "processing_us", "events")
    return [EvidenceRow(**dict(zip(names, row, strict=True))) for row in rows]


def _row(row: dict[str, Any]) -> BatchRow:
    return BatchRow(**{field.name: row[field.name] for field in attrs.fields(BatchRow)})
