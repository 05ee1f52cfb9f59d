"""Results of auctions, kept so that every award can be explained afterwards."""

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

KEPT = 10_000


def put(
    connection: psycopg.Connection, *, announcement_id: str, lease_id: str, record: Mapping[str, Any], at_ms: int
) -> None:
    """Keep an auction; past ``KEPT`` the oldest are deleted."""
    connection.execute(
        """INSERT INTO auctions (announcement_id, lease_id, record, at_ms) VALUES (%s, %s, %s, %s)
           ON CONFLICT DO NOTHING""",
        (announcement_id, lease_id, Jsonb(record), at_ms),
    )
    connection.execute(
        "DELETE FROM auctions WHERE at_ms < (SELECT at_ms FROM auctions ORDER BY at_ms DESC OFFSET %s LIMIT 1)",
        (KEPT,),
    )


def get(connection: psycopg.Connection, name: str) -> Mapping[str, Any] | None:
    """By announcement or lease."""
    row = connection.execute(
        "SELECT record FROM auctions WHERE announcement_id = %s OR lease_id = %s", (name, name)
    ).fetchone()
    return None if row is None else dict(row[0])


def latest(connection: psycopg.Connection, limit: int) -> Sequence[Mapping[str, Any]]:
    """The latest first."""
    rows = connection.execute("SELECT record FROM auctions ORDER BY at_ms DESC LIMIT %s", (limit,))
    return [dict(row[0]) for row in rows]
