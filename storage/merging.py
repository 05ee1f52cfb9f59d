"""Merging batches that wait: the events of several become those of one, in order.

A batch that was merged keeps its id, its manifest and so the receipts that clients have of it; its records are those
of the batch it went into, which alone is processed and certified.
"""

from collections.abc import Sequence

import attrs
import psycopg
from psycopg.rows import class_row

from storage.batches import insert_batch
from storage.event_rows import write_events
from storage.rows import NewBatch


@attrs.frozen(kw_only=True)
class Part:
    """A batch that waits. ``payload``: its records, newline-joined, as a zstd frame."""

    number: int
    batch_id: str
    source_sequence: int
    events: int
    payload: bytes
    received_ms: int


@attrs.frozen(kw_only=True)
class Whole:
    """A batch made of ``parts``, ids in their order."""

    manifest: bytes
    payload: bytes
    parts: list[str]


def lock_parts(connection: psycopg.Connection, batch_ids: Sequence[str]) -> list[Part]:
    """Those of the batches that still wait here, locked, in the order of ``batch_ids``."""
    with connection.cursor(row_factory=class_row(Part)) as cursor:
        cursor.execute(
            """SELECT number, batch_id, source_sequence, events, payload, received_ms FROM batches
               WHERE batch_id = ANY(%s) AND state = 'pending' AND coordinator IS NULL ORDER BY number FOR UPDATE""",
            (list(batch_ids),),
        )
        found = {part.batch_id: part for part in cursor}
    return [found[batch_id] for batch_id in batch_ids if batch_id in found]


def find_merged(connection: psycopg.Connection, batch_id: str) -> Whole | None:
    """The batch that one was merged into, where it waits: a merge whose commit was not answered was committed."""
    with connection.cursor(row_factory=class_row(Whole)) as cursor:
        return cursor.execute(
            """SELECT w.manifest, w.payload, ARRAY(
                          SELECT p.batch_id FROM batches p WHERE p.merged_into = w.batch_id ORDER BY p.number
                      ) AS parts
               FROM batches b JOIN batches w ON w.batch_id = b.merged_into
               WHERE b.batch_id = %s AND w.state = 'pending'""",
            (batch_id,),
        ).fetchone()


def insert_merged(connection: psycopg.Connection, batch: NewBatch, parts: Sequence[Part]) -> None:
    """Mark parts merged, insert the batch made of them, which takes the place of the last one, and move their events
    to it.
    """
    offsets, events = [], 0
    for part in parts:
        offsets.append(events)
        events += part.events
    numbers, ids = [part.number for part in parts], [part.batch_id for part in parts]
    shown = connection.execute(
        """WITH before AS (SELECT number, materialised FROM batches WHERE number = ANY(%(numbers)s))
           UPDATE batches b SET state = 'merged', merged_into = %(whole)s, payload = ''::bytea, materialised = true
           FROM before WHERE b.number = before.number RETURNING before.materialised""",
        {"numbers": numbers, "whole": batch.batch_id},
    ).fetchall()
    insert_batch(connection, batch)
    connection.execute(
        """UPDATE event_index i SET batch = currval('batches_number_seq'), position = i.position + t.place
           FROM unnest(%s::bigint[], %s::int[]) AS t(part, place) WHERE i.batch = t.part""",
        (numbers, offsets),
    )
    if any(materialised for (materialised,) in shown):  # some rows are there: they follow their events
        connection.execute("DELETE FROM overlay_event_jobs WHERE batch_id = ANY(%s)", (ids,))
        connection.execute("UPDATE batches SET materialised = true WHERE batch_id = %s", (batch.batch_id,))
        write_events(connection, batch.batch_id, "pending")
