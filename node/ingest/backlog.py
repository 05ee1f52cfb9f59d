"""Events without an end, and whether more may come: as many as end within the target delay at the measured rate.

An event counts from before its request is parsed (``Reservation``) until its batch is certified, dead or split. The
bound follows from the rate at which events end. What waits for agents that are not there counts against the fixed
bound alone: no rate can be measured of it, and it does not wait because of its number.

Shares follow from what is free, after "Dynamic queue length thresholds for shared-memory packet switches" (Choudhury
and Hahne, 1998): a source, and a caller, may hold ``SHARE_OF_FREE`` times what is free. Alone it gets all that the
rate allows; among several each gets as much, and some always stays free. A source that holds nothing always gets a
batch in, so that none waits for the end of another's flood; so does a caller, but those are made at no cost.
"""

import math
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import attrs
import trio

from node.ingest.drain import DrainMeter
from node.ingest.event_counts import EventCounts, Lane
from protocols.errors import ClientFault
from protocols.messages import Level

SHARE_OF_FREE: Final = 4
FIRST_EVENTS: Final = 2_000  # may be under way until it is seen that they do not end within the target
FIRST_FACTOR: Final = 2  # up to so many times the bound, a caller that holds nothing gets a batch in
LATE_PART: Final = 2  # of the target: where a batch waits longer, the rate is no more than measured
LATE_LOAD: Final = 4  # such a part of the bound: below it, what waits does not wait because of its number
LOOK_S: Final = 0.1  # between two looks at what waits
RETRY_MAX_S: Final = 60
REFUSING_S: Final = 2.0
EVENT_BYTES: Final = 250.0  # of an event of a source, before any was seen
LEARNED: Final = 0.25  # of a new request in the estimate of an event's bytes
SOURCES_KNOWN_MAX: Final = 4_096


class OverloadedError(ClientFault):
    """The node holds as much unfinished work as it may. Field ``retryAfter``, seconds."""

    code = "overloaded"


@attrs.frozen(kw_only=True)
class BacklogLimits:
    """Attributes:
    unsettled_max: Events acknowledged or waiting, and not yet certified, invalid or dead.
    target_delay_s: What is taken in should end within so long.
    batch_events: May be under way at any rate.
    """

    unsettled_max: int
    target_delay_s: float
    batch_events: int


class EventSizes:
    """How many events a body seems to have, by what earlier ones of its source had: others' say nothing of it."""

    def __init__(self) -> None:
        self._event_bytes: OrderedDict[str, float] = OrderedDict()

    def estimate(self, size: int, source_id: str | None) -> int:
        """How many events a body of so many bytes, not compressed, may have."""
        return max(1, round(size / self._event_bytes.get(source_id or "", EVENT_BYTES)))

    def learn(self, size: int, source_id: str, events: int) -> None:
        """Note how many events a body had."""
        if size and events:
            known = self._event_bytes.pop(source_id, EVENT_BYTES)
            self._event_bytes[source_id] = known + LEARNED * (size / events - known)
            if len(self._event_bytes) > SOURCES_KNOWN_MAX:
                self._event_bytes.popitem(last=False)


class Backlog(EventCounts):
    """Refuses what would be too many events without an end.

    Attributes:
        sizes: How many events a body seems to have.
        drain: The rate at which events end.
        refused: Requests that were refused.
    """

    def __init__(
        self,
        limits: BacklogLimits,
        *,
        shortfall: Callable[[Level, int], str] = lambda level, quorum: "",
        is_held_up: Callable[[str], bool] = lambda batch_id: False,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        """Args:
        shortfall: What keeps the network from a level and quorum now; empty if nothing does.
        is_held_up: Whether a batch, by its id, failed and is tried again, or has to wait for such a one.
        """
        super().__init__(clock)
        self.sizes = EventSizes()
        self.limits = limits
        self.drain = DrainMeter(clock, assumed_per_s=FIRST_EVENTS / limits.target_delay_s)
        self.refused = 0
        self._shortfall = shortfall
        self._is_held_up = is_held_up
        self._blocked: frozenset[Lane] = frozenset()
        self._waited_s = 0.0
        self._looked_s = -math.inf
        self._refused_s = -math.inf

    @property
    def is_refusing(self) -> bool:
        """Whether a request was refused a moment ago: the next one may well be."""
        return self._clock() - self._refused_s < REFUSING_S

    @property
    def is_late(self) -> bool:
        """Whether there is a queue: batches wait for a good part of the target."""
        self._look()
        return self._is_queue(LATE_PART * self._waited_s)

    @property
    def bound(self) -> int:
        """How many events may be without an end, leaving out those that wait for agents that are not there."""
        return min(self.limits.unsettled_max, self._drained_in_time)

    @property
    def _drained_in_time(self) -> int:
        fits = max(self.limits.batch_events, self.drain.per_s * self.limits.target_delay_s)
        return round(fits * (1 + 1 / SHARE_OF_FREE))

    def _is_queue(self, waited_s: float) -> bool:
        """Whether events wait for longer than the target, and because of their number: few that wait for an auction
        or a slow agent would wait as long without the others.
        """
        return waited_s > self.limits.target_delay_s and LATE_LOAD * self._load > self._drained_in_time

    @property
    def _load(self) -> int:
        """Events without an end, leaving out those that wait for agents that are not there."""
        return self.unsettled - self.in_lanes(self._blocked)

    # --- requests --------------------------------------------------------------------------------------------

    def refuse_if_full(self) -> None:
        """Raise OverloadedError while as many events as may, at whatever rate they end, are without an end."""
        if self.unsettled >= self.limits.unsettled_max:
            self.note_refused()
            raise self._full()

    def reserve(self, events: int, *, source_id: str | None, caller: str | None = None) -> "Reservation":
        """Count the events of a request in, before it is parsed.

        Args:
            source_id: As the request seems to say; None where that is not known yet.
            caller: Whose share they count in; None for one that stands for many others.

        Raises:
            OverloadedError: They are too many, or more than the share of the source or caller.
        """
        refusal = self.refusal(events, source_id=source_id, caller=caller)
        if refusal is not None:
            self.note_refused()
            raise refusal
        return Reservation(self, events, source_id=source_id, caller=caller)

    def note_refused(self) -> None:
        """Count a request that was refused."""
        self.refused += 1
        self._refused_s = self._clock()

    def refusal(self, events: int, *, source_id: str | None, caller: str | None = None) -> OverloadedError | None:
        """Why a request is refused now; None where it is not."""
        if self.unsettled >= self.limits.unsettled_max:
            return self._full()
        self._look()
        source, caller_holds = self.sources.held(source_id, self._blocked), self.callers.held(caller, self._blocked)
        if not source and self.sources.is_blocked(source_id, self._blocked):
            return None  # it waits for agents, and what is added to it waits with it
        bound, load = self._drained_in_time, self._load
        if source_id is not None and not source:
            return None  # it gets a batch in, whatever others have
        if caller is not None and not caller_holds and load < FIRST_FACTOR * bound:
            return None
        excess = load + events - bound
        target_s = self.limits.target_delay_s
        if self._is_queue(self._waited_s):
            why = f"events wait for their certificates for {self._waited_s:.1f} s, the target is {target_s:g} s"
            return self._refused(why, excess, self._waited_s - target_s)
        share = SHARE_OF_FREE * max(0, bound - load)
        for holder, held in (("your source", source), ("your address or identity", caller_holds)):
            if held and held + events > share:
                why = f"{held} events of {holder} wait for their certificates, at most {share} may at present"
                return self._refused(why, max(excess, (held + events - share) // (1 + SHARE_OF_FREE)))
        if excess > 0:
            why = f"{load} events wait for their certificates, {bound} end within the target of {target_s:g} s"
            return self._refused(why, excess)
        return None

    def leave(self, batch_id: str, *, has_ended: bool = False) -> int:
        """Count a batch out. ``has_ended``: It shows the rate at which events end."""
        events = super().leave(batch_id)
        if has_ended and events:
            self.drain.note(events, is_busy=self.is_late)
        return events

    def _look(self) -> None:
        """See how long batches wait, unless that was done a moment ago.

        In a queue the oldest has waited for twice as long as the one in the middle. The oldest itself says less: one
        batch whose agents are slow or silent must not keep everybody out.
        """
        now_s = self._clock()
        if now_s - self._looked_s < LOOK_S:
            return
        self._looked_s = now_s
        self._blocked = frozenset(lane for lane in self.lanes if self._shortfall(*lane))
        middle_s = self.middle_s(lambda batch_id, held: held.lane in self._blocked or self._is_held_up(batch_id))
        self._waited_s = 0.0 if middle_s is None else max(0.0, 2 * (now_s - middle_s))

    def _full(self) -> OverloadedError:
        bound = self.limits.unsettled_max
        return self._refused(f"{self.unsettled} events wait for their certificates, at most {bound} may", 1)

    def _refused(self, why: str, excess: int, late_s: float = 0.0) -> OverloadedError:
        """``excess``: events that must end first. Clients that are refused together do not all come back together."""
        rate = self.drain.per_s
        wait_s = max(late_s, excess / rate)
        jitter = 1 + secrets.randbelow(1_000) / 1_000
        return OverloadedError(why, retryAfter=max(1, min(RETRY_MAX_S, math.ceil(wait_s * jitter))))


class Reservation:
    """The events of one request, counted until its batches are. To be closed at its end (``contextlib.closing``)."""

    def __init__(self, backlog: Backlog, events: int, *, source_id: str | None, caller: str | None) -> None:
        self._backlog = backlog
        self._source_id = source_id
        self.caller = caller
        self._events = 0
        self._take(events)

    def settle(self, source_id: str, events: int) -> None:
        """Count what the request turned out to have. What was reserved is not refused any more.

        Raises:
            OverloadedError: It is of another source than it seemed to say, and that one has its share.
        """
        was = self._source_id
        self.close()
        if was not in (None, source_id):
            refusal = self._backlog.refusal(events, source_id=source_id, caller=self.caller)
            if refusal is not None:
                self._backlog.note_refused()
                raise refusal
        self._source_id = source_id
        self._take(events)

    def close(self) -> None:
        """Count its events out: its batches count from now on, or it was refused."""
        self._backlog.move(self._source_id, self.caller, -self._events)
        self._events = 0

    def _take(self, events: int) -> None:
        self._events = events
        self._backlog.move(self._source_id, self.caller, events)
