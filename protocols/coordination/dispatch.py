"""Start an attempt: ask the holders of a batch left behind, wait for agents and for a place, and order the work."""

from typing import Final

import attrs

from protocols.coordination import accounts, asking, flow
from protocols.coordination.workspace import Workspace
from protocols.effects import Send
from protocols.entities import Ballot, Batch, Grant, Stage
from protocols.messages import BatchProgress, BatchQuery, IdentityKey
from protocols.roles import EVIDENCE_ROLES

ASKS_MAX: Final = 8  # how often holders are asked about a batch left behind: links take a moment after a start


def wait(work: Workspace, batch: Batch, *, first: bool = False) -> None:
    """Have a batch wait for its turn. First ask the holders, who may have finished it meanwhile.

    Args:
        first: At the head of its source's line, where it has been at agents already.
    """
    if batch.recovered and batch.holders and batch.resends < ASKS_MAX:
        alarm_ms = work.now_ms + work.rules.ask_ms
        batch = attrs.evolve(batch, stage=Stage.ASKING, resends=batch.resends + 1, alarm_ms=alarm_ms)
        work.put(batch)
        work.alarm(batch.entity_id, alarm_ms)
        ask_holders(work, batch)
        return
    flow.wait(work, batch, first=first)


def fill(work: Workspace) -> None:
    """Dispatch what waits, as far as there are places, grants and credit: the last thing that every step does."""
    while (found := flow.next_batch(work)) is not None:
        batch, grant = found
        _dispatch(work, batch, grant)
        after = work.find(Batch, batch.entity_id)
        work.put(flow.count(work, accounts.flow_of(work), batch, after))


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
        wait(work, attrs.evolve(batch, recovered=False))
    else:
        work.put(batch)


def ask_holders(work: Workspace, batch: Batch) -> None:
    """Ask the holders what became of the batch."""
    query = BatchQuery(network=work.rules.network, batch_id=batch.batch_id)
    work.emit(*(Send(to=key, message=query) for key in batch.holders))


def _dispatch(work: Workspace, batch: Batch, grant: Grant) -> None:
    """Begin an attempt with the agents that have room: everything that an earlier one left behind is reset."""
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
        asks=(),
        contexts=(),
        refusals=(),
        statement=None,
        certifications=(),
        dispatched_ms=work.now_ms,
        alarm_ms=0,
    )
    agents = (*asking.agents_of(batch), *(award.agent for award in batch.shadows))
    current = accounts.flow_of(work)
    asking.begin(work, batch, [key for key in agents if accounts.has_room(current, key, work.now_ms)])
