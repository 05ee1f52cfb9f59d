"""How much this node stores of other coordinators: what it holds for each, what it adopted of each, its certificates.

Counted in the transactions that change it: adding it up would walk over what a flood has filled.
"""

import attrs
import psycopg

HAS_WORKED = "EXISTS (SELECT FROM reputations WHERE agent = coordinator AND agreed > 0)"


@attrs.frozen
class Usage:
    """Batches and their bytes."""

    batches: int
    size: int

    def fits(self, size: int, bound: "Usage") -> bool:
        """Whether one more batch of ``size`` bytes is within a bound."""
        return self.batches < bound.batches and self.size + size <= bound.size

    def share(self, divisor: int) -> "Usage":
        """A part of it, as a bound."""
        return Usage(self.batches // divisor, self.size // divisor)


@attrs.frozen(kw_only=True)
class Standing:
    """What a coordinator has here, beside others.

    Attributes:
        is_stranger: It never did work here that others confirmed.
    """

    is_stranger: bool
    own: Usage
    strangers: Usage
    all: Usage


def standing(connection: psycopg.Connection, coordinator: bytes) -> Standing:
    row = connection.execute(
        f"""SELECT coalesce(sum(batches) FILTER (WHERE coordinator = %(who)s), 0),
                   coalesce(sum(bytes) FILTER (WHERE coordinator = %(who)s), 0),
                   coalesce(sum(batches) FILTER (WHERE NOT has_worked), 0),
                   coalesce(sum(bytes) FILTER (WHERE NOT has_worked), 0),
                   coalesce(sum(batches), 0), coalesce(sum(bytes), 0),
                   NOT EXISTS (SELECT FROM reputations WHERE agent = %(who)s AND agreed > 0)
            FROM (SELECT coordinator, held + adopted AS batches, held_bytes + adopted_bytes AS bytes,
                         {HAS_WORKED} AS has_worked FROM foreign_usage) AS used""".encode(),  # noqa: S608  # our own
        {"who": coordinator},
    ).fetchone()
    assert row is not None, "an aggregate has a row"
    own, strangers, everything = (Usage(int(row[at]), int(row[at + 1])) for at in (0, 2, 4))
    return Standing(is_stranger=bool(row[6]), own=own, strangers=strangers, all=everything)


def add(
    connection: psycopg.Connection,
    coordinator: bytes,
    *,
    held: int = 0,
    held_bytes: int = 0,
    adopted: int = 0,
    adopted_bytes: int = 0,
    certificates: int = 0,
    certificate_bytes: int = 0,
) -> None:
    """Count something in, or out where it is negative."""
    values = (coordinator, held, held_bytes, adopted, adopted_bytes, certificates, certificate_bytes)
    connection.execute(
        """INSERT INTO foreign_usage AS u (coordinator, held, held_bytes, adopted, adopted_bytes, certificates,
                                           certificate_bytes)
           VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (coordinator) DO UPDATE
           SET held = u.held + EXCLUDED.held, held_bytes = u.held_bytes + EXCLUDED.held_bytes,
               adopted = u.adopted + EXCLUDED.adopted, adopted_bytes = u.adopted_bytes + EXCLUDED.adopted_bytes,
               certificates = u.certificates + EXCLUDED.certificates,
               certificate_bytes = u.certificate_bytes + EXCLUDED.certificate_bytes""",
        values,
    )
    connection.execute(
        "DELETE FROM foreign_usage WHERE coordinator = %s AND held <= 0 AND adopted <= 0 AND certificates <= 0",
        values[:1],
    )


def certificates(connection: psycopg.Connection) -> Usage:
    """The certificates of all coordinators together."""
    row = connection.execute(
        "SELECT coalesce(sum(certificates), 0), coalesce(sum(certificate_bytes), 0) FROM foreign_usage"
    ).fetchone()
    assert row is not None, "an aggregate has a row"
    return Usage(int(row[0]), int(row[1]))


def largest_stranger(connection: psycopg.Connection) -> bytes | None:
    """Of those who never did work here, the coordinator whose certificates take the most room."""
    row = connection.execute(
        f"""SELECT coordinator FROM foreign_usage WHERE certificates > 0 AND NOT {HAS_WORKED}
            ORDER BY certificate_bytes DESC, coordinator LIMIT 1""".encode()  # noqa: S608  # our own
    ).fetchone()
    return None if row is None else bytes(row[0])
