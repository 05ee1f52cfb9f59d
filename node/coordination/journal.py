"""The driver's journal in Postgres: entities as rows, and the specification's job rows beside them."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from node.runtime.write_behind import WriteBehind
from protocols import codec
from protocols.certificate import agent_id
from protocols.coordination import recover
from protocols.effects import Transition
from protocols.entities import ENTITIES, Batch, Entity, EntityId, Stage
from protocols.errors import MalformedError
from protocols.messages import Role
from protocols.rules import Rules
from storage import batches, entities, jobs
from storage.database import Database
from storage.jobs import JobChange

if TYPE_CHECKING:
    from psycopg import Connection

log = structlog.get_logger(__name__)

COMING_BACK: Final = ("batch:", "lease:", "held:")  # made again from its row, awarded again, named by every order
RUNNING: Final = {
    Stage.PROCESSING: (Role.NORMALIZE, Role.VALIDATE),
    Stage.CERTIFYING: (Role.CERTIFY,),
    Stage.BACKOFF: (Role.NORMALIZE,),
}
"""The jobs that a batch's stage is about."""


class EntityJournal:
    """The driver's journal: entities as rows, and the specification's job rows beside them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._stages: dict[str, tuple[Stage, int]] = {}
        self._changes = WriteBehind[tuple[EntityId, Role], JobChange](
            "jobs", database, write=_write_jobs, merge=lambda first, second: second
        )

    async def load(self) -> Sequence[Entity]:
        rows, pending = await self._database.run(_load)
        found = recover(_readable(rows), pending)
        for entity in found:
            if isinstance(entity, Batch):
                self._stages[entity.entity_id] = (entity.stage, entity.attempt)
        return found

    async def commit(self, changed: Sequence[Entity], removed: Sequence[EntityId]) -> None:
        """Encode and store in a database thread; the loop goes on meanwhile."""
        await self._database.run(partial(_commit, changed, removed))

    def note(self, transition: Transition, rules: Rules) -> None:
        """Take in that a batch's stage or attempt changed; its job rows are written behind."""
        for entity in transition.changed:
            if isinstance(entity, Batch) and self._stages.get(entity.entity_id) != (entity.stage, entity.attempt):
                self._stages[entity.entity_id] = (entity.stage, entity.attempt)
                for change in _job_changes(entity, rules.attempts_at(entity.manifest.message.level)):
                    self._changes.add((entity.entity_id, change.role), change)
        for entity_id in transition.removed:
            if self._stages.pop(entity_id, None) is not None:
                for role in Role:
                    self._changes.discard((entity_id, role))

    async def run(self) -> None:
        """Write changed job rows of batches that have no end yet, until cancelled."""
        await self._changes.run()


def _job_changes(batch: Batch, max_attempts: int) -> list[JobChange]:
    waits = batch.stage is Stage.BACKOFF
    return [
        JobChange(
            batch_id=batch.batch_id,
            role=role,
            status="queued" if waits else "running",
            agent=next((agent_id(award.agent) for award in batch.awards if role in award.roles), None),
            attempts=batch.attempt + (not waits),
            max_attempts=max_attempts,
            next_run_ms=batch.alarm_ms if waits else 0,
        )
        for role in RUNNING.get(batch.stage, ())
    ]


def _readable(rows: Sequence[tuple[EntityId, bytes]]) -> Iterator[Entity]:
    """The stored entities; those that another version wrote are left out where they come back by themselves.

    Raises:
        MalformedError: one that would not come back cannot be read: another version of the program wrote it.
    """
    for entity_id, state in rows:
        try:
            yield codec.decode_tagged(ENTITIES, state)
        except MalformedError as error:
            if not entity_id.startswith(COMING_BACK):
                raise
            log.warning("journal.left_out", entity=entity_id, why=str(error))


def _load(connection: "Connection") -> tuple[list[tuple[EntityId, bytes]], frozenset[str]]:
    pending = frozenset(row.batch_id for row in batches.pending(connection))
    return entities.load_all(connection), pending


def _commit(changed: Sequence[Entity], removed: Sequence[EntityId], connection: "Connection") -> None:
    rows = [(entity.entity_id, codec.encode(entity)) for entity in changed]
    entities.commit(connection, rows, removed)


def _write_jobs(connection: "Connection", changes: Mapping[tuple[EntityId, Role], JobChange]) -> None:
    jobs.apply(connection, list(changes.values()))
