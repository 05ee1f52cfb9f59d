"""Progress of subscriptions while the database is away, and how steps that wait become one."""

from collections.abc import AsyncIterator
from functools import partial

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from node.delivery.cursor import Cursor
from node.delivery.cursor_ledger import CursorLedger, _joined
from storage import subscriptions
from storage.database import Database
from storage.errors import DatabaseUnavailableError
from storage.subscriptions import Step, Subscription
from tests.outage import out_of_order

NAME = "sub_1"


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[Database]:
    """With one subscription, from the beginning."""
    with Database(postgres_url) as opened:
        values = {"subscription_id": NAME, "subscription_type": "sse", "client_id": "c"}
        zero = {"cursor_sequence": 0, "cursor_position": 0}
        await opened.run(lambda connection: subscriptions.create(connection, {**values, **zero}))
        yield opened


async def row(database: Database) -> Subscription:
    found = await database.run(partial(subscriptions.get, subscription_id=NAME))
    assert found is not None
    return found


async def test_what_is_noted_while_the_database_is_away_is_written_when_it_is_back(
    database: Database, postgres_url: str
) -> None:
    ledger = CursorLedger(database, flush_s=0.01)
    with out_of_order(postgres_url):
        ledger.note(NAME, Step(revision=0, cursor=(1, 1), deliveries=1, last_success_ms=10))
        with pytest.raises(DatabaseUnavailableError):
            await ledger.flush()
        ledger.note(NAME, Step(revision=0, cursor=(2, 5), deliveries=2, last_success_ms=20))
        ledger.note(NAME, Step(revision=0, failures=1, last_failure_ms=30, last_failure_reason="answered 500"))
    await ledger.flush()
    found = await row(database)
    assert (found.cursor_sequence, found.cursor_position) == (2, 5)
    assert (found.deliveries, found.failures, found.last_success_ms) == (3, 1, 20)
    assert found.last_failure_reason == "answered 500"
    await ledger.flush()
    assert (await row(database)).deliveries == 3, "nothing is written twice"


async def test_a_ledger_that_runs_goes_on_by_itself_after_an_outage(database: Database, postgres_url: str) -> None:
    ledger = CursorLedger(database, flush_s=0.01)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ledger.run)
        with out_of_order(postgres_url):
            ledger.moved(NAME, 0, Cursor(4, 2))
            await trio.sleep(0.2)
        with trio.fail_after(60):
            while (await row(database)).cursor_sequence != 4:
                await trio.sleep(0.05)
        nursery.cancel_scope.cancel()


async def test_what_is_left_is_written_when_the_node_stops(database: Database) -> None:
    ledger = CursorLedger(database, flush_s=3_600)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ledger.run)
        await trio.testing.wait_all_tasks_blocked()
        ledger.moved(NAME, 0, Cursor(7, 1))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert (await row(database)).cursor_sequence == 7


async def test_cursors_never_go_back_and_those_of_another_revision_are_void(database: Database) -> None:
    ledger = CursorLedger(database)
    for cursor in (Cursor(5, 3), Cursor(5, 2), Cursor(4, 9)):
        ledger.moved(NAME, 0, cursor)
        await ledger.flush()
        found = await row(database)
        assert (found.cursor_sequence, found.cursor_position) == (5, 3)
    await database.run(partial(subscriptions.set_cursor, subscription_id=NAME, cursor=(1, 0)))
    ledger.moved(NAME, 0, Cursor(9, 9))
    await ledger.flush()
    assert (await row(database)).cursor_sequence == 1, "a step from before the replay"
    ledger.moved(NAME, 1, Cursor(2, 1))
    await ledger.flush()
    assert (await row(database)).cursor_sequence == 2


async def test_steps_of_subscriptions_that_are_gone_are_let_go(database: Database) -> None:
    ledger = CursorLedger(database)
    ledger.moved("nobody", 0, Cursor(1, 1))
    ledger.moved(NAME, 0, Cursor(1, 1))
    await ledger.flush()
    assert (await row(database)).cursor_sequence == 1


times = st.none() | st.integers(1, 99)


@st.composite
def steps(draw: st.DrawFn) -> Step:
    failed_ms = draw(times)
    return Step(
        revision=draw(st.integers(0, 2)),
        cursor=draw(st.none() | st.tuples(st.integers(0, 5), st.integers(0, 5))),
        deliveries=draw(st.integers(0, 3)),
        failures=draw(st.integers(0, 3)),
        last_success_ms=draw(times),
        last_failure_ms=failed_ms,
        last_failure_reason=None if failed_ms is None else "answered 500",
        failing_since_ms=draw(times),
    )


@given(steps(), steps())
def test_joining_counts_everything_and_moves_the_cursor_forward(first: Step, second: Step) -> None:
    joined = _joined(first, second)
    assert joined.deliveries == first.deliveries + second.deliveries
    assert joined.failures == first.failures + second.failures
    assert joined.revision == max(first.revision, second.revision)
    valid = [each.cursor for each in (first, second) if each.revision == joined.revision and each.cursor is not None]
    assert joined.cursor == max(valid, default=None)


@given(steps(), steps(), steps())
def test_joining_one_by_one_or_in_groups_is_the_same(first: Step, second: Step, third: Step) -> None:
    """An outage joins what waits with what failed to be written."""
    one_by_one, in_groups = _joined(_joined(first, second), third), _joined(first, _joined(second, third))
    assert (one_by_one.cursor, one_by_one.revision) == (in_groups.cursor, in_groups.revision)
    assert (one_by_one.deliveries, one_by_one.failures) == (in_groups.deliveries, in_groups.failures)
