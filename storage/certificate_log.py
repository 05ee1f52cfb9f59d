"""The log of certificates that this node has, its own and those of other nodes, in the order of their arrival."""

from collections.abc import Sequence
from typing import Any, Final

import attrs
import psycopg

from storage.foreign_usage import sizes_by_key

LOCK = 0x7365616C  # that of the seals: numbers are taken one after the other, so no reader skips one
PRUNED_AT_ONCE: Final = 1_000
PRUNED_FOR_ROOM: Final = 16  # where they are not too many, but too large
ROUNDS_MAX: Final = 64
BYTES_EACH: Final = 16 * 1024  # four times what one takes usually
SPAN_MAX: Final = 4_096  # entries that one look passes over
CURSORS_MAX: Final = 4_096
VOUCHED: Final = b""
"""In place of a signer: one of them did work here that others confirmed, or an earlier version entered it."""
SIZE = "octet_length(certificate) + octet_length(context)"


@attrs.frozen(kw_only=True)
class Logged:
    """A certificate of another node's batch.

    Attributes:
        signer: Whom it is counted for: one of its signers, since they alone vouch for it, or ``VOUCHED``.
    """

    """A certificate of another node's batch; ``context`` is what the batch left behind."""

    batch_id: str
    source_id: str
    certificate: bytes
    context: bytes
    learned_ms: int
    signer: bytes = VOUCHED


def append_own(connection: psycopg.Connection, batch_id: str, source_id: str, now_ms: int) -> None:
    """Enter a batch that is sealed here, in place of a certificate that a peer sent. The caller holds the lock."""
    replaced = connection.execute(
        f"SELECT signer, {SIZE} FROM certificate_log WHERE batch_id = %s AND certificate IS NOT NULL".encode(),  # noqa: S608
        (batch_id,),
    ).fetchall()
    _count(connection, replaced, -1)
    connection.execute(
        """INSERT INTO certificate_log (number, batch_id, source_id, learned_ms)
           SELECT coalesce(max(number), 0) + 1, %s, %s, %s FROM certificate_log
           ON CONFLICT (batch_id) DO UPDATE SET certificate = NULL, context = NULL""",
        (batch_id, source_id, now_ms),
    )


def put_many(connection: psycopg.Connection, entries: Sequence[Logged], kept_max: int) -> int:
    """Enter certificates that are not in the log yet. Past ``kept_max`` of other nodes, or ``BYTES_EACH`` for each of
    so many, those of strangers are deleted first, of the one who has most; then the oldest.

    Returns how many were entered.
    """
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
    entered = connection.execute(
        f"""INSERT INTO certificate_log (number, batch_id, source_id, certificate, context, learned_ms, signer)
            SELECT (SELECT coalesce(max(number), 0) FROM certificate_log) + t.place, t.batch_id, t.source_id,
                   t.certificate, t.context, t.learned_ms, t.signer
            FROM unnest(%s::text[], %s::text[], %b::bytea[], %b::bytea[], %s::bigint[], %b::bytea[]) WITH ORDINALITY
                 AS t(batch_id, source_id, certificate, context, learned_ms, signer, place)
            ON CONFLICT (batch_id) DO NOTHING RETURNING signer, {SIZE}""".encode(),  # noqa: S608  # our own
        (
            [each.batch_id for each in entries],
            [each.source_id for each in entries],
            [each.certificate for each in entries],
            [each.context for each in entries],
            [each.learned_ms for each in entries],
            [each.signer for each in entries],
        ),
    ).fetchall()
    if not entered:
        return 0
    _count(connection, entered, 1)
    for _ in range(ROUNDS_MAX):
        if not _prune(connection, kept_max):
            break
    return len(entered)


def _prune(connection: psycopg.Connection, kept_max: int) -> int:
    """Delete some certificates of others where there are too many. Returns how many."""
    number, size = usage(connection)
    if number <= kept_max and size <= kept_max * BYTES_EACH:
        return 0
    stranger = _largest_stranger(connection)
    whose = "" if stranger is None else "AND signer = %(stranger)s"
    limit = min(PRUNED_AT_ONCE, number - kept_max) if number > kept_max else PRUNED_FOR_ROOM
    deleted = connection.execute(
        f"""DELETE FROM certificate_log WHERE number IN (
                SELECT number FROM certificate_log WHERE certificate IS NOT NULL {whose}
                ORDER BY number LIMIT %(limit)s)
            RETURNING signer, {SIZE}""".encode(),  # noqa: S608  # our own
        {"stranger": stranger, "limit": limit},
    ).fetchall()
    _count(connection, deleted, -1)
    return len(deleted)


def usage(connection: psycopg.Connection) -> tuple[int, int]:
    """The number of other nodes' certificates, and their bytes."""
    row = connection.execute(
        "SELECT coalesce(sum(certificates), 0), coalesce(sum(bytes), 0) FROM certificate_usage"
    ).fetchone()
    assert row is not None, "an aggregate has a row"
    return int(row[0]), int(row[1])


def _largest_stranger(connection: psycopg.Connection) -> bytes | None:
    """Of the signers who never did work here, the one whose certificates take the most room."""
    row = connection.execute(
        """SELECT signer FROM certificate_usage u
           WHERE signer <> %b AND NOT EXISTS (SELECT FROM reputations WHERE agent = signer AND agreed > 0)
           ORDER BY bytes DESC, signer LIMIT 1""",
        (VOUCHED,),
    ).fetchone()
    return None if row is None else bytes(row[0])


def _count(connection: psycopg.Connection, rows: Sequence[Sequence[Any]], sign: int) -> None:
    """Count rows of signer and size in, or out. The caller holds the lock."""
    for signer, number, size in sizes_by_key((row[0], row[1]) for row in rows):
        connection.execute(
            """INSERT INTO certificate_usage AS u (signer, certificates, bytes) VALUES (%s, %s, %s)
               ON CONFLICT (signer) DO UPDATE
               SET certificates = u.certificates + EXCLUDED.certificates, bytes = u.bytes + EXCLUDED.bytes""",
            (signer, sign * number, sign * size),
        )
        if sign < 0:
            connection.execute("DELETE FROM certificate_usage WHERE signer = %s AND certificates <= 0", (signer,))


def last_number(connection: psycopg.Connection) -> int:
    """The number of the latest entry; 0 if there is none."""
    row = connection.execute("SELECT coalesce(max(number), 0) FROM certificate_log").fetchone()
    return int(row[0]) if row is not None else 0


def ids_since(connection: psycopg.Connection, number: int, limit: int) -> list[tuple[int, str]]:
    """(number, batch id) of the entries after a number, in their order."""
    rows = connection.execute(
        "SELECT number, batch_id FROM certificate_log WHERE number > %s ORDER BY number LIMIT %s", (number, limit)
    )
    return [(int(row[0]), str(row[1])) for row in rows]


def unknown(connection: psycopg.Connection, batch_ids: Sequence[str]) -> list[str]:
    """Those of the batches whose certificates are not in the log, in their order."""
    rows = connection.execute(
        """SELECT t.batch_id FROM unnest(%s::text[]) WITH ORDINALITY AS t(batch_id, place)
           WHERE NOT EXISTS (SELECT 1 FROM certificate_log l WHERE l.batch_id = t.batch_id) ORDER BY t.place""",
        (list(batch_ids),),
    )
    return [str(row[0]) for row in rows]


def find(connection: psycopg.Connection, batch_ids: Sequence[str]) -> list[tuple[bytes, bytes]]:
    """(certificate, context) of those of the batches that are in the log."""
    rows = connection.execute(
        """SELECT coalesce(l.certificate, b.certificate), coalesce(l.context, b.context_out, '')
           FROM certificate_log l LEFT JOIN batches b ON b.batch_id = l.batch_id
           WHERE l.batch_id = ANY(%s) AND coalesce(l.certificate, b.certificate) IS NOT NULL ORDER BY l.number""",
        (list(batch_ids),),
    )
    return [(bytes(row[0]), bytes(row[1])) for row in rows]


@attrs.frozen(kw_only=True)
class LogEntry:
    """A certificate of a batch that another node took in, with its number in the log."""

    number: int
    batch_id: str
    certificate: bytes


FOREIGN: Final = """SELECT l.number, l.batch_id, coalesce(l.certificate, b.certificate)
    FROM certificate_log l LEFT JOIN batches b ON b.batch_id = l.batch_id
    WHERE coalesce(l.certificate, b.certificate) IS NOT NULL AND (b.batch_id IS NULL OR b.coordinator IS NOT NULL)"""


def foreign_after(connection: psycopg.Connection, number: int, limit: int) -> tuple[int, int, list[LogEntry]]:
    """Batches of other nodes after a number, those finished here among them.

    Returns the number of the latest entry, the number up to which these entries are all, and the entries in order.
    """
    last = last_number(connection)
    end = min(last, number + SPAN_MAX)
    rows = connection.execute(
        f"{FOREIGN} AND l.number > %s AND l.number <= %s ORDER BY l.number LIMIT %s".encode(), (number, end, limit)
    ).fetchall()
    found = [_entry(row) for row in rows]
    return last, found[-1].number if len(found) == limit else end, found


def foreign_at(connection: psycopg.Connection, numbers: Sequence[int]) -> list[LogEntry]:
    """Those of these entries that are still there, in their order."""
    rows = connection.execute(f"{FOREIGN} AND l.number = ANY(%s) ORDER BY l.number".encode(), (list(numbers),))
    return [_entry(row) for row in rows]


def _entry(row: Sequence[Any]) -> LogEntry:
    return LogEntry(number=int(row[0]), batch_id=str(row[1]), certificate=bytes(row[2]))


def foreign(
    connection: psycopg.Connection,
    *,
    batch_id: str | None,
    source_id: str | None,
    from_ms: int,
    to_ms: int,
    limit: int,
) -> list[tuple[bytes, int]]:
    """(certificate, when it was learned) of other nodes' batches: one by its id, or a source's, the latest first."""
    rows = connection.execute(
        """SELECT certificate, learned_ms FROM certificate_log
           WHERE certificate IS NOT NULL AND (%(batch)s::text IS NULL OR batch_id = %(batch)s)
             AND (%(source)s::text IS NULL
                  OR (source_id = %(source)s AND learned_ms >= %(from)s AND learned_ms < %(to)s))
           ORDER BY learned_ms DESC LIMIT %(limit)s""",
        {"batch": batch_id, "source": source_id, "from": from_ms, "to": to_ms, "limit": limit},
    )
    return [(bytes(row[0]), int(row[1])) for row in rows]


def cursors(connection: psycopg.Connection) -> dict[bytes, int]:
    """How far each peer's log has been read."""
    return {bytes(row[0]): int(row[1]) for row in connection.execute("SELECT peer, number FROM sync_cursors")}


def set_cursor(connection: psycopg.Connection, peer: bytes, number: int) -> None:
    """Note how far a peer's log has been read. Past ``CURSORS_MAX`` those of peers that are not remembered are
    deleted first: their logs would be read from the start.
    """
    known = connection.execute("UPDATE sync_cursors SET number = %s WHERE peer = %s", (number, peer))
    if known.rowcount:
        return
    connection.execute(
        """INSERT INTO sync_cursors (peer, number) VALUES (%s, %s)
           ON CONFLICT (peer) DO UPDATE SET number = EXCLUDED.number""",
        (peer, number),
    )
    connection.execute(
        """DELETE FROM sync_cursors WHERE peer IN (
               SELECT c.peer FROM sync_cursors c LEFT JOIN peers p ON p.identity = c.peer WHERE c.peer <> %s
               ORDER BY p.last_seen_at NULLS FIRST, c.peer
               LIMIT greatest(0, (SELECT count(*) FROM sync_cursors) - %s))""",
        (peer, CURSORS_MAX),
    )
