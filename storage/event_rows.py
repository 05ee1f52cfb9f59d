"""The rows of ``overlay_events`` and of the jobs, written once for a whole batch from its payload and its results.

Postgres takes records, leaves and normalized data as one JSON array each and pulls the columns out itself: a
batch of 500 is three parameters, not three thousand. An event that has a later version already is written to
``event_versions`` instead; an earlier version that stands in its place is moved there first.
"""

from typing import Any

import orjson
import psycopg
import zstandard

from protocols.identifiers import job_id
from protocols.roles import WORK_ROLES, Role
from storage.rows import RECORDS_BYTES_MAX, SealedBatch

COLUMNS = """event_id, source_id, external_id, event_type, raw_data, normalized_data, validation_status,
    validation_issues, content_hash, version_id, overlay_job_id, processing_agents, certification_evidence,
    overlay_distribution, ingested_at, processed_at, certified_at, batch_id, position, record_hash, version"""
VERSION_COLUMNS = """event_id, version, batch_id, position, record_hash, raw_data, normalized_data,
    validation_status, validation_issues, content_hash, version_id, ingested_at, certified_at"""
REPLACED = ", ".join(f"{name.strip()} = EXCLUDED.{name.strip()}" for name in COLUMNS.split(",")[1:])
VERSION_REPLACED = ", ".join(f"{name.strip()} = EXCLUDED.{name.strip()}" for name in VERSION_COLUMNS.split(",")[2:])

# What is the same for all rows stands in subqueries: they are evaluated once.
_COMMON = """
    %(source_id)s::text AS source_id, t.record->>'externalId' AS external_id, t.record->>'eventType' AS event_type,
    t.record AS raw_data, {verdict},
    %(job_id)s::text AS overlay_job_id, %(agents)s::text[] AS processing_agents,
    {evidence} AS certification_evidence, (SELECT %(distribution)s::jsonb) AS overlay_distribution,
    (SELECT to_timestamp(%(received_ms)s / 1000.0) AT TIME ZONE 'UTC') AS ingested_at,
    (SELECT to_timestamp(%(certified_ms)s / 1000.0) AT TIME ZONE 'UTC') AS processed_at,
    (SELECT to_timestamp(%(certified_ms)s / 1000.0) AT TIME ZONE 'UTC') AS certified_at,
    %(batch_id)s::text AS batch_id, (t.place - 1)::int AS position"""

_SEALED = _COMMON.format(
    verdict="""t.data AS normalized_data,
    CASE t.leaf->>'status' WHEN 'valid' THEN 'certified' ELSE 'invalid' END AS validation_status,
    t.leaf->'issues' AS validation_issues, t.leaf->>'contentHash' AS content_hash,
    t.leaf->>'versionId' AS version_id""",
    evidence="""jsonb_build_object('batchId', %(batch_id)s::text, 'position', t.place - 1,
        'level', %(level)s::text)""",
)
_UNSEALED = _COMMON.format(
    verdict="""NULL::jsonb AS normalized_data, %(status)s::text AS validation_status,
    '[]'::jsonb AS validation_issues, NULL::text AS content_hash, NULL::text AS version_id""",
    evidence="'{}'::jsonb",
)
_SEALED_ARRAYS = """ROWS FROM (jsonb_array_elements(%(records)s::jsonb), jsonb_array_elements(%(leaves)s::jsonb),
    jsonb_array_elements(%(normalized)s::jsonb)) WITH ORDINALITY AS t(record, leaf, data, place)"""

# one source of rows for each case: first versions only, any versions, no verdict yet
FIRST_VERSIONS = f"""SELECT t.leaf->>'eventId' AS event_id, {_SEALED},
    decode(t.leaf->>'recordHash', 'hex') AS record_hash, 1 AS version FROM {_SEALED_ARRAYS}"""  # noqa: S608
ANY_VERSIONS = f"""SELECT t.leaf->>'eventId' AS event_id, {_SEALED}, i.record_hash, i.version
    FROM {_SEALED_ARRAYS} JOIN event_index i
    ON i.event_digest = decode(substr(t.leaf->>'eventId', 7), 'hex') AND i.batch = %(number)s"""  # noqa: S608
NO_VERDICTS = f"""SELECT 'event_' || encode(i.event_digest, 'hex') AS event_id, {_UNSEALED}, i.record_hash, i.version
    FROM jsonb_array_elements(%(records)s::jsonb) WITH ORDINALITY AS t(record, place)
    JOIN event_index i ON i.batch = %(number)s AND i.position = t.place - 1"""  # noqa: S608


def write_events(connection: psycopg.Connection, batch_id: str, result: SealedBatch | str) -> bytes:
    """Write a batch's event rows and job rows: with their verdicts, or with a status while they have none.

    Returns the batch's records, newline-joined: they had to be unpacked.
    """
    row = connection.execute(
        """SELECT number, source_id, versioned, events, topics, payload, received_ms FROM batches
           WHERE batch_id = %s""",
        (batch_id,),
    ).fetchone()
    assert row is not None, "the caller changed this batch in this transaction"
    number, source_id, versioned, events, topics, payload, received_ms = row
    records: bytes = zstandard.ZstdDecompressor().decompress(bytes(payload), RECORDS_BYTES_MAX)
    values = {
        "batch_id": batch_id,
        "number": number,
        "versioned": versioned,
        "source_id": source_id,
        "job_id": job_id(Role.NORMALIZE, batch_id),
        "distribution": orjson.dumps({"topics": topics}).decode(),
        "received_ms": received_ms,
        "records": _array(records),
        **_results(result),
    }
    verdicts = ANY_VERSIONS if versioned else FIRST_VERSIONS
    source = NO_VERDICTS if isinstance(result, str) else verdicts
    if versioned:
        _make_room(connection, values)
    written = connection.execute(
        f"""INSERT INTO overlay_events ({COLUMNS}) SELECT {COLUMNS} FROM ({source}) AS rows
            ON CONFLICT (event_id) DO UPDATE SET {REPLACED}
            WHERE overlay_events.version <= EXCLUDED.version""".encode(),  # noqa: S608  # constants of this module
        values,
    ).rowcount
    if written < events:
        _write_beside(connection, source, values)
    _write_jobs(connection, batch_id, values, result)
    return records


def _results(result: SealedBatch | str) -> dict[str, Any]:
    if isinstance(result, str):
        return {"status": result, "agents": [], "certified_ms": None}
    return {
        "agents": result.agents,
        "certified_ms": result.certified_ms,
        "level": result.level,
        "leaves": _array(result.leaves),
        "normalized": _array(result.normalized),
    }


def _array(lines: bytes) -> str:
    """Newline-joined JSON as one JSON array."""
    return f"[{lines.decode().replace(chr(10), ',')}]"


def _make_room(connection: psycopg.Connection, values: dict[str, Any]) -> None:
    """Move the earlier versions that stand where this batch's events belong."""
    connection.execute(
        f"""INSERT INTO event_versions ({VERSION_COLUMNS})
            SELECT {", ".join("e." + name.strip() for name in VERSION_COLUMNS.split(","))}
            FROM event_index i JOIN overlay_events e ON e.event_id = 'event_' || encode(i.event_digest, 'hex')
            WHERE i.batch = %(number)s AND e.version < i.version
            ON CONFLICT (event_id, version) DO NOTHING""".encode(),  # noqa: S608
        {"number": values["number"]},
    )


def _write_beside(connection: psycopg.Connection, source: str, values: dict[str, Any]) -> None:
    """Write the rows whose event has a later version in place already."""
    names = ", ".join("rows." + name.strip() for name in VERSION_COLUMNS.split(","))
    connection.execute(
        f"""INSERT INTO event_versions ({VERSION_COLUMNS}) SELECT {names} FROM ({source}) AS rows
            JOIN overlay_events e ON e.event_id = rows.event_id WHERE e.version > rows.version
            ON CONFLICT (event_id, version) DO UPDATE SET {VERSION_REPLACED}""".encode(),  # noqa: S608
        values,
    )


def _write_jobs(
    connection: psycopg.Connection, batch_id: str, values: dict[str, Any], result: SealedBatch | str
) -> None:
    """A job row per role once the batch is sealed; before that the normalize job alone."""
    if isinstance(result, str):
        status = {"pending": "queued", "dead": "dead"}[result]
        roles: tuple[Role, ...] = (Role.NORMALIZE,)
    else:
        status, roles = "completed", WORK_ROLES
    event_id = _first_event(connection, values, result)
    if event_id is None:
        return  # adopted, and every event of it was this node's own already
    connection.execute(
        """INSERT INTO overlay_event_jobs (job_id, event_id, job_type, batch_id, job_status, overlay_job_template_id)
           SELECT job_id, %(event_id)s, role, %(batch_id)s, %(status)s, role
           FROM unnest(%(job_ids)s::text[], %(roles)s::text[]) AS job (job_id, role)
           ON CONFLICT (job_id) DO NOTHING""",
        {
            "batch_id": batch_id,
            "event_id": event_id,
            "status": status,
            "job_ids": [job_id(role, batch_id) for role in roles],
            "roles": [role.word for role in roles],
        },
    )


def _first_event(connection: psycopg.Connection, values: dict[str, Any], result: SealedBatch | str) -> str | None:
    """The event whose row a batch's jobs point to."""
    if not isinstance(result, str) and not values["versioned"]:
        event_id: str = orjson.loads(result.leaves.partition(b"\n")[0])["eventId"]
        return event_id
    row = connection.execute(
        """SELECT 'event_' || encode(event_digest, 'hex') FROM event_index WHERE batch = %s
           ORDER BY position LIMIT 1""",
        (values["number"],),
    ).fetchone()
    return None if row is None else str(row[0])
