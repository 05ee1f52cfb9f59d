"""Calls in a worker process within a budget of processor time.

Processor time, not time on the clock: a busy machine must not refuse what an idle one takes. Past its budget a call
is interrupted where the interpreter runs; where it does not, in the middle of a library's loop, the kernel ends the
process a little later (RLIMIT_CPU). Whatever a library makes of the interrupt, the call's answer is that it was too
costly.
"""

import math
import resource
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Final, Generic, TypeVar

import attrs
from tblib.pickling_support import install

from protocols.errors import ClientFault

T = TypeVar("T")

REPEAT_S: Final = 0.25  # a handler somewhere in a library may have swallowed the interrupt
SLACK_S: Final = 3  # between the interrupt and the end of the process
COST_OF_A_CRASH_S: Final = 1.0


class TooCostlyError(ClientFault):
    """Reading this took more processor time than data of its size may take."""

    code = "too-costly"


class UnexpectedEndError(Exception):
    """A call raised what no ``Exception`` is: a library's panic, or an attempt to end the process."""


class _InterruptError(BaseException):
    """The budget is used up. No ``Exception``, which a library could take for its own."""


@attrs.frozen(kw_only=True)
class Metered(Generic[T]):
    """What a call returned or raised, and the processor time that it took."""

    result: T | None
    error: Exception | None
    cpu_s: float

    def unwrap(self) -> T:
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]  # None only where the call returned it


class _Timer:
    """Interrupts the main thread once the process has used so much time."""

    def __init__(self, budget_s: float) -> None:
        self._budget_s = budget_s
        self._is_armed = True
        self.has_interrupted = False

    def run(self, call: Callable[[], T]) -> tuple[T | None, Exception | None]:
        """What a call returned or raised. Raises _InterruptError, which may reach any line of it, and whatever else
        is no ``Exception``.
        """
        signal.signal(signal.SIGPROF, self._interrupt)
        signal.setitimer(signal.ITIMER_PROF, self._budget_s, REPEAT_S)
        try:
            return call(), None
        except Exception as raised:  # noqa: BLE001  # handed over, and raised again where the call was made
            return None, raised
        finally:
            self.disarm()

    def disarm(self) -> None:
        """Ignore a signal that is on its way."""
        self._is_armed = False

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._is_armed:
            self.has_interrupted = True
            raise _InterruptError


def metered(call: Callable[[], T], budget_s: float) -> Metered[T]:
    """Run a call; past ``budget_s`` seconds of processor time its error is ``TooCostlyError``."""
    started_s = time.process_time()
    _end_process_at(started_s + budget_s + SLACK_S)
    timer = _Timer(budget_s)
    result, error = None, None
    try:
        result, error = timer.run(call)
    except BaseException as raised:  # noqa: BLE001  # the interrupt, or what the node's own process must not raise
        timer.disarm()
        error = UnexpectedEndError(f"{type(raised).__qualname__}: {raised}")
    signal.setitimer(signal.ITIMER_PROF, 0)
    _end_process_at(None)
    if timer.has_interrupted:
        result, error = None, too_costly(budget_s)
    if error is not None:
        install(error)  # so that it takes its traceback along
    return Metered(result=result, error=error, cpu_s=time.process_time() - started_s)


def too_costly(budget_s: float) -> TooCostlyError:
    return TooCostlyError(
        f"reading it took more than {budget_s:.1f} s of processor time, the most that data of this size may take",
        remedy="send it in smaller requests; see the client guide for what is costly to read",
    )


def _end_process_at(seconds: float | None) -> None:
    """Have the kernel end this process once it has used so much time since its start; None: not at all."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = hard if seconds is None else math.ceil(seconds)
    if hard == resource.RLIM_INFINITY or soft <= hard:
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
