"""A poll that is cancelled at any of its steps: the next one loses nothing and doubles nothing."""

from functools import partial
from typing import Any

import pytest
import trio

from node.runtime.guarded_http import guarded_client
from node.sources import poll
from node.sources.settings.poll import PollSourceSettings
from storage import sources
from tests.node.http_server import serving
from tests.node.running import Running, running
from tests.node.sources.test_poll import ALLOWED, WAYS, Listing, an_intake, configuration_of


class Steps(trio.abc.Instrument):
    """Cancels what a task does at its n-th step."""

    def __init__(self, at: int) -> None:
        self._left = at
        self.scope = trio.CancelScope()
        self.task: trio.lowlevel.Task | None = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self._left -= 1
            if self._left <= 0:
                self.scope.cancel()


async def one_poll(node: Running, source_id: str, settings: PollSourceSettings, crash_at: int | None) -> bool:
    """Poll once from the mark, or up to a crash. Returns whether the poll came to its end."""
    intake = await an_intake(node, source_id, settings)
    steps = Steps(10**9 if crash_at is None else crash_at)
    trio.lowlevel.add_instrument(steps)
    try:
        with steps.scope:
            steps.task = trio.lowlevel.current_task()
            async with guarded_client(ALLOWED, 20) as client:
                await poll.Poller(intake, settings, client).poll()
                return True
    finally:
        trio.lowlevel.remove_instrument(steps)
    return False


def cursor_and_events(connection: Any, source_id: str) -> tuple[int, int, int]:
    """How far a source is read, how many events it has, and how many versions; as one moment saw them."""
    found = sources.mark(connection, source_id) or {}
    row = connection.execute(
        """SELECT count(DISTINCT i.event_digest), count(*) FROM event_index i JOIN batches b ON b.number = i.batch
           WHERE b.source_id = %s""",
        (source_id,),
    ).fetchone()
    return int(found.get("cursor", 0)), row[0], row[1]


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
async def test_a_crash_at_any_step_loses_nothing_and_doubles_nothing(postgres_url: str, way: str) -> None:
    """The connector is cancelled at its every step; the next one goes on from the mark that is on disk."""
    listing = Listing(7)
    async with running(postgres_url) as node, serving(getattr(listing, way)) as server:
        settings = PollSourceSettings.model_validate(configuration_of(server, way, 3_600))
        crashes = 0
        for step in range(1, 1_000):
            source_id = f"s{step}"
            await node.source(source_id)
            if await one_poll(node, source_id, settings, crash_at=step):
                break
            crashes += 1
            cursor, events, versions = await node.database.run(partial(cursor_and_events, source_id=source_id))
            assert cursor <= events == versions, f"after step {step} the mark is ahead of the events"
            assert await one_poll(node, source_id, settings, crash_at=None)
            _, events, versions = await node.database.run(partial(cursor_and_events, source_id=source_id))
            assert (events, versions) == (7, 7), f"a crash at step {step}"
        assert crashes > 30, "hardly a step was tried"
