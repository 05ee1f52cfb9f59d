"""Numbered SQL, applied in order under an advisory lock, each once; what was applied is checked by its hash."""

import hashlib
from importlib import resources

import psycopg

from storage.errors import SchemaError
from storage.faults import Reaction, unavailable, verdict_of

LOCK = 0x6F766C79  # any number, the same in every node


def migrations() -> list[tuple[int, str, str]]:
    """(number, file name, SQL), in order."""
    folder = resources.files("storage") / "migrations"
    files = [path for path in folder.iterdir() if path.name.endswith(".sql")]
    return sorted((int(path.name.split("_")[0]), path.name, path.read_text()) for path in files)


def migrate(url: str) -> list[str]:
    """Bring a database up to date. Returns the names of what was applied now.

    Raises:
        SchemaError: an applied migration is unknown here or was changed since.
        DatabaseUnavailableError: the database cannot be reached or written now.
    """
    try:
        return _migrate(url)
    except psycopg.Error as error:
        verdict = verdict_of(error)
        if verdict.reaction is not Reaction.RETRY:
            raise
        raise unavailable(verdict.cause) from error


def _migrate(url: str) -> list[str]:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
        connection.execute(
            """CREATE TABLE IF NOT EXISTS schema_migrations (
                   number INTEGER PRIMARY KEY, name TEXT NOT NULL, digest TEXT NOT NULL,
                   applied_at TIMESTAMP NOT NULL DEFAULT NOW())"""
        )
        rows = connection.execute("SELECT number, digest FROM schema_migrations").fetchall()
        return _apply(connection, {int(number): str(digest) for number, digest in rows})


def _apply(connection: psycopg.Connection, done: dict[int, str]) -> list[str]:
    known = migrations()
    if set(done) - {number for number, _, _ in known}:
        raise SchemaError("the database was migrated by a newer version of this program: update the program")
    applied = []
    for number, name, sql in known:
        digest = hashlib.sha256(sql.encode()).hexdigest()
        if done.get(number, digest) != digest:
            raise SchemaError(f"migration {name} was changed after it was applied: restore the file")
        if number in done:
            continue
        with connection.transaction():
            connection.execute(sql.encode())
            connection.execute(
                "INSERT INTO schema_migrations (number, name, digest) VALUES (%s, %s, %s)", (number, name, digest)
            )
        applied.append(name)
    return applied
