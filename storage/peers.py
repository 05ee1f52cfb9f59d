"""What the node knows of the others: where they are, and how they did."""

from collections.abc import Sequence

import attrs
import psycopg


def remember(
    connection: psycopg.Connection, identity: bytes, addresses: Sequence[str], advertisement: bytes, expires_ms: int
) -> None:
    """Keep a peer's latest advertisement and addresses."""
    connection.execute(
        """INSERT INTO peers (identity, addresses, advertisement, expires_ms) VALUES (%s, %s, %s, %s)
           ON CONFLICT (identity) DO UPDATE SET addresses = EXCLUDED.addresses,
               advertisement = EXCLUDED.advertisement, expires_ms = EXCLUDED.expires_ms, last_seen_at = NOW()""",
        (identity, list(addresses), advertisement, expires_ms),
    )


def remembered(connection: psycopg.Connection, limit: int = 256) -> list[tuple[bytes, list[str]]]:
    """(identity, addresses) of the peers seen last."""
    rows = connection.execute(
        "SELECT identity, addresses FROM peers ORDER BY last_seen_at DESC LIMIT %s", (limit,)
    ).fetchall()
    return [(bytes(row[0]), list(row[1])) for row in rows]


@attrs.frozen(kw_only=True)
class Equivocation:
    """Two signed statements of one signer that contradict each other."""

    signer: bytes
    batch_id: str
    role: str
    first: bytes
    second: bytes


def equivocations(connection: psycopg.Connection, signer: bytes | None, limit: int) -> list[Equivocation]:
    """The latest first; of one signer, or of all."""
    rows = connection.execute(
        """SELECT signer, batch_id, role, first, second FROM equivocations
           WHERE %(signer)s::bytea IS NULL OR signer = %(signer)s ORDER BY found_at DESC LIMIT %(limit)s""",
        {"signer": signer, "limit": limit},
    )
    names = ("signer", "batch_id", "role", "first", "second")
    return [Equivocation(**dict(zip(names, row, strict=True))) for row in rows]


def keep_equivocation(
    connection: psycopg.Connection, signer: bytes, batch_id: str, role: str, first: bytes, second: bytes
) -> None:
    """Keep the two signed statements that contradict each other."""
    connection.execute(
        """INSERT INTO equivocations (signer, batch_id, role, first, second) VALUES (%s, %s, %s, %s, %s)
           ON CONFLICT DO NOTHING""",
        (signer, batch_id, role, first, second),
    )
