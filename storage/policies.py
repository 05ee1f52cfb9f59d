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
