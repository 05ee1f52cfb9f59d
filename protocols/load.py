"""What coordination keeps of load: what waits for its turn, what is in flight, what agents take in. No behaviour.

Nothing of it is stored: after a restart it is built again from the batches and tasks that are there. Only ``Ask`` is,
as part of a batch.
"""

import enum
from typing import Final

import attrs

from protocols.fifo import Fifo
from protocols.messages import IdentityKey, Level

FLOW_ID: Final = "flow"
DESK_ID: Final = "desk"


class AskState(enum.IntEnum):
    """Where the order to one agent stands at its coordinator."""

    SILENT = 1  # sent, and nothing heard since
    QUEUED = 2  # the agent says that it waits for its turn there
    RUNNING = 3  # the agent says that it computes it
    PUT_OFF = 4  # the agent cannot take it now, and is asked again
    GONE = 5  # the agent is not waited for any more
    ANSWERED = 6  # a result came, or a refusal


@attrs.frozen(kw_only=True)
class Ask:
    """The order for a batch to one agent, within one attempt.

    Attributes:
        asked_ms: When it was sent first.
        since_ms: SILENT: when it was sent last; PUT_OFF: when it is sent again; else when the agent was heard last.
        began_ms: RUNNING: when the agent began, by this node's clock.
        reason: PUT_OFF, GONE: why.
    """

    agent: IdentityKey
    state: AskState
    asked_ms: int
    since_ms: int
    began_ms: int = 0
    reason: str = ""


@attrs.frozen(kw_only=True)
class Base:
    """The shortest time in which batches of one size were answered lately: that of agents without a queue.

    Attributes:
        size: Bits of the number of events: sizes within a factor of two have one base.
        least_ms: Since ``since_ms``. before_ms: In the period before that.
    """

    size: int
    least_ms: int
    before_ms: int
    since_ms: int


@attrs.frozen(kw_only=True)
class Window:
    """How many batches may be in flight, as congestion control finds it (``coordination.window``).

    Attributes:
        threshold: Up to here each timely answer makes room for one more; beyond, each window of them.
        gained: Timely answers since it grew last. late: By how many late ones outnumber timely ones lately.
        eased_ms: When it was made smaller last; answers to what was dispatched before say nothing new.
    """

    size: int
    threshold: int
    gained: int = 0
    late: int = 0
    eased_ms: int = 0
    bases: tuple[Base, ...] = ()


@attrs.frozen(kw_only=True)
class Account:
    """An agent's credit with this coordinator.

    Attributes:
        credit: Batches of this coordinator that the agent takes at once, as it said last.
        outstanding: Orders that it owes an answer to.
        closed_until_ms: It had no room: nothing is ordered of it before.
    """

    agent: IdentityKey
    credit: int
    outstanding: int = 0
    closed_until_ms: int = 0


@attrs.frozen(kw_only=True)
class Flow:
    """What is under way at this coordinator.

    Attributes:
        in_flight: Batches from their dispatch until their certificate is complete, or the attempt is over.
        flying: The same by lane, sorted; lanes without any are left out.
        waiting: Batches that wait for agents or for a place among those in flight.
        lanes: Those in which batches wait, the one whose turn it is first.
        accounts: By agent, sorted.
    """

    window: Window
    in_flight: int = 0
    flying: tuple[tuple[str, int], ...] = ()
    waiting: int = 0
    lanes: tuple[str, ...] = ()
    accounts: tuple[Account, ...] = ()

    @property
    def entity_id(self) -> str:
        return FLOW_ID


@attrs.frozen(kw_only=True)
class Lane:
    """The sources whose batches wait for one lease, in the order of their turns.

    Attributes:
        turns_left: Turns until the next lane has its own.
    """

    level: Level
    quorum: int
    sources: Fifo = Fifo()
    turns_left: int = 0

    @property
    def entity_id(self) -> str:
        return lane_entity_id(self.level, self.quorum)


@attrs.frozen(kw_only=True)
class Line:
    """A source's batches that wait for one lease, the oldest first.

    Attributes:
        deficit: Bytes that the source may still send; below 0 it sent more than its share, and skips turns.
    """

    lane: str
    source_id: str
    batches: Fifo = Fifo()
    deficit: int = 0

    @property
    def entity_id(self) -> str:
        return line_entity_id(self.lane, self.source_id)


@attrs.frozen(kw_only=True)
class Place:
    """An order that this agent took in and has not answered.

    Attributes:
        coordinator: Who ordered it.
        until_ms: Not begun by then, it is dropped.
        status_due_ms: When the coordinator is told next where it is.
        began_ms: When it was given to a worker; 0 before.
    """

    batch_id: str
    coordinator: IdentityKey
    events: int
    payload_bytes: int
    accepted_ms: int
    until_ms: int
    status_due_ms: int
    began_ms: int = 0


@attrs.frozen(kw_only=True)
class Turn:
    """A coordinator at this agent.

    Attributes:
        served: Work that was begun for it, in events; the one with the least has the next turn.
        seen_ms: When it ordered something last.
    """

    coordinator: IdentityKey
    served: int
    seen_ms: int


@attrs.frozen(kw_only=True)
class Desk:
    """The work of this agent: what it took in, whose turn it is, and how fast it goes.

    Attributes:
        places: In the order of their acceptance.
        pace_us: Time from one result to the next while there is work, smoothed; 0 before the first.
        finished_ms: When the latest was finished.
    """

    places: tuple[Place, ...] = ()
    turns: tuple[Turn, ...] = ()
    pace_us: int = 0
    finished_ms: int = 0
    alarm_ms: int = 0

    @property
    def entity_id(self) -> str:
        return DESK_ID


def lane_entity_id(level: Level, quorum: int) -> str:
    return f"lane:{level.word}:{quorum}"


def line_entity_id(lane: str, source_id: str) -> str:
    return f"line:{lane}:{source_id}"
