"""Deletes the data of events after their policy's retention time. Certificates that clients kept stay verifiable."""

from collections.abc import Sequence
from typing import Any

import psycopg

from storage import foreign_usage

# The events whose latest version stands in these batches. The index of events leads to them: an index of their rows
# by batch would cost every event that is written.
EVENT_IDS = """SELECT e.event_id FROM event_index i
    JOIN overlay_events e ON e.event_id = 'event_' || encode(i.event_digest, 'hex')
    WHERE i.batch = ANY(%s) AND e.batch_id = ANY(%s)"""


def policies(connection: psycopg.Connection) -> list[tuple[bytes, bytes]]:
    """(hash, document) of the policies that may name a retention."""
    rows = connection.execute(
        """SELECT policy_hash, document FROM policies WHERE position('"retention"'::bytea IN document) > 0
           ORDER BY policy_hash"""
    ).fetchall()
    return [(bytes(row[0]), bytes(row[1])) for row in rows]


def expire(
    connection: psycopg.Connection, *, policy_hash: bytes, certified_before_ms: int, now_ms: int, limit: int
) -> int:
    """Delete records, results and event rows of certified batches, the oldest first. Returns how many batches.

    The batch, its certificate, the evidence and the hashes of its records stay: an event is still known by its id,
    so that a repeat is a duplicate.
    """
    rows = connection.execute(
        """SELECT number, batch_id, coordinator, coalesce(adopted_bytes, octet_length(payload)) FROM batches
           WHERE policy_hash = %s AND state = 'certified' AND certified_ms < %s AND expired_ms IS NULL
           ORDER BY certified_ms LIMIT %s FOR UPDATE SKIP LOCKED""",
        (policy_hash, certified_before_ms, limit),
    ).fetchall()
    return _delete(connection, rows, now_ms)


def expire_adopted(connection: psycopg.Connection, *, ended_before_ms: int, now_ms: int, limit: int) -> int:
    """As ``expire``, of other coordinators' batches that ended here, whatever their policy says: those of strangers,
    and those of a coordinator whose adopted batches use half of its share.
    """
    most = foreign_usage.KEPT_MAX.share(foreign_usage.EXPIRY_SHARE)
    rows = connection.execute(
        f"""SELECT number, batch_id, coordinator, coalesce(adopted_bytes, octet_length(payload)) FROM batches b
            WHERE coordinator IS NOT NULL AND expired_ms IS NULL AND state IN ('certified', 'dead')
              AND coalesce(certified_ms, dead_ms) < %s
              AND (NOT {foreign_usage.HAS_WORKED}
                   OR EXISTS (SELECT FROM foreign_usage u WHERE u.coordinator = b.coordinator
                              AND (u.adopted > %s OR u.adopted_bytes > %s)))
            ORDER BY number LIMIT %s FOR UPDATE SKIP LOCKED""".encode(),  # noqa: S608  # our own
        (ended_before_ms, most.batches, most.size, limit),
    ).fetchall()
    return _delete(connection, rows, now_ms)


def _delete(connection: psycopg.Connection, rows: Sequence[Sequence[Any]], now_ms: int) -> int:
    """Args:
    rows: Number, id, coordinator (None: this node) and size of each batch.
    """
    numbers, ids = [row[0] for row in rows], [row[1] for row in rows]
    if not rows:
        return 0
    event_ids = [row[0] for row in connection.execute(EVENT_IDS, (numbers, ids))]
    connection.execute("DELETE FROM overlay_event_jobs WHERE batch_id = ANY(%s)", (ids,))
    connection.execute("DELETE FROM overlay_event_jobs WHERE event_id = ANY(%s)", (event_ids,))
    connection.execute("DELETE FROM overlay_events WHERE event_id = ANY(%s)", (event_ids,))
    connection.execute("DELETE FROM event_versions WHERE batch_id = ANY(%s)", (ids,))
    connection.execute("DELETE FROM objects WHERE batch = ANY(%s) AND kind = 'payload'", (numbers,))
    connection.execute(
        "UPDATE batches SET payload = ''::bytea, outputs = NULL, expired_ms = %s WHERE number = ANY(%s)",
        (now_ms, numbers),
    )
    adopted = ((row[2], row[3]) for row in rows if row[2] is not None)
    for coordinator, number, size in foreign_usage.sizes_by_key(adopted):
        foreign_usage.add(connection, coordinator, adopted=-number, adopted_bytes=-size)
    return len(rows)
