"""Transactions in worker threads: one thread hop each, bounded, retried where the world failed.

psycopg's async classes need asyncio, so connections are synchronous and run under a ``CapacityLimiter``.
A caller that is cancelled lets its transaction finish: what was committed was committed.
"""

import random
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

import psycopg
import structlog
import trio
from psycopg import errors

from storage.errors import DatabaseInUseError, DatabaseUnavailableError
from storage.json_values import adapt

log = structlog.get_logger(__name__)

T = TypeVar("T")

ATTEMPTS_MAX = 12
DELAY_S_FIRST, DELAY_S_MAX = 0.05, 2.0  # all delays together: about 12 s, longer than a crashed server recovers
CONNECT_S_MAX = 5
NODE_LOCK = 0x6E6F6465
HOLD_S = 5.0
RETRIED = (
    errors.SerializationFailure,
    errors.DeadlockDetected,
    psycopg.OperationalError,
    psycopg.InterfaceError,
)
# What the node relies on, whatever the server's defaults are: UTC, flushed commits, a new snapshot per statement.
SESSION = """SET TIME ZONE 'UTC'; SET default_transaction_isolation = 'read committed'; SET jit = off;
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"""


def connect(url: str, *, autocommit: bool = False) -> psycopg.Connection:
    """A connection with the session settings that the rest of this package relies on."""
    connection = psycopg.connect(
        url,
        autocommit=True,
        connect_timeout=CONNECT_S_MAX,
        keepalives_idle=10,
        keepalives_interval=5,
        keepalives_count=3,
        application_name="overlay-node",
    )
    try:
        adapt(connection)
        connection.execute(SESSION)
        connection.autocommit = autocommit
    except BaseException:
        connection.close()
        raise
    return connection


class Database:
    """A bounded set of connections to one database, and the lock that says it is this process's."""

    def __init__(self, url: str, connections_max: int = 6, attempts_max: int = ATTEMPTS_MAX) -> None:
        """``attempts_max``: how often a transaction is run before it is given up."""
        self._url = url
        self._attempts_max = attempts_max
        self._limiter = trio.CapacityLimiter(connections_max)
        self._idle: deque[psycopg.Connection] = deque()
        self._lock: psycopg.Connection | None = None

    async def run(self, work: Callable[[psycopg.Connection], T]) -> T:
        """Run ``work`` in a transaction of its own, in a thread. It may run again if the world failed, also
        where a connection broke during the commit and its outcome is not known.

        Raises:
            DatabaseUnavailableError: after the last attempt; nothing is known to be committed.
        """
        return await trio.to_thread.run_sync(self._attempts, work, limiter=self._limiter)

    def claim(self) -> None:
        """Take the database for this process, for its life.

        Raises:
            DatabaseInUseError: another process has it.
            DatabaseUnavailableError: it cannot be reached.
        """
        try:
            connection = connect(self._url, autocommit=True)
        except psycopg.OperationalError as error:
            raise DatabaseUnavailableError(f"the database cannot be reached: {str(error).strip()}") from error
        row = connection.execute("SELECT pg_try_advisory_lock(%s)", (NODE_LOCK,)).fetchone()
        if row is None or not row[0]:
            connection.close()
            raise DatabaseInUseError(
                "another node process uses this database: stop it, or give each node a database of its own"
            )
        self._lock = connection

    async def hold(self) -> None:
        """Keep the claim: take it again when its connection broke, until cancelled.

        Raises:
            DatabaseInUseError: another process was faster; this one must write no more.
        """
        while True:
            await trio.sleep(HOLD_S)
            await trio.to_thread.run_sync(self._claim_again, limiter=self._limiter)

    def _claim_again(self) -> None:
        assert self._lock is not None, "claimed before it is held"
        try:
            self._lock.execute("SELECT 1")
        except RETRIED as error:
            log.warning("database.claim_lost", why=str(error).strip())
            self._lock.close()
            try:
                self.claim()
            except DatabaseUnavailableError as unavailable:
                log.warning("database.claim_waits", why=str(unavailable))

    def close(self) -> None:
        self._discard_idle()
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> "Database":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _attempts(self, work: Callable[[psycopg.Connection], T]) -> T:
        delay_s = DELAY_S_FIRST
        for attempt in range(1, self._attempts_max + 1):
            try:
                return self._transact(work)
            except RETRIED as error:
                log.warning("database.retry", attempt=attempt, why=str(error).strip())
                if attempt == self._attempts_max:
                    text = "the database does not answer; the request can be repeated"
                    raise DatabaseUnavailableError(text) from error
            time.sleep(delay_s * random.uniform(0.5, 1.0))  # noqa: S311  # spread, no secret
            delay_s = min(2 * delay_s, DELAY_S_MAX)
        raise AssertionError("the last attempt returns or raises")

    def _transact(self, work: Callable[[psycopg.Connection], T]) -> T:
        connection = self._take()
        try:
            with connection.transaction():
                result = work(connection)
        except BaseException:
            if connection.closed or connection.broken:
                connection.close()
                self._discard_idle()  # they were open as long: a server that restarted broke them all
            else:
                self._idle.append(connection)
            raise
        self._idle.append(connection)
        return result

    def _take(self) -> psycopg.Connection:
        try:
            return self._idle.pop()  # another thread may have emptied it since a look at its length
        except IndexError:
            return connect(self._url)

    def _discard_idle(self) -> None:
        while True:
            try:
                self._idle.pop().close()
            except IndexError:
                return
