"""Fixtures of the whole suite: one real Postgres a session, a fresh database a test."""

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import structlog
from _pytest.nodeid import coerce_node_id
from hypothesis import HealthCheck, settings

from storage.embedded import EmbeddedPostgres
from storage.migrate import migrate

# a traceback with all local variables takes seconds to render, and the event loop waits for it
_PLAIN = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
structlog.configure(processors=[*structlog.get_config()["processors"][:-1], _PLAIN])

# properties must not fail because the machine is busy
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

_numbers = itertools.count()
_emptied: list[str] = []
LONGEST = ("simulation",)
CALMEST = ("test_functions.py",)  # it relies on a deadline for hanging workers: never beside the longest tests
GROUPS = {"e2e": "networks", "faults": "networks", "interop": "sdk"}


def _turn(item: pytest.Item) -> tuple[bool, bool, bool]:
    folder = item.path.parent.name
    return folder not in LONGEST, folder not in GROUPS, item.path.name in CALMEST


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep tests that start whole networks on one worker, where they run one after the other, and those that share a
    package of the official SDK's on one. Those that take longest begin first.

    A worker knows a group by the end of a test's id; pytest-xdist 3.8 writes it where pytest 9.2 does not read it.
    """
    items.sort(key=_turn)
    if not hasattr(config, "workerinput"):
        return
    for item in items:
        group = GROUPS.get(item.path.parent.name)
        if group is not None:
            item._id = coerce_node_id(f"{item.nodeid}@{group}")


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """The embedded server, with a migrated database to copy."""
    directory = Path(tempfile.mkdtemp(prefix="overlay-test-"))
    os.chmod(directory, 0o755)
    try:
        with EmbeddedPostgres(directory) as server:
            migrate(server.url)
            yield server
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres: EmbeddedPostgres, request: pytest.FixtureRequest) -> Iterator[str]:
    """A migrated database of the test's own, without a row in it. Tests of the schema get one that was never used."""
    with own_database(postgres, is_new=request.path.parent.name == "storage") as url:
        yield url


@pytest.fixture
def other_postgres_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """One more, for a second node."""
    with own_database(postgres) as url:
        yield url


@contextmanager
def own_database(postgres: EmbeddedPostgres, *, is_new: bool = False) -> Iterator[str]:
    """Emptying a database takes a tenth of the time of making one: those that are done with are used again."""
    maintenance = postgres.url.replace("/overlay?", "/postgres?")
    name = "" if is_new or not _emptied else _emptied.pop()
    if not name:
        name = f"test_{next(_numbers)}"
        with psycopg.connect(maintenance, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE overlay".encode())
    url = postgres.url.replace("/overlay?", f"/{name}?")
    yield url
    if is_new:
        with psycopg.connect(maintenance, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
    else:
        empty(url)
        _emptied.append(name)


def empty(url: str) -> None:
    """Make a database as it was when it was new, and end what is still connected to it."""
    with psycopg.connect(url) as connection:
        connection.execute(
            """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND pid <> pg_backend_pid()"""
        )
        connection.execute("SET LOCAL session_replication_role = replica")  # no foreign keys on the way
        tables = connection.execute(
            """SELECT quote_ident(tablename) FROM pg_tables
               WHERE schemaname = 'public' AND tablename <> 'schema_migrations'"""
        ).fetchall()
        for (table,) in tables:
            connection.execute(f"DELETE FROM {table}".encode())
        connection.execute(
            "SELECT setval(format('public.%I', sequencename)::regclass, start_value, false) FROM pg_sequences"
        )


@pytest.fixture
def postgres_urls(postgres_url: str, other_postgres_url: str) -> tuple[str, str]:
    """Databases for two nodes."""
    return postgres_url, other_postgres_url
