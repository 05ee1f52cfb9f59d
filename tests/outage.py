"""A database that goes away, or takes no writes, while a test runs."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg

from storage.embedded import EmbeddedPostgres


@contextmanager
def out_of_order(postgres_url: str) -> Iterator[None]:
    """A database that takes no connections, and keeps none, until the end of the block."""
    name = postgres_url.rpartition("/")[2].partition("?")[0]
    with psycopg.connect(postgres_url.replace(f"/{name}?", "/postgres?"), autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
        try:
            yield
        finally:
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())


def set_read_only(postgres_url: str, value: str) -> None:
    """Make a database read-only ("on") or writable ("off"), as a failover does: sessions there are ended."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        name = connection.info.dbname
        connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = {value}".encode())
        connection.execute(
            """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND pid <> pg_backend_pid()"""
        )


@contextmanager
def frozen(postgres: EmbeddedPostgres) -> Iterator[None]:
    """The server's processes stopped, as on a host that hangs."""
    pids = [postgres.pid, *_children(postgres.pid)]
    for pid in pids:
        _send(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            _send(pid, signal.SIGCONT)


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # a process of the server may end by itself
        os.kill(pid, number)


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
