"""What ``Database.run`` retries, what it lets through, and how many transactions it runs at once."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import psycopg
import pytest
import trio
from psycopg import errors

from storage.connections import connect
from storage.database import Database
from storage.errors import DatabaseUnavailableError, SchemaError, StatementError, StorageRefusedError
from tests.outage import out_of_order

Connection = psycopg.Connection[Any]


class Failing:
    """Work that fails a number of times before it succeeds."""

    def __init__(self, times: int, error: Callable[[], Exception]) -> None:
        self.runs = 0
        self._times = times
        self._error = error

    def __call__(self, connection: Connection) -> int:
        connection.execute("INSERT INTO node_meta (name, value) VALUES (%s, 'x')", (f"run {self.runs}",))
        self.runs += 1
        if self.runs <= self._times:
            raise self._error()
        return self.runs


async def written(database: Database) -> list[str]:
    rows = await database.run(lambda connection: connection.execute("SELECT name FROM node_meta").fetchall())
    return [name for (name,) in rows]


@pytest.mark.parametrize(
    "error",
    [
        errors.SerializationFailure,
        errors.DeadlockDetected,
        errors.UniqueViolation,
        errors.DiskFull,
        errors.ReadOnlySqlTransaction,
        errors.LockNotAvailable,
        errors.AdminShutdown,
        errors.CannotConnectNow,
        errors.TooManyConnections,
        psycopg.OperationalError,
        psycopg.InterfaceError,
    ],
)
async def test_what_the_world_broke_is_run_again_and_counts_once(
    postgres_url: str, error: Callable[[], Exception]
) -> None:
    with Database(postgres_url, attempts_max=4) as database:
        work = Failing(2, error)
        assert await database.run(work) == 3
        assert await written(database) == ["run 2"], "the attempts before were rolled back"


async def test_what_took_too_long_is_run_again_once(postgres_url: str) -> None:
    with Database(postgres_url, attempts_max=4) as database:
        work = Failing(9, errors.QueryCanceled)
        with pytest.raises(DatabaseUnavailableError, match="takes too long"):
            await database.run(work)
        assert work.runs == 2
        assert await database.run(Failing(1, errors.QueryCanceled)) == 2
        assert await written(database) == ["run 1"]


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (ValueError, ValueError),
        (KeyError, KeyError),
        (errors.SyntaxError, StatementError),
        (errors.UndefinedTable, SchemaError),
        (psycopg.DataError, StorageRefusedError),
        (errors.NumericValueOutOfRange, StorageRefusedError),
        (errors.CheckViolation, StorageRefusedError),
    ],
)
async def test_what_will_never_succeed_is_raised_at_once_and_leaves_nothing(
    postgres_url: str, error: Callable[[], Exception], raised: type[Exception]
) -> None:
    with Database(postgres_url, attempts_max=4) as database:
        work = Failing(9, error)
        with pytest.raises(raised):
            await database.run(work)
        assert work.runs == 1
        assert await written(database) == []


async def test_after_the_last_attempt_the_database_is_unavailable(postgres_url: str) -> None:
    with Database(postgres_url, attempts_max=3) as database:
        work = Failing(9, errors.SerializationFailure)
        with pytest.raises(DatabaseUnavailableError, match="can be repeated") as refused:
            await database.run(work)
        assert work.runs == 3
        assert isinstance(refused.value.__cause__, errors.SerializationFailure)


async def test_an_outage_shorter_than_the_attempts_costs_only_time(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        assert await database.run(lambda connection: connection.execute("SELECT 1").fetchone()) == (1,)
        found: list[tuple[Any, ...] | None] = []

        async def ask() -> None:
            found.append(await database.run(lambda connection: connection.execute("SELECT 2").fetchone()))

        async with trio.open_nursery() as nursery:
            with out_of_order(postgres_url):
                nursery.start_soon(ask)
                await trio.sleep(0.3)
                assert found == []
        assert found == [(2,)]


async def test_an_outage_that_goes_on_is_reported_and_over_when_it_is_over(postgres_url: str) -> None:
    with Database(postgres_url, attempts_max=2) as database:
        with out_of_order(postgres_url), pytest.raises(DatabaseUnavailableError):
            await database.run(lambda connection: connection.execute("SELECT 1").fetchone())
        assert await database.run(lambda connection: connection.execute("SELECT 2").fetchone()) == (2,)


async def test_two_transactions_that_block_each_other_both_come_to_an_end(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        for name in ("a", "b"):
            await database.run(partial(_insert, name))
        both_hold_one = threading.Barrier(2)

        def swap(first: str, second: str, connection: Connection) -> None:
            _touch(first, connection)
            with suppress(threading.BrokenBarrierError):  # broken where one is run again, by itself
                both_hold_one.wait(timeout=5)
            _touch(second, connection)

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(database.run, partial(swap, "a", "b"))
                nursery.start_soon(database.run, partial(swap, "b", "a"))
        values = await database.run(
            lambda connection: connection.execute("SELECT value FROM node_meta ORDER BY name").fetchall()
        )
        assert values == [("xx",), ("xx",)]


def _insert(name: str, connection: Connection) -> None:
    connection.execute("INSERT INTO node_meta (name, value) VALUES (%s, '')", (name,))


def _touch(name: str, connection: Connection) -> None:
    connection.execute("UPDATE node_meta SET value = value || 'x' WHERE name = %s", (name,))


async def test_no_more_transactions_run_at_once_than_there_are_connections(postgres_url: str) -> None:
    lock = threading.Lock()
    running, most = 0, 0

    def work(connection: Connection) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.05)
        with lock:
            running -= 1

    with Database(postgres_url, connections_max=2) as database:
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(database.run, work)
    assert most == 2


async def test_a_connection_is_used_again(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        pids = [await database.run(lambda connection: connection.info.backend_pid) for _ in range(3)]
        assert len(set(pids)) == 1
        with pytest.raises(ValueError, match="ours"):
            await database.run(_fail)
        assert await database.run(lambda connection: connection.info.backend_pid) == pids[0], (
            "a fault of ours breaks none"
        )


def _fail(connection: Connection) -> None:
    raise ValueError("ours")


async def test_closing_ends_the_idle_connections(postgres_url: str) -> None:
    database = Database(postgres_url)
    pid = await database.run(lambda connection: connection.info.backend_pid)
    database.close()
    database.close()
    with psycopg.connect(postgres_url, autocommit=True) as other, trio.fail_after(20):
        while other.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", (pid,)).fetchone() is not None:
            await trio.sleep(0.02)


async def test_a_caller_that_was_cancelled_before_it_began_runs_nothing(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        work = Failing(0, ValueError)
        with trio.CancelScope() as scope:
            scope.cancel()
            await database.run(work)
        assert work.runs == 0


def test_a_session_says_who_it_is_and_commits_as_it_is_told(postgres_url: str) -> None:
    with connect(postgres_url) as connection:
        assert not connection.autocommit
        assert connection.execute("SELECT current_setting('application_name')").fetchone() == ("overlay-node",)
    with connect(postgres_url, autocommit=True) as connection:
        assert connection.autocommit
