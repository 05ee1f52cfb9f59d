"""Nonces of signed requests: each is spent once, also across restarts."""

from collections.abc import Sequence

import attrs
import psycopg


@attrs.frozen(kw_only=True)
class Nonce:
    """``expires_ms``: from then on the request is refused for its age, and the nonce need not be known."""

    identity: bytes
    nonce: str
    expires_ms: int


def spend(connection: psycopg.Connection, nonces: Sequence[Nonce]) -> frozenset[tuple[bytes, str]]:
    """Write nonces down. Returns those that were not spent before; of equal ones in ``nonces`` one is written."""
    rows = connection.execute(
        """INSERT INTO auth_nonces (identity, nonce, expires_ms)
           SELECT * FROM unnest(%s::bytea[], %s::text[], %s::bigint[])
           ON CONFLICT DO NOTHING RETURNING identity, nonce""",
        (
            [each.identity for each in nonces],
            [each.nonce for each in nonces],
            [each.expires_ms for each in nonces],
        ),
    )
    return frozenset((bytes(identity), str(nonce)) for identity, nonce in rows)


def prune(connection: psycopg.Connection, now_ms: int) -> int:
    """Forget what is too old to be accepted again. Returns how many."""
    return connection.execute("DELETE FROM auth_nonces WHERE expires_ms < %s", (now_ms,)).rowcount
