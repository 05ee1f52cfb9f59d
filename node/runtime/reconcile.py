"""Keeps one task running for each entry of a list that changes: connectors for sources, deliveries for webhooks.

What should run is read again and again; each pass stops the tasks whose entry is gone or has changed, and starts
those that are missing. Entries are values: equal ones are the same, and a changed one is stopped before its successor
starts, so that two tasks never work for one key. A task that fails is started again after a pause that grows, and
costs the others nothing.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, Protocol, TypeVar

import attrs
import structlog
import trio

from node.runtime.supervisor import Backoff, RestartPolicy


class DesiredTask(Protocol):
    """What a task should run with; compared with ``==``."""

    @property
    def key(self) -> str: ...


Desired = TypeVar("Desired", bound=DesiredTask)


@attrs.define(kw_only=True, eq=False)
class _Running(Generic[Desired]):
    desired: Desired
    scope: trio.CancelScope = attrs.Factory(trio.CancelScope)
    ended: trio.Event = attrs.Factory(trio.Event)


def keep_pause(desired: DesiredTask, error: Exception, pause_s: float) -> float:
    """The reaction to a failure where nobody else needs to know of it."""
    return pause_s


class Reconciler(Generic[Desired]):
    """Runs a task for each desired entry; see the module."""

    def __init__(
        self,
        *,
        kind: str,
        read: Callable[[], Awaitable[Sequence[Desired]]],
        run: Callable[[Desired], Awaitable[None]],
        backoff: RestartPolicy,
        failed: Callable[[Desired, Exception, float], float] = keep_pause,
        interval_s: Callable[[Sequence[Desired]], float],
        settle_s: float = 0.0,
    ) -> None:
        """Args:
        kind: What an entry is, for log messages: they carry its key under this name.
        read: What should run now; keys are unique.
        run: The task of one entry. Once it returns, it runs again only after its entry was away or changed, or
            in the next pass where it is still desired.
        backoff: Pauses after failures, and which errors are failures; any other leaves ``Reconciler.run``.
        failed: Called with the entry, the error and the pause; returns the pause to use.
        interval_s: How long to wait for ``wake`` after a pass, given what it read.
        settle_s: The least time between passes, so that many changes are followed together.
        """
        self._kind = kind
        self._read = read
        self._run = run
        self._backoff = backoff
        self._failed = failed
        self._interval_s = interval_s
        self._settle_s = settle_s
        self._running: dict[str, _Running[Desired]] = {}
        self._changed = trio.Event()
        self._next_pass = trio.Event()
        self._begun: list[trio.Event] = []  # events of passes that began, a pass that failed among them

    def wake(self) -> trio.Event:
        """Start a pass now. Returns the event that is set when a pass that began after this call is over."""
        self._changed.set()
        return self._next_pass

    def restart(self, key: str) -> trio.Event:
        """Stop and start the task of an entry, if it runs, also in the middle of a pause; see ``wake``."""
        running = self._running.get(key)
        if running is not None:
            running.scope.cancel()
        return self.wake()

    def is_running(self, key: str) -> bool:
        """Whether the task of an entry was started and has not returned."""
        running = self._running.get(key)
        return running is not None and not running.ended.is_set()

    @property
    def running(self) -> list[str]:
        """The keys of the tasks that were started and have not returned."""
        return [key for key, running in self._running.items() if not running.ended.is_set()]

    async def run(self) -> None:
        """Make passes until cancelled; then every task has ended.

        Raises:
            Exception: What ``read`` raises, and what a task raises that is no failure by ``backoff``; in groups.
        """
        async with trio.open_nursery() as nursery:
            try:
                while True:
                    self._changed = trio.Event()
                    self._begun.append(self._next_pass)
                    self._next_pass = trio.Event()
                    desired = await self._read()
                    await self._follow(desired, nursery)
                    while self._begun:
                        self._begun.pop().set()
                    await trio.sleep(self._settle_s)
                    with trio.move_on_after(self._interval_s(desired)):
                        await self._changed.wait()
            finally:
                self._running.clear()

    async def _follow(self, desired: Sequence[Desired], nursery: trio.Nursery) -> None:
        by_key = {each.key: each for each in desired}
        stopping = {
            key: running
            for key, running in self._running.items()
            if by_key.get(key) != running.desired or running.scope.cancel_called or running.ended.is_set()
        }
        for running in stopping.values():
            running.scope.cancel()
        for key, running in stopping.items():
            await running.ended.wait()
            del self._running[key]
        for key, each in by_key.items():
            if key not in self._running:
                self._running[key] = _Running(desired=each)
                nursery.start_soon(self._keep, self._running[key])

    async def _keep(self, running: _Running[Desired]) -> None:
        """Run a task until it returns, again and again where it fails."""
        context = {self._kind: running.desired.key}
        try:
            with running.scope, structlog.contextvars.bound_contextvars(**context):
                backoff = Backoff(self._backoff)
                pause_s: float | None = 0.0
                while pause_s is not None:
                    pause_s = await self._attempt(running.desired, backoff)
                    await trio.sleep(pause_s or 0.0)
        finally:
            running.ended.set()

    async def _attempt(self, desired: Desired, backoff: Backoff) -> float | None:
        """Run a task once. Returns how long to wait before the next attempt; None where it returned."""
        started_s = trio.current_time()
        pause_s: float | None = None
        try:
            await self._run(desired)
        except* self._backoff.restart_on as failures:
            if trio.current_time() - started_s >= self._backoff.stable_s:
                backoff.reset()
            pause_s = self._failed(desired, sole_error(failures), backoff.next_s())
        return pause_s


def sole_error(error: Exception) -> Exception:
    """What happened, where a group holds one error alone; else the group."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
