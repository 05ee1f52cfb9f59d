"""Batches that ran out of attempts: listed, and put back among those that wait."""

from collections.abc import Sequence

import attrs
import psycopg

from storage.rows import PendingBatch


@attrs.frozen(kw_only=True)
class DeadLetter:
    """A batch that is dead, or was until it was replayed. ``coordinator`` is None for this node's own."""

    batch_id: str
    source_id: str
    level: int
    quorum: int
    events: int
    attempts: int
    reasons: list[str]
    received_ms: int
    dead_ms: int | None
    state: str
    coordinator: bytes | None


@attrs.frozen(kw_only=True)
class Replay:
    """An earlier life of a batch: why it ended, who had it tried again, when."""

    asked_by: bytes | None
    at_ms: int
    reasons: list[str]


COLUMNS = ", ".join(field.name for field in attrs.fields(DeadLetter))


def page(connection: psycopg.Connection, *, before_ms: int, before_id: str, limit: int) -> list[DeadLetter]:
    """The latest first, from the first one before that time and id."""
    query = f"""SELECT {COLUMNS} FROM batches WHERE state = 'dead' AND (dead_ms, batch_id) < (%s, %s)
                ORDER BY dead_ms DESC, batch_id DESC LIMIT %s""".encode()  # noqa: S608  # our own columns
    return [_letter(row) for row in connection.execute(query, (before_ms, before_id, limit))]


def get(connection: psycopg.Connection, batch_id: str) -> DeadLetter | None:
    query = f"""SELECT {COLUMNS} FROM batches WHERE batch_id = %s AND (state = 'dead'
                OR EXISTS (SELECT 1 FROM replays r WHERE r.batch_id = batches.batch_id))""".encode()  # noqa: S608
    row = connection.execute(query, (batch_id,)).fetchone()
    return None if row is None else _letter(row)


def replays(connection: psycopg.Connection, batch_id: str) -> list[Replay]:
    """The earlier lives of a batch, the first one first."""
    rows = connection.execute(
        "SELECT asked_by, at_ms, reasons FROM replays WHERE batch_id = %s ORDER BY id", (batch_id,)
    )
    return [Replay(asked_by=None if row[0] is None else bytes(row[0]), at_ms=row[1], reasons=row[2]) for row in rows]


def replay(
    connection: psycopg.Connection, batch_ids: Sequence[str], asked_by: bytes | None, now_ms: int
) -> list[PendingBatch]:
    """Put dead batches of this node's own back among those that wait, events and jobs with them.

    Returns those that were; others are not dead, or another node's.
    """
    rows = connection.execute(
        """WITH dead AS (
               SELECT batch_id, reasons FROM batches
               WHERE batch_id = ANY(%(ids)s) AND state = 'dead' AND coordinator IS NULL FOR UPDATE),
           history AS (
               INSERT INTO replays (batch_id, asked_by, at_ms, reasons)
               SELECT batch_id, %(by)s, %(now)s, reasons FROM dead)
           UPDATE batches b SET state = 'pending', reasons = ARRAY[]::TEXT[], attempts = 0, dead_ms = NULL
           FROM dead WHERE b.batch_id = dead.batch_id
           RETURNING b.batch_id, b.manifest, b.stateful, b.events, b.holders""",
        {"ids": list(batch_ids), "by": asked_by, "now": now_ms},
    ).fetchall()
    ids = [row[0] for row in rows]
    connection.execute(
        """UPDATE overlay_events e SET validation_status = 'pending'
           FROM event_index i JOIN batches b ON b.number = i.batch
           WHERE b.batch_id = ANY(%s) AND e.event_id = 'event_' || encode(i.event_digest, 'hex')
             AND e.batch_id = b.batch_id""",
        (ids,),
    )
    connection.execute("UPDATE event_versions SET validation_status = 'pending' WHERE batch_id = ANY(%s)", (ids,))
    connection.execute(
        """UPDATE overlay_event_jobs SET job_status = 'queued', attempts = 0, completed_at = NULL,
               error_details = NULL, next_run_at = NOW() WHERE batch_id = ANY(%s)""",
        (ids,),
    )
    return [
        PendingBatch(
            batch_id=row[0],
            manifest=bytes(row[1]),
            stateful=row[2],
            events=row[3],
            coordinator=None,
            holders=tuple(bytes(key) for key in row[4]),
        )
        for row in rows
    ]


def _letter(row: tuple[object, ...]) -> DeadLetter:
    values = dict(zip((field.name for field in attrs.fields(DeadLetter)), row, strict=True))
    coordinator = values["coordinator"]
    values["coordinator"] = bytes(coordinator) if isinstance(coordinator, bytes | memoryview) else None
    return DeadLetter(**values)  # type: ignore[arg-type]
