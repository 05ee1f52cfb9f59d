"""Migrations: each once, in order, by one process at a time, all or nothing; what does not fit is refused."""

import hashlib
import threading
from pathlib import Path

import psycopg
import pytest

from storage import migrate as module
from storage.errors import DatabaseUnavailableError, SchemaError
from storage.migrate import LOCK, migrate, migrations

KNOWN = [(1, "0001_one.sql", "CREATE TABLE one (n int);"), (2, "0002_two.sql", "CREATE TABLE two (n int);")]


@pytest.fixture
def empty_url(postgres_url: str) -> str:
    """A database without a schema."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return postgres_url


def use(monkeypatch: pytest.MonkeyPatch, *known: tuple[int, str, str]) -> None:
    monkeypatch.setattr(module, "migrations", lambda: list(known))


def tables(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    return {name for (name,) in rows}


def test_all_are_applied_to_an_empty_database_and_none_again(empty_url: str) -> None:
    applied = migrate(empty_url)
    assert applied == [name for _, name, _ in migrations()]
    assert migrate(empty_url) == []
    assert {"batches", "event_index", "overlay_events", "schema_migrations"} <= tables(empty_url)


def test_what_was_applied_is_noted_with_its_digest(empty_url: str) -> None:
    migrate(empty_url)
    with psycopg.connect(empty_url) as connection:
        rows = connection.execute("SELECT number, name, digest FROM schema_migrations ORDER BY number").fetchall()
    assert rows == [(number, name, hashlib.sha256(sql.encode()).hexdigest()) for number, name, sql in migrations()]


def test_only_what_is_new_is_applied(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, KNOWN[0])
    assert migrate(empty_url) == ["0001_one.sql"]
    use(monkeypatch, *KNOWN)
    assert migrate(empty_url) == ["0002_two.sql"]
    assert tables(empty_url) == {"one", "two", "schema_migrations"}


def test_a_migration_that_fails_leaves_nothing_of_itself(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = (2, "0002_two.sql", "CREATE TABLE two (n int); SELECT 1/0;")
    use(monkeypatch, KNOWN[0], broken)
    with pytest.raises(psycopg.errors.DivisionByZero):
        migrate(empty_url)
    assert tables(empty_url) == {"one", "schema_migrations"}, "those before it stay"
    use(monkeypatch, *KNOWN)
    assert migrate(empty_url) == ["0002_two.sql"], "it can be mended and tried again"


def test_a_database_that_cannot_be_written_is_the_world_s_fault(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, *KNOWN)
    with pytest.raises(DatabaseUnavailableError, match="read-only"):
        migrate(empty_url + "&options=-c%20default_transaction_read_only%3Don")
    with pytest.raises(DatabaseUnavailableError, match="does not answer"):
        migrate("postgresql://nobody@127.0.0.1:1/none")


def test_a_file_that_was_changed_is_refused_before_anything_is_applied(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, KNOWN[0])
    migrate(empty_url)
    use(monkeypatch, (1, "0001_one.sql", "CREATE TABLE other (n int);"), KNOWN[1])
    with pytest.raises(SchemaError, match=r"0001_one\.sql was changed"):
        migrate(empty_url)
    assert tables(empty_url) == {"one", "schema_migrations"}


def test_a_database_of_a_newer_program_is_refused(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, *KNOWN)
    migrate(empty_url)
    use(monkeypatch, KNOWN[0])
    with pytest.raises(SchemaError, match="newer version"):
        migrate(empty_url)


def test_two_processes_that_start_at_once_apply_each_once(empty_url: str) -> None:
    applied: list[list[str]] = []
    threads = [threading.Thread(target=lambda: applied.append(migrate(empty_url))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(len, applied)) == [0, 0, len(migrations())]


def test_while_one_migrates_another_waits(empty_url: str) -> None:
    done = threading.Event()

    def run() -> None:
        migrate(empty_url)
        done.set()

    with psycopg.connect(empty_url, autocommit=True) as holder:
        holder.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
        thread = threading.Thread(target=run)
        thread.start()
        assert not done.wait(0.3)
        holder.execute("SELECT pg_advisory_unlock(%s)", (LOCK,))
        thread.join(60)
    assert done.is_set()


def test_files_are_numbered_without_gaps_and_each_says_what_it_does() -> None:
    numbers = [number for number, _, _ in migrations()]
    assert numbers == list(range(1, len(numbers) + 1))
    folder = Path(module.__file__).parent / "migrations"
    assert {path.name for path in folder.glob("*.sql")} == {name for _, name, _ in migrations()}


def test_what_was_held_before_others_were_counted_is_counted(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is counted for nobody in particular: what it names as its coordinator is within its bytes."""
    known = migrations()
    use(monkeypatch, *(each for each in known if each[0] < 20))
    migrate(empty_url)
    with psycopg.connect(empty_url) as connection:
        connection.execute(
            "INSERT INTO replicas (batch_id, hold, payload, kept_ms) VALUES ('b', 'hold', 'payload', 1)"
        )
        connection.execute(
            """INSERT INTO certificate_log (number, batch_id, source_id, certificate, context, learned_ms)
               VALUES (1, 'c', 's', 'certificate', '{}', 1), (2, 'd', 's', NULL, NULL, 1)"""
        )
    use(monkeypatch, *known)
    migrate(empty_url)
    with psycopg.connect(empty_url) as connection:
        held = connection.execute("SELECT coordinator, held, held_bytes FROM foreign_usage").fetchall()
        certificates = connection.execute("SELECT signer, certificates, bytes FROM certificate_usage").fetchall()
    assert held == [(b"", 1, len("holdpayload"))]
    assert certificates == [(b"", 1, len("certificate{}"))]
