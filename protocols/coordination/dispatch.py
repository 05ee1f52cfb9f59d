"""Start an attempt: ask the holders of a batch left behind, take a lease or wait for one, and order the work."""

from typing import Final

import attrs

from protocols.coordination import asking, leases
from protocols.coordination.workspace import Workspace
from protocols.effects import Send
from protocols.entities import Ballot, Batch, Grant, Stage
from protocols.messages import BatchProgress, BatchQuery, IdentityKey
from protocols.roles import EVIDENCE_ROLES

ASKS_MAX: Final = 8  # how often holders are asked about a batch left behind: links take a moment after a start


def lease_or_wait(work: Workspace, batch: Batch) -> None:
    """Dispatch under a lease in force, or wait for one. First ask the holders, who may have finished it meanwhile."""
    if batch.recovered and batch.holders and batch.resends < ASKS_MAX:
        alarm_ms = work.now_ms + work.rules.ask_ms
        batch = attrs.evolve(batch, stage=Stage.ASKING, resends=batch.resends + 1, alarm_ms=alarm_ms)
        work.put(batch)
        work.alarm(batch.entity_id, alarm_ms)
        ask_holders(work, batch)
        return
    batch = attrs.evolve(batch, stage=Stage.LEASING)
    manifest = batch.manifest.message
    grant = leases.take(work, manifest.level, manifest.quorum, batch.entity_id)
    if grant is None:
        work.put(batch)
    else:
        _dispatch(work, batch, grant)


def on_status(work: Workspace, batch: Batch, holder: IdentityKey, progress: BatchProgress) -> None:
    """Wait for a holder that works on the batch; when all holders say that they do not, go on with it here."""
    if progress is BatchProgress.WORKING:
        alarm_ms = work.now_ms + work.rules.attempt_ms_at(batch.manifest.message.level)
        work.put(attrs.evolve(batch, without_news=(), alarm_ms=alarm_ms))
        work.alarm(batch.entity_id, alarm_ms)
        return
    without_news = tuple(sorted({*batch.without_news, holder}))
    batch = attrs.evolve(batch, without_news=without_news)
    if len(without_news) == len(batch.holders):
        lease_or_wait(work, attrs.evolve(batch, recovered=False))
    else:
        work.put(batch)


def ask_holders(work: Workspace, batch: Batch) -> None:
    """Ask the holders what became of the batch."""
    query = BatchQuery(network=work.rules.network, batch_id=batch.batch_id)
    work.emit(*(Send(to=key, message=query) for key in batch.holders))


def _dispatch(work: Workspace, batch: Batch, grant: Grant) -> None:
    """Begin an attempt: everything that an earlier one left behind is reset."""
    quorum = batch.manifest.message.quorum
    batch = attrs.evolve(
        batch,
        stage=Stage.PROCESSING,
        lease_id=grant.lease_id,
        awards=grant.awards,
        shadows=grant.shadows,
        shadow_votes=(),
        ballots=tuple(
            Ballot(role=role, executors=asking.holders_of(grant.awards, role), quorum=quorum)
            for role in EVIDENCE_ROLES
        ),
        contexts=(),
        refusals=(),
        resends=0,
        statement=None,
        certifications=(),
        attempt_ends_ms=work.now_ms + work.rules.attempt_ms_at(batch.manifest.message.level),
    )
    asking.await_answers(work, batch)
    asking.send_orders(work, batch, (*asking.agents_of(batch), *(award.agent for award in batch.shadows)))
