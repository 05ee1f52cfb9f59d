"""Batches: inserted with all their events at once, sealed with all their results at once."""

from collections.abc import Sequence
from typing import Any

import attrs
import psycopg
from psycopg.rows import dict_row

from storage import certificate_log, objects, replicas
from storage.event_rows import write_events
from storage.rows import BatchRow, DeadBatch, EvidenceRow, IndexRow, NewBatch, PendingBatch, SealedBatch

SEAL_LOCK = certificate_log.LOCK


COLUMNS = ", ".join(field.name for field in attrs.fields(BatchRow))


def insert_ingested(connection: psycopg.Connection, batches: Sequence[NewBatch]) -> None:
    """Make batches durable: a row each with the payload, and an index row for every event."""
    with connection.pipeline():
        for batch in batches:
            insert_batch(connection, batch)
            _insert_index(connection, batch)


def insert_batch(connection: psycopg.Connection, batch: NewBatch) -> None:
    """Insert the row of a batch alone; the caller inserts or moves the index rows of its events."""
    connection.execute(
        """INSERT INTO batches (batch_id, source_id, source_sequence, policy_hash, level, quorum, stateful,
                                versioned, events, topics, manifest, payload, received_ms, holders)
           VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %b, %s, %s)""",
        (
            batch.batch_id,
            batch.source_id,
            batch.source_sequence,
            batch.policy_hash,
            batch.level,
            batch.quorum,
            batch.stateful,
            any(version > 1 for version in batch.versions),
            len(batch.event_ids),
            batch.topics,
            batch.manifest,
            batch.payload,
            batch.received_ms,
            list(batch.holders),
        ),
    )


def _insert_index(connection: psycopg.Connection, batch: NewBatch) -> None:
    digests = [bytes.fromhex(event_id.removeprefix("event_")) for event_id in batch.event_ids]
    hashes = [bytes.fromhex(each) for each in batch.record_hashes]
    connection.execute(
        """INSERT INTO event_index (event_digest, version, batch, position, record_hash)
           SELECT digest, version, currval('batches_number_seq'), place - 1, record_hash
           FROM unnest(%b::bytea[], %b::int[], %b::bytea[]) WITH ORDINALITY
                AS t(digest, version, record_hash, place)""",
        (digests, batch.versions, hashes),
    )


def seal(connection: psycopg.Connection, sealed: SealedBatch) -> int | None:
    """Write a certified batch down. Returns its seal sequence, or None if it was sealed or marked dead before."""
    # numbered one after the other: no two seals see the same maximum, no reader sees a gap that fills up later
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (SEAL_LOCK,))
    row = connection.execute(
        """UPDATE batches SET state = 'certified', certificate = %b, outputs = %b, valid = %s, invalid = %s,
                  attempts = %s, certified_ms = %s, context_out = %b, materialised = true, has_objects = true,
                  seal_sequence = (SELECT coalesce(max(seal_sequence), 0) + 1 FROM batches)
           WHERE batch_id = %s AND state = 'pending' RETURNING seal_sequence, number, source_id""",
        (
            sealed.certificate,
            sealed.outputs,
            sealed.valid,
            sealed.invalid,
            sealed.attempts,
            sealed.certified_ms,
            sealed.context_out,
            sealed.batch_id,
        ),
    ).fetchone()
    if row is None:
        return None
    records = write_events(connection, sealed.batch_id, sealed)
    with connection.pipeline():
        certificate_log.append_own(connection, sealed.batch_id, row[2], sealed.certified_ms)
        objects.enter_batch(connection, int(row[1]), records, sealed.certificate)
        insert_evidence(connection, sealed.batch_id, sealed.evidence)
        _complete_jobs(connection, sealed)
        _record_metrics(connection, sealed)
    return int(row[0])


def sealed_as(connection: psycopg.Connection, batch_id: str, certified_ms: int) -> int | None:
    """The sequence of a batch that was sealed with this time; None of any other. Waits for a seal under way."""
    row = connection.execute(  # what is looked for stands outside of WHERE: a row that does not match is not locked
        """SELECT CASE WHEN state = 'certified' AND certified_ms = %s THEN seal_sequence END
           FROM batches WHERE batch_id = %s FOR UPDATE""",
        (certified_ms, batch_id),
    ).fetchone()
    return None if row is None or row[0] is None else int(row[0])


def insert_evidence(connection: psycopg.Connection, batch_id: str, rows: Sequence[EvidenceRow]) -> None:
    """Store evidence once per batch, role and signer."""
    if rows:
        connection.execute(
            """INSERT INTO evidence (batch_id, role, signer, agrees, frame, processing_us, events)
               SELECT %s, * FROM unnest(%s::text[], %b::bytea[], %s::bool[], %b::bytea[], %s::bigint[], %s::int[])
               ON CONFLICT DO NOTHING""",
            (
                batch_id,
                [row.role for row in rows],
                [row.signer for row in rows],
                [row.agrees for row in rows],
                [row.frame for row in rows],
                [row.processing_us for row in rows],
                [row.events for row in rows],
            ),
        )


def _complete_jobs(connection: psycopg.Connection, sealed: SealedBatch) -> None:
    connection.execute(
        """UPDATE overlay_event_jobs SET job_status = 'completed', attempts = %s, completed_at = NOW(),
                  output_data = jsonb_build_object('valid', %s::int, 'invalid', %s::int)
           WHERE batch_id = %s""",
        (sealed.attempts, sealed.valid, sealed.invalid, sealed.batch_id),
    )


def _record_metrics(connection: psycopg.Connection, sealed: SealedBatch) -> None:
    connection.execute(
        """INSERT INTO overlay_event_metrics (metric_type, source_id, event_count, success_count, error_count,
                                              processing_time_ms)
           SELECT 'certification', source_id, events, %s, %s, least(%s - received_ms, 2147483647)::int
           FROM batches WHERE batch_id = %s""",
        (sealed.valid, sealed.invalid, sealed.certified_ms, sealed.batch_id),
    )


def mark_dead(connection: psycopg.Connection, batch_id: str, reasons: Sequence[str]) -> int:
    """Mark a batch dead with the reason of every attempt.

    Returns its number of events; 0 if it had ended already, or is another node's.
    """
    row = connection.execute(
        """UPDATE batches SET state = 'dead', reasons = %s, attempts = %s, materialised = true,
                  dead_ms = (extract(epoch FROM clock_timestamp()) * 1000)::bigint
           WHERE batch_id = %s AND state = 'pending'
           RETURNING events, coordinator IS NULL""",
        (list(reasons), len(reasons), batch_id),
    ).fetchone()
    if row is None:
        return 0
    write_events(connection, batch_id, "dead")
    connection.execute(
        """UPDATE overlay_event_jobs SET job_status = 'dead', attempts = %s, completed_at = NOW(),
                  error_details = jsonb_build_object('reasons', %s::text[])
           WHERE batch_id = %s AND job_status <> 'completed'""",
        (len(reasons), list(reasons), batch_id),
    )
    return int(row[0]) if row[1] else 0


def dead_as(connection: psycopg.Connection, batch_id: str, reasons: Sequence[str]) -> int:
    """What ``mark_dead`` returned for a batch that is dead for exactly these reasons, which name their times; 0 for
    any other. Waits for a change under way.
    """
    row = connection.execute(
        """SELECT CASE WHEN state = 'dead' AND reasons = %s AND coordinator IS NULL THEN events ELSE 0 END
           FROM batches WHERE batch_id = %s FOR UPDATE""",
        (list(reasons), batch_id),
    ).fetchone()
    return 0 if row is None else int(row[0])


def dead_to_split(connection: psycopg.Connection, batch_id: str) -> DeadBatch | None:
    """A dead batch, locked; None where it is not dead, or another node's."""
    row = connection.execute(
        """SELECT number, manifest, payload, stateful, reasons FROM batches
           WHERE batch_id = %s AND state = 'dead' AND coordinator IS NULL FOR UPDATE""",
        (batch_id,),
    ).fetchone()
    if row is None:
        return None
    index = connection.execute(
        """SELECT 'event_' || encode(event_digest, 'hex'), version, position, encode(record_hash, 'hex')
           FROM event_index WHERE batch = %s ORDER BY position""",
        (row[0],),
    ).fetchall()
    names = ("event_id", "version", "position", "record_hash")
    return DeadBatch(
        number=row[0],
        manifest=bytes(row[1]),
        payload=bytes(row[2]),
        stateful=row[3],
        reasons=list(row[4]),
        index=tuple(IndexRow(**dict(zip(names, each, strict=True))) for each in index),
    )


def insert_part(connection: psycopg.Connection, batch: NewBatch, whole: int, positions: Sequence[int]) -> None:
    """Insert a batch of events that stood in another, at these positions, and move their index rows to it."""
    insert_batch(connection, batch)
    connection.execute(
        """UPDATE event_index i SET batch = currval('batches_number_seq'), position = t.place - 1
           FROM unnest(%s::int[]) WITH ORDINALITY AS t(before, place)
           WHERE i.batch = %s AND i.position = t.before""",
        (list(positions), whole),
    )


def finish_split(
    connection: psycopg.Connection, batch_id: str, dead_id: str, rest_id: str, reasons: Sequence[str]
) -> None:
    """Give the parts of a split batch their states, and the rows of their events."""
    connection.execute(
        "UPDATE batches SET state = 'split', reasons = %s WHERE batch_id = %s", (list(reasons), batch_id)
    )
    if rest_id:
        connection.execute("UPDATE batches SET materialised = true WHERE batch_id = %s", (rest_id,))
        write_events(connection, rest_id, "pending")
    if dead_id:
        mark_dead(connection, dead_id, reasons)


def materialise(connection: psycopg.Connection, received_before_ms: int, limit: int = 20) -> int:
    """Write the event rows of batches that wait for their seal longer than usual. Returns how many batches."""
    rows = connection.execute(
        """UPDATE batches SET materialised = true WHERE batch_id IN (
               SELECT batch_id FROM batches WHERE state = 'pending' AND NOT materialised AND received_ms < %s
               ORDER BY received_ms LIMIT %s FOR UPDATE SKIP LOCKED) RETURNING batch_id""",
        (received_before_ms, limit),
    ).fetchall()
    for (batch_id,) in rows:
        write_events(connection, batch_id, "pending")
    return len(rows)


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
    """The records as a zstd frame, of a batch of this node's or one that it holds."""
    row = connection.execute("SELECT payload FROM batches WHERE batch_id = %s", (batch_id,)).fetchone()
    return bytes(row[0]) if row is not None else replicas.payload(connection, batch_id)


def outputs(connection: psycopg.Connection, batch_id: str) -> bytes | None:
    """Leaves and normalized data as a zstd frame; None until the batch is sealed."""
    row = connection.execute("SELECT outputs FROM batches WHERE batch_id = %s", (batch_id,)).fetchone()
    return bytes(row[0]) if row is not None and row[0] is not None else None


def outputs_to_share(connection: psycopg.Connection, batch_id: str) -> bytes | None:
    """As ``outputs``, of a batch that is meant for others: it belongs to a topic."""
    row = connection.execute(
        "SELECT outputs FROM batches WHERE batch_id = %s AND state = 'certified' AND cardinality(topics) > 0",
        (batch_id,),
    ).fetchone()
    return bytes(row[0]) if row is not None and row[0] is not None else None


def manifests(connection: psycopg.Connection, batch_ids: Sequence[str]) -> list[bytes]:
    """The signed manifests of those of the batches that this node took in or finished."""
    rows = connection.execute("SELECT manifest FROM batches WHERE batch_id = ANY(%s)", (list(batch_ids),))
    return [bytes(row[0]) for row in rows]


def sealed_since(connection: psycopg.Connection, sequence: int, limit: int) -> list[tuple[BatchRow, bytes]]:
    """Sealed batches after ``sequence`` in their order, with their outputs."""
    query = f"""SELECT {COLUMNS}, outputs FROM batches WHERE seal_sequence > %s AND outputs IS NOT NULL
                ORDER BY seal_sequence LIMIT %s""".encode()  # noqa: S608
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(query, (sequence, limit)).fetchall()
    return [(_row(row), bytes(row["outputs"])) for row in rows]


def sealed_between(
    connection: psycopg.Connection, source_id: str, *, from_ms: int, to_ms: int, skip: int, limit: int
) -> list[BatchRow]:
    """Sealed batches of a source, certified from ``from_ms`` on and before ``to_ms``, the latest first."""
    query = f"""SELECT {COLUMNS} FROM batches
                WHERE source_id = %s AND state = 'certified' AND certified_ms >= %s AND certified_ms < %s
                ORDER BY certified_ms DESC, batch_id OFFSET %s LIMIT %s""".encode()  # noqa: S608
    with connection.cursor(row_factory=dict_row) as cursor:
        return [_row(row) for row in cursor.execute(query, (source_id, from_ms, to_ms, skip, limit))]


def last_sequence(connection: psycopg.Connection) -> int:
    """The sequence of the batch sealed last; 0 if there is none."""
    row = connection.execute("SELECT coalesce(max(seal_sequence), 0) FROM batches").fetchone()
    return int(row[0]) if row is not None else 0


def last_sealed(connection: psycopg.Connection) -> tuple[int, int, str] | None:
    """Sequence, events and id of the batch sealed last."""
    row = connection.execute(
        "SELECT seal_sequence, events, batch_id FROM batches WHERE seal_sequence IS NOT NULL "
        "ORDER BY seal_sequence DESC LIMIT 1"
    ).fetchone()
    return None if row is None else (int(row[0]), int(row[1]), str(row[2]))


def pending(connection: psycopg.Connection) -> list[PendingBatch]:
    """All batches without an end, in the order they came in."""
    rows = connection.execute(
        """SELECT batch_id, manifest, stateful, events, coordinator, holders, versioned,
                  octet_length(payload), received_ms FROM batches
           WHERE state = 'pending' ORDER BY received_ms, source_sequence"""
    ).fetchall()
    return [
        PendingBatch(
            batch_id=row[0],
            manifest=bytes(row[1]),
            stateful=row[2],
            events=row[3],
            coordinator=None if row[4] is None else bytes(row[4]),
            holders=tuple(bytes(key) for key in row[5]),
            versioned=row[6],
            payload_bytes=row[7],
            received_ms=row[8],
        )
        for row in rows
    ]


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
