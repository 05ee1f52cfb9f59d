"""Notices a commit that the database holds up, so that nobody waits for it without bound.

The commit itself goes on: cutting it off would leave its outcome unknown just the same, and its events would have to
be sent and written again. Whoever repeats the request learns what came of it; a repeat is harmless.

A commit that is merely slow, since the machine is busy, is not held up: the database answers beside it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import structlog
import trio

from node.ingest.requests import QueuedRequest
from protocols.errors import OverlayError
from storage.database import Database
from storage.errors import DatabaseUnavailableError, StatementError
from storage.faults import unavailable
from storage.waits import is_waiting_for_lock

if TYPE_CHECKING:
    from psycopg import Connection

log = structlog.get_logger(__name__)

T = TypeVar("T")

LOOK_S: Final = 1.0  # how long a commit takes before it is looked at
PROBE_S: Final = 0.6  # within which a database that works answers
SLOW_S: Final = 10.0  # a commit that takes longer is held up, whatever else the database does
PAUSE_S: Final = 0.2
REMEMBERED_S: Final = 15.0  # without a commit since: whether the next one would succeed is not known
CONFLICT: Final = "conflict"


class CommitWatch:
    """Watches one commit at a time."""

    def __init__(self, database: Database, on_held_up: Callable[[OverlayError], None]) -> None:
        """``on_held_up``: Answers those who wait behind the commit; called again and again while it lasts."""
        self._database = database
        self._on_held_up = on_held_up
        self._requests: Sequence[QueuedRequest] = ()
        self._began = trio.Event()
        self._began_s = 0.0
        self._failed = ""
        self._pid = 0  # of the server's process that carries out the commit, or the attempt before
        self._fault: DatabaseUnavailableError | None = None
        self._last_fault: DatabaseUnavailableError | StatementError | None = None
        self._last_fault_s = 0.0

    @property
    def trouble(self) -> DatabaseUnavailableError | StatementError | None:
        """What holds the commit up, or made the last one fail; a failure counts for ``REMEMBERED_S``."""
        if self._fault is None and trio.current_time() - self._last_fault_s < REMEMBERED_S:
            return self._last_fault
        return self._fault

    def refuse_if_held_up(self) -> None:
        """Raises:
        DatabaseUnavailableError: A commit is held up: nothing is taken in behind it.
        """
        if self._fault is not None:
            raise self._fault.anew()

    async def commit(self, requests: Sequence[QueuedRequest], work: "Callable[[Connection], T]") -> T:
        """Run the transaction that commits these requests, as ``Database.run``, and watch it."""

        def attempt(connection: "Connection") -> T:
            self._pid = connection.info.backend_pid
            return work(connection)

        self._requests, self._failed, self._began_s = requests, "", trio.current_time()
        self._began.set()
        try:
            committed = await self._database.run(attempt, on_retry=self._note_failure)
            self._last_fault = None
            return committed
        except (DatabaseUnavailableError, StatementError) as fault:
            self._last_fault, self._last_fault_s = fault.anew(), trio.current_time()
            raise
        finally:
            self._requests, self._fault, self._began = (), None, trio.Event()

    def _note_failure(self, cause: str) -> None:
        """Take note, in the commit's thread, that an attempt failed, and goes on to the next.

        A conflict with another transaction does not count: the next attempt follows at once.
        """
        if cause != CONFLICT:
            self._failed = cause

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            began = self._began
            await began.wait()
            left_s = self._began_s + LOOK_S - trio.current_time()
            if left_s > 0:
                await trio.sleep(left_s)
                continue
            fault = await self._look()
            if fault is not None and began is self._began:
                self._hold_up(fault)
            await trio.sleep(PAUSE_S)

    async def _look(self) -> DatabaseUnavailableError | None:
        if self._failed:
            return unavailable(self._failed)
        if trio.current_time() - self._began_s >= SLOW_S:
            return unavailable("slow")
        try:
            blocked = await self._database.run(partial(_is_blocked, self._pid), deadline_s=PROBE_S)
        except DatabaseUnavailableError as fault:
            return fault
        return unavailable("locked") if blocked else None

    def _hold_up(self, fault: DatabaseUnavailableError) -> None:
        if self._fault is None:
            log.warning("ingest.held_up", requests=len(self._requests), why=str(fault))
        self._fault = fault
        for request in self._requests:
            request.finish(fault.anew())
        self._on_held_up(fault)


def _is_blocked(pid: int, connection: "Connection") -> bool:
    return is_waiting_for_lock(connection, pid=pid, seconds=PROBE_S)
