"""Callers for whom somebody waits, while the database does not answer."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest
import trio
import trio.testing

from storage.database import Database
from storage.embedded import EmbeddedPostgres
from storage.errors import DatabaseUnavailableError
from storage.patience import GIVEN_UP_S, LOOK_S, WAITS_S
from tests.outage import frozen, set_read_only

MARGIN_S = 5.0  # for a busy machine: without a bound these take a minute and longer
WAITED_S = 30.0


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[Database]:
    with Database(postgres_url, connections_max=2) as opened:
        await opened.run(lambda connection: connection.execute("CREATE TABLE proof (n int)") and None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(opened.watch)
            WAITS_S.set(WAITED_S)
            yield opened
            nursery.cancel_scope.cancel()


def count(connection: psycopg.Connection) -> int:
    row = connection.execute("SELECT count(*) FROM proof").fetchone()
    assert row is not None
    return int(row[0])


def insert(connection: psycopg.Connection) -> None:
    connection.execute("INSERT INTO proof VALUES (1)")


def sleep(connection: psycopg.Connection) -> None:
    connection.execute("SELECT pg_sleep(%s)", (LOOK_S + 1.0,))


async def given_up(database: Database, work: Callable[[psycopg.Connection], Any]) -> str:
    """The cause that a caller is given up for, within the time that it may take."""
    with trio.fail_after(GIVEN_UP_S + MARGIN_S), pytest.raises(DatabaseUnavailableError) as caught:
        await database.run(work)
    return str(caught.value.fields["cause"])


async def test_a_server_that_is_frozen(database: Database, postgres: EmbeddedPostgres) -> None:
    with frozen(postgres):
        async with trio.open_nursery() as nursery:
            for _ in range(6):  # more than there are connections
                nursery.start_soon(given_up, database, count)
    with trio.fail_after(30):
        assert await database.run(count) == 0


async def test_a_statement_that_is_slow_goes_on(database: Database) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(database.run, sleep)
        nursery.start_soon(database.run, sleep)
        await database.run(sleep)  # it waits for its turn meanwhile


async def test_a_statement_that_is_too_slow_does_not(database: Database) -> None:
    WAITS_S.set(LOOK_S)
    assert await given_up(database, sleep) == "slow"


async def test_a_lock_in_the_way(database: Database, postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as other:
        other.execute("LOCK TABLE proof")
        assert await given_up(database, insert) == "locked"


async def test_a_database_that_takes_no_writes(database: Database, postgres_url: str) -> None:
    set_read_only(postgres_url, "on")
    assert await given_up(database, insert) == "read-only"
    with trio.fail_after(GIVEN_UP_S + MARGIN_S):
        assert await database.run(count) == 0


async def test_what_nobody_waits_for_goes_on(database: Database, postgres: EmbeddedPostgres) -> None:
    done = trio.Event()

    async def beside() -> None:
        WAITS_S.set(float("inf"))
        await database.run(insert)
        done.set()

    async with trio.open_nursery() as nursery:
        with frozen(postgres):
            nursery.start_soon(beside)
            assert await given_up(database, count) == "slow"
            assert not done.is_set()
        with trio.fail_after(30):
            await done.wait()


async def test_who_waits_for_the_work_of_another_is_given_up_too(
    database: Database, postgres: EmbeddedPostgres
) -> None:
    refused = pytest.raises(DatabaseUnavailableError)
    with frozen(postgres), trio.fail_after(GIVEN_UP_S + MARGIN_S), refused, database.awaited():
        await trio.sleep_forever()


async def test_a_caller_that_is_cancelled_before_its_turn_leaves(database: Database) -> None:
    """One that has its turn lets its transaction finish."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(database.run, sleep)
        nursery.start_soon(database.run, sleep)
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0.1) as cancelled:
            await database.run(insert)
        assert cancelled.cancelled_caught
    assert await database.run(count) == 0
