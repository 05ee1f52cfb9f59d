"""Answers to requests with an idempotency key, kept for a limited time."""

import attrs
import psycopg
from psycopg.types.json import Jsonb


@attrs.frozen(kw_only=True)
class KeptResponse:
    """An answer as it was given.

    Attributes:
        fingerprint: SHA-256 of what was asked, 32 bytes.
        headers: By name, besides those that every answer has.
    """

    fingerprint: bytes
    status: int
    headers: dict[str, str]
    body: bytes


def find(connection: psycopg.Connection, scope: bytes, since_ms: int) -> KeptResponse | None:
    """The answer kept under a scope since then."""
    row = connection.execute(
        "SELECT fingerprint, status, headers, body FROM idempotency_keys WHERE scope = %s AND answered_ms >= %s",
        (scope, since_ms),
    ).fetchone()
    return (
        None
        if row is None
        else KeptResponse(fingerprint=bytes(row[0]), status=row[1], headers=row[2], body=bytes(row[3]))
    )


def keep(connection: psycopg.Connection, scope: bytes, kept: KeptResponse, now_ms: int) -> None:
    """Keep an answer; it replaces one that is too old to be found."""
    connection.execute(
        """INSERT INTO idempotency_keys (scope, fingerprint, status, headers, body, answered_ms)
           VALUES (%s, %s, %s, %s, %s, %s)
           ON CONFLICT (scope) DO UPDATE SET fingerprint = excluded.fingerprint, status = excluded.status,
               headers = excluded.headers, body = excluded.body, answered_ms = excluded.answered_ms""",
        (scope, kept.fingerprint, kept.status, Jsonb(kept.headers), kept.body, now_ms),
    )


def size(connection: psycopg.Connection) -> tuple[int, int]:
    """How many answers are kept, and the bytes of their bodies."""
    row = connection.execute(
        "SELECT count(*), coalesce(sum(octet_length(body)), 0)::bigint FROM idempotency_keys"
    ).fetchone()
    assert row is not None, "an aggregate has a row"
    return int(row[0]), int(row[1])


def prune(connection: psycopg.Connection, since_ms: int, count_max: int, bytes_max: int) -> tuple[int, int]:
    """Forget what was kept before ``since_ms``, and the oldest of what is too many or too much.

    Returns what is left, as ``size``.
    """
    connection.execute("DELETE FROM idempotency_keys WHERE answered_ms < %s", (since_ms,))
    connection.execute(
        """DELETE FROM idempotency_keys WHERE scope IN (
               SELECT scope FROM (
                   SELECT scope, row_number() OVER latest AS place, sum(octet_length(body)) OVER latest AS bytes
                   FROM idempotency_keys WINDOW latest AS (ORDER BY answered_ms DESC, scope)) ranked
               WHERE place > %s OR bytes > %s)""",
        (count_max, bytes_max),
    )
    return size(connection)
