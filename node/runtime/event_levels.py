"""The certification levels that a policy asks for its events, decided before they are committed.

Level rules may call an operator's functions, so they run in a worker process, within a time. The outcome is always
defined: a rule that cannot be evaluated asks for its level, and where no rule of a policy can be evaluated (its
worker crashed or took too long, or a function is not installed here) each event gets the strictest level that the
rules name. Certifying at too high a level costs work; certifying at too low a level would break the policy.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar

import structlog

from agents.functions import MissingFunctionError
from agents.policy import policy_facts
from node.runtime.workers import WorkerCrashedError, WorkerTimeoutError
from node.worker import compute

log = structlog.get_logger(__name__)

T = TypeVar("T")


class LevelsWorker(Protocol):
    """Where level rules are evaluated; see ``Workers.decide_levels``."""

    async def decide_levels(self, call: Callable[[], T]) -> T: ...


async def event_levels(worker: LevelsWorker, policy: bytes, lines: Sequence[bytes]) -> list[str | None]:
    """The level that a policy's rules ask for, for each record: ``basic``, ``enhanced``, ``critical``, or None.

    A policy without level rules costs no call.

    Args:
        policy: A canonical document that was checked.
        lines: Records in canonical form.

    Raises:
        WorkersBusyError: Too many requests wait for their levels already.
    """
    facts = policy_facts(policy)
    if not facts.raised_levels or not lines:
        return [None] * len(lines)
    try:
        return await worker.decide_levels(partial(compute.event_levels, policy, list(lines)))
    except (WorkerCrashedError, WorkerTimeoutError, MissingFunctionError) as error:
        log.warning("levels.undecided", policy=facts.hash, events=len(lines), code=error.code, reason=str(error))
        return [facts.strictest_level] * len(lines)
