"""The one writer of coordination state: stimuli in, ``advance``, a grouped commit, then the effects.

A batch or a lease changes through a stimulus alone. What must survive a crash is on disk before
anything leaves the node (``coordination.durable_mark``); what comes back by itself is not written at all. A
commit that fails ends the process with nothing sent, and a restart goes on from the last one.
"""

import heapq
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import islice
from typing import Protocol, TypeAlias

import structlog
import trio

from node.runtime.channels import waiting
from node.runtime.clock import clock_ms
from protocols.coordination import advance, durable_mark
from protocols.effects import Effect, SetAlarm, Transition
from protocols.entities import Entity, EntityId
from protocols.rules import Rules
from protocols.stimuli import AlarmRang, Restarted, Stimulus

log = structlog.get_logger(__name__)

INBOX_MAX = 2_048  # stimuli from outside waiting; past it their senders wait
TIDY_MS = 1_000  # deletions wait for a commit that is needed anyway, at most so long after the last one
GROUP_MAX = 64  # stimuli per commit: bounds both the loop's share and the transaction
ALARM_LATE_MS = 1_000  # by which an alarm may be late while stimuli wait


Act: TypeAlias = Callable[[Sequence[Effect]], Awaitable[None]]


class Journal(Protocol):
    """Where committed state is stored."""

    async def load(self) -> Sequence[Entity]:
        """The state that a restarted node goes on with, see ``coordination.recover``."""

    async def commit(self, changed: Sequence[Entity], removed: Sequence[EntityId]) -> None:
        """Store everything or nothing; returns once it is on disk."""

    def note(self, transition: Transition, rules: Rules) -> None:
        """Take in what changed under the rules in force, for views that may lag behind; never waits."""


class Driver:
    """Feeds stimuli to ``advance``, commits, and hands the effects on in the order of the commits."""

    def __init__(self, rules: Rules, journal: Journal) -> None:
        self.rules = rules
        self._journal = journal
        self._entities: dict[EntityId, Entity] = {}
        self._alarms: dict[EntityId, int] = {}
        self._heap: list[tuple[int, EntityId]] = []
        self._marks: dict[EntityId, object] = {}  # of what is stored
        self._deletable: set[EntityId] = set()  # stored, and gone since
        self._tidy_ms = 0
        self._places = trio.Semaphore(INBOX_MAX)
        self._send, self._receive = trio.open_memory_channel[tuple[Stimulus, bool]](math.inf)

    async def submit(self, stimulus: Stimulus) -> None:
        """Submit a stimulus from outside; waits while the inbox is full, which is the back-pressure."""
        await self._places.acquire()
        self._send.send_nowait((stimulus, True))

    def enqueue(self, stimulus: Stimulus) -> None:
        """Enqueue what an effect of this node led to: bounded by the effects under way, so it never waits."""
        self._send.send_nowait((stimulus, False))

    def find(self, entity_id: EntityId) -> Entity | None:
        """A committed entity, for reading only."""
        return self._entities.get(entity_id)

    def entities(self) -> Iterable[Entity]:
        """All committed entities, for reading only."""
        return tuple(self._entities.values())

    @property
    def depth(self) -> int:
        """Stimuli waiting."""
        return self._receive.statistics().current_buffer_used

    async def run(
        self,
        act: Act,
        task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED,  # type: ignore[name-defined]
    ) -> None:
        """Load the state, emit again the effects it owes, then serve until cancelled.

        Args:
            act: Takes the effects of each commit; while it waits, the driver waits.
        """
        for state in (self._entities, self._alarms, self._heap, self._marks, self._deletable):
            state.clear()
        for entity in await self._journal.load():
            self._entities[entity.entity_id] = entity
            self._marks[entity.entity_id] = durable_mark(entity)
        log.info("driver.loaded", entities=len(self._entities))
        task_status.started()
        now_ms = clock_ms()
        for entity_id in tuple(self._entities):
            self.enqueue(Restarted(now_ms=now_ms, entity_id=entity_id))
        while True:
            group = await self._next_group()
            if group:
                await self._drive(group, act)

    async def _next_group(self) -> list[Stimulus]:
        """What waits, then the alarms that are due, up to a bound; if there is nothing, what comes next.

        An alarm often means that something did not come: what came before it is looked at first. Behind a full inbox
        it rings when it is late by ``ALARM_LATE_MS``.
        """
        group = self._take_waiting(GROUP_MAX)
        if len(group) < GROUP_MAX or (self._heap and self._heap[0][0] <= clock_ms() - ALARM_LATE_MS):
            group += self._due_alarms()
        if group:
            await trio.lowlevel.checkpoint()
            return group
        wait_ms = self._heap[0][0] - clock_ms() if self._heap else 3_600_000
        with trio.move_on_after(max(0, wait_ms) / 1000):
            stimulus, counted = await self._receive.receive()
            group.append(stimulus)
            if counted:
                self._places.release()
        return group + self._take_waiting(GROUP_MAX - len(group))

    def _take_waiting(self, most: int) -> list[Stimulus]:
        taken = []
        for stimulus, counted in islice(waiting(self._receive), most):
            taken.append(stimulus)
            if counted:
                self._places.release()
        return taken

    def _due_alarms(self) -> list[Stimulus]:
        due: list[Stimulus] = []
        now_ms = clock_ms()
        while self._heap and self._heap[0][0] <= now_ms and len(due) < GROUP_MAX:
            at_ms, entity_id = heapq.heappop(self._heap)
            if self._alarms.get(entity_id) == at_ms:
                del self._alarms[entity_id]
                due.append(AlarmRang(now_ms=now_ms, entity_id=entity_id))
        return due

    async def _drive(self, group: list[Stimulus], act: Act) -> None:
        transition = advance(self._entities, group, self.rules)
        await self._store(transition)
        for entity in transition.changed:
            self._entities[entity.entity_id] = entity
        for entity_id in transition.removed:
            del self._entities[entity_id]
            self._alarms.pop(entity_id, None)
        effects = []
        for effect in transition.effects:
            if isinstance(effect, SetAlarm):
                self._set_alarm(effect)
            else:
                effects.append(effect)
        if effects:
            await act(effects)

    async def _store(self, transition: Transition) -> None:
        """Commit what must survive, and with it the deletions that could wait until now."""
        marks = {entity.entity_id: durable_mark(entity) for entity in transition.changed}
        urgent = tuple(
            entity
            for entity in transition.changed
            if marks[entity.entity_id] not in (None, self._marks.get(entity.entity_id))
        )
        self._deletable.update(entity_id for entity_id in transition.removed if entity_id in self._marks)
        self._deletable.difference_update(marks)
        due = bool(self._deletable) and clock_ms() >= self._tidy_ms
        if not urgent and not due:
            self._journal.note(transition, self.rules)
            return
        removed = tuple(sorted(self._deletable))
        await self._journal.commit(urgent, removed)
        self._journal.note(transition, self.rules)
        self._marks.update({entity.entity_id: marks[entity.entity_id] for entity in urgent})
        for entity_id in removed:
            self._marks.pop(entity_id, None)
        self._deletable.clear()
        self._tidy_ms = clock_ms() + TIDY_MS

    def _set_alarm(self, effect: SetAlarm) -> None:
        """One alarm an entity, the last one set; the entity asks again if it rings too early."""
        if self._alarms.get(effect.entity_id) != effect.at_ms:
            self._alarms[effect.entity_id] = effect.at_ms
            heapq.heappush(self._heap, (effect.at_ms, effect.entity_id))
