"""Where a batch enters the coordinator's care, and what its alarms and a restart cause. Read ``stages`` first."""

import attrs

from protocols.coordination import asking, attempts, chains, holding, sealing
from protocols.coordination.dispatch import ask_holders, wait
from protocols.coordination.stages import accepts
from protocols.coordination.workspace import Workspace
from protocols.entities import Batch, Stage
from protocols.stimuli import AlarmRang, BatchCommitted, BatchReplayed


def on_committed(work: Workspace, stimulus: BatchCommitted) -> None:
    """Take a batch into care; one that is known is only offered to its holders again."""
    batch = Batch(
        manifest=stimulus.manifest,
        stage=Stage.CHAINED,
        stateful=stimulus.stateful,
        holders=stimulus.holders,
        recovered=stimulus.recovered,
        payload_bytes=stimulus.payload_bytes,
    )
    known = work.find(Batch, batch.entity_id)
    if known is None:
        _enter(work, batch)
    else:
        holding.offer(work, known)


def on_replayed(work: Workspace, stimulus: BatchReplayed) -> None:
    """Start a dead batch again.

    One that was agreed upon goes on from the context it had: the batches after it started from what it leaves behind.
    Any other goes to the end of its source's queue, and starts from the context that it finds there.
    """
    batch = Batch(
        manifest=stimulus.manifest, stage=Stage.CHAINED, stateful=stimulus.stateful, holders=stimulus.holders
    )
    dead = work.find(Batch, batch.entity_id)
    if dead is None:
        _enter(work, batch)
    elif accepts(dead, BatchReplayed):
        if dead.agreed:
            wait(work, attrs.evolve(batch, context=dead.context, agreed=True))
        else:
            _enter(work, batch)


def _enter(work: Workspace, batch: Batch) -> None:
    if batch.stateful:
        chains.enter(work, batch)
    else:
        wait(work, batch)
    holding.offer(work, batch)


def on_alarm(work: Workspace, batch: Batch) -> None:
    """Do what the stage's time is up for. An alarm of an earlier stage, or one set again since, rings too early."""
    if work.now_ms < batch.alarm_ms:
        work.alarm(batch.entity_id, batch.alarm_ms)
        return
    if not accepts(batch, AlarmRang):
        return
    match batch.stage:
        case Stage.ASKING:
            wait(work, batch)
        case Stage.BACKOFF:
            wait(work, batch, first=True)
        case Stage.PROCESSING | Stage.CERTIFYING:
            attempts.on_alarm(work, batch)
        case Stage.SEALING:
            sealing.write(work, batch)
        case Stage.SEALED:
            sealing.finish_in_time(work, batch)
        case _:
            raise AssertionError(f"no alarm is accepted in {batch.stage.name}")


def on_restart(work: Workspace, batch: Batch) -> None:
    """Emit again what the stage owes: effects are not stored."""
    match batch.stage:
        case Stage.PROCESSING | Stage.CERTIFYING:
            ask_holders(work, batch)
            work.put_loaded(batch)
            asking.resume(work, batch)
        case Stage.LEASING:
            wait(work, batch)
        case Stage.SEALING:
            sealing.write(work, batch)
        case Stage.SEALED | Stage.BACKOFF | Stage.ASKING:
            work.alarm(batch.entity_id, max(batch.alarm_ms, work.now_ms))
        case Stage.CHAINED | Stage.DEAD:
            pass  # another batch, or an operator, brings it on
