"""Start an attempt: ask the holders of a batch left behind, wait for agents and for a place, and order the work."""

import hashlib
from typing import Final

import attrs

from protocols.coordination import accounts, asking, flow, leases
from protocols.coordination.workspace import Workspace
from protocols.effects import Send
from protocols.entities import Ballot, Batch, Grant, Stage
from protocols.load import Flow
from protocols.messages import BatchProgress, BatchQuery, IdentityKey
from protocols.roles import EVIDENCE_ROLES, WORK_ROLES

FULL_SHARE: Final = 8  # one batch of so many goes to all executors at once
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
    current = accounts.flow_of(work)
    agents = (*_first(work, batch, current), *(award.agent for award in batch.shadows))
    asking.begin(work, batch, [key for key in agents if accounts.has_room(current, key, work.now_ms)])


def _first(work: Workspace, batch: Batch, current: Flow) -> tuple[IdentityKey, ...]:
    """Those to ask at first: as few as make a quorum, this node's own agent among them; the others are asked when
    these are silent for longer than usual, have no room, or contradict each other.

    Everybody is asked about a share of the batches, so that all stay known, and while it is not known how long an
    answer takes. Those that owe the fewest answers come first, in an order that differs from batch to batch.
    """
    everybody = asking.agents_of(batch)
    manifest = batch.manifest.message
    lot = hashlib.sha256(batch.batch_id.encode()).digest()
    if lot[0] % FULL_SHARE == 0 or not leases.is_pace_known(work, manifest.level, manifest.quorum):
        return everybody
    free = [award for award in batch.awards if accounts.has_room(current, award.agent, work.now_ms)]
    free.sort(
        key=lambda award: (
            award.agent != work.rules.self_key,
            accounts.outstanding(current, award.agent),
            hashlib.sha256(lot + award.agent).digest(),
        )
    )
    lacking = dict.fromkeys(WORK_ROLES, manifest.quorum)
    chosen: list[IdentityKey] = []
    for award in free:
        useful = [role for role in award.roles if lacking.get(role, 0) > 0]
        if useful:
            chosen.append(award.agent)
            for role in useful:
                lacking[role] -= 1
    return tuple(chosen)
