"""What validation finds moves the trust in sources: counted as batches are sealed, written once a second."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from node.runtime.write_behind import WriteBehind
from protocols.messages import Statement
from storage import sources
from storage.database import Database

if TYPE_CHECKING:
    from psycopg import Connection

Verdicts = tuple[int, int]
"""Valid and invalid events."""


class TrustScores:
    """Counts verdicts by source. A crash loses at most a second of them."""

    def __init__(self, database: Database) -> None:
        self._verdicts = WriteBehind[str, Verdicts]("trust scores", database, write=_write, merge=_sum)

    def note(self, statement: Statement) -> None:
        """Count a batch that was sealed here."""
        self._verdicts.add(statement.source_id, (statement.valid, statement.invalid))

    async def run(self) -> None:
        """Write what was counted, again and again, until cancelled."""
        await self._verdicts.run()

    async def flush(self) -> None:
        """Write what was counted so far.

        Raises:
            WorldFault: It is not known to be written, and will be tried again.
        """
        await self._verdicts.flush()


def _write(connection: "Connection", verdicts: Mapping[str, Verdicts]) -> None:
    sources.count_verdicts(connection, verdicts)


def _sum(first: Verdicts, second: Verdicts) -> Verdicts:
    return first[0] + second[0], first[1] + second[1]
