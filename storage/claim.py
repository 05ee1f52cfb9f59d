"""The lock that says that a database is this process's."""

import threading
import time
from typing import Final

import psycopg
import structlog
import trio

from storage.connections import ATTEMPT_S, BoundedConnection, connect
from storage.errors import DatabaseInUseError, DatabaseUnavailableError
from storage.faults import Reaction, verdict_of

log = structlog.get_logger(__name__)

NODE_LOCK: Final = 0x6E6F6465
HOLD_S: Final = 5.0
PAUSE_S: Final = 1.0


class Claim:
    """A process's claim on a database, for its life."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: BoundedConnection | None = None
        self._pid: int | None = None  # the server's process that holds the claim for this one
        self._is_in_use = threading.Lock()  # the connection

    def take(self, patience_s: float = 0.0) -> None:
        """Take the database for this process, for its life.

        Args:
            patience_s: How long to wait for a server that cannot be reached.

        Raises:
            DatabaseInUseError: another process has it.
            DatabaseUnavailableError: it cannot be reached.
        """
        ends_s = time.monotonic() + patience_s
        while True:
            try:
                self._connection = self._taken()
                return
            except DatabaseUnavailableError as fault:
                if time.monotonic() + PAUSE_S >= ends_s:
                    raise
                log.warning("database.awaited", why=str(fault))
            time.sleep(PAUSE_S)

    def _taken(self) -> BoundedConnection:
        try:
            connection = connect(self._url, autocommit=True)
            connection.ends_s = time.monotonic() + ATTEMPT_S
            row = connection.execute("SELECT pg_try_advisory_lock(%s)", (NODE_LOCK,)).fetchone()
            held = row is not None and bool(row[0])
            holder = None if held else _holder(connection)
        except psycopg.OperationalError as error:
            text = str(error).strip().partition("\n")[0]
            raise DatabaseUnavailableError(
                f"the database cannot be reached: {text}; check that its server runs, and DATABASE_URL",
                cause=verdict_of(error).cause,
            ) from error
        if held:
            self._pid = connection.info.backend_pid
            return connection
        connection.close()
        if holder is not None and holder == self._pid:
            raise DatabaseUnavailableError(
                "the server still holds this node's own claim, by a connection that broke", cause="unreachable"
            )
        raise DatabaseInUseError(
            "another node process uses this database: stop it, or give each node a database of its own"
        )

    async def hold(self) -> None:
        """Keep the claim: take it again when its connection broke, until cancelled; a look that hangs is left behind.

        Raises:
            DatabaseInUseError: another process was faster; this one must write no more.
        """
        limiter = trio.CapacityLimiter(1)
        while True:
            await trio.sleep(HOLD_S)
            await trio.to_thread.run_sync(
                self._look,
                abandon_on_cancel=True,  # type: ignore[call-arg]  # an older trio's stubs are installed
                limiter=limiter,
            )

    def close(self) -> None:
        """Let go of the claim. A connection that a look hangs on ends with the process."""
        if self._connection is not None and self._is_in_use.acquire(blocking=False):
            self._connection.close()
            self._is_in_use.release()

    def _look(self) -> None:
        with self._is_in_use:
            self._take_again()

    def _take_again(self) -> None:
        assert self._connection is not None, "claimed before it is held"
        try:
            self._connection.ends_s = time.monotonic() + ATTEMPT_S
            self._connection.execute("SELECT 1")
        except psycopg.Error as error:
            if verdict_of(error).reaction is not Reaction.RETRY:
                raise
            log.warning("database.claim_lost", why=str(error).strip())
            self._connection.close()
            try:
                self.take()
            except DatabaseUnavailableError as unavailable:
                log.warning("database.claim_waits", why=str(unavailable))


def _holder(connection: psycopg.Connection) -> int | None:
    """The server's process that holds the claim on this database."""
    row = connection.execute(
        """SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = 0 AND objid = %s AND objsubid = 1
           AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())""",
        (NODE_LOCK,),
    ).fetchone()
    return None if row is None else int(row[0])
