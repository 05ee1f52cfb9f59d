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


async def supervise(name: str, run: Callable[[], Awaitable[None]], policy: RestartPolicy) -> None:
    """Run a component until it returns, restarting it after the errors in ``restart_on``."""
    delay_s = policy.delay_s_first
    while True:
        started = trio.current_time()
        try:
            await run()
        except* policy.restart_on as failures:
            if trio.current_time() - started >= policy.stable_s:
                delay_s = policy.delay_s_first
            log.warning("component.restarting", component=name, delay_s=delay_s, exc_info=failures)
        else:
            return
        await trio.sleep(delay_s * (1 - policy.jitter * random.random()))  # noqa: S311  # spreads load, guards nothing
        delay_s = min(2 * delay_s, policy.delay_s_max)
