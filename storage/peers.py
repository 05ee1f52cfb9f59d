"""Peers: their addresses and advertisements, and proofs that they contradicted themselves."""

from collections.abc import Sequence

import attrs
import psycopg

PROOFS_PER_SIGNER_MAX = 32
PROOFS_MAX = 10_000


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


def prune(connection: psycopg.Connection, kept_max: int) -> int:
    """Delete the peers past ``kept_max`` that were seen longest ago; those that worked for this node go last.

    Returns how many were deleted.
    """
    return connection.execute(
        """DELETE FROM peers WHERE identity IN (
               SELECT identity FROM peers
               ORDER BY EXISTS (SELECT FROM reputations WHERE agent = identity AND agreed > 0), last_seen_at, identity
               LIMIT greatest(0, (SELECT count(*) FROM peers) - %s))""",
        (kept_max,),
    ).rowcount


def remembered(connection: psycopg.Connection, limit: int = 256) -> list[tuple[bytes, list[str]]]:
    """(identity, addresses) of the peers that worked for this node, then of the others; those seen last first."""
    rows = connection.execute(
        """SELECT identity, addresses FROM peers
           ORDER BY EXISTS (SELECT FROM reputations WHERE agent = identity AND agreed > 0) DESC, last_seen_at DESC
           LIMIT %s""",
        (limit,),
    ).fetchall()
    return [(bytes(row[0]), list(row[1])) for row in rows]


def advertisements(connection: psycopg.Connection, limit: int = 4_096) -> list[bytes]:
    """The latest advertisement of each peer, those seen last first."""
    rows = connection.execute("SELECT advertisement FROM peers ORDER BY last_seen_at DESC LIMIT %s", (limit,))
    return [bytes(row[0]) for row in rows.fetchall()]


@attrs.frozen(kw_only=True)
class StoredEquivocation:
    """Two signed statements of one signer that contradict each other.

    Attributes:
        heard_from: The peer that sent them; None where this node found them.
    """

    signer: bytes
    batch_id: str
    role: str
    first: bytes
    second: bytes
    heard_from: bytes | None = None


def equivocations(connection: psycopg.Connection, signer: bytes | None, limit: int) -> list[StoredEquivocation]:
    """The latest first; of one signer, or of all."""
    rows = connection.execute(
        """SELECT signer, batch_id, role, first, second, heard_from FROM equivocations
           WHERE %(signer)s::bytea IS NULL OR signer = %(signer)s ORDER BY found_at DESC LIMIT %(limit)s""",
        {"signer": signer, "limit": limit},
    )
    names = ("signer", "batch_id", "role", "first", "second", "heard_from")
    return [StoredEquivocation(**dict(zip(names, row, strict=True))) for row in rows]


def equivocators(connection: psycopg.Connection) -> list[tuple[bytes, str]]:
    """(signer, role) of every proof."""
    rows = connection.execute("SELECT DISTINCT signer, role FROM equivocations")
    return [(bytes(row[0]), str(row[1])) for row in rows]


def keep_equivocation(connection: psycopg.Connection, found: StoredEquivocation) -> None:
    """Keep the two signed statements that contradict each other, once per signer, batch and role.

    A signer's first ``PROOFS_PER_SIGNER_MAX`` are enough: one would be. Past ``PROOFS_MAX`` those against strangers
    are deleted first, then the oldest: a key costs nothing, and neither does a proof against it.
    """
    inserted = connection.execute(
        """INSERT INTO equivocations (signer, batch_id, role, first, second, heard_from)
           SELECT %s, %s, %s, %s, %s, %s WHERE (SELECT count(*) FROM equivocations WHERE signer = %s) < %s
           ON CONFLICT DO NOTHING""",
        (
            found.signer,
            found.batch_id,
            found.role,
            found.first,
            found.second,
            found.heard_from,
            found.signer,
            PROOFS_PER_SIGNER_MAX,
        ),
    ).rowcount
    if inserted:
        _prune_proofs(connection)


def _prune_proofs(connection: psycopg.Connection) -> None:
    connection.execute(
        """DELETE FROM equivocations WHERE (signer, batch_id, role) IN (
               SELECT signer, batch_id, role FROM equivocations
               ORDER BY EXISTS (SELECT FROM reputations WHERE agent = signer AND agreed > 0), found_at, signer
               LIMIT greatest(0, (SELECT count(*) FROM equivocations) - %s))""",
        (PROOFS_MAX,),
    )
