"""A database that goes away, or takes no writes, while a test runs."""

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
