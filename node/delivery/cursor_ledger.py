"""Where subscriptions have come to, in memory at once and on disk a moment later, all of them in one transaction.

What a crash takes with it is delivered again, never left out: a step is noted after what it stands for was taken.
"""

from contextlib import suppress
from functools import partial
from typing import Final

import trio

from node.delivery.chunks import Place
from protocols.errors import WorldFault
from storage import subscriptions
from storage.database import Database
from storage.subscriptions import Step

FLUSH_S: Final = 0.25
LAST_FLUSH_S: Final = 5.0


class CursorLedger:
    """Steps that are not written yet, by subscription.

    Attributes:
        deliveries: Webhook deliveries taken since the process started. failures: those not taken, each try.
    """

    def __init__(self, database: Database, flush_s: float = FLUSH_S) -> None:
        self._database = database
        self._flush_s = flush_s
        self._steps: dict[str, Step] = {}
        self._writing = trio.Lock()
        self._news = trio.Event()
        self.deliveries = 0
        self.failures = 0

    def note(self, subscription_id: str, step: Step) -> None:
        """Take a step in; never waits. Cursors that would go back are left where they are."""
        self.deliveries += step.deliveries
        self.failures += step.failures
        known = self._steps.get(subscription_id)
        self._steps[subscription_id] = step if known is None else _joined(known, step)
        self._news.set()

    def moved(self, subscription_id: str, revision: int, place: Place) -> None:
        """All up to ``place`` was taken by the subscription's client, or was not wanted."""
        self.note(subscription_id, Step(revision=revision, cursor=(place.sequence, place.position)))

    async def run(self) -> None:
        """Write what was noted, again and again, until cancelled; then what is left."""
        try:
            while True:
                await self._news.wait()
                self._news = trio.Event()
                await self.flush()
                await trio.sleep(self._flush_s)
        except trio.Cancelled:
            deadline_s = trio.current_time() + LAST_FLUSH_S
            with trio.CancelScope(deadline=deadline_s, shield=True), suppress(WorldFault):
                await self.flush()
            raise

    async def flush(self) -> None:
        """Write all that was noted so far.

        Raises:
            WorldFault: It is not known to be written, and will be tried again.
        """
        async with self._writing:
            steps, self._steps = self._steps, {}
            if not steps:
                return
            try:
                await self._database.run(partial(subscriptions.take_steps, steps=steps))
            except WorldFault:
                for subscription_id, step in steps.items():
                    later = self._steps.get(subscription_id)
                    self._steps[subscription_id] = step if later is None else _joined(step, later)
                self._news.set()
                raise


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
