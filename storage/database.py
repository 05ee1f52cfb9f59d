"""Transactions in worker threads: one thread hop each, bounded, retried where the world failed.

psycopg's async classes need asyncio, so connections are synchronous and run under a ``CapacityLimiter``.
A caller that is cancelled lets its transaction finish: what was committed was committed.

Nothing waits without bound. The server ends what takes longer than ``STATEMENT_S``, or waits longer than ``LOCK_S``
for a lock; a connection to a server that says nothing is closed after ``ATTEMPT_S``, or at its caller's deadline.
"""

import contextlib
import math
import random
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, TypeVar

import psycopg
import structlog
import trio

from protocols.errors import OverlayError
from storage.disk import DiskReserve
from storage.errors import (
    DatabaseInUseError,
    DatabaseUnavailableError,
    SchemaError,
    StatementError,
    StorageRefusedError,
)
from storage.faults import SCHEMA, Reaction, Verdict, unavailable, verdict_of
from storage.json_values import adapt

log = structlog.get_logger(__name__)

T = TypeVar("T")

ATTEMPTS_MAX = 12
DELAY_S_FIRST, DELAY_S_MAX = 0.05, 2.0  # all delays together: about 12 s, longer than a crashed server recovers
CONNECT_S_MAX = 5
NODE_LOCK = 0x6E6F6465
HOLD_S = 5.0
CLAIM_PAUSE_S: Final = 1.0
URGENT_MAX: Final = 2  # connections for calls with a deadline: these do not queue behind the others
STATEMENT_S: Final = 60
MAINTENANCE_S: Final = 3_600  # for a statement that walks a large table, where nobody waits for it
SLOW_ATTEMPTS_MAX: Final = 2  # what took too long once will take too long again, and holds a connection meanwhile
LOCK_S: Final = 10
ATTEMPT_S: Final = 75.0  # longer than a statement may take: the server's own limits come first
ROLLBACK_S: Final = 0.25  # past the end, for the end of the transaction
CANCEL_S: Final = 0.25
WAKE_S: Final = 0.1
TCP_MS_MAX: Final = 15_000  # until data that a host does not acknowledge breaks a connection
# What the node relies on, whatever the server's defaults are: UTC, flushed commits, a new snapshot per statement.
SESSION = f"""SET TIME ZONE 'UTC'; SET default_transaction_isolation = 'read committed'; SET jit = off;
    SET statement_timeout = '{STATEMENT_S}s'; SET lock_timeout = '{LOCK_S}s';
    SET idle_in_transaction_session_timeout = '{STATEMENT_S}s';
    SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;
    SET tcp_user_timeout = {TCP_MS_MAX};
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'
    """.encode()


class BoundedConnection(psycopg.Connection):
    """A connection that waits for its server until ``ends_s`` at most, by the monotonic clock."""

    ends_s = math.inf

    def wait(self, gen: Any, interval: float = WAKE_S, timeout: float | None = None) -> Any:
        """As psycopg's. Closes the connection to a server that has not answered by ``ends_s``.

        Raises:
            psycopg.errors.QueryCanceled: It did not answer; what a commit under way came to is not known.
        """
        if self.ends_s == math.inf:
            return super().wait(gen, interval, timeout)
        left_s = max(self.ends_s - time.monotonic(), ROLLBACK_S)
        cut_off_s = time.monotonic() + left_s
        try:
            return super().wait(gen, interval, left_s if timeout is None else min(timeout, left_s))
        except psycopg.OperationalError as error:
            if error.sqlstate is not None or self.closed or time.monotonic() < cut_off_s:
                raise
            self._leave()
            raise psycopg.errors.QueryCanceled("the server did not answer in time") from error

    def _leave(self) -> None:
        """Ask the server to end the statement, then close, whether it heard that or not."""
        with contextlib.suppress(psycopg.Error):
            self.cancel_safe(timeout=CANCEL_S)
        self.close()


def connect(url: str, *, autocommit: bool = False) -> BoundedConnection:
    """A connection with the session settings that the rest of this package relies on."""
    connection = BoundedConnection.connect(
        url,
        autocommit=True,
        connect_timeout=CONNECT_S_MAX,
        keepalives_idle=10,
        keepalives_interval=5,
        keepalives_count=3,
        tcp_user_timeout=TCP_MS_MAX,
        application_name="overlay-node",
    )
    with contextlib.ExitStack() as undo:
        undo.callback(connection.close)
        connection.ends_s = time.monotonic() + CONNECT_S_MAX
        adapt(connection)
        connection.execute(SESSION)
        connection.autocommit = autocommit
        connection.ends_s = math.inf
        undo.pop_all()
    return connection


class Database:
    """A bounded set of connections to one database, and the lock that says it is this process's."""

    def __init__(
        self,
        url: str,
        connections_max: int = 6,
        attempts_max: int = ATTEMPTS_MAX,
        reserve: DiskReserve | None = None,
    ) -> None:
        """Args:
        connections_max: For calls without a deadline; there are ``URGENT_MAX`` more for those with one.
        attempts_max: How often a transaction is run before it is given up.
        reserve: Of the disk of a server of the node's own.
        """
        self.reserve = reserve or DiskReserve(None)
        self._url = url
        self._attempts_max = attempts_max
        self._limiter = trio.CapacityLimiter(connections_max)
        self._urgent = trio.CapacityLimiter(URGENT_MAX)
        self._claim_pid: int | None = None  # the server's process that holds the claim for this one
        self._idle: deque[BoundedConnection] = deque()
        self._lock: BoundedConnection | None = None

    async def run(
        self,
        work: Callable[[psycopg.Connection], T],
        *,
        deadline_s: float | None = None,
        statement_s: int = STATEMENT_S,
        on_retry: Callable[[str], None] = lambda cause: None,
    ) -> T:
        """Run ``work`` in a transaction of its own, in a thread. It may run again if the world failed, also
        where a connection broke during the commit and its outcome is not known.

        Args:
            deadline_s: How long the caller waits, a free thread included. What runs then is cancelled; where it was
                being committed its outcome is not known.
            statement_s: How long a statement may take; ``MAINTENANCE_S`` for what walks a large table.
            on_retry: Called with the cause when an attempt failed, in the thread.

        Raises:
            DatabaseUnavailableError: after the last attempt or at the deadline; nothing is known to be committed.
            StorageRefusedError: The database cannot hold a value of it; nothing is committed.
            SchemaError: The database is not that of this program; nothing is committed.
            StatementError: A statement of the work is wrong; nothing is committed.
        """
        if deadline_s is None:
            return await trio.to_thread.run_sync(
                self._attempts, work, math.inf, statement_s, on_retry, limiter=self._limiter
            )
        ends_s = time.monotonic() + deadline_s
        with trio.move_on_after(deadline_s):
            return await trio.to_thread.run_sync(
                self._attempts,
                work,
                ends_s,
                statement_s,
                on_retry,
                abandon_on_cancel=True,  # type: ignore[call-arg]  # an older trio's stubs are installed
                limiter=self._urgent,
            )
        raise DatabaseUnavailableError(
            f"the database does not answer within {deadline_s:g} s; the request can be repeated", cause="slow"
        )

    async def check(self, deadline_s: float) -> None:
        """Ask whether transactions can be written.

        Raises:
            DatabaseUnavailableError: They cannot, or there is no answer within the deadline.
        """
        await self.run(_refuse_read_only, deadline_s=deadline_s)

    def claim(self, patience_s: float = 0.0) -> None:
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
                self._lock = self._claimed()
                return
            except DatabaseUnavailableError as fault:
                if time.monotonic() + CLAIM_PAUSE_S >= ends_s:
                    raise
                log.warning("database.awaited", why=str(fault))
            time.sleep(CLAIM_PAUSE_S)

    def _claimed(self) -> BoundedConnection:
        try:
            connection = connect(self._url, autocommit=True)
            connection.ends_s = time.monotonic() + ATTEMPT_S
            row = connection.execute("SELECT pg_try_advisory_lock(%s)", (NODE_LOCK,)).fetchone()
            held = row is not None and bool(row[0])
            holder = None if held else _claim_holder(connection)
        except psycopg.OperationalError as error:
            text = str(error).strip().partition("\n")[0]
            raise DatabaseUnavailableError(
                f"the database cannot be reached: {text}; check that its server runs, and DATABASE_URL",
                cause=verdict_of(error).cause,
            ) from error
        if held:
            self._claim_pid = connection.info.backend_pid
            return connection
        connection.close()
        if holder is not None and holder == self._claim_pid:
            raise DatabaseUnavailableError(
                "the server still holds this node's own claim, by a connection that broke", cause="unreachable"
            )
        raise DatabaseInUseError(
            "another node process uses this database: stop it, or give each node a database of its own"
        )

    async def hold(self) -> None:
        """Keep the claim: take it again when its connection broke, until cancelled.

        Raises:
            DatabaseInUseError: another process was faster; this one must write no more.
        """
        while True:
            await trio.sleep(HOLD_S)
            await trio.to_thread.run_sync(self._claim_again, limiter=self._urgent)

    def _claim_again(self) -> None:
        assert self._lock is not None, "claimed before it is held"
        try:
            self._lock.ends_s = time.monotonic() + ATTEMPT_S
            self._lock.execute("SELECT 1")
        except psycopg.Error as error:
            if verdict_of(error).reaction is not Reaction.RETRY:
                raise
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

    def _attempts(
        self,
        work: Callable[[psycopg.Connection], T],
        ends_s: float,
        statement_s: int,
        on_retry: Callable[[str], None],
    ) -> T:
        delay_s = DELAY_S_FIRST
        for attempt in range(1, self._attempts_max + 1):
            try:
                return self._transact(work, ends_s, statement_s)
            except (psycopg.Error, UnicodeEncodeError) as error:
                verdict = verdict_of(error)
                if verdict.reaction is not Reaction.RETRY:
                    raise _fault(error, verdict) from error
                log.warning("database.retry", attempt=attempt, cause=verdict.cause, why=str(error).strip())
                on_retry(verdict.cause)
                pause_s = delay_s * random.uniform(0.5, 1.0)  # noqa: S311  # spread, no secret
                most = SLOW_ATTEMPTS_MAX if verdict.cause == "slow" else self._attempts_max
                if attempt >= most or time.monotonic() + pause_s >= ends_s:
                    raise _fault(error, verdict) from error
            time.sleep(pause_s)
            delay_s = min(2 * delay_s, DELAY_S_MAX)
        raise AssertionError("the last attempt returns or raises")

    def _transact(self, work: Callable[[psycopg.Connection], T], ends_s: float, statement_s: int) -> T:
        connection = self._take()
        connection.ends_s = min(ends_s, time.monotonic() + statement_s + ATTEMPT_S - STATEMENT_S)
        try:
            with connection.transaction():
                if statement_s != STATEMENT_S:
                    connection.execute(f"SET LOCAL statement_timeout = '{statement_s:d}s'".encode())
                result = work(connection)
        except BaseException as error:
            if connection.closed or connection.broken or isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
                connection.close()
                self._discard_idle()  # opened as long ago: to a server that restarted, or is no longer the primary
            else:
                self._idle.append(connection)
            raise
        self._idle.append(connection)
        return result

    def _take(self) -> BoundedConnection:
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


def _claim_holder(connection: psycopg.Connection) -> int | None:
    """The server's process that holds the claim on this database."""
    row = connection.execute(
        """SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = 0 AND objid = %s AND objsubid = 1
           AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())""",
        (NODE_LOCK,),
    ).fetchone()
    return None if row is None else int(row[0])


def _refuse_read_only(connection: psycopg.Connection) -> None:
    row = connection.execute("SELECT current_setting('transaction_read_only')").fetchone()
    if row is None or row[0] != "off":
        raise unavailable("read-only")


def _fault(error: Exception, verdict: Verdict) -> OverlayError:
    """The fault that an error is to those who asked."""
    if verdict.reaction is Reaction.RETRY:
        return unavailable(verdict.cause)
    text = str(error).strip().partition("\n")[0]
    if verdict.reaction is Reaction.REFUSE:
        return StorageRefusedError(f"the database cannot store a value: {text}")
    if verdict is SCHEMA:
        return SchemaError(f"the database's schema is not that of this program: {text}")
    return StatementError(f"a statement of this program is wrong: {text}")
