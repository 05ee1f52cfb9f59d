"""What the node knows of the others: where they are, and how they did."""

from collections.abc import Sequence

import attrs
import psycopg


@attrs.frozen(kw_only=True)
class Standing:
    """How an agent did, as this node saw it: counts of batches and roles."""

    agent: bytes
    agreed: int
    dissented: int
    late: int
    equivocated: int

    @property
    def reputation(self) -> int:
        """0 to 100: the mean of a Beta(agreed + 1, failed + 1); 0 for good after an equivocation."""
        if self.equivocated:
            return 0
        failed = self.dissented + self.late
        return round(100 * (self.agreed + 1) / (self.agreed + failed + 2))


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


def count_outcome(connection: psycopg.Connection, agent: bytes, outcome: str, count: int = 1) -> None:
    """Add to one of ``agreed``, ``dissented``, ``late``, ``equivocated``."""
    assert outcome in ("agreed", "dissented", "late", "equivocated"), outcome
    connection.execute(
        f"""INSERT INTO standings (agent, {outcome}) VALUES (%s, %s)
            ON CONFLICT (agent) DO UPDATE SET {outcome} = standings.{outcome} + EXCLUDED.{outcome},
                updated_at = NOW()""".encode(),  # noqa: S608  # one of four words
        (agent, count),
    )


def standings(connection: psycopg.Connection) -> list[Standing]:
    rows = connection.execute("SELECT agent, agreed, dissented, late, equivocated FROM standings ORDER BY agent")
    names = ("agent", "agreed", "dissented", "late", "equivocated")
    return [Standing(**dict(zip(names, row, strict=True))) for row in rows]


def keep_equivocation(
    connection: psycopg.Connection, signer: bytes, batch_id: str, role: str, first: bytes, second: bytes
) -> None:
    """Keep the two signed statements that contradict each other."""
    connection.execute(
        """INSERT INTO equivocations (signer, batch_id, role, first, second) VALUES (%s, %s, %s, %s, %s)
           ON CONFLICT DO NOTHING""",
        (signer, batch_id, role, first, second),
    )
