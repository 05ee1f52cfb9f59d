"""A server that is read-only, frozen, locked or slow, and values that it cannot hold."""

import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
import trio
from psycopg.types.json import Jsonb

from protocols.errors import OwnFault
from storage.database import MAINTENANCE_S, SLOW_ATTEMPTS_MAX, Database
from storage.embedded import EmbeddedPostgres
from storage.errors import DatabaseUnavailableError, SchemaError, StorageRefusedError
from storage.waits import is_waiting_for_lock
from tests.outage import frozen, set_read_only

MARGIN_S = 5.0  # for a busy machine: what hangs takes a minute and longer


def count(connection: psycopg.Connection) -> int:
    row = connection.execute("SELECT count(*) FROM proof").fetchone()
    assert row is not None
    return int(row[0])


def insert(connection: psycopg.Connection) -> None:
    connection.execute("INSERT INTO proof VALUES (1)")


async def fails_in_time(database: Database, work: Callable[[psycopg.Connection], Any], cause: str) -> None:
    began_s = trio.current_time()
    with pytest.raises(DatabaseUnavailableError) as caught:
        await database.run(work, deadline_s=1.0)
    assert trio.current_time() - began_s < 1.0 + MARGIN_S
    assert caught.value.fields["cause"] == cause


@pytest.fixture
async def database(postgres_url: str) -> Any:
    with Database(postgres_url, connections_max=2) as opened:
        await opened.run(lambda connection: connection.execute("CREATE TABLE proof (n int CHECK (n < 9))") and None)
        yield opened


async def test_a_frozen_server_is_given_up_at_the_deadline_and_used_again(
    postgres: EmbeddedPostgres, database: Database
) -> None:
    with frozen(postgres):
        for _ in range(4):  # more than there are connections: none may be lost to it
            await fails_in_time(database, count, "slow")
    with trio.fail_after(30):
        await database.run(insert)
        assert await database.run(count, deadline_s=20.0) == 1


async def test_a_statement_that_hangs_is_cancelled(database: Database) -> None:
    await fails_in_time(database, lambda connection: connection.execute("SELECT pg_sleep(120)") and None, "slow")

    def sleeping(connection: psycopg.Connection) -> int:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'"
        ).fetchone()
        assert row is not None
        return int(row[0])

    with trio.fail_after(20):
        while await database.run(sleeping):
            await trio.sleep(0.05)


async def test_a_locked_table_does_not_hold_callers_up(postgres_url: str, database: Database) -> None:
    with psycopg.connect(postgres_url) as other:
        other.execute("LOCK TABLE proof")
        await fails_in_time(database, insert, "slow")
        other.rollback()
    await database.run(insert)
    assert await database.run(count) == 1, "what was cut off was not committed"


async def test_waiting_for_a_lock_ends_without_a_deadline_too(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.connections.SESSION", b"SET lock_timeout = '50ms'")
    with Database(postgres_url, attempts_max=2) as database, psycopg.connect(postgres_url) as other:
        other.execute("CREATE TABLE proof (n int)")
        other.commit()
        other.execute("LOCK TABLE proof")
        with pytest.raises(DatabaseUnavailableError, match="locked") as caught:
            await database.run(insert)
        assert caught.value.fields["cause"] == "locked"


async def test_sessions_have_both_limits(database: Database) -> None:
    asked = "SELECT current_setting('statement_timeout'), current_setting('lock_timeout')"
    assert await database.run(lambda connection: connection.execute(asked).fetchone()) == ("1min", "10s")


async def test_a_read_only_database_is_retried_until_it_can_be_written(postgres_url: str, database: Database) -> None:
    def writable_again() -> None:
        time.sleep(0.5)
        with psycopg.connect(postgres_url, autocommit=True) as other:
            other.execute("SET default_transaction_read_only = off")
            other.execute(f"ALTER DATABASE {other.info.dbname} SET default_transaction_read_only = off".encode())

    set_read_only(postgres_url, "on")
    await fails_in_time(database, insert, "read-only")
    thread = threading.Thread(target=writable_again)
    thread.start()
    await database.run(insert)
    thread.join()
    assert await database.run(count) == 1


@pytest.mark.parametrize(
    ("statement", "parameters"),
    [
        ("SELECT %s::text", ("a\x00b",)),
        ("SELECT %s::text", ("a\ud800",)),
        ("SELECT %s::text[]", (["a", "\x00"],)),
        ("SELECT %s", (Jsonb({"a": "\x00"}),)),
        ("SELECT %s::jsonb", ('{"a": "\\u0000"}',)),
        ("SELECT %s::jsonb", ("{",)),
        ("SELECT %s::int", (2**31,)),
        ("SELECT %s::bigint", (2**63,)),
        ("SELECT %s::bigint", (10**400,)),
        ("INSERT INTO proof VALUES (%s)", (10,)),
    ],
)
async def test_what_the_database_cannot_hold_is_refused_and_rolled_back(
    database: Database, statement: str, parameters: tuple[Any, ...]
) -> None:
    attempts = 0

    def work(connection: psycopg.Connection) -> None:
        nonlocal attempts
        attempts += 1
        insert(connection)
        connection.execute(statement.encode(), parameters)

    with pytest.raises(StorageRefusedError):
        await database.run(work)
    assert attempts == 1
    assert await database.run(count) == 0


async def test_a_missing_table_is_the_schema_s_fault(database: Database) -> None:
    with pytest.raises(SchemaError, match="does not exist"):
        await database.run(lambda connection: connection.execute("SELECT * FROM nowhere") and None)


@pytest.mark.parametrize("statement", ["SELEC 1", "SELECT 1 + ARRAY[1]", "INSERT INTO proof VALUES (1, 2)", "VACUUM"])
async def test_a_wrong_statement_is_the_program_s_fault(database: Database, statement: str) -> None:
    attempts = 0

    def work(connection: psycopg.Connection) -> None:
        nonlocal attempts
        attempts += 1
        insert(connection)
        connection.execute(statement.encode())

    with pytest.raises(OwnFault) as caught:
        await database.run(work)
    assert attempts == 1
    assert "\n" not in str(caught.value), "what ends the node says so on one line"
    assert await database.run(count) == 0


async def test_what_took_too_long_twice_is_given_up(database: Database) -> None:
    """Each attempt holds a connection for as long as a statement may take."""
    attempts = 0

    def sleep(connection: psycopg.Connection) -> None:
        nonlocal attempts
        attempts += 1
        connection.execute("SET LOCAL statement_timeout = '50ms'")
        connection.execute("SELECT pg_sleep(60)")

    with pytest.raises(DatabaseUnavailableError) as caught:
        await database.run(sleep)
    assert (attempts, caught.value.fields["cause"]) == (SLOW_ATTEMPTS_MAX, "slow")


async def test_maintenance_may_take_longer_than_a_request(database: Database) -> None:
    def limit(connection: psycopg.Connection) -> str:
        row = connection.execute("SELECT current_setting('statement_timeout')").fetchone()
        assert row is not None
        return str(row[0])

    assert await database.run(limit, statement_s=MAINTENANCE_S) == "1h"
    assert await database.run(limit) == "1min", "the longer limit ended with its transaction"


async def test_sessions_end_with_a_client_that_is_gone(database: Database) -> None:
    def settings(connection: psycopg.Connection) -> list[str]:
        rows = connection.execute(
            "SELECT setting FROM pg_settings WHERE name IN ('idle_in_transaction_session_timeout', 'lock_timeout') "
            "ORDER BY name"
        ).fetchall()
        return [str(row[0]) for row in rows]

    assert await database.run(settings) == ["60000", "10000"]


async def test_transactions_that_take_turns_are_not_held_up(database: Database, postgres_url: str) -> None:
    """Seals wait for each other by an advisory lock; a table that somebody locked is another matter."""
    with psycopg.connect(postgres_url) as other, psycopg.connect(postgres_url, autocommit=True) as watching:
        for lock, shows in (("SELECT pg_advisory_xact_lock(7)", False), ("LOCK TABLE proof", True)):
            other.execute(lock)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_wait_for, database, lock)
                pid = await _until_waiting(watching)
                found = is_waiting_for_lock(watching, pid=pid, seconds=0.0)
                assert not is_waiting_for_lock(watching, pid=other.info.backend_pid, seconds=0.0)
                other.rollback()
            assert found is shows


async def _wait_for(database: Database, lock: str) -> None:
    await database.run(lambda connection: connection.execute(lock) and None)


async def _until_waiting(watching: psycopg.Connection) -> int:
    """Wait for a session of the program's to wait. Returns its process id."""
    with trio.fail_after(30):
        while True:
            row = watching.execute(
                "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
                "AND application_name = 'overlay-node' AND datname = current_database()"
            ).fetchone()
            if row is not None:
                return int(row[0])
            await trio.sleep(0.02)
