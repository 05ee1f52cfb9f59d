"""Gives committed batches to coordination: at once while none of their line is under way, else several as one.

A batch costs every agent far more than an event of it does, so small posts that came while an earlier batch of their
source was under way are merged into one. At low rates nothing waits. Coordination bounds what is in flight; few more
than that are given to it, for what waits here, on disk and acknowledged, can still grow together.

A *line* holds the batches that may be merged with each other: those of equal terms, or all of a source whose policy
looks at earlier events, in their order. Lines take turns, one batch each.
"""

import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import partial
from typing import Any, Final, Protocol

import attrs
import structlog
import trio

from node.coordination.serialization import manifest_bytes
from node.ingest.batch_merge import Merge
from node.ingest.batch_rows import CommittedBatch
from node.ingest.line_pauses import LinePauses
from node.runtime.caches import BytesCache
from node.runtime.clock import clock_ms
from protocols.entities import Stage
from protocols.errors import WorldFault
from protocols.limits import EVENTS_PER_BATCH_MAX
from protocols.messages import IdentityKey, Manifest, Signed
from protocols.stimuli import BatchCommitted, Stimulus
from storage.database import Database

log = structlog.get_logger(__name__)

TURN_MAX: Final = 4  # of a level and quorum, that wait in coordination for agents or for their turn
AHEAD_MAX: Final = 2  # batches of a source whose order counts: one is processed while the one before is sealed
RETRY_S: Final = 1.0
WAITS_THERE: Final = frozenset({None, Stage.LEASING, Stage.ASKING})  # None: on its way into it


class Merger(Protocol):
    """Merges batches that wait, in one transaction."""

    def merge(self, connection: Any, *, first: bytes, stateful: bool, batch_ids: Sequence[str]) -> Merge: ...


@attrs.frozen(kw_only=True)
class Waiting:
    """A batch that is durable and acknowledged, and not yet given to coordination.

    Attributes:
        expected: Coordination was given it before a restart, and its source's later batches wait for it.
    """

    manifest: Signed[Manifest]
    stateful: bool
    versioned: bool
    packed: bytes | None = None
    holders: tuple[IdentityKey, ...] = ()
    recovered: bool = False
    expected: bool = False
    payload_bytes: int = 0

    @property
    def batch_id(self) -> str:
        return self.manifest.message.batch_id

    @property
    def events(self) -> int:
        return self.manifest.message.events

    @property
    def terms(self) -> Hashable:
        """Batches of equal terms can be one."""
        each = self.manifest.message
        return each.source_id, each.policy_hash, each.level, each.quorum, each.topics


@attrs.define(eq=False)
class Line:
    """Batches that take turns: ``waiting`` in their order, ``under_way`` by id."""

    stateful: bool
    waiting: deque[Waiting] = attrs.Factory(deque)
    under_way: dict[str, Waiting] = attrs.Factory(dict)

    def mergeable(self) -> list[Waiting]:
        """The first batches that can be one, as long as they are not too many events: at least one.

        A later version of an event may not stand in one batch with the version before it, so it stays by itself.
        """
        first = self.waiting[0]
        chosen, events = [first], first.events
        for each in itertools.islice(self.waiting, 1, None):
            events += each.events
            if first.versioned or each.versioned or each.terms != first.terms or events > EVENTS_PER_BATCH_MAX:
                break
            chosen.append(each)
        return chosen


class Coalescer:
    """Holds batches back, and merges them.

    Attributes:
        is_pressed: Whether batches wait for long: then fewer and larger ones cost everybody less.
        on_merged: Called with the ids of batches, that of the one that stands for them from now on, and its events.
    """

    def __init__(
        self,
        *,
        database: Database,
        merger: Merger,
        payloads: BytesCache[str, bytes],
        submit: Callable[[Stimulus], Awaitable[None]],
        stage: Callable[[str], Stage | None],
        batch_events: int,
        pause_max_s: float,
        is_merging: bool = True,
    ) -> None:
        """Args:
        payloads: Takes the payload of each batch that is given to coordination.
        submit: Gives a stimulus to the driver.
        stage: That of a batch under way.
        batch_events: Batches that wait and have as many events together are not held back for one under way.
        pause_max_s: How long a line waits at most after a batch that took long.
        is_merging: Off: every batch is given to coordination as it is.
        """
        self._database = database
        self._merger = merger
        self._payloads = payloads
        self._submit_stimulus = submit
        self._stage = stage
        self._batch_events = batch_events
        self._is_merging = is_merging
        self.is_pressed: Callable[[], bool] = lambda: False
        self.on_merged: list[Callable[[Sequence[str], str, int], None]] = []
        self._lines: dict[Hashable, Line] = {}
        self._by_id: dict[str, tuple[Hashable, Line, float]] = {}  # those under way, with the time of their begin
        self._pauses = LinePauses(pause_max_s)
        self._held: dict[str, Line] = {}
        self._giving = trio.Lock()  # a merge of a line and what passes it do not meet
        self._changed = trio.Event()

    @property
    def waiting(self) -> tuple[int, int]:
        """Batches that wait here, and their events."""
        batches = [each for line in self._lines.values() for each in line.waiting]
        return len(batches), sum(each.events for each in batches)

    def heads(self) -> list[Manifest]:
        """The manifest of the batch of each line that waits longest."""
        return [line.waiting[0].manifest.message for line in self._lines.values() if line.waiting]

    def is_held_up(self, batch_id: str) -> bool:
        """Whether a batch failed and is tried again, or waits in the line of such a one."""
        line = self._held.get(batch_id)
        if line is None:
            return self._stage(batch_id) is Stage.BACKOFF
        return any(self._stage(ahead) is Stage.BACKOFF for ahead in line.under_way)

    def holds(self, batch_id: str) -> bool:
        """Whether a batch waits here."""
        return batch_id in self._held

    async def take(self, batches: Sequence[CommittedBatch]) -> None:
        """Take batches that were just committed; returns when each is under way or waits."""
        for batch in batches:
            await self._enter(
                Waiting(
                    manifest=batch.manifest,
                    stateful=batch.stateful,
                    versioned=batch.versioned,
                    packed=batch.packed,
                    holders=batch.holders,
                    payload_bytes=len(batch.packed),
                )
            )

    async def resume(self, batch: Waiting) -> None:
        """Take a batch that an earlier run left unfinished, or whose stimulus was lost in this one."""
        if batch.batch_id in self._by_id:
            await self._submit(batch)
        elif batch.batch_id not in self._held:
            await self._enter(batch)

    def ended(self, batch_id: str) -> None:
        """Count out a batch that is certified or dead."""
        found = self._by_id.pop(batch_id, None)
        if found is None:
            return
        key, line, begun_s = found
        del line.under_way[batch_id]
        self._pauses.begin(key, trio.current_time() - begun_s)
        if not line.under_way and not line.waiting:
            del self._lines[key]
        self._changed.set()

    async def run(self) -> None:
        """Give batches that wait to coordination, when it is their turn, until cancelled."""
        while True:
            pause_s = self._pauses.next_s()  # a batch that got stuck makes room, and tells nobody
            with trio.move_on_after(RETRY_S if pause_s is None else min(RETRY_S, pause_s)):
                await self._changed.wait()
            self._changed = trio.Event()
            try:
                while await self._take_turns():
                    pass
            except WorldFault as fault:
                log.warning("batches.not_merged", why=str(fault))
                await trio.sleep(RETRY_S)
                self._changed.set()

    # --- one batch's way ---------------------------------------------------------------------------------------

    async def _enter(self, batch: Waiting) -> None:
        key: Hashable = batch.manifest.message.source_id if batch.stateful else batch.terms
        if batch.holders or batch.expected:
            await self._pass(key, batch)
            return
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line(stateful=batch.stateful)
        line.waiting.append(batch)
        self._held[batch.batch_id] = line
        if not self._is_merging or (len(line.waiting) == 1 and self._may_go(key, line)):
            await self._give(key, line, line.waiting.popleft())
        else:
            self._changed.set()

    async def _pass(self, key: Hashable, batch: Waiting) -> None:
        """Give a batch as it is and at once: holders are to have it, and its client waits for them; or coordination
        expects this very one. Where the order counts, those that wait before it go first.
        """
        async with self._giving:
            line = self._lines.get(key) if batch.stateful else None
            while line is not None and line.waiting:
                await self._give(key, line, line.waiting.popleft())
            if batch.packed is not None:
                self._payloads.put(batch.batch_id, batch.packed)
            await self._submit(batch)

    async def _take_turns(self) -> bool:
        """Give one batch of each line whose turn it is. Whether there was any."""
        gave = False
        for key in tuple(self._lines):
            line = self._lines.get(key)
            if line is not None and line.waiting and self._may_go(key, line):
                await self._release(key, line)
                self._lines[key] = self._lines.pop(key)  # the others' turn comes first
                gave = True
        return gave

    def _may_go(self, key: Hashable, line: Line) -> bool:
        if line.stateful and len(line.under_way) >= AHEAD_MAX:
            return False
        enough = 0
        if not self._pauses.is_over(key):
            enough = EVENTS_PER_BATCH_MAX
        elif line.under_way:
            enough = EVENTS_PER_BATCH_MAX if self.is_pressed() else self._batch_events
        return (not enough or sum(each.events for each in line.waiting) >= enough) and self._has_room(line.waiting[0])

    def _has_room(self, batch: Waiting) -> bool:
        """Whether coordination has a use for another batch of this level and quorum: few of them wait there."""
        wanted = batch.manifest.message.level, batch.manifest.message.quorum
        waits = 0
        for batch_id, (_, line, _) in self._by_id.items():
            each = line.under_way[batch_id].manifest.message
            waits += (each.level, each.quorum) == wanted and self._stage(batch_id) in WAITS_THERE
        return waits < TURN_MAX

    async def _release(self, key: Hashable, line: Line) -> None:
        async with self._giving:
            if not line.waiting:  # they were given meanwhile
                return
            chosen = line.mergeable()
            if len(chosen) > 1:
                await self._merge(key, line, chosen)
            else:
                await self._give(key, line, line.waiting.popleft())

    async def _merge(self, key: Hashable, line: Line, chosen: Sequence[Waiting]) -> None:
        first = chosen[0]
        merge = partial(
            self._merger.merge,
            first=manifest_bytes(first.manifest),
            stateful=first.stateful,
            batch_ids=[each.batch_id for each in chosen],
        )
        merged = await self._database.run(merge)
        gone = {each.batch_id for each in chosen}.difference(merged.waiting).union(merged.taken)
        while line.waiting and line.waiting[0].batch_id in gone:
            self._held.pop(line.waiting.popleft().batch_id, None)
        if merged.batch is not None:
            log.debug("batches.merged", batch=merged.batch.batch_id, parts=len(merged.taken))
            for listener in self.on_merged:
                listener(merged.taken, merged.batch.batch_id, merged.batch.manifest.message.events)
            whole = Waiting(
                manifest=merged.batch.manifest,
                stateful=first.stateful,
                versioned=False,
                packed=merged.batch.packed,
                payload_bytes=len(merged.batch.packed),
            )
            await self._give(key, line, whole)
        elif line.waiting:
            await self._give(key, line, line.waiting.popleft())

    async def _give(self, key: Hashable, line: Line, batch: Waiting) -> None:
        self._held.pop(batch.batch_id, None)
        line.under_way[batch.batch_id] = batch if batch.packed is None else attrs.evolve(batch, packed=None)
        self._by_id[batch.batch_id] = key, line, trio.current_time()
        if batch.packed is not None:
            self._payloads.put(batch.batch_id, batch.packed)
        await self._submit(batch)

    async def _submit(self, batch: Waiting) -> None:
        await self._submit_stimulus(
            BatchCommitted(
                now_ms=clock_ms(),
                manifest=batch.manifest,
                stateful=batch.stateful,
                holders=batch.holders,
                recovered=batch.recovered,
                payload_bytes=batch.payload_bytes,
            )
        )
