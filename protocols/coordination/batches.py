"""Where a batch enters the coordinator's care, and what its alarms and a restart cause. Read ``stages`` first."""

import attrs

from protocols.coordination import asking, attempts, chains, holding, leases, sealing
from protocols.coordination.dispatch import ask_holders, lease_or_wait
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
            lease_or_wait(work, attrs.evolve(batch, context=dead.context, agreed=True))
        else:
            _enter(work, batch)


def _enter(work: Workspace, batch: Batch) -> None:
    if batch.stateful:
        chains.enter(work, batch)
    else:
        lease_or_wait(work, batch)
    holding.offer(work, batch)


def on_alarm(work: Workspace, batch: Batch) -> None:
    """Do what the stage's time is up for. An alarm of an earlier stage, or one set again since, rings too early."""
    if work.now_ms < batch.alarm_ms:
        work.alarm(batch.entity_id, batch.alarm_ms)
        return
    if not accepts(batch, AlarmRang):
        return
    match batch.stage:
        case Stage.ASKING | Stage.BACKOFF:
            lease_or_wait(work, batch)
        case Stage.PROCESSING | Stage.CERTIFYING:
            if work.now_ms >= batch.attempt_ends_ms:
                asking.report_silent(work, batch)
                attempts.fail(work, batch, "the attempt ran out of time")
            elif work.now_ms >= batch.patience_ends_ms:
                asking.replace_silent(work, batch)
            else:
                asking.resend(work, batch)
        case Stage.SEALING:
            sealing.write(work, batch)
        case Stage.SEALED:
            asking.report_silent(work, batch)
            for silent in asking.unanswered(batch):
                leases.substitute(work, batch, silent)
            sealing.finish(work, batch)
        case _:
            raise AssertionError(f"no alarm is accepted in {batch.stage.name}")


def on_restart(work: Workspace, batch: Batch) -> None:
    """Emit again what the stage owes: effects are not stored."""
    match batch.stage:
        case Stage.PROCESSING | Stage.CERTIFYING:
            ask_holders(work, batch)
            attempt_ms = work.rules.attempt_ms_at(batch.manifest.message.level)
            batch = attrs.evolve(batch, attempt_ends_ms=work.now_ms + attempt_ms)
            asking.await_answers(work, batch)
            silent = asking.unanswered(batch)
            asking.send_orders(work, batch, silent)
            if batch.stage is Stage.CERTIFYING:
                asking.send_certify(work, batch, silent)
        case Stage.LEASING:
            lease_or_wait(work, batch)
        case Stage.SEALING:
            sealing.write(work, batch)
        case Stage.SEALED | Stage.BACKOFF | Stage.ASKING:
            work.alarm(batch.entity_id, max(batch.alarm_ms, work.now_ms))
        case Stage.CHAINED | Stage.DEAD:
            pass  # another batch, or an operator, brings it on
