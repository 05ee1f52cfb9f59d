"""This node's own view of agents: estimates by role, and the latest incidents of each."""

from collections.abc import Sequence

import attrs
import psycopg

INCIDENTS_KEPT = 50
KEPT_MAX = 16_384
"""Reputations by agent and role. Agents that never agreed with others give way first, then those seen longest ago."""


@attrs.frozen(kw_only=True)
class Reputation:
    """Counts of all time; ``successes`` and ``failures`` as they stood at ``at_ms``."""

    agent: bytes
    role: str
    agreed: int = 0
    dissented: int = 0
    late: int = 0
    equivocated: int = 0
    successes: float = 0.0
    failures: float = 0.0
    at_ms: int = 0


@attrs.frozen(kw_only=True)
class Incident:
    """An agent was late, dissented or contradicted itself."""

    agent: bytes
    role: str
    outcome: str
    batch_id: str
    at_ms: int


NAMES = tuple(field.name for field in attrs.fields(Reputation))


def load(connection: psycopg.Connection) -> list[Reputation]:
    columns = ", ".join(NAMES)
    rows = connection.execute(f"SELECT {columns} FROM reputations ORDER BY agent, role".encode())  # noqa: S608
    return [Reputation(**dict(zip(NAMES, row, strict=True))) for row in rows]


def save(connection: psycopg.Connection, changed: Sequence[Reputation], incidents: Sequence[Incident]) -> None:
    """Write the present state of some reputations; of each agent's incidents the latest are kept."""
    values = [attrs.astuple(row) for row in changed]
    updates = ", ".join(f"{name} = EXCLUDED.{name}" for name in NAMES[2:])
    with connection.cursor() as cursor:
        cursor.executemany(
            f"""INSERT INTO reputations ({", ".join(NAMES)}) VALUES ({", ".join(["%s"] * len(NAMES))})
                ON CONFLICT (agent, role) DO UPDATE SET {updates}""".encode(),  # noqa: S608  # names of our own
            values,
        )
        cursor.executemany(
            "INSERT INTO blemishes (agent, role, outcome, batch_id, at_ms) VALUES (%s, %s, %s, %s, %s)",
            [attrs.astuple(each) for each in incidents],
        )
        cursor.executemany(
            """DELETE FROM blemishes WHERE agent = %s AND id <= (
                   SELECT id FROM blemishes WHERE agent = %s ORDER BY id DESC OFFSET %s LIMIT 1)""",
            [(agent, agent, INCIDENTS_KEPT) for agent in sorted({each.agent for each in incidents})],
        )


def prune(connection: psycopg.Connection) -> int:
    """Delete the reputations past ``KEPT_MAX``, and the incidents of agents that are left with none. Returns how many
    reputations.
    """
    rows = connection.execute(
        """DELETE FROM reputations WHERE (agent, role) IN (
               SELECT agent, role FROM reputations ORDER BY agreed > 0, at_ms, agent, role
               LIMIT greatest(0, (SELECT count(*) FROM reputations) - %s)) RETURNING agent""",
        (KEPT_MAX,),
    ).fetchall()
    connection.execute(
        """DELETE FROM blemishes b WHERE agent = ANY(%s)
           AND NOT EXISTS (SELECT FROM reputations r WHERE r.agent = b.agent)""",
        ([row[0] for row in rows],),
    )
    return len(rows)


def incidents_of(connection: psycopg.Connection, agent: bytes) -> list[Incident]:
    """The latest first."""
    rows = connection.execute(
        "SELECT agent, role, outcome, batch_id, at_ms FROM blemishes WHERE agent = %s ORDER BY id DESC", (agent,)
    )
    names = tuple(field.name for field in attrs.fields(Incident))
    return [Incident(**dict(zip(names, row, strict=True))) for row in rows]
