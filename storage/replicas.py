"""Batches held for their coordinators, and their adoption as batches of this node.

What is held was promised to its coordinator, so nothing is deleted for a newer one, with one exception: those who
never worked here make room for those who did.
"""

from collections.abc import Sequence
from typing import Final

import attrs
import psycopg

from storage import foreign_usage
from storage.foreign_usage import Standing, Usage

LOCK: Final = 0x686F6C64  # of those who hold a batch: several that found the same room would all take it
EVICTED_AT_ONCE: Final = 4_096  # of the largest, so many leave room for any batch
EVICTION_ORDERS: Final = ("kept_ms, batch_id", "size DESC, batch_id")
UNPACKED_PER_BYTE: Final = (
    8  # records are packed to an eighth, usually; what is packed further is counted as if it was not
)


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
    unpacked_bytes: int = 0


@attrs.frozen(kw_only=True)
class NewReplica:
    """A batch to be held. ``hold``: the coordinator's signed order. ``payload``: the records as a zstd frame.
    ``policy_bytes``: The size of its policy, which is kept as long.
    """

    batch_id: str
    coordinator: bytes
    policy_hash: bytes
    hold: bytes
    payload: bytes
    policy_bytes: int
    kept_ms: int

    @property
    def size(self) -> int:
        return len(self.hold) + len(self.payload) + self.policy_bytes


@attrs.frozen(kw_only=True)
class Kept:
    """``is_held``: whether the batch is held now. ``evicted``: the batches that made room for it."""

    is_held: bool
    evicted: tuple[str, ...] = ()


def may_keep(connection: psycopg.Connection, new: NewReplica) -> bool:
    """Whether ``keep`` may hold a batch, as far as the shares of its coordinator and of strangers go."""
    known = connection.execute("SELECT FROM replicas WHERE batch_id = %s", (new.batch_id,)).fetchone()
    return known is not None or _room(connection, new) is not None


def _room(connection: psycopg.Connection, new: NewReplica) -> Standing | None:
    """What is stored of others, if the shares of a new batch's coordinator and of strangers leave room for it."""
    standing = foreign_usage.standing(connection, new.coordinator)
    if not standing.is_within_shares(new.size):
        return None
    if standing.is_stranger and not standing.all.fits(new.size, foreign_usage.KEPT_MAX):
        return None  # a stranger displaces nobody
    return standing


def keep(connection: psycopg.Connection, new: NewReplica) -> Kept:
    """Hold a batch, if its coordinator's share and everything else leave room for it."""
    known = connection.execute("UPDATE replicas SET hold = %b WHERE batch_id = %s", (new.hold, new.batch_id))
    if known.rowcount:
        return Kept(is_held=True)
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
    standing = _room(connection, new)
    if standing is None:
        return Kept(is_held=False)
    evicted: tuple[str, ...] = ()
    if not standing.all.fits(new.size, foreign_usage.KEPT_MAX):
        evicted = _evict(connection, new.size, standing.all)
        if not evicted:
            return Kept(is_held=False)
    inserted = connection.execute(
        """INSERT INTO replicas (batch_id, coordinator, policy_hash, hold, payload, kept_ms, size)
           VALUES (%s, %s, %s, %b, %b, %s, %s) ON CONFLICT (batch_id) DO NOTHING""",
        (new.batch_id, new.coordinator, new.policy_hash, new.hold, new.payload, new.kept_ms, new.size),
    ).rowcount
    if inserted:
        foreign_usage.add(connection, new.coordinator, held=1, held_bytes=new.size)
    return Kept(is_held=inserted == 1, evicted=evicted)


def _evict(connection: psycopg.Connection, size: int, used: Usage) -> tuple[str, ...]:
    """Delete batches of strangers that are not adopted, as many as a batch of ``size`` bytes takes.

    The oldest go, or the largest where the oldest are too small. None go where that would not be enough.
    """
    for order in EVICTION_ORDERS:
        evicted: list[str] = []
        left = used
        for batch_id, freed in _evictable(connection, order):
            evicted.append(batch_id)
            left = Usage(left.batches - 1, left.size - freed)
            if left.fits(size, foreign_usage.KEPT_MAX):
                drop(connection, evicted)
                return tuple(evicted)
    return ()


def _evictable(connection: psycopg.Connection, order: str) -> Sequence[tuple[str, int]]:
    rows = connection.execute(
        f"""SELECT batch_id, size FROM replicas r
            WHERE NOT {foreign_usage.HAS_WORKED} AND NOT EXISTS (SELECT FROM batches b WHERE b.batch_id = r.batch_id)
            ORDER BY {order} LIMIT %s""".encode(),  # noqa: S608  # our own
        (EVICTED_AT_ONCE,),
    ).fetchall()
    return [(str(row[0]), int(row[1])) for row in rows]


def drop(connection: psycopg.Connection, batch_ids: Sequence[str]) -> None:
    rows = connection.execute(
        "DELETE FROM replicas WHERE batch_id = ANY(%s) RETURNING coordinator, size", (list(batch_ids),)
    ).fetchall()
    for coordinator, number, size in foreign_usage.sizes_by_key((row[0], row[1]) for row in rows):
        foreign_usage.add(connection, coordinator, held=-number, held_bytes=-size)


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
                                stateful, versioned, events, topics, manifest, payload, received_ms, adopted_bytes)
           SELECT batch_id, %s, %s, %s, %s, %s, %s, %s, true, %s, %s, %s, payload, %s,
                  greatest(octet_length(payload), %s)
                  + (SELECT octet_length(document) FROM policies p WHERE p.policy_hash = %s)
           FROM replicas WHERE batch_id = %s
           ON CONFLICT (batch_id) DO NOTHING RETURNING number, adopted_bytes""",
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
            adoption.unpacked_bytes // UNPACKED_PER_BYTE,
            adoption.policy_hash,
            adoption.batch_id,
        ),
    ).fetchone()
    if row is None:
        return False
    foreign_usage.add(connection, adoption.coordinator, adopted=1, adopted_bytes=int(row[1]))
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
