"""Pools of worker processes: one process that admits requests, one that parses what sources send, one that evaluates
level rules, and up to N for roles at a lower priority, so that ingest stays prompt.

Calls are zero-argument and picklable: ``functools.partial`` of functions of modules that import neither the network
nor the database, since a worker keeps what it imports. Workers start when they are first needed, retire when idle,
and end with the node, whose end closes their pipe.
"""

import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from math import inf
from types import TracebackType
from typing import Any, Final, TypeVar

import structlog
import trio
from trio_parallel import BrokenWorkerError, WorkerContext, open_worker_context

from node.worker.bootstrap import begin
from protocols.errors import WorldFault

log = structlog.get_logger(__name__)

T = TypeVar("T")

CALL_S: Final = 60.0
IDLE_S: Final = 60.0
GRACE_S: Final = 5.0
ROLE_NICENESS: Final = 10
ADMISSION_WAITING_MAX: Final = 1_024
ROLES_WAITING_MAX: Final = 512
READING_WAITING_MAX: Final = 1_024
LEVELS_WAITING_MAX: Final = 256
LEVELS_S: Final = 10.0  # what a level rule that hangs can cost the requests behind it
READ_S: Final = 20.0  # what a hostile document can cost the other sources
ATTEMPTS_MAX: Final = 2


class WorkerCrashedError(WorldFault):
    """Each attempt at a call ended its worker process."""

    code = "worker-crashed"


class WorkerTimeoutError(WorldFault):
    """A call took too long; its worker was killed."""

    code = "worker-timeout"


class WorkersBusyError(WorldFault):
    """Too many calls wait already."""

    code = "workers-busy"


class Workers:
    """``async with Workers(4) as workers``: at most four processes for roles.

    Leaving the block waits for running calls; cancel their tasks first, which kills their workers.
    """

    def __init__(
        self, roles: int, *, timeout_s: float = CALL_S, idle_s: float = IDLE_S, levels_s: float = LEVELS_S
    ) -> None:
        self._admission = _Pool(
            "front-door", 1, waiting_max=ADMISSION_WAITING_MAX, timeout_s=timeout_s, idle_s=idle_s, niceness=0
        )
        self._roles = _Pool(
            "roles", roles, waiting_max=ROLES_WAITING_MAX, timeout_s=timeout_s, idle_s=idle_s, niceness=ROLE_NICENESS
        )
        self._reading = _Pool(
            "reading", 1, waiting_max=READING_WAITING_MAX, timeout_s=READ_S, idle_s=idle_s, niceness=ROLE_NICENESS
        )
        self._levels = _Pool(
            "levels", 1, waiting_max=LEVELS_WAITING_MAX, timeout_s=levels_s, idle_s=idle_s, niceness=0
        )
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "Workers":
        await self._stack.enter_async_context(self._admission)
        await self._stack.enter_async_context(self._roles)
        await self._stack.enter_async_context(self._reading)
        await self._stack.enter_async_context(self._levels)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def admit(self, call: Callable[[], T]) -> T:
        """Run a call that parses a request or builds a result.

        Raises:
            WorkerCrashedError, WorkerTimeoutError, WorkersBusyError: And whatever the call raises, as itself.
        """
        return await self._admission.run(call)

    async def read(self, call: Callable[[], T]) -> T:
        """Run a call that parses what a source sent, apart from requests; raises as ``admit``.

        A document that takes too long is given up without delaying any request.
        """
        return await self._reading.run(call, attempts=1)

    async def decide_levels(self, call: Callable[[], T]) -> T:
        """Run a call that evaluates level rules, which may run an operator's code, apart from all others.

        Raises:
            WorkerCrashedError, WorkerTimeoutError: At the first crash, or after ``levels_s``. WorkersBusyError.
        """
        return await self._levels.run(call, attempts=1)

    async def execute(self, call: Callable[[], T]) -> T:
        """Run a call of a role; raises as ``admit``."""
        return await self._roles.run(call)

    async def probe(self, call: Callable[[], T], timeout_s: float) -> T:
        """Run a call of a role once, to see whether it ends its worker; raises as ``admit``."""
        return await self._roles.run(call, attempts=1, timeout_s=timeout_s)

    async def parsers_answer(self, within_s: float) -> bool:
        """Whether the processes that requests depend on answer, see ``_Pool.answers``."""
        return await self._admission.answers(within_s) and await self._levels.answers(within_s)

    async def workers_answer(self, within_s: float) -> bool:
        """Whether the processes of roles and of sources' documents answer, see ``_Pool.answers``."""
        return await self._roles.answers(within_s) and await self._reading.answers(within_s)


class _Pool:
    def __init__(
        self, name: str, size: int, waiting_max: int, timeout_s: float, idle_s: float, niceness: int
    ) -> None:
        self._name = name
        self._limiter = trio.CapacityLimiter(size)
        self._waiting_max = waiting_max
        self._timeout_s = timeout_s
        self._context_manager: Any = open_worker_context(
            idle_timeout=idle_s, grace_period=GRACE_S, init=partial(begin, os.getpid(), niceness, name)
        )
        self._context: WorkerContext | None = None
        self._closing = False
        self._idle_s = idle_s
        self._under_way = 0
        self._used_s = -inf  # when the last call ended, questions of ``answers`` aside
        self._answered_s = 0.0  # when a worker last answered, or the first of the calls under way began

    async def __aenter__(self) -> None:
        self._context = await self._context_manager.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        try:
            await self._context_manager.__aexit__(None, None, None)
        except BrokenWorkerError:
            log.warning("workers.killed", pool=self._name, grace_s=GRACE_S)

    async def run(self, call: Callable[[], T], *, attempts: int = ATTEMPTS_MAX, timeout_s: float | None = None) -> T:
        if self._limiter.statistics().tasks_waiting >= self._waiting_max:
            raise WorkersBusyError(
                f"{self._waiting_max} calls are waiting for a worker already, the most that may", pool=self._name
            )
        self._answered_s = self._answered_s if self._under_way else trio.current_time()
        self._under_way += 1
        try:
            return await self._attempts(call, attempts, self._timeout_s if timeout_s is None else timeout_s)
        finally:
            self._under_way -= 1
            self._used_s = trio.current_time()

    async def answers(self, within_s: float) -> bool:
        """Whether a worker answered within that time. Where no call is under way one is asked, unless it was not used
        for so long that it may retire: that would keep it. A pool that closes takes no calls, and is not asked.
        """
        if self._under_way:
            return trio.current_time() - self._answered_s <= within_s
        used_s = self._used_s
        if self._closing or trio.current_time() - used_s > self._idle_s:
            return True
        try:
            await self.run(os.getpid, attempts=1, timeout_s=within_s)
        except (WorkerTimeoutError, WorkerCrashedError):
            return False
        finally:
            self._used_s = used_s
        return True

    async def _attempts(self, call: Callable[[], T], attempts: int, timeout_s: float) -> T:
        async with self._limiter:
            for attempt in range(1, attempts + 1):
                try:
                    return await self._once(call, timeout_s)
                except BrokenWorkerError:
                    log.warning("workers.crashed", pool=self._name, attempt=attempt)
        raise WorkerCrashedError(f"a call ended {attempts} worker processes", pool=self._name)

    async def _once(self, call: Callable[[], T], timeout_s: float) -> T:
        assert self._context is not None, "the pool is entered before it is used"
        with trio.move_on_after(timeout_s):
            is_answered = True  # an error that the call raised is an answer too
            try:
                # The library has a limiter for all contexts: one for each call leaves the bound to ours.
                result: T = await self._context.run_sync(call, kill_on_cancel=True, limiter=trio.CapacityLimiter(1))
                return result
            except (BrokenWorkerError, trio.Cancelled):
                is_answered = False
                raise
            finally:
                if is_answered:
                    self._answered_s = trio.current_time()
        raise WorkerTimeoutError(f"a call took over {timeout_s:g} s", pool=self._name)
