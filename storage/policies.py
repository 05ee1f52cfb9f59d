"""Policy documents by their hash; never changed, never overwritten.

Those of this node's clients stay. Those that peers sent give way to later ones, unless something that is stored rests
on them.
"""

from typing import Final

import psycopg

FETCHED_MAX: Final = 4_096
FETCHED_BYTES_MAX: Final = 256 * 1024 * 1024
PRUNED_AT_ONCE: Final = 64
LOCK: Final = 0x706F6C69  # of those who write policies of peers: none is deleted that another has just found here


def put(connection: psycopg.Connection, policy_hash: bytes, document: bytes) -> None:
    """Keep a document whose hash the caller checked, for good."""
    connection.execute(
        """INSERT INTO policies (policy_hash, document) VALUES (%s, %s)
           ON CONFLICT (policy_hash) DO UPDATE SET fetched_ms = NULL, fetched_from = NULL
           WHERE policies.fetched_ms IS NOT NULL""",
        (policy_hash, document),
    )


def put_fetched(
    connection: psycopg.Connection, policy_hash: bytes, document: bytes, sender: bytes, now_ms: int
) -> None:
    """Keep a document that a peer sent. Past the bounds those of strangers are deleted first, then the oldest."""
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
    inserted = connection.execute(
        """INSERT INTO policies (policy_hash, document, fetched_ms, fetched_from) VALUES (%s, %s, %s, %s)
           ON CONFLICT DO NOTHING""",
        (policy_hash, document, now_ms, sender),
    ).rowcount
    if inserted:
        _prune(connection, policy_hash)


def _prune(connection: psycopg.Connection, latest: bytes) -> None:
    connection.execute(
        """WITH kept AS (
               SELECT policy_hash, count(*) OVER latest AS documents, sum(octet_length(document)) OVER latest AS bytes
               FROM policies WHERE fetched_ms IS NOT NULL
               WINDOW latest AS (
                   ORDER BY EXISTS (SELECT FROM reputations WHERE agent = fetched_from AND agreed > 0) DESC,
                            fetched_ms DESC, policy_hash))
           DELETE FROM policies p WHERE p.fetched_ms IS NOT NULL AND p.policy_hash IN (
               SELECT k.policy_hash FROM kept k
               WHERE (k.documents > %(documents)s OR k.bytes > %(bytes)s) AND k.policy_hash <> %(new)s
                 AND NOT EXISTS (SELECT FROM batches b WHERE b.policy_hash = k.policy_hash)
                 AND NOT EXISTS (SELECT FROM replicas r WHERE r.policy_hash = k.policy_hash)
                 AND NOT EXISTS (SELECT FROM overlay_event_sources s WHERE s.policy_hash = k.policy_hash)
               LIMIT %(limit)s)""",
        {"documents": FETCHED_MAX, "bytes": FETCHED_BYTES_MAX, "new": latest, "limit": PRUNED_AT_ONCE},
    )


def get(connection: psycopg.Connection, policy_hash: bytes) -> bytes | None:
    row = connection.execute("SELECT document FROM policies WHERE policy_hash = %s", (policy_hash,)).fetchone()
    return bytes(row[0]) if row is not None else None


def in_use(connection: psycopg.Connection) -> list[bytes]:
    """The hashes of the policies of all enabled sources."""
    rows = connection.execute(
        "SELECT DISTINCT policy_hash FROM overlay_event_sources WHERE enabled AND deleted_at IS NULL"
    ).fetchall()
    return [bytes(row[0]) for row in rows]
