"""A database that goes away while a test runs."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg


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
