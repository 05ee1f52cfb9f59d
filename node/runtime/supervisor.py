"""Starts a component again after a failure of its surroundings; a fault of our own stops the node."""

import random
from collections.abc import Awaitable, Callable

import attrs
import structlog
import trio

from protocols.errors import WorldFault

log = structlog.get_logger(__name__)


@attrs.frozen(kw_only=True)
class RestartPolicy:
    """When a component is started again, and after how long.

    Attributes:
        delay_s_first: The first pause, doubled each time up to ``delay_s_max``.
        jitter: The part of a pause that is drawn at random, so that nodes do not retry in step.
        stable_s: A run that lasted so long starts again with the first pause.
        restart_on: Failures of the database, the network, the disk; any other error stops the node.
    """

    delay_s_first: float = 0.5
    delay_s_max: float = 30.0
    jitter: float = 0.3
    stable_s: float = 60.0
    restart_on: tuple[type[Exception], ...] = (WorldFault, OSError)


class Backoff:
    """Pauses between attempts: they double up to a bound, less a random part so that attempts do not coincide."""

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._delay_s = policy.delay_s_first

    def next_s(self) -> float:
        """The next pause, in seconds."""
        delay_s = self._delay_s
        self._delay_s = min(2 * delay_s, self._policy.delay_s_max)
        return delay_s * (1 - self._policy.jitter * random.random())  # noqa: S311  # spreads load, guards nothing

    def reset(self) -> None:
        """Begin with the first pause again."""
        self._delay_s = self._policy.delay_s_first


async def supervise(name: str, run: Callable[[], Awaitable[None]], policy: RestartPolicy) -> None:
    """Run a component until it returns, and restart it after the errors in ``restart_on``; others propagate."""
    backoff = Backoff(policy)
    while True:
        started_s = trio.current_time()
        try:
            await run()
        except* policy.restart_on as failures:
            if trio.current_time() - started_s >= policy.stable_s:
                backoff.reset()
            pause_s = backoff.next_s()
            log.warning("component.restarting", component=name, delay_s=round(pause_s, 3), exc_info=failures)
        else:
            return
        await trio.sleep(pause_s)
