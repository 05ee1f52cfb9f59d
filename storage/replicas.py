"""Batches held for their coordinators, and their adoption as batches of this node."""

from collections.abc import Sequence

import attrs
import psycopg

KEPT_MAX = 50_000  # past these nothing more is held: the coordinator finds others
KEPT_BYTES_MAX = 4 * 1024**3


@attrs.frozen(kw_only=True)
class Adoption:
    """Another node's batch as it is entered among this node's own. The event columns have equal length."""

    batch_id: str
    coordinator: bytes
    source_id: str
    source_sequence: int
    policy_hash: bytes
    level: int
    quorum: int
    stateful: bool
    topics: list[str]
    manifest: bytes
    received_ms: int
    event_ids: list[str]
    record_hashes: list[bytes]


def keep(connection: psycopg.Connection, batch_id: str, hold: bytes, payload: bytes, now_ms: int) -> bool:
    """Hold a batch. False where as many are held as may be."""
    row = connection.execute(
        """INSERT INTO replicas (batch_id, hold, payload, kept_ms) SELECT %s, %b, %b, %s
           WHERE (SELECT count(*) < %s AND coalesce(sum(length(payload)), 0) < %s FROM replicas)
           ON CONFLICT (batch_id) DO UPDATE SET hold = EXCLUDED.hold
           RETURNING batch_id""",
        (batch_id, hold, payload, now_ms, KEPT_MAX, KEPT_BYTES_MAX),
    ).fetchone()
    return row is not None


def drop(connection: psycopg.Connection, batch_ids: Sequence[str]) -> None:
    connection.execute("DELETE FROM replicas WHERE batch_id = ANY(%s)", (list(batch_ids),))


def holds(connection: psycopg.Connection) -> list[bytes]:
    """Every ``HoldBatch`` in force, the oldest first."""
    return [bytes(row[0]) for row in connection.execute("SELECT hold FROM replicas ORDER BY kept_ms")]


def payload(connection: psycopg.Connection, batch_id: str) -> bytes | None:
    """The records as a zstd frame."""
    row = connection.execute("SELECT payload FROM replicas WHERE batch_id = %s", (batch_id,)).fetchone()
    return bytes(row[0]) if row is not None else None


def adopt(connection: psycopg.Connection, adoption: Adoption) -> bool:
    """Enter a batch that is held among this node's own. False where it is not held, or was entered before.

    A source that is not registered here is entered too, disabled: it takes no events on this node. An event whose
    very record this node took in itself stays with its own batch.
    """
    connection.execute(
        """INSERT INTO overlay_event_sources (source_id, name, source_type, policy_hash, enabled)
           VALUES (%s, %s, 'overlay', %s, false) ON CONFLICT DO NOTHING""",
        (adoption.source_id, adoption.source_id, adoption.policy_hash),
    )
    row = connection.execute(
        """INSERT INTO batches (batch_id, coordinator, source_id, source_sequence, policy_hash, level, quorum,
                                stateful, versioned, events, topics, manifest, payload, received_ms)
           SELECT batch_id, %s, %s, %s, %s, %s, %s, %s, true, %s, %s, %s, payload, %s
           FROM replicas WHERE batch_id = %s
           ON CONFLICT (batch_id) DO NOTHING RETURNING number""",
        (
            adoption.coordinator,
            adoption.source_id,
            adoption.source_sequence,
            adoption.policy_hash,
            adoption.level,
            adoption.quorum,
            adoption.stateful,
            len(adoption.event_ids),
            adoption.topics,
            adoption.manifest,
            adoption.received_ms,
            adoption.batch_id,
        ),
    ).fetchone()
    if row is None:
        return False
    digests = [bytes.fromhex(event_id.removeprefix("event_")) for event_id in adoption.event_ids]
    connection.execute(
        """INSERT INTO event_index (event_digest, version, batch, position, record_hash)
           SELECT t.digest, coalesce(known.version, 0) + 1, %s, t.place - 1, t.record_hash
           FROM unnest(%b::bytea[], %b::bytea[]) WITH ORDINALITY AS t(digest, record_hash, place)
           LEFT JOIN LATERAL (SELECT max(version) AS version FROM event_index i WHERE i.event_digest = t.digest)
               AS known ON true
           WHERE NOT EXISTS (SELECT 1 FROM event_index i
                             WHERE i.event_digest = t.digest AND i.record_hash = t.record_hash)
           ON CONFLICT DO NOTHING""",
        (row[0], digests, adoption.record_hashes),
    )
    return True
