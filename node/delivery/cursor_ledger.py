"""The progress of subscriptions: in memory at once and on disk a moment later, all of them in one transaction.

What a crash loses is delivered again, never left out: progress is noted after the receiver has taken a delivery.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from node.delivery.cursor import Cursor
from node.runtime.write_behind import WriteBehind
from storage import subscriptions
from storage.database import Database
from storage.subscriptions import Step

if TYPE_CHECKING:
    from psycopg import Connection

FLUSH_S: Final = 0.25


class CursorLedger:
    """Steps that are not written yet, by subscription.

    Attributes:
        deliveries: Webhook deliveries taken since the process started. failures: those not taken, each try.
    """

    def __init__(self, database: Database, flush_s: float = FLUSH_S) -> None:
        self._steps = WriteBehind[str, Step]("cursors", database, write=_write, merge=_joined, flush_s=flush_s)
        self.deliveries = 0
        self.failures = 0

    def note(self, subscription_id: str, step: Step) -> None:
        """Take a step in; never waits. Cursors that would go back are left where they are."""
        self.deliveries += step.deliveries
        self.failures += step.failures
        self._steps.add(subscription_id, step)

    def moved(self, subscription_id: str, revision: int, cursor: Cursor) -> None:
        """All up to ``cursor`` was taken by the subscription's client, or was not wanted."""
        self.note(subscription_id, Step(revision=revision, cursor=(cursor.sequence, cursor.position)))

    async def run(self) -> None:
        """Write what was noted, again and again, until cancelled; then what is left."""
        await self._steps.run()

    async def flush(self) -> None:
        """Write all that was noted so far.

        Raises:
            WorldFault: It is not known to be written, and will be tried again.
        """
        await self._steps.flush()


def _write(connection: "Connection", steps: Mapping[str, Step]) -> None:
    subscriptions.take_steps(connection, steps)


def _joined(first: Step, second: Step) -> Step:
    """Two steps as one; counts add up, of the rest the later word stands."""
    if first.revision > second.revision:
        first, second = second, first
    cursors = [
        each.cursor for each in (first, second) if each.revision == second.revision and each.cursor is not None
    ]
    failed = second if second.last_failure_ms is not None else first
    return Step(
        revision=second.revision,
        cursor=max(cursors, default=None),
        deliveries=first.deliveries + second.deliveries,
        failures=first.failures + second.failures,
        last_success_ms=second.last_success_ms or first.last_success_ms,
        last_failure_ms=failed.last_failure_ms,
        last_failure_status=failed.last_failure_status,
        last_failure_reason=failed.last_failure_reason,
        failing_since_ms=second.failing_since_ms,
    )
