"""Events without an end: by request until it is committed, then by batch, and by source and caller.

The end of a batch may be reported twice, or found out later from the database, and counts once.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import islice
from typing import Final, TypeVar

import attrs

from protocols.messages import Level, Manifest

LOOKED_AT: Final = 200
QUEUE_BATCHES: Final = 3  # fewer are no queue, however long they take

K = TypeVar("K")
Lane = tuple[Level, int]


@attrs.frozen(kw_only=True)
class Held:
    """A batch that has no end. ``since_s``: when it was counted in, the first of those that were merged into it."""

    source_id: str
    lane: Lane | None
    events: int
    callers: Mapping[str, int]
    since_s: float


class EventCounts:
    """Attributes:
    sources, callers: Whose events these are.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.sources = Shares()
        self.callers = Shares()
        self._reserved = 0
        self._batches: dict[str, Held] = {}
        self._in_batches = 0
        self._by_lane: Counter[Lane | None] = Counter()

    @property
    def unsettled(self) -> int:
        """Events taken in that are neither certified, invalid nor dead."""
        return self._reserved + self._in_batches

    @property
    def batches(self) -> Collection[str]:
        """The batches of this node's own that are counted: they have no end yet."""
        return self._batches.keys()

    def middle_s(self, is_left_out: Callable[[str, Held], bool]) -> float | None:
        """Since when a batch has waited for its end that half of them have waited longer than; None for fewer than
        ``QUEUE_BATCHES``. Of very many a sample is looked at.
        """
        batches = islice(self._batches.items(), 0, None, 1 + len(self._batches) // LOOKED_AT)
        waiting = sorted(held.since_s for batch_id, held in batches if not is_left_out(batch_id, held))
        return waiting[len(waiting) // 2] if len(waiting) >= QUEUE_BATCHES else None

    @property
    def lanes(self) -> list[Lane]:
        """The levels and quorums of the batches."""
        return [lane for lane in self._by_lane if lane is not None]

    def in_lanes(self, lanes: Iterable[Lane]) -> int:
        """Events of batches of these levels and quorums."""
        return sum(self._by_lane[lane] for lane in lanes)

    def move(self, source_id: str | None, caller: str | None, events: int) -> None:
        """Count events of requests in or out."""
        self._reserved += events
        assert self._reserved >= 0, "every request is counted out once"
        if source_id is not None:
            self.sources.add(source_id, None, events)
        if caller is not None:
            self.callers.add(caller, None, events)

    def enter(
        self,
        batch_id: str,
        events: int,
        *,
        source_id: str = "",
        lane: Lane | None = None,
        callers: Mapping[str, int] | None = None,
        since_s: float | None = None,
    ) -> None:
        """Count a batch in that waits for its end, unless it is counted already.

        Args:
            callers: Events of each.
            since_s: Since when it waits; now, where that is not known.
        """
        if batch_id not in self._batches:
            held = Held(
                source_id=source_id,
                lane=lane,
                events=events,
                callers=callers or {},
                since_s=self._clock() if since_s is None else since_s,
            )
            self._batches[batch_id] = held
            self._in_batches += events
            self._count(held, 1)

    def enter_of(self, manifest: Manifest, callers: Mapping[str, int] | None = None) -> None:
        """Count the batch of a manifest in."""
        self.enter(
            manifest.batch_id,
            manifest.events,
            source_id=manifest.source_id,
            lane=(manifest.level, manifest.quorum),
            callers=callers,
        )

    def leave(self, batch_id: str) -> int:
        """Count a batch out that is certified, dead or split; one that is not counted is another node's.

        Returns:
            Its events; 0 if it is not counted.
        """
        held = self._batches.pop(batch_id, None)
        if held is None:
            return 0
        self._in_batches -= held.events
        self._count(held, -1)
        return held.events

    def merge(self, parts: Iterable[str], whole: str, events: int) -> None:
        """Count one batch in place of those that were merged into it."""
        found = [self._batches[batch_id] for batch_id in parts if batch_id in self._batches]
        callers: Counter[str] = Counter()
        for held in found:
            callers.update(held.callers)
        for batch_id in parts:
            self.leave(batch_id)
        source_id, lane = (found[0].source_id, found[0].lane) if found else ("", None)
        since_s = min((held.since_s for held in found), default=None)
        self.enter(whole, events, source_id=source_id, lane=lane, callers=callers, since_s=since_s)

    def _count(self, held: Held, sign: int) -> None:
        _add(self._by_lane, held.lane, sign * held.events)
        self.sources.add(held.source_id, held.lane, sign * held.events)
        for caller, events in held.callers.items():
            self.callers.add(caller, held.lane, sign * events)


class Shares:
    """Events by holder, and by holder and lane."""

    def __init__(self) -> None:
        self._all: Counter[str] = Counter()
        self._by_lane: Counter[tuple[str, Lane | None]] = Counter()

    def add(self, name: str, lane: Lane | None, events: int) -> None:
        _add(self._all, name, events)
        _add(self._by_lane, (name, lane), events)

    def held(self, name: str | None, blocked: Collection[Lane]) -> int:
        """Events of a holder, leaving out those in the ``blocked`` lanes."""
        return 0 if name is None else self._all[name] - sum(self._by_lane[name, lane] for lane in blocked)

    def is_blocked(self, name: str | None, blocked: Collection[Lane]) -> bool:
        """Whether events of a holder are in these lanes."""
        return name is not None and any(self._by_lane[name, lane] for lane in blocked)


def _add(counts: Counter[K], key: K, events: int) -> None:
    counts[key] += events
    if not counts[key]:
        del counts[key]
