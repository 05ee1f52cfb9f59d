"""Policy documents by their hash; never changed, never overwritten."""

import psycopg


def put(connection: psycopg.Connection, policy_hash: bytes, document: bytes) -> None:
    """Keep a document whose hash the caller checked."""
    connection.execute(
        "INSERT INTO policies (policy_hash, document) VALUES (%s, %s) ON CONFLICT DO NOTHING", (policy_hash, document)
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
