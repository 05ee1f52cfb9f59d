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
from _pytest.nodeid import coerce_node_id

from storage.embedded import EmbeddedPostgres
from storage.migrate import migrate

_numbers = itertools.count()
LONGEST = ("simulation",)
GROUPS = {"e2e": "networks", "faults": "networks", "interop": "sdk"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep tests that start whole networks on one worker, where they run one after the other, and those that share a
    package of the official SDK's on one. Those that take longest begin first.

    A worker knows a group by the end of a test's id; pytest-xdist 3.8 writes it where pytest 9.2 does not read it.
    """
    items.sort(key=lambda item: (item.path.parent.name not in LONGEST, item.path.parent.name not in GROUPS))
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
def postgres_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A database of the test's own, migrated."""
    with own_database(postgres) as url:
        yield url


@pytest.fixture
def other_postgres_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """One more, for a second node."""
    with own_database(postgres) as url:
        yield url


@contextmanager
def own_database(postgres: EmbeddedPostgres) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    maintenance = postgres.url.replace("/overlay?", "/postgres?")
    with psycopg.connect(maintenance, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE overlay".encode())
    yield postgres.url.replace("/overlay?", f"/{name}?")
    with psycopg.connect(maintenance, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def postgres_urls(postgres_url: str, other_postgres_url: str) -> tuple[str, str]:
    """Databases for two nodes."""
    return postgres_url, other_postgres_url
