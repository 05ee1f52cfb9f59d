"""Pools of worker processes: some that admit requests, some that parse what sources send, one that evaluates level
rules, and up to N for roles at a lower priority, so that ingest stays prompt.

Calls are zero-argument and picklable: ``functools.partial`` of functions of modules that import neither the network
nor the database, since a worker keeps what it imports. Workers start when they are first needed, retire when idle,
and end with the node, whose end closes their pipe.

What outsiders send is parsed within a budget of processor time, in proportion to its size, and is tried once: what
ended one worker would end the next. Such calls go on when their caller is cancelled, so that a client that leaves
costs no worker, and is charged for what it asked for.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from math import inf
from types import TracebackType
from typing import Any, Final, Generic, TypeVar

import structlog
import trio
from trio_parallel import BrokenWorkerError, WorkerContext, open_worker_context

from node.runtime.fair_share import OWN_ACCOUNT, Account, FairShare
from node.runtime.token_bucket import Rate
from node.worker.bootstrap import begin, get_ready
from node.worker.metering import COST_OF_A_CRASH_S, Metered, TooCostlyError, metered, too_costly
from protocols.errors import OverlayError, WorldFault

log = structlog.get_logger(__name__)

T = TypeVar("T")

CALL_S: Final = 60.0
START_S: Final = 60.0  # of a process, on a machine that does much else; no call's own time
IDLE_S: Final = 60.0
GRACE_S: Final = 5.0
STALLED_S: Final = 120.0
"""A metered call that takes so long on the clock is stuck. Its budget is of processor time, which a busy machine
gives out slowly."""
ROLE_NICENESS: Final = 10
PARSERS_MIN: Final = 2
PARSERS_MAX: Final = 8
READERS: Final = 2
ADMISSION_WAITING_MAX: Final = 1_024
ROLES_WAITING_MAX: Final = 512
READING_WAITING_MAX: Final = 1_024
LEVELS_WAITING_MAX: Final = 256
LEVELS_S: Final = 10.0  # what a level rule that hangs can cost the requests behind it
ATTEMPTS_MAX: Final = 2
LONG_FACTOR: Final = 3
"""A call that may take so many times what the smallest may is long: none of these waits for all processes."""
ALLOWANCE_BURST_S: Final = 20.0
ALLOWANCE_OF_PARSERS: Final = 0.25  # what one client may use of them over time

PROBE_ACCOUNT: Final = Account(name="probe", is_metered=False)

MB: Final = 1024 * 1024
STOPS: Final = "the node stops: its worker processes take no more calls"


class WorkerCrashedError(WorldFault):
    """Each attempt at a call ended its worker process, or the node stops."""

    code = "worker-crashed"


class WorkerTimeoutError(WorldFault):
    """A call took too long; its worker was killed."""

    code = "worker-timeout"


class UnwantedError(OverlayError):
    """Nobody waited for a call any more when a worker was free for it."""

    code = "unwanted"


class Budget:
    """Seconds of processor time that parsing may take, by the size of what is parsed."""

    def __init__(self, *, floor_s: float, per_mb_s: float, ceiling_s: float) -> None:
        self._floor_s = floor_s
        self._per_mb_s = per_mb_s
        self._ceiling_s = ceiling_s

    def seconds(self, size: int | None) -> float:
        """``size``: bytes; None for the ceiling."""
        if size is None:
            return self._ceiling_s
        return min(self._floor_s + self._per_mb_s * size / MB, self._ceiling_s)

    def is_long(self, size: int | None) -> bool:
        return self.seconds(size) > LONG_FACTOR * self._floor_s


# Small events take 0.2 s a MB, the costliest 1 s and the costliest feeds 3 s: see scripts/bench/README.md.
REQUEST_BUDGET: Final = Budget(floor_s=1.0, per_mb_s=1.5, ceiling_s=15.0)
READING_BUDGET: Final = Budget(floor_s=3.0, per_mb_s=4.0, ceiling_s=20.0)


def parsers_of_machine() -> int:
    """How many processes may parse requests at once."""
    return max(PARSERS_MIN, min(PARSERS_MAX, len(os.sched_getaffinity(0))))


class Workers:
    """``async with Workers(4) as workers``: at most four processes for roles.

    Leaving the block waits for running calls of roles; cancel their tasks first, which kills their workers.
    """

    def __init__(
        self,
        roles: int,
        *,
        timeout_s: float = CALL_S,
        idle_s: float = IDLE_S,
        levels_s: float = LEVELS_S,
        parsers: int | None = None,
    ) -> None:
        """Args:
        parsers: Processes that parse requests, at most; None: as the machine has processors.
        """
        parsers = parsers or parsers_of_machine()
        allowance = Rate(per_s=ALLOWANCE_OF_PARSERS * parsers, burst=ALLOWANCE_BURST_S)
        pool = partial(_Pool, idle_s=idle_s, allowance=allowance)
        self._admission = pool(
            "front-door", parsers, waiting_max=ADMISSION_WAITING_MAX, timeout_s=STALLED_S, niceness=0, is_shared=True
        )
        self._reading = pool(
            "reading",
            READERS,
            waiting_max=READING_WAITING_MAX,
            timeout_s=STALLED_S,
            niceness=ROLE_NICENESS,
            is_shared=True,
        )
        self._roles = pool("roles", roles, waiting_max=ROLES_WAITING_MAX, timeout_s=timeout_s, niceness=ROLE_NICENESS)
        self._levels = pool("levels", 1, waiting_max=LEVELS_WAITING_MAX, timeout_s=levels_s, niceness=0)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "Workers":
        for pool in (self._admission, self._roles, self._reading, self._levels):
            await self._stack.enter_async_context(pool)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def admit(self, call: Callable[[], T], *, account: Account = OWN_ACCOUNT, size: int | None = None) -> T:
        """Run a call that parses a request or builds a result, within ``REQUEST_BUDGET``.

        Args:
            account: Whom it is done for.
            size: Bytes of what is parsed.

        Raises:
            TooCostlyError: It took more processor time than its size allows; WorkerTimeoutError, where it is the
            node's own. AllowanceUsedError: The account's share is used up. WorkerCrashedError, WorkersBusyError: And
            what the call raises, as itself.
        """
        return await self._admission.run_metered(call, account, REQUEST_BUDGET, size)

    async def read(self, call: Callable[[], T], *, account: Account = OWN_ACCOUNT, size: int | None = None) -> T:
        """Run a call that parses what a source sent, apart from requests, within ``READING_BUDGET``; as ``admit``."""
        return await self._reading.run_metered(call, account, READING_BUDGET, size)

    async def decide_levels(self, call: Callable[[], T]) -> T:
        """Run a call that evaluates level rules, which may run an operator's code, apart from all others.

        Raises:
            WorkerCrashedError, WorkerTimeoutError: At the first crash, or after ``levels_s``. WorkersBusyError.
        """
        return await self._levels.run(call, attempts=1)

    async def execute(self, call: Callable[[], T], is_wanted: Callable[[], bool] = lambda: True) -> T:
        """Run a call of a role.

        Args:
            is_wanted: Asked when a worker is free for it.

        Raises:
            UnwantedError: It was not wanted any more. WorkerCrashedError, WorkerTimeoutError, WorkersBusyError: And
            whatever the call raises, as itself.
        """
        return await self._roles.run(call, is_wanted=is_wanted)

    async def probe(self, call: Callable[[], T], timeout_s: float) -> T:
        """Run a call of a role once, to see whether it ends its worker; raises as ``execute``."""
        return await self._roles.run(call, attempts=1, timeout_s=timeout_s)

    async def parsers_answer(self, within_s: float) -> bool:
        """Whether the processes that requests depend on answer, see ``_Pool.answers``."""
        return await self._admission.answers(within_s) and await self._levels.answers(within_s)

    async def workers_answer(self, within_s: float) -> bool:
        """Whether the processes of roles and of sources' documents answer, see ``_Pool.answers``."""
        return await self._roles.answers(within_s) and await self._reading.answers(within_s)


class _Pool:
    def __init__(
        self,
        name: str,
        size: int,
        *,
        waiting_max: int,
        timeout_s: float,
        idle_s: float,
        niceness: int,
        allowance: Rate,
        is_shared: bool = False,
    ) -> None:
        """``is_shared``: Neither one account nor long calls may have all processes."""
        self._name = name
        self._places = FairShare(
            size,
            name=name,
            waiting_max=waiting_max,
            allowance=allowance,
            account_max=max(1, size - 1) if is_shared else None,
            long_max=max(1, size - 1) if is_shared else None,
        )
        self._timeout_s = timeout_s
        self._idle_s = idle_s
        self._niceness = niceness
        self._stack = AsyncExitStack()
        self._context: WorkerContext | None = None
        self._calls: trio.Nursery | None = None
        self._closing = False
        self._under_way = 0
        self._used_s = -inf  # when the last call ended, questions of ``answers`` aside
        self._answered_s = 0.0  # when a worker last answered, or the first of the calls under way began

    async def __aenter__(self) -> None:
        init = partial(begin, os.getpid(), self._niceness, self._name)
        context: Any = open_worker_context(idle_timeout=self._idle_s, grace_period=GRACE_S, init=init)
        self._context = await self._stack.enter_async_context(context)
        self._calls = await self._stack.enter_async_context(trio.open_nursery())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._calls is not None, "the pool was entered"
        self._closing = True
        self._calls.cancel_scope.cancel()
        try:
            await self._stack.aclose()
        except BrokenWorkerError:
            log.warning("workers.killed", pool=self._name, grace_s=GRACE_S)

    async def run(
        self,
        call: Callable[[], T],
        *,
        attempts: int = ATTEMPTS_MAX,
        timeout_s: float | None = None,
        account: Account = OWN_ACCOUNT,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> T:
        with self._counted():
            await self._places.take(account)
            try:
                for attempt in range(1, attempts + 1):
                    if not is_wanted():
                        raise UnwantedError("nobody waits for the call any more")
                    try:
                        return await self._once(call, self._timeout_s if timeout_s is None else timeout_s)
                    except BrokenWorkerError:
                        log.warning("workers.crashed", pool=self._name, attempt=attempt)
            finally:
                self._places.give_back(account, 0.0)
        raise WorkerCrashedError(f"a call ended {attempts} worker processes", pool=self._name)

    async def answers(self, within_s: float) -> bool:
        """Whether a worker answered within that time. Where no call is under way one is asked, unless it was not used
        for so long that it may retire: that would keep it. Long calls are no silence while there is room beside them.
        A pool that closes takes no calls, and is not asked.
        """
        if self._closing:
            return True
        if self._under_way and (trio.current_time() - self._answered_s <= within_s or not self._places.has_room):
            return trio.current_time() - self._answered_s <= within_s
        used_s = self._used_s
        if trio.current_time() - used_s > self._idle_s:
            return True
        try:
            await self.run(os.getpid, attempts=1, timeout_s=within_s, account=PROBE_ACCOUNT)
        except (WorkerTimeoutError, WorkerCrashedError):
            return self._closing
        finally:
            self._used_s = used_s
        return True

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count a call as under way."""
        self._answered_s = self._answered_s if self._under_way else trio.current_time()
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            self._used_s = trio.current_time()

    async def run_metered(self, call: Callable[[], T], account: Account, budget: Budget, size: int | None) -> T:
        """Run a call within a budget, once. It goes on when its caller is cancelled."""
        assert self._calls is not None, "the pool is entered before it is used"
        is_long = account != OWN_ACCOUNT and budget.is_long(size)  # the node's own names no size
        running = _RunningCall(call, account, budget.seconds(size), is_long=is_long)
        with self._counted():
            await self._places.take(account, is_long=running.is_long)
            if self._closing:  # its nursery takes no more
                self._places.give_back(account, 0.0, is_long=running.is_long)
                return running.unwrap()
            self._calls.start_soon(self._carry_out, running)
        await running.done.wait()
        return running.unwrap()

    async def _carry_out(self, running: "_RunningCall[Any]") -> None:
        with self._counted():  # here, since its caller may leave
            await self._carry_out_counted(running)

    async def _carry_out_counted(self, running: "_RunningCall[Any]") -> None:
        spent_s = COST_OF_A_CRASH_S
        try:
            made = await self._meter(running)
            spent_s, running.result, running.error = made.cpu_s, made.result, made.error
        except OSError as error:
            running.error = WorkerCrashedError(f"no worker process could be started: {error}", pool=self._name)
        except BrokenWorkerError as error:
            running.error = self._crashed(error, running)
            spent_s += running.budget_s if _ended_by_kernel(error) else 0.0
        except Exception as error:  # noqa: BLE001  # handed to the caller, not to the pool's nursery
            running.error = error
        finally:
            self._places.give_back(running.account, spent_s, is_long=running.is_long)
            running.done.set()

    async def _meter(self, running: "_RunningCall[T]") -> Metered[T]:
        """Run it: once for outsiders, while the node's own may have been ended by something else."""
        call = partial(metered, running.call, running.budget_s)
        try:
            return await self._once(call, self._timeout_s)
        except BrokenWorkerError as error:
            if running.account != OWN_ACCOUNT or _ended_by_kernel(error):
                raise
        return await self._once(call, self._timeout_s)

    def _crashed(self, error: BrokenWorkerError, running: "_RunningCall[Any]") -> Exception:
        log.warning("workers.crashed", pool=self._name, account=running.account.name)
        if _ended_by_kernel(error):
            return too_costly(running.budget_s)
        return WorkerCrashedError("the worker process ended during the call", pool=self._name)

    async def _once(self, call: Callable[[], T], timeout_s: float) -> T:
        await self._start(_function_of(call))
        return await self._within(timeout_s, call)

    async def _start(self, function: object) -> None:
        """Start a worker where none is idle. A call does not pay for it, and is not the reason if it fails."""
        assert self._context is not None, "the pool is entered before it is used"
        for attempt in range(1, ATTEMPTS_MAX + 1):
            if self._context.statistics().idle_workers:
                return
            try:
                await self._within(START_S, partial(get_ready, function))
            except BrokenWorkerError:
                log.warning("workers.not_started", pool=self._name, attempt=attempt)

    async def _within(self, timeout_s: float, call: Callable[[], T]) -> T:
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
            except trio.ClosedResourceError as error:
                raise WorkerCrashedError(STOPS, pool=self._name) from error
            finally:
                if is_answered:
                    self._answered_s = trio.current_time()
        raise WorkerTimeoutError(f"a call took over {timeout_s:g} s", pool=self._name)


class _RunningCall(Generic[T]):
    """A metered call, and what came of it."""

    def __init__(self, call: Callable[[], T], account: Account, budget_s: float, *, is_long: bool) -> None:
        self.call = call
        self.account = account
        self.budget_s = budget_s
        self.is_long = is_long
        self.result: T | None = None
        self.error: Exception | None = WorkerCrashedError(STOPS)
        self.done = trio.Event()

    def unwrap(self) -> T:
        if isinstance(self.error, TooCostlyError) and self.account == OWN_ACCOUNT:
            raise WorkerTimeoutError(str(self.error)) from self.error  # no client is at fault
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]  # None only where the call returned it


def _function_of(call: object) -> object:
    """What a call calls in the end."""
    while isinstance(call, partial):
        call = call.args[0] if call.func is metered else call.func
    return call


def _ended_by_kernel(error: BrokenWorkerError) -> bool:
    """Whether the process was ended for its processor time; see ``node.worker.metering``."""
    process = error.args[-1] if error.args else None
    return getattr(process, "exitcode", None) == -signal.SIGXCPU
