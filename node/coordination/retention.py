"""Deletes the data of events once the retention time of their policy is over.

Those of other coordinators' batches that were finished here are deleted a month after their end.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import structlog
import trio

from agents.policy import policy_facts
from node.runtime.clock import clock_ms
from storage import retention
from storage.database import MAINTENANCE_S, Database

log = structlog.get_logger(__name__)

ROUND_S: Final = 600.0
BATCHES_AT_ONCE: Final = 20
DAY_MS: Final = 86_400_000
ADOPTED_DAYS: Final = 30  # their coordinators are back by then, or their events are with the agents


class Retention:
    """Deletes at intervals, a few batches in a transaction."""

    def __init__(self, database: Database, sleep: Callable[[float], Awaitable[None]] = trio.sleep) -> None:
        self._database = database
        self._sleep = sleep

    async def run(self) -> None:
        while True:
            await self.round()
            await self._sleep(ROUND_S)

    async def round(self) -> int:
        """Delete all data that is out of its retention time now. Returns the number of batches.

        Policies whose functions are not installed any more count as all others: the time stands in the document.
        """
        expired = await self._expire_all(
            partial(retention.expire_adopted, ended_before_ms=clock_ms() - ADOPTED_DAYS * DAY_MS)
        )
        for policy_hash, document in await self._database.run(retention.policies):
            days = policy_facts(document).retention_days
            if days is None:
                continue
            before_ms = clock_ms() - days * DAY_MS
            expired += await self._expire_all(
                partial(retention.expire, policy_hash=policy_hash, certified_before_ms=before_ms)
            )
        if expired:
            log.info("retention.expired", batches=expired)
        return expired

    async def _expire_all(self, expire: Callable[..., int]) -> int:
        """Run a deletion until nothing is left for it. Returns the number of batches."""
        expired = 0
        some = partial(expire, now_ms=clock_ms(), limit=BATCHES_AT_ONCE)
        while found := await self._database.run(some, statement_s=MAINTENANCE_S):
            expired += found
        return expired
