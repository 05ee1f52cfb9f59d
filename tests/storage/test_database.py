"""Transactions that are retried, the lock on a database, migrations that add up."""

import re
from pathlib import Path

import psycopg
import pytest
import trio

from storage import meta
from storage.database import Database
from storage.embedded import EmbeddedPostgres
from storage.errors import DatabaseInUseError, DatabaseUnavailableError, ForeignDatabaseError, SchemaError
from storage.migrate import migrate, migrations
from tests.outage import out_of_order

SPEC_TABLES = {
    "overlay_event_sources": 14,
    "overlay_events": 17,
    "overlay_event_jobs": 16,
    "overlay_event_subscriptions": 11,
    "overlay_event_metrics": 11,
}
SPEC_INDEXES = {
    "idx_overlay_events_source",
    "idx_overlay_events_status",
    "idx_overlay_events_type",
    "idx_overlay_events_hash",
    "idx_overlay_event_jobs_status",
    "idx_overlay_event_jobs_agent",
    "idx_overlay_event_jobs_type",
    "idx_overlay_subscriptions_client",
    "idx_overlay_subscriptions_status",
    "idx_overlay_metrics_type",
    "idx_overlay_metrics_source",
    "idx_overlay_metrics_agent",
}


def shape(url: str) -> list[tuple[object, ...]]:
    """Every column, index, constraint and storage option of the schema, but for the table of migrations."""
    with psycopg.connect(url) as connection:
        columns = connection.execute(
            """SELECT table_name, ordinal_position, column_name, data_type, column_default, is_nullable
               FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'schema_migrations'
               ORDER BY 1, 2"""
        ).fetchall()
        indexes = connection.execute(
            "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' "
            "AND tablename <> 'schema_migrations' ORDER BY 1, 2"
        ).fetchall()
        storage = connection.execute(
            "SELECT c.relname, a.attname, a.attstorage, c.reloptions FROM pg_class c "
            "JOIN pg_attribute a ON a.attrelid = c.oid WHERE c.relnamespace = 'public'::regnamespace "
            "AND c.relname NOT LIKE 'schema_migrations%' AND a.attnum > 0 ORDER BY 1, 2"
        ).fetchall()
        constraints = connection.execute(
            "SELECT conrelid::regclass::text AS relation, conname, pg_get_constraintdef(oid) FROM pg_constraint "
            "WHERE connamespace = 'public'::regnamespace AND conname NOT LIKE 'schema_migrations%' ORDER BY 1, 2"
        ).fetchall()
    return [*columns, *indexes, *storage, *constraints]


def test_migrations_add_up_to_the_schema(postgres: EmbeddedPostgres, postgres_url: str) -> None:
    maintenance = postgres.url.replace("/overlay?", "/postgres?")
    with psycopg.connect(maintenance, autocommit=True) as connection:
        connection.execute("CREATE DATABASE from_schema")
    whole = postgres.url.replace("/overlay?", "/from_schema?")
    schema = Path("storage/schema.sql").resolve()
    with psycopg.connect(whole, autocommit=True) as connection:
        connection.execute(schema.read_bytes())
    assert shape(whole) == shape(postgres_url)


def test_the_specification_s_tables_and_indexes_are_there(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        for table, columns in SPEC_TABLES.items():
            row = connection.execute(
                "SELECT count(*) FROM information_schema.columns WHERE table_name = %s", (table,)
            ).fetchone()
            assert row is not None
            assert row[0] >= columns
        found = {row[0] for row in connection.execute("SELECT indexname FROM pg_indexes").fetchall()}
    assert found >= SPEC_INDEXES


def test_migrations_are_applied_once_and_guarded(postgres_url: str) -> None:
    assert migrate(postgres_url) == []
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("UPDATE schema_migrations SET digest = 'x' WHERE number = 1")
        with pytest.raises(SchemaError, match="changed after"):
            migrate(postgres_url)
        connection.execute("INSERT INTO schema_migrations (number, name, digest) VALUES (9999, 'z', 'z')")
        with pytest.raises(SchemaError, match="newer version"):
            migrate(postgres_url)
    assert [number for number, _, _ in migrations()] == list(range(1, len(migrations()) + 1))
    assert all(re.fullmatch(r"\d{4}_[a-z_]+\.sql", name) for _, name, _ in migrations())


async def test_a_transaction_is_run_again_after_its_connection_was_cut(postgres_url: str) -> None:
    calls = 0

    def work(connection: psycopg.Connection) -> int:
        nonlocal calls
        calls += 1
        pid = connection.info.backend_pid
        if calls == 1:
            with psycopg.connect(postgres_url, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s)", (pid,))
        connection.execute("CREATE TABLE proof (n int)")
        return calls

    with Database(postgres_url) as database:
        assert await database.run(work) == 2
        assert await database.run(lambda c: c.execute("SELECT count(*) FROM proof").fetchone()) == (0,)


async def test_a_failed_transaction_leaves_nothing(postgres_url: str) -> None:
    def fail(connection: psycopg.Connection) -> None:
        connection.execute("CREATE TABLE proof (n int)")
        raise LookupError("ours")

    with Database(postgres_url) as database:
        with pytest.raises(LookupError):
            await database.run(fail)
        found = await database.run(lambda c: c.execute("SELECT to_regclass('proof')").fetchone())
        assert found == (None,)


async def test_a_cancelled_caller_lets_its_transaction_finish(postgres_url: str) -> None:
    def slow(connection: psycopg.Connection) -> None:
        connection.execute("CREATE TABLE proof (n int)")
        connection.execute("SELECT pg_sleep(0.3)")

    with Database(postgres_url) as database:
        with trio.move_on_after(0.05):
            await database.run(slow)
        found = await database.run(lambda c: c.execute("SELECT to_regclass('proof')::text").fetchone())
        assert found == ("proof",)


async def test_an_unreachable_database_is_the_world_s_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.database.DELAY_S_FIRST", 0.001)
    monkeypatch.setattr("storage.database.DELAY_S_MAX", 0.002)
    with (
        Database("postgresql://nobody@127.0.0.1:1/none?connect_timeout=1") as database,
        pytest.raises(DatabaseUnavailableError),
    ):
        await database.run(lambda connection: None)


def test_a_database_serves_one_node_process(postgres_url: str) -> None:
    with Database(postgres_url) as first, Database(postgres_url) as second:
        first.claim.take()
        with pytest.raises(DatabaseInUseError, match="database of its own"):
            second.claim.take()
        first.close()
        second.claim.take()


async def test_a_database_that_is_away_at_the_start_is_waited_for(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.claim.PAUSE_S", 0.05)
    with Database(postgres_url) as database, out_of_order(postgres_url):
        with pytest.raises(DatabaseUnavailableError, match="cannot be reached"):
            database.claim.take(patience_s=0.2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, database.claim.take, 60.0)
            await trio.sleep(0.2)
            nursery.start_soon(_make_available, postgres_url)


async def _make_available(url: str) -> None:
    def change() -> None:
        name = url.rpartition("/")[2].partition("?")[0]
        with psycopg.connect(url.replace(f"/{name}?", "/postgres?"), autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())

    await trio.to_thread.run_sync(change)


def test_a_database_stays_with_the_key_and_network_it_began_with(postgres_url: str) -> None:
    mine, other = b"\x02" + bytes(32), b"\x03" + bytes(32)
    with psycopg.connect(postgres_url) as connection:
        for _ in range(2):
            meta.bind(connection, network="testnet", identity=mine)
        for network, identity, named in (("mainnet", mine, "network"), ("testnet", other, "identity")):
            with pytest.raises(ForeignDatabaseError, match=f"with {named} "):
                meta.bind(connection, network=network, identity=identity)


async def test_sessions_use_utc_and_flush_whatever_the_server_says(postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        name = connection.info.dbname
        for setting in ("timezone TO 'Asia/Kathmandu'", "synchronous_commit TO off"):
            connection.execute(f"ALTER DATABASE {name} SET {setting}".encode())
        connection.execute(f"ALTER DATABASE {name} SET default_transaction_isolation TO 'serializable'".encode())
    asked = "SELECT current_setting('timezone'), current_setting('synchronous_commit'), "
    asked += "current_setting('transaction_isolation')"
    with Database(postgres_url) as database:
        found = await database.run(lambda c: c.execute(asked).fetchone())
        assert found == ("UTC", "on", "read committed")


async def test_one_cut_costs_one_retry_however_many_connections_were_idle(postgres_url: str) -> None:
    """A server that restarts breaks every idle connection; each must not cost an attempt."""
    with Database(postgres_url, connections_max=5, attempts_max=2) as database:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(database.run, lambda c: c.execute("SELECT pg_sleep(0.2)").fetchone())
        with psycopg.connect(postgres_url, autocommit=True) as other:
            cut = other.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            ).fetchone()
        assert cut == (5,)
        assert await database.run(lambda c: c.execute("SELECT 7").fetchone()) == (7,)


def holder(connection: psycopg.Connection) -> int:
    """The server's process that holds the claim on this database; 0 where none does."""
    row = connection.execute(
        """SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted
           AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
    ).fetchone()
    return 0 if row is None else int(row[0])


def cut_holder(connection: psycopg.Connection) -> int:
    """End the connection that holds the claim. Returns its process."""
    pid = holder(connection)
    connection.execute("SELECT pg_terminate_backend(%s)", (pid,))
    return pid


async def test_a_lost_claim_is_taken_again_or_ends_the_node(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.claim.HOLD_S", 0.05)
    with Database(postgres_url) as first, Database(postgres_url) as second:
        first.claim.take()
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(first.claim.hold)
                cut = await second.run(cut_holder)
                while await second.run(holder) in (0, cut):
                    await trio.sleep(0.02)
                with pytest.raises(DatabaseInUseError):
                    second.claim.take()
                nursery.cancel_scope.cancel()
            await second.run(cut_holder)
            while await second.run(holder):
                await trio.sleep(0.02)
            second.claim.take()
            with pytest.raises(DatabaseInUseError):
                await first.claim.hold()


async def test_the_claim_of_a_connection_that_broke_is_not_another_process(postgres_url: str) -> None:
    """The server learns later than the node that their connection is gone."""
    with Database(postgres_url) as before, Database(postgres_url) as after:
        before.claim.take()
        assert before.claim._connection is not None
        after.claim._pid = before.claim._connection.info.backend_pid
        with pytest.raises(DatabaseUnavailableError, match="this node's own claim"):
            after.claim.take()
        before.close()
        after.claim.take(patience_s=30.0)
        before.claim._pid = None
        with pytest.raises(DatabaseInUseError):
            before.claim.take()
