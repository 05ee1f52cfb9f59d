"""The whole life of a lease and a batch as one transition function: ``step(view, stimulus, rules)``.

Pure: a value and a stimulus go in, changed entities and effects come out. The driver commits the entities,
then has the effects carried out. Effects are not stored; ``Restarted`` utters again what a state still owes.
"""

from collections.abc import Mapping

from protocols import job
from protocols.coordination import batches, leases, tasks
from protocols.coordination.workspace import Workspace
from protocols.job import Batch, Entity, EntityId, Held, Lease, Rules, Stage, Stimulus, Task, Transition

__all__ = ["step"]


def step(view: Mapping[EntityId, Entity], stimulus: Stimulus, rules: Rules) -> Transition:
    """What a stimulus does to the entities of a node, and what is to be done about it."""
    work = Workspace(view, rules, stimulus.now_ms)
    match stimulus:
        case job.AlarmRang():
            _on_alarm(work, stimulus.entity_id)
        case job.Restarted():
            _on_restart(work, stimulus.entity_id)
        case _:
            _HANDLERS[type(stimulus)](work, stimulus)
    return work.transition()


_HANDLERS = {
    job.BatchCommitted: batches.on_committed,
    job.AnnouncementReceived: leases.on_announcement,
    job.BidReceived: leases.on_bid,
    job.AwardReceived: leases.on_award,
    job.WorkReceived: tasks.on_work,
    job.RoleFinished: tasks.on_finished,
    job.RoleFailed: tasks.on_failed,
    job.ResultReceived: batches.on_result,
    job.RefusalReceived: batches.on_refusal,
    job.CertifyReceived: tasks.on_certify,
    job.StatementSigned: tasks.on_signed,
    job.CertificationReceived: batches.on_certification,
    job.BatchWritten: batches.on_written,
    job.SealReceived: tasks.on_sealed,
    job.ConfirmationReceived: batches.on_confirmation,
}


def _on_alarm(work: Workspace, entity_id: EntityId) -> None:
    entity = work.find(object, entity_id)
    match entity:
        case Lease():
            for batch_id in leases.on_alarm(work, entity):
                batch = work.find(Batch, batch_id)
                if batch is not None and batch.stage is Stage.LEASING:
                    batches.lease_or_wait(work, batch)
        case Batch():
            batches.on_alarm(work, entity)
        case Held():
            leases.on_held_alarm(work, entity)
        case Task():
            tasks.on_alarm(work, entity)
        case _:
            pass  # the entity is gone, or a chain, which has no alarms


def _on_restart(work: Workspace, entity_id: EntityId) -> None:
    entity = work.find(object, entity_id)
    match entity:
        case Lease():
            leases.on_restart(work, entity)
        case Batch():
            batches.on_restart(work, entity)
        case Held():
            leases.on_held_alarm(work, entity)
        case Task():
            tasks.on_restart(work, entity)
        case _:
            pass
