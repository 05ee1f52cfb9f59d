"""What validation finds moves the trust in sources: counted as batches are sealed, written once a second."""

from functools import partial
from typing import Final

import trio

from protocols.messages import Statement
from storage import sources
from storage.database import Database

FLUSH_S: Final = 1.0


class TrustLedger:
    """Counts verdicts by source. What a crash takes with it is a second of them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._counts: dict[str, tuple[int, int]] = {}

    def note(self, statement: Statement) -> None:
        """Count a batch that was sealed here."""
        valid, invalid = self._counts.get(statement.source_id, (0, 0))
        self._counts[statement.source_id] = valid + statement.valid, invalid + statement.invalid

    async def run(self) -> None:
        """Write what was counted, again and again, until cancelled."""
        while True:
            await trio.sleep(FLUSH_S)
            await self.flush()

    async def flush(self) -> None:
        if self._counts:
            counts, self._counts = self._counts, {}
            await self._database.run(partial(sources.count_verdicts, counts=counts))
