"""What follows a failed attempt: the lease is given up, and the batch waits for the next attempt or is dead."""

from typing import Final

import attrs

from protocols.certificate import rfc3339
from protocols.coordination import chains, leases
from protocols.coordination.workspace import Workspace
from protocols.effects import MarkDead
from protocols.entities import Batch, Stage

REASONS_MAX: Final = 128  # more than the retries of any template allow
RETRY_STEP: Final = 2  # attempts back off four times as long each: about 1, 4, 16 and 30 s


def fail(work: Workspace, batch: Batch, reason: str) -> None:
    """Give the lease up, wait, and try with a fresh one; out of attempts, mark the batch dead."""
    manifest = batch.manifest.message
    leases.revoke(work, manifest.level, manifest.quorum, batch.lease_id)
    attempt = batch.attempt + 1
    reasons = (*batch.reasons, f"attempt {attempt}, {rfc3339(work.now_ms)}: {reason}")[-REASONS_MAX:]
    batch = attrs.evolve(batch, attempt=attempt, reasons=reasons, stage=Stage.BACKOFF)
    if attempt >= work.rules.attempts_at(manifest.level):
        work.put(attrs.evolve(batch, stage=Stage.DEAD))
        work.emit(MarkDead(batch_id=batch.batch_id, reasons=reasons))
        if not batch.agreed:
            chains.advance(work, batch, None)
        return
    batch = attrs.evolve(batch, alarm_ms=work.now_ms + leases.backoff_ms(work, RETRY_STEP * attempt - 1))
    work.put(batch)
    work.alarm(batch.entity_id, batch.alarm_ms)
