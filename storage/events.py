"""Events: found by id at once after their acknowledgement, listed by status."""

from collections.abc import Sequence
from typing import Any

import attrs
import psycopg
from psycopg.rows import dict_row

from storage.event_rows import write_events


@attrs.frozen(kw_only=True)
class KnownVersion:
    """A version of an event that is stored; ``record_hash`` 64 hex digits, ``previous`` that of the one before.

    ``level`` and ``quorum`` are those of its batch.
    """

    version: int
    record_hash: str
    previous: str | None
    batch_id: str
    level: int
    quorum: int


@attrs.frozen(kw_only=True)
class EventRow:
    """A row of ``overlay_events``: the latest version. Times as Postgres gives them, UTC."""

    event_id: str
    source_id: str
    external_id: str | None
    event_type: str
    raw_data: Any
    normalized_data: Any
    validation_status: str
    validation_issues: Any
    content_hash: str | None
    version_id: str | None
    overlay_job_id: str | None
    processing_agents: list[str]
    certification_evidence: Any
    overlay_distribution: Any
    ingested_at: Any
    processed_at: Any
    certified_at: Any
    batch_id: str
    position: int
    record_hash: bytes
    version: int


COLUMNS = ", ".join(field.name for field in attrs.fields(EventRow))


def find_known(connection: psycopg.Connection, event_ids: Sequence[str]) -> dict[str, list[KnownVersion]]:
    """The stored versions of each event, oldest first; events that are not stored are absent."""
    digests = [bytes.fromhex(event_id.removeprefix("event_")) for event_id in event_ids]
    rows = connection.execute(
        """SELECT 'event_' || encode(i.event_digest, 'hex'), i.version, encode(i.record_hash, 'hex'), b.batch_id,
                  b.level, b.quorum
           FROM event_index i JOIN batches b ON b.number = i.batch
           WHERE i.event_digest = ANY(%b) ORDER BY i.event_digest, i.version""",
        (digests,),
    ).fetchall()
    known: dict[str, list[KnownVersion]] = {}
    for event_id, version, record_hash, batch_id, level, quorum in rows:
        versions = known.setdefault(event_id, [])
        previous = versions[-1].record_hash if versions else None
        versions.append(
            KnownVersion(
                version=version,
                record_hash=record_hash,
                previous=previous,
                batch_id=batch_id,
                level=level,
                quorum=quorum,
            )
        )
    return known


def get(connection: psycopg.Connection, event_id: str) -> EventRow | None:
    """The latest version, from its acknowledgement on."""
    try:
        digest = bytes.fromhex(event_id.removeprefix("event_"))
    except ValueError:
        return None
    for _ in range(2):  # again where its batch was merged into another between two statements
        row = connection.execute(
            """SELECT b.batch_id, b.materialised FROM event_index i JOIN batches b ON b.number = i.batch
               WHERE i.event_digest = %s ORDER BY i.version DESC LIMIT 1""",
            (digest,),
        ).fetchone()
        if row is None:
            return None
        if not row[1]:
            _show_pending(connection, row[0])
        found = _select(connection, "WHERE event_id = %s", (event_id,))
        if found:
            return found[0]
    return None


def _show_pending(connection: psycopg.Connection, batch_id: str) -> None:
    """Write the rows of a batch now that would be written with their verdicts: a reader in between wants one."""
    # the batch is locked first: a seal that is under way has written the rows by the time this is answered
    waiting = connection.execute(
        "UPDATE batches SET materialised = true WHERE batch_id = %s AND NOT materialised", (batch_id,)
    )
    if waiting.rowcount:
        write_events(connection, batch_id, "pending")


def expired(connection: psycopg.Connection, event_id: str) -> bool:
    """Whether there was an event of that id, whose content is deleted as its policy asks."""
    try:
        digest = bytes.fromhex(event_id.removeprefix("event_"))
    except ValueError:
        return False
    row = connection.execute(
        """SELECT 1 FROM event_index i JOIN batches b ON b.number = i.batch
           WHERE i.event_digest = %s AND b.expired_ms IS NOT NULL LIMIT 1""",
        (digest,),
    ).fetchone()
    return row is not None


@attrs.frozen(kw_only=True)
class VersionRow:
    """One version of an event: its data and its verdict. ``status`` is None before it has one."""

    version: int
    record_hash: bytes
    batch_id: str
    state: str
    source_id: str
    raw_data: Any
    normalized_data: Any
    status: str | None
    issues: Any
    content_hash: str | None
    version_id: str | None
    certified_at: Any


def versions(connection: psycopg.Connection, event_id: str, *, limit: int) -> list[VersionRow]:
    """The versions of an event, the latest first."""
    get(connection, event_id)  # a version that waits gets its row now
    try:
        digest = bytes.fromhex(event_id.removeprefix("event_"))
    except ValueError:
        return []
    query = """SELECT i.version, i.record_hash, b.batch_id, b.state, b.source_id,
                      coalesce(v.raw_data, e.raw_data) AS raw_data,
                      coalesce(v.normalized_data, e.normalized_data) AS normalized_data,
                      coalesce(v.validation_status, e.validation_status) AS status,
                      coalesce(v.validation_issues, e.validation_issues) AS issues,
                      coalesce(v.content_hash, e.content_hash) AS content_hash,
                      coalesce(v.version_id, e.version_id) AS version_id,
                      coalesce(v.certified_at, e.certified_at) AS certified_at
               FROM event_index i JOIN batches b ON b.number = i.batch
               LEFT JOIN event_versions v ON v.event_id = %(event_id)s AND v.version = i.version
               LEFT JOIN overlay_events e ON e.event_id = %(event_id)s AND e.version = i.version
               WHERE i.event_digest = %(digest)s ORDER BY i.version DESC LIMIT %(limit)s"""
    with connection.cursor(row_factory=dict_row) as cursor:
        parameters = {"event_id": event_id, "digest": digest, "limit": limit}
        return [VersionRow(**row) for row in cursor.execute(query, parameters)]


def list_events(
    connection: psycopg.Connection,
    *,
    status: str | None = None,
    source_id: str | None = None,
    external_id: str | None = None,
    after: str = "",
    limit: int = 100,
) -> list[EventRow]:
    """Events by id, from the first one after ``after``, filtered by what is not None."""
    filters = {"validation_status": status, "source_id": source_id, "external_id": external_id}
    chosen = {column: value for column, value in filters.items() if value is not None}
    where = "".join(f" AND {column} = %s" for column in chosen)
    clause = f"WHERE event_id > %s{where} ORDER BY event_id LIMIT %s"
    return _select(connection, clause, (after, *chosen.values(), limit))


def ids_by_content(connection: psycopg.Connection, content_hash: str, *, skip: int, limit: int) -> list[str]:
    """Events whose latest version has that content, by id."""
    rows = connection.execute(
        "SELECT event_id FROM overlay_events WHERE content_hash = %s ORDER BY event_id OFFSET %s LIMIT %s",
        (content_hash, skip, limit),
    )
    return [str(row[0]) for row in rows]


def _select(connection: psycopg.Connection, clause: str, parameters: Sequence[object]) -> list[EventRow]:
    query = f"SELECT {COLUMNS} FROM overlay_events {clause}".encode()  # noqa: S608  # our own columns and clauses
    with connection.cursor(row_factory=dict_row) as cursor:
        return [EventRow(**row) for row in cursor.execute(query, parameters)]


def own_among(connection: psycopg.Connection, event_ids: Sequence[str]) -> set[str]:
    """Those of these events that this node took in itself, of whatever source."""
    rows = connection.execute(
        """SELECT DISTINCT 'event_' || encode(i.event_digest, 'hex') FROM event_index i
           JOIN batches b ON b.number = i.batch WHERE i.event_digest = ANY(%b) AND b.coordinator IS NULL""",
        ([bytes.fromhex(event_id.removeprefix("event_")) for event_id in event_ids],),
    )
    return {str(row[0]) for row in rows}
