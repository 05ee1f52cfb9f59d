"""The working copy of one step: entities read and written, effects emitted. It lives no longer than the step."""

from collections.abc import Iterator, Mapping
from typing import TypeVar

from protocols.effects import Effect, SetAlarm, Transition
from protocols.entities import Entity, EntityId
from protocols.rules import Rules

E = TypeVar("E")


class Workspace:
    """An overlay of changes over a read-only view of the node's entities."""

    def __init__(self, view: Mapping[EntityId, Entity], rules: Rules, now_ms: int) -> None:
        self.rules = rules
        self.now_ms = now_ms
        self._view = view
        self._changes: dict[EntityId, Entity | None] = {}
        self._effects: list[Effect] = []
        self._loaded: set[EntityId] = set()

    def find(self, cls: type[E], entity_id: EntityId) -> E | None:
        """The entity as it stands within this step, or None."""
        entity = self._changes[entity_id] if entity_id in self._changes else self._view.get(entity_id)
        assert entity is None or isinstance(entity, cls), f"{entity_id} is a {type(entity).__name__}"
        return entity

    def every(self, cls: type[E]) -> tuple[E, ...]:
        """All entities of a class; for what happens rarely."""
        ids = dict.fromkeys((*self._view, *self._changes))
        found = (self._changes.get(key, self._view.get(key)) for key in ids)
        return tuple(entity for entity in found if isinstance(entity, cls))

    def changed(self, cls: type[E]) -> Iterator[tuple[E | None, E | None]]:
        """The entities of a class that this step touched: as they were before it, and as they are."""
        for entity_id, entity in tuple(self._changes.items()):
            before = None if entity_id in self._loaded else self._view.get(entity_id)
            if isinstance(entity, cls) or isinstance(before, cls):
                yield (
                    before if isinstance(before, cls) else None,
                    entity if isinstance(entity, cls) else None,
                )

    def put_loaded(self, entity: Entity) -> None:
        """Put an entity that an earlier run left: to what is kept of load it is new."""
        self._loaded.add(entity.entity_id)
        self.put(entity)

    def put(self, entity: Entity) -> None:
        self._changes[entity.entity_id] = entity

    def drop(self, entity_id: EntityId) -> None:
        self._changes[entity_id] = None

    def emit(self, *effects: Effect) -> None:
        self._effects += effects

    def alarm(self, entity_id: EntityId, at_ms: int) -> None:
        self._effects.append(SetAlarm(entity_id=entity_id, at_ms=at_ms))

    def transition(self) -> Transition:
        changed = tuple(entity for entity in self._changes.values() if entity is not None)
        removed = tuple(key for key, entity in self._changes.items() if entity is None and key in self._view)
        return Transition(changed=changed, removed=removed, effects=tuple(self._effects))
