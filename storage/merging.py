"""Merging batches that wait: the events of several become those of one, in order.

A batch that was merged keeps its id, its manifest and so the receipts that clients have of it; its records are those
of the batch it went into, which alone is processed and certified.
"""

from collections.abc import Sequence

import attrs
import psycopg

from storage.batches import insert_batch
from storage.event_rows import write_events
from storage.rows import NewBatch


@attrs.frozen(kw_only=True)
class Part:
    """A batch that waits. ``payload``: its records, newline-joined, as a zstd frame."""

    number: int
    batch_id: str
    events: int
    payload: bytes
    received_ms: int


def lock_parts(connection: psycopg.Connection, batch_ids: Sequence[str]) -> list[Part]:
    """Those of the batches that still wait here, locked, in the order of ``batch_ids``."""
    rows = connection.execute(
        """SELECT number, batch_id, events, payload, received_ms FROM batches
           WHERE batch_id = ANY(%s) AND state = 'pending' AND coordinator IS NULL ORDER BY number FOR UPDATE""",
        (list(batch_ids),),
    ).fetchall()
    found = {
        row[1]: Part(number=row[0], batch_id=row[1], events=row[2], payload=bytes(row[3]), received_ms=row[4])
        for row in rows
    }
    return [found[batch_id] for batch_id in batch_ids if batch_id in found]


def insert_merged(connection: psycopg.Connection, batch: NewBatch, parts: Sequence[Part]) -> None:
    """Insert a batch made of others, move their events to it, and mark them merged."""
    insert_batch(connection, batch)
    offsets, events = [], 0
    for part in parts:
        offsets.append(events)
        events += part.events
    numbers = [part.number for part in parts]
    connection.execute(
        """UPDATE event_index i SET batch = currval('batches_number_seq'), position = i.position + t.place
           FROM unnest(%s::bigint[], %s::int[]) AS t(part, place) WHERE i.batch = t.part""",
        (numbers, offsets),
    )
    ids = [part.batch_id for part in parts]
    shown = connection.execute(
        """WITH before AS (SELECT number, materialised FROM batches WHERE number = ANY(%(numbers)s))
           UPDATE batches b SET state = 'merged', merged_into = %(whole)s, payload = ''::bytea, materialised = true
           FROM before WHERE b.number = before.number RETURNING before.materialised""",
        {"numbers": numbers, "whole": batch.batch_id},
    ).fetchall()
    if any(materialised for (materialised,) in shown):  # some rows are there: they follow their events
        connection.execute("DELETE FROM overlay_event_jobs WHERE batch_id = ANY(%s)", (ids,))
        connection.execute("UPDATE batches SET materialised = true WHERE batch_id = %s", (batch.batch_id,))
        write_events(connection, batch.batch_id, "pending")
