"""The ground a simulation runs on: a deterministic scheduler, and databases without anything of an earlier seed."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
import trio
import trio.testing
from trio._core import _run as trio_run

from node.runtime.processor_time import ProcessorTimes
from storage.connections import BoundedConnection, connect

T = TypeVar("T")


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """trio's scheduler, the standard library's generator and threads as functions of a seed.

    By trio's private names, as trio's own tests do it; the version is pinned.
    """
    before = trio_run._ALLOW_DETERMINISTIC_SCHEDULING
    threads, watch = trio.to_thread.run_sync, ProcessorTimes.since_last
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    trio_run._r.seed(seed)
    random.seed(seed)
    trio.to_thread.run_sync = _in_place  # type: ignore[assignment]
    ProcessorTimes.since_last = lambda self: {}  # type: ignore[method-assign]
    try:
        yield
    finally:
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING = before  # type: ignore[misc]
        trio.to_thread.run_sync, ProcessorTimes.since_last = threads, watch  # type: ignore[method-assign]


async def _in_place(call: Callable[..., T], *args: Any, **options: Any) -> T:
    await trio.lowlevel.checkpoint()
    return call(*args)


def reset(connection: psycopg.Connection) -> None:
    """Leave nothing of an earlier seed. Rows are few: to delete them is quicker than to truncate."""
    with connection.transaction():
        tables = connection.execute(
            """SELECT string_agg(format('DELETE FROM %I', tablename), ';') FROM pg_tables
               WHERE schemaname = 'public' AND tablename NOT LIKE '%%migration%%'"""
        ).fetchone()
        sequences = (
            "SELECT setval(format('%I', sequencename), 1, false) FROM pg_sequences WHERE last_value IS NOT NULL"
        )
        assert tables is not None
        connection.execute(f"SET LOCAL session_replication_role = replica; {tables[0]}".encode())
        connection.execute(sequences.encode())


@contextmanager
def grounds(server: str, prefix: str, nodes: int) -> Iterator[tuple[list[str], dict[str, BoundedConnection]]]:
    """Databases for so many nodes on a server that has one to copy, named ``overlay``."""
    names = [f"{prefix}_{index}" for index in range(nodes)]
    maintenance = server.replace("/overlay?", "/postgres?")
    urls = [server.replace("/overlay?", f"/{name}?") for name in names]
    with psycopg.connect(maintenance, autocommit=True) as admin:
        for name in names:
            admin.execute(f"CREATE DATABASE {name} TEMPLATE overlay".encode())
        connections = {url: connect(url) for url in urls}
        for connection in connections.values():
            connection.execute(b"SET synchronous_commit = off")
            connection.commit()
        try:
            yield urls, connections
        finally:
            for connection in connections.values():
                connection.close()
            for name in names:
                admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
