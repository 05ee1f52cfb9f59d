"""How long those who wait for the database are kept waiting.

A caller for whom somebody waits (a request) says so by the context variable ``WAITS_S``, which all that it calls
inherits. While it waits, the database is looked at from beside. If it answers, the caller's work is merely slow and
goes on, for ``WAITS_S`` at most. If it does not, if a lock is in the way, or if an attempt at the work has failed,
the caller is given up within ``GIVEN_UP_S``. Its transaction is not cut off: the outcome would be just as unknown.
"""

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from math import inf
from typing import Any, Final

import attrs
import trio

from storage.errors import DatabaseUnavailableError
from storage.faults import unavailable

WAITS_S: Final[ContextVar[float]] = ContextVar("WAITS_S", default=inf)
"""How long a call waits for a database that answers; infinite where nobody waits for the caller."""
REQUEST_S: Final = 30.0  # for a request: half of what a statement may take, so that a large page on a slow disk ends
LOOK_S: Final = 0.9  # a call that takes longer is looked at
PROBE_S: Final = 0.6  # within which a database that works answers
GIVEN_UP_S: Final = LOOK_S + PROBE_S + 0.1
PAUSE_S: Final = 0.1
CONFLICT: Final = "conflict"  # with another transaction: the next attempt follows at once


@attrs.define(eq=False, kw_only=True)
class Wait:
    """One caller that waits. ``pid`` and ``failed`` are set by the thread that works for it.

    Attributes:
        until_s: When its time is over, by the monotonic clock.
        is_watched: Somebody waits for the caller.
        pid: Of the server's process that works for it; 0 before it has one.
        failed: Why the last attempt failed.
        cause: Why it was given up; empty while it was not.
    """

    scope: trio.CancelScope
    began_s: float
    until_s: float
    is_watched: bool
    pid: int = 0
    failed: str = ""
    cause: str = ""

    def give_up(self, cause: str) -> None:
        """Wake the caller with the fault of that cause."""
        self.cause = self.cause or cause
        self.scope.cancel()

    def note_failure(self, cause: str) -> None:
        """Take note of a failed attempt."""
        if cause != CONFLICT:
            self.failed = cause


class Turn:
    """A limiter's place for one caller, who can be cancelled while it waits for it, and not from then on."""

    def __init__(self, limiter: trio.CapacityLimiter, wait: Wait) -> None:
        self._limiter = limiter
        self._wait = wait

    async def acquire_on_behalf_of(self, borrower: Any) -> None:
        await self._limiter.acquire_on_behalf_of(borrower)
        self._wait.scope.shield = True

    def release_on_behalf_of(self, borrower: Any) -> None:
        self._limiter.release_on_behalf_of(borrower)


Look = Callable[[Sequence[int]], Awaitable[frozenset[int]]]
"""Asks the database, within ``PROBE_S``, which of some of its processes wait for a lock."""


class Watch:
    """All who wait for one database."""

    def __init__(self, look: Look) -> None:
        """``look``: Raises DatabaseUnavailableError where there is no answer in time."""
        self._look = look
        self._waits: dict[Wait, None] = {}  # the one that began first comes first
        self._added = trio.Event()
        self._latest_s = inf  # for those that are watched, by trio's clock
        self._ended = ""

    @contextmanager
    def wait(self, waits_s: float) -> Iterator[Wait]:
        """Within, wait for the database, for ``waits_s`` at most where that is finite.

        Raises:
            DatabaseUnavailableError: It did not answer, or not in time; what it was doing may still be done.
        """
        now_s = trio.current_time()
        if self._ended:
            raise unavailable(self._ended)
        is_watched = waits_s < inf
        scope = trio.CancelScope(deadline=min(now_s + waits_s, self._latest_s if is_watched else inf))
        wait = Wait(scope=scope, began_s=now_s, until_s=time.monotonic() + waits_s, is_watched=is_watched)
        self._waits[wait] = None
        if wait.is_watched:
            self._added.set()
        try:
            with scope:
                yield wait
        finally:
            del self._waits[wait]
        if scope.cancelled_caught:
            wait.cause = wait.cause or "slow"
            raise unavailable(wait.cause)

    def hurry(self, waits_s: float) -> None:
        """Let none for whom somebody waits wait any longer than ``waits_s`` from now."""
        self._latest_s = trio.current_time() + waits_s
        for wait in self._waits:
            if wait.is_watched:
                wait.scope.deadline = min(wait.scope.deadline, self._latest_s)

    def end(self, cause: str) -> None:
        """Give up all who wait, and all who come, also where nobody waits for them."""
        self._ended = cause
        for wait in list(self._waits):
            wait.give_up(cause)

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            began_s = min((wait.began_s for wait in self._waits if wait.is_watched), default=inf)
            if began_s == inf:
                self._added = trio.Event()
                await self._added.wait()
            elif (left_s := began_s + LOOK_S - trio.current_time()) > 0:
                await trio.sleep(left_s)
            else:
                await self._look_once()
                await trio.sleep(PAUSE_S)

    async def _look_once(self) -> None:
        now_s = trio.current_time()
        watched = [wait for wait in self._waits if wait.is_watched]  # they began before this look
        due = [wait for wait in watched if now_s - wait.began_s >= LOOK_S]
        try:
            locked = await self._look([wait.pid for wait in due if wait.pid])
        except DatabaseUnavailableError as fault:
            for wait in watched:
                wait.give_up(str(fault.fields["cause"]))
            return
        for wait in due:
            if wait.failed or wait.pid in locked:
                wait.give_up(wait.failed or "locked")
