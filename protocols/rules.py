"""The constants of a node that ``step`` decides by: what it offers, what it asks of others, how long it waits."""

import enum

import attrs

from protocols.messages import IdentityKey, Level, Role
from protocols.roles import WORK_ROLES
from protocols.templates import BUILT_IN, JobTemplate


class Strategy(enum.IntEnum):
    """EVENT_AGENT_SELECTION_STRATEGY."""

    REPUTATION = 1
    LATENCY = 2
    COST = 3


@attrs.frozen(kw_only=True)
class Rules:
    """The settings of a node that ``step`` uses; constant while the process runs. Times in milliseconds.

    Attributes, of an agent:
        capacity: Batches that it takes in at once, shared out to the coordinators that order them.
        capacity_bytes: Likewise of packed payloads.
        workers: Batches that it computes at once.
        status_ms: How often it says where an order is that takes long.
    Of a coordinator:
        window_first, window_min, window_max: Batches in flight.
        delay_target_ms: Waiting of answers beyond the usual time, from which on fewer batches are in flight.
        attempt_ms: How long an agent may be silent, or compute a batch, before it is given up.
        queue_ms: How long an order may wait for its turn at an agent before it is given up.
        late_ms: An agent that is silent for longer is reported as late.
        attempts_max: Attempts that fail by a cause in the batch before it is dead.
    """

    network: str
    self_key: IdentityKey
    roles: tuple[Role, ...] = WORK_ROLES
    operator: str = ""
    region: str = ""
    price: int = 0
    price_max: int = 2**62
    capacity: int = 64
    capacity_bytes: int = 16 * 2**20
    workers: int = 1
    status_ms: int = 2_000
    strategy: Strategy = Strategy.REPUTATION
    templates: tuple[JobTemplate, ...] = ()  # an operator's own; others are built in
    bid_window_ms: int = 300
    lease_ms: int = 60_000
    lease_batches: int = 1_000
    resend_ms: int = 2_000
    window_first: int = 8
    window_min: int = 2
    window_max: int = 256
    delay_target_ms: int = 400
    attempt_ms: int = 30_000
    queue_ms: int = 60_000
    late_ms: int = 5_000
    attempts_max: int = 5
    backoff_ms: int = 500
    backoff_max_ms: int = 30_000
    confirm_ms: int = 2_000
    patience_ms_min: int = 250
    task_ttl_ms: int = 120_000
    replicas: int = 2  # peers that hold a replicated batch before it is acknowledged
    adopt_ms: int = 3_000  # how long a holder leaves a batch to its coordinator, and to each holder before it
    ask_ms: int = 1_000  # how long an answer to a query is waited for

    def template(self, role: Role, level: Level) -> JobTemplate:
        """The template of a role at a level: the operator's own, or the one built in."""
        own = (each for each in self.templates if (each.role, each.level) == (role, level))
        return next(own, BUILT_IN[role, level])

    def quorum_floor(self, level: Level) -> int:
        """The quorum that the operator's templates of a level ask for at least; 0 without such templates."""
        return max((each.quorum for each in self.templates if each.level is level), default=0)

    def attempt_ms_at(self, level: Level) -> int:
        """How long an agent may be silent or compute: as the level's templates allow, up to the node's bound."""
        own = [each.time_ms_max for each in self.templates if each.level is level]
        return min(self.attempt_ms, sum(own)) if own else self.attempt_ms

    def attempts_at(self, level: Level) -> int:
        """How many attempts a batch of a level gets."""
        own = [each.retries_max + 1 for each in self.templates if each.level is level]
        return max(own, default=self.attempts_max)
