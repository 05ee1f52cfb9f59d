"""Events: found by id at once after their acknowledgement, listed by status."""

from collections.abc import Sequence
from typing import Any

import attrs
import psycopg
from psycopg.rows import dict_row


@attrs.frozen(kw_only=True)
class KnownVersion:
    """A version of an event that is stored; ``record_hash`` 64 hex digits, ``previous`` that of the one before."""

    version: int
    record_hash: str
    previous: str | None
    batch_id: str


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
    rows = connection.execute(
        """SELECT event_id, version, encode(record_hash, 'hex'), raw_data->>'previous', batch_id
             FROM overlay_events WHERE event_id = ANY(%(ids)b)
           UNION ALL
           SELECT event_id, version, encode(record_hash, 'hex'), raw_data->>'previous', batch_id
             FROM event_versions WHERE event_id = ANY(%(ids)b)
           ORDER BY 2""",
        {"ids": list(event_ids)},
    ).fetchall()
    known: dict[str, list[KnownVersion]] = {}
    for event_id, version, record_hash, previous, batch_id in rows:
        known.setdefault(event_id, []).append(
            KnownVersion(version=version, record_hash=record_hash, previous=previous, batch_id=batch_id)
        )
    return known


def get(connection: psycopg.Connection, event_id: str) -> EventRow | None:
    found = _select(connection, "WHERE event_id = %s", (event_id,))
    return found[0] if found else None


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


def _select(connection: psycopg.Connection, clause: str, parameters: Sequence[object]) -> list[EventRow]:
    query = f"SELECT {COLUMNS} FROM overlay_events {clause}".encode()  # noqa: S608  # our own columns and clauses
    with connection.cursor(row_factory=dict_row) as cursor:
        return [EventRow(**row) for row in cursor.execute(query, parameters)]
