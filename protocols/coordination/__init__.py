"""The life of leases and batches as one transition function: ``step(view, stimulus, rules)``.

Pure: a value and a stimulus go in, changed entities and effects come out. The driver commits the entities,
then has the effects carried out. Effects are not stored; ``Restarted`` emits again what a state still owes.
"""

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import attrs

from protocols.coordination import (
    accounts,
    adoption,
    agreement,
    batches,
    bidding,
    desk,
    dispatch,
    flow,
    holding,
    leases,
    proving,
    sealing,
    tasks,
)
from protocols.coordination.holding import choose_holders
from protocols.coordination.workspace import Workspace
from protocols.effects import Effect, Transition
from protocols.entities import (
    Batch,
    Chain,
    Entity,
    EntityId,
    HeldAward,
    Lease,
    Replica,
    Replication,
    Stage,
    Task,
    TaskStage,
)
from protocols.load import Desk, Flow
from protocols.rules import Rules
from protocols.stimuli import (
    AlarmRang,
    AnnouncementReceived,
    AwardReceived,
    BatchAdopted,
    BatchCommitted,
    BatchReplayed,
    BatchReproduced,
    BatchWritten,
    BidReceived,
    CertificateLookedUp,
    CertificateReceived,
    CertificateStored,
    CertificationReceived,
    CertifyReceived,
    ConfirmationReceived,
    HoldConfirmed,
    HoldReceived,
    PeerAppeared,
    ProofReceived,
    QueryReceived,
    RefusalReceived,
    ReplicaLost,
    ReplicaStored,
    Restarted,
    ResultReceived,
    RoleFailed,
    RoleFinished,
    StatementSigned,
    StatusReceived,
    Stimulus,
    WorkReceived,
    WorkStatusReceived,
)

__all__ = ["advance", "choose_holders", "durable_mark", "recover", "step"]


def step(view: Mapping[EntityId, Entity], stimulus: Stimulus, rules: Rules) -> Transition:
    """Apply a stimulus: the changed entities of the node, and the effects to carry out."""
    work = Workspace(view, rules, stimulus.now_ms)
    match stimulus:
        case AlarmRang():
            _on_alarm(work, stimulus.entity_id)
        case Restarted():
            _on_restart(work, stimulus.entity_id)
        case _:
            _HANDLERS[type(stimulus)](work, stimulus)
    flow.balance(work)
    dispatch.fill(work)
    return work.transition()


def advance(view: Mapping[EntityId, Entity], stimuli: Iterable[Stimulus], rules: Rules) -> Transition:
    """Several steps as one: what a group commit stores, and the effects to carry out after it."""
    changes: dict[EntityId, Entity | None] = {}
    effects: list[Effect] = []
    current = _Overlay(changes, view)
    for stimulus in stimuli:
        transition = step(current, stimulus, rules)
        changes.update({entity.entity_id: entity for entity in transition.changed})
        changes.update(dict.fromkeys(transition.removed))
        effects += transition.effects
    return Transition(
        changed=tuple(entity for entity in changes.values() if entity is not None),
        removed=tuple(key for key, entity in changes.items() if entity is None and key in view),
        effects=tuple(effects),
    )


def durable_mark(entity: Entity) -> object:
    """What of an entity must be on disk before anything leaves the node; None while nothing must.

    The driver commits when the mark differs from the stored one. Everything else comes back by itself: a batch
    without an entity is committed again from its row, agents are asked again and answer alike, leases are awarded
    anew. What would not come back is a context agreed upon, a statement or certificate the batch's successors rest
    on, the count of attempts, and the fact that this node is about to sign: it must never sign another statement.
    """
    match entity:
        case Batch(stage=Stage.CERTIFYING | Stage.BACKOFF | Stage.DEAD):
            return entity.stage, entity.attempt
        case Batch(stage=Stage.SEALING, learned=True):
            return entity.stage, entity.attempt
        case Chain():
            return entity.context
        case Task(stage=TaskStage.SIGNING):
            return entity.stage
        case _:
            return None


UNAGREED = (Stage.LEASING, Stage.PROCESSING, Stage.BACKOFF, Stage.ASKING)


def recover(stored: Iterable[Entity], pending: Collection[str]) -> tuple[Entity, ...]:
    """What a restarted node goes on with: stored entities, less what ended after they were stored.

    Args:
        pending: Ids of the batches that have no end yet; those without an entity come again as BatchCommitted.
    """
    kept: list[Entity] = []
    for entity in stored:
        if isinstance(entity, Batch) and entity.stage is Stage.DEAD and entity.batch_id in pending:
            if (
                entity.agreed
            ):  # to be tried again, from the context that later batches rest on; others are committed again
                kept.append(attrs.evolve(entity, stage=Stage.BACKOFF, attempt=0, reasons=(), alarm_ms=0))
            continue
        if isinstance(entity, Batch) and entity.batch_id not in pending and entity.stage is not Stage.DEAD:
            continue
        if isinstance(entity, Chain):
            running = entity.running if entity.running in pending else ""
            queue = tuple(batch_id for batch_id in entity.queue if batch_id in pending)
            kept.append(attrs.evolve(entity, running=running, queue=queue))
            continue
        kept.append(entity)
    return _rechained(kept)


def _rechained(kept: list[Entity]) -> tuple[Entity, ...]:
    """Rebuild chains: one is stored when its context changes, and a batch may have entered it since.

    A batch that is stored and not agreed upon is the one that runs: nothing may start from its context beside it.
    """
    chains = {entity.source_id: entity for entity in kept if isinstance(entity, Chain)}
    for entity in kept:
        if isinstance(entity, Batch) and entity.stateful and not entity.agreed and entity.stage in UNAGREED:
            source_id = entity.manifest.message.source_id
            chain = chains.get(source_id, Chain(source_id=source_id, context=entity.context))
            waiting = tuple(batch_id for batch_id in chain.queue if batch_id != entity.batch_id)
            chains[source_id] = attrs.evolve(chain, running=entity.batch_id, queue=waiting)
    return (*(entity for entity in kept if not isinstance(entity, Chain)), *chains.values())


class _Overlay(Mapping[EntityId, Entity]):
    """Changes over a view; None in ``changes`` is a deletion."""

    def __init__(self, changes: Mapping[EntityId, Entity | None], view: Mapping[EntityId, Entity]) -> None:
        self._changes = changes
        self._view = view

    def __getitem__(self, key: EntityId) -> Entity:
        entity = self._changes[key] if key in self._changes else self._view[key]
        if entity is None:
            raise KeyError(key)
        return entity

    def __iter__(self) -> Iterator[EntityId]:
        kept = (key for key in self._view if key not in self._changes)
        return itertools.chain(kept, (key for key, entity in self._changes.items() if entity is not None))

    def __len__(self) -> int:
        return sum(1 for _ in self)


_HANDLERS: dict[type[Stimulus], Callable[[Workspace, Any], None]] = {
    BatchCommitted: batches.on_committed,
    AnnouncementReceived: bidding.on_announcement,
    BidReceived: leases.on_bid,
    PeerAppeared: leases.on_peer,
    AwardReceived: leases.on_award,
    WorkReceived: tasks.on_work,
    RoleFinished: tasks.on_finished,
    RoleFailed: tasks.on_failed,
    ResultReceived: agreement.on_result,
    RefusalReceived: agreement.on_refusal,
    WorkStatusReceived: agreement.on_work_status,
    CertifyReceived: tasks.on_certify,
    StatementSigned: tasks.on_signed,
    CertificationReceived: agreement.on_certification,
    BatchWritten: sealing.on_written,
    CertificateReceived: adoption.on_sealed,
    CertificateStored: tasks.on_certificate_kept,
    ConfirmationReceived: sealing.on_confirmation,
    BatchReplayed: batches.on_replayed,
    ProofReceived: proving.on_proof,
    HoldReceived: adoption.on_hold,
    ReplicaLost: adoption.on_lost,
    ReplicaStored: adoption.on_kept,
    HoldConfirmed: holding.on_held,
    QueryReceived: adoption.on_query,
    StatusReceived: adoption.on_status,
    CertificateLookedUp: adoption.on_end_found,
    BatchAdopted: adoption.on_adopted,
    BatchReproduced: sealing.on_reproduced,
}


def _on_alarm(work: Workspace, entity_id: EntityId) -> None:
    entity = work.find(object, entity_id)
    match entity:
        case Lease():
            leases.on_alarm(work, entity)
        case Flow():
            accounts.wait_for_room(work, entity)
        case Desk():
            desk.on_alarm(work, entity)
        case Batch():
            batches.on_alarm(work, entity)
        case HeldAward():
            leases.on_held_alarm(work, entity)
        case Task():
            tasks.on_alarm(work, entity)
        case Replica():
            adoption.on_alarm(work, entity)
        case Replication():
            holding.on_alarm(work, entity)
        case _:
            pass  # the entity is gone, or a chain, which has no alarms


def _on_restart(work: Workspace, entity_id: EntityId) -> None:
    entity = work.find(object, entity_id)
    match entity:
        case Lease():
            leases.on_restart(work, entity)
        case Batch():
            batches.on_restart(work, entity)
        case HeldAward():
            leases.on_held_alarm(work, entity)
        case Task():
            tasks.on_restart(work, entity)
        case _:
            pass
