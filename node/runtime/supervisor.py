"""Starts a component again after what the world did to it; lets what we broke stop the node."""

import random
from collections.abc import Awaitable, Callable

import structlog
import trio

from node.runtime.config import RestartPolicy

log = structlog.get_logger(__name__)


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
