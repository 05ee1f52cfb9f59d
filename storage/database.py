"""Transactions in worker threads: one thread hop each, bounded, retried where the world failed.

psycopg's async classes need asyncio, so connections are synchronous and run under a ``CapacityLimiter``.
A caller that is cancelled lets its transaction finish: what was committed was committed.

Nothing waits without bound. The server ends what takes longer than ``STATEMENT_S``, or waits longer than ``LOCK_S``
for a lock; a connection to a server that says nothing is closed after ``ATTEMPT_S``, or at its caller's deadline.
A request waits for a server that says nothing for ``patience.GIVEN_UP_S``.
"""

import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from types import TracebackType
from typing import Final, TypeVar

import psycopg
import structlog
import trio

from protocols.errors import OverlayError
from storage.claim import Claim
from storage.connections import ATTEMPT_S, STATEMENT_S, BoundedConnection, connect
from storage.disk import DiskReserve
from storage.errors import (
    DatabaseUnavailableError,
    SchemaError,
    StatementError,
    StorageRefusedError,
)
from storage.faults import SCHEMA, Reaction, Verdict, unavailable, verdict_of
from storage.patience import PROBE_S, WAITS_S, Turn, Wait, Watch
from storage.waits import waiting_for_lock

log = structlog.get_logger(__name__)

T = TypeVar("T")

ATTEMPTS_MAX = 12
DELAY_S_FIRST, DELAY_S_MAX = 0.05, 2.0  # all delays together: about 12 s, longer than a crashed server recovers
URGENT_MAX: Final = 2  # connections for calls with a deadline: these do not queue behind the others
MAINTENANCE_S: Final = 3_600  # for a statement that walks a large table, where nobody waits for it
SLOW_ATTEMPTS_MAX: Final = 2  # what took too long once will take too long again, and holds a connection meanwhile


class Database:
    """A bounded set of connections to one database.

    Attributes:
        claim: That says that the database is this process's.
    """

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
        self._watching = trio.CapacityLimiter(1)  # its thread has a connection beside all others
        self._watch = Watch(self._look)
        self._idle: deque[BoundedConnection] = deque()
        self.claim = Claim(url)

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

        Where ``patience.WAITS_S`` says that somebody waits for the caller, the caller is let go when the database
        does not answer; what it was doing may then still be committed.

        Args:
            deadline_s: How long the caller waits, a free thread included, whatever else is said. What runs then is
                cancelled; where it was being committed its outcome is not known.
            statement_s: How long a statement may take; ``MAINTENANCE_S`` for what walks a large table.
            on_retry: Called with the cause when an attempt failed, in the thread.

        Raises:
            DatabaseUnavailableError: after the last attempt or at the deadline; nothing is known to be committed.
            StorageRefusedError: The database cannot hold a value of it; nothing is committed.
            SchemaError: The database is not that of this program; nothing is committed.
            StatementError: A statement of the work is wrong; nothing is committed.
        """
        if deadline_s is not None:
            return await self._run_within(deadline_s, work, statement_s, on_retry, self._urgent)
        with self._watch.wait(WAITS_S.get()) as wait:
            return await trio.to_thread.run_sync(
                self._attempts,
                work,
                wait,
                statement_s,
                _both(wait.note_failure, on_retry),
                abandon_on_cancel=True,  # type: ignore[call-arg]  # an older trio's stubs are installed
                limiter=Turn(self._limiter, wait),  # type: ignore[arg-type]  # trio takes what has these methods
            )
        raise AssertionError("a wait that ends without a result raises")

    async def _run_within(
        self,
        deadline_s: float,
        work: Callable[[psycopg.Connection], T],
        statement_s: int,
        on_retry: Callable[[str], None],
        limiter: trio.CapacityLimiter,
    ) -> T:
        scope = trio.CancelScope(deadline=trio.current_time() + deadline_s)
        until_s = time.monotonic() + deadline_s
        wait = Wait(scope=scope, began_s=trio.current_time(), until_s=until_s, is_watched=False)
        with scope:
            return await trio.to_thread.run_sync(
                self._attempts,
                work,
                wait,
                statement_s,
                _both(wait.note_failure, on_retry),
                abandon_on_cancel=True,  # type: ignore[call-arg]  # an older trio's stubs are installed
                limiter=limiter,
            )
        raise DatabaseUnavailableError(
            f"the database does not answer within {deadline_s:g} s; the request can be repeated",
            cause=wait.failed or "slow",
        )

    def awaited(self) -> AbstractContextManager[Wait]:
        """Within, a caller waits for what somebody else does in the database: for as long as ``run`` would wait.

        Raises:
            DatabaseUnavailableError: As ``run``.
        """
        return self._watch.wait(WAITS_S.get())

    async def watch(self) -> None:
        """Let go of callers for whom somebody waits while the database does not answer, until cancelled."""
        await self._watch.run()

    def hurry(self, waits_s: float) -> None:
        """Let callers for whom somebody waits wait no longer than ``waits_s`` from now: the node is stopping."""
        self._watch.hurry(waits_s)

    def end(self) -> None:
        """Let go of all callers, and refuse those to come: what hangs must not keep the process from its end."""
        self._watch.end("stopping")

    async def _look(self, pids: Sequence[int]) -> frozenset[int]:
        look = partial(waiting_for_lock, pids=pids, seconds=PROBE_S)
        return await self._run_within(PROBE_S, look, STATEMENT_S, lambda cause: None, self._watching)

    async def check(self, deadline_s: float) -> None:
        """Ask whether transactions can be written.

        Raises:
            DatabaseUnavailableError: They cannot, or there is no answer within the deadline.
        """
        await self.run(_refuse_read_only, deadline_s=deadline_s)

    def close(self) -> None:
        self._discard_idle()
        self.claim.close()

    def __enter__(self) -> "Database":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _attempts(
        self,
        work: Callable[[psycopg.Connection], T],
        wait: Wait,
        statement_s: int,
        on_retry: Callable[[str], None],
    ) -> T:
        delay_s = DELAY_S_FIRST
        for attempt in range(1, self._attempts_max + 1):
            try:
                return self._transact(work, wait, statement_s)
            except (psycopg.Error, UnicodeEncodeError) as error:
                verdict = verdict_of(error)
                if verdict.reaction is not Reaction.RETRY:
                    raise _fault(error, verdict) from error
                log.warning("database.retry", attempt=attempt, cause=verdict.cause, why=str(error).strip())
                on_retry(verdict.cause)
                pause_s = delay_s * random.uniform(0.5, 1.0)  # noqa: S311  # spread, no secret
                most = SLOW_ATTEMPTS_MAX if verdict.cause == "slow" else self._attempts_max
                if attempt >= most or wait.cause or time.monotonic() + pause_s >= wait.until_s:
                    raise _fault(error, verdict) from error
            time.sleep(pause_s)
            if wait.cause:  # nobody waits for it any more
                raise unavailable(wait.cause)
            delay_s = min(2 * delay_s, DELAY_S_MAX)
        raise AssertionError("the last attempt returns or raises")

    def _transact(self, work: Callable[[psycopg.Connection], T], wait: Wait, statement_s: int) -> T:
        connection = self._take()
        connection.ends_s = min(wait.until_s, time.monotonic() + statement_s + ATTEMPT_S - STATEMENT_S)
        wait.pid = connection.info.backend_pid
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


def _both(first: Callable[[str], None], second: Callable[[str], None]) -> Callable[[str], None]:
    def call(cause: str) -> None:
        first(cause)
        second(cause)

    return call


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
