"""How much this node stores of other coordinators: what it holds for each, and what it adopted of each.

Counted in the transactions that change it: adding it up would walk over what a flood has filled.
"""

from collections.abc import Iterable
from typing import Final

import attrs
import psycopg

HAS_WORKED: Final = (
    "(coordinator = ''::bytea OR EXISTS (SELECT FROM reputations WHERE agent = coordinator AND agreed > 0))"
)
"""Whether others confirmed work that the coordinator of a row did here. The empty key: noted by earlier versions."""


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


KEPT_MAX: Final = Usage(50_000, 4 * 1024**3)  # what is held, and what was adopted and did not expire
COORDINATOR_SHARE: Final = 8  # the part of it that one coordinator may use
STRANGERS_SHARE: Final = 2  # the part that all may use who never did work here
EXPIRY_SHARE: Final = (
    2 * COORDINATOR_SHARE
)  # past this part, what was adopted of one expires whatever its policy says


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

    def is_within_shares(self, size: int) -> bool:
        """Whether the shares of the coordinator, and of strangers where it is one, leave room for a batch."""
        if not self.own.fits(size, KEPT_MAX.share(COORDINATOR_SHARE)):
            return False
        return not self.is_stranger or self.strangers.fits(size, KEPT_MAX.share(STRANGERS_SHARE))


def standing(connection: psycopg.Connection, coordinator: bytes) -> Standing:
    row = connection.execute(
        """SELECT coalesce(sum(batches) FILTER (WHERE coordinator = %(who)s), 0),
                  coalesce(sum(bytes) FILTER (WHERE coordinator = %(who)s), 0),
                  coalesce(sum(batches) FILTER (WHERE agent IS NULL AND coordinator <> ''::bytea), 0),
                  coalesce(sum(bytes) FILTER (WHERE agent IS NULL AND coordinator <> ''::bytea), 0),
                  coalesce(sum(batches), 0), coalesce(sum(bytes), 0),
                  NOT EXISTS (SELECT FROM reputations WHERE agent = %(who)s AND agreed > 0)
           FROM (SELECT coordinator, held + adopted AS batches, held_bytes + adopted_bytes AS bytes
                 FROM foreign_usage) AS used
           LEFT JOIN (SELECT DISTINCT agent FROM reputations WHERE agreed > 0) AS worked ON agent = coordinator""",
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
) -> None:
    """Count something in, or out where it is negative."""
    connection.execute(
        """INSERT INTO foreign_usage AS u (coordinator, held, held_bytes, adopted, adopted_bytes)
           VALUES (%s, %s, %s, %s, %s) ON CONFLICT (coordinator) DO UPDATE
           SET held = u.held + EXCLUDED.held, held_bytes = u.held_bytes + EXCLUDED.held_bytes,
               adopted = u.adopted + EXCLUDED.adopted, adopted_bytes = u.adopted_bytes + EXCLUDED.adopted_bytes""",
        (coordinator, held, held_bytes, adopted, adopted_bytes),
    )
    connection.execute(
        "DELETE FROM foreign_usage WHERE coordinator = %s AND held <= 0 AND adopted <= 0", (coordinator,)
    )


def sizes_by_key(rows: Iterable[tuple[bytes, int]]) -> list[tuple[bytes, int, int]]:
    """Key, number and total size of rows of key and size, by key: locks are taken in one order."""
    sizes: dict[bytes, list[int]] = {}
    for key, size in rows:
        sizes.setdefault(bytes(key), []).append(int(size))
    return [(key, len(each), sum(each)) for key, each in sorted(sizes.items())]
