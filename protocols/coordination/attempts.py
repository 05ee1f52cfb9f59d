"""How an attempt goes on and how it ends without a certificate: what failed is told from who was absent.

An attempt *fails* by a cause in the batch: agents refuse it for what is in it, or contradict each other even after
more were asked. After the last of ``attempts_max`` such failures the batch is dead. It is *postponed* for lack of
agents: they are silent, gone, or have no room. That costs the batch no attempt, and it waits for as long as it takes.
"""

from typing import Final

import attrs

from protocols.certificate import rfc3339
from protocols.coordination import asking, chains, flow, leases
from protocols.coordination.workspace import Workspace
from protocols.effects import MarkDead
from protocols.entities import Batch, Stage
from protocols.load import AskState

REASONS_MAX: Final = 128  # more than the retries of any template allow
RETRY_STEP: Final = 2  # attempts back off four times as long each: about 1, 4, 16 and 30 s
POSTPONED: Final = "postponed, "


def on_alarm(work: Workspace, batch: Batch) -> None:
    """Do what is due about the orders of an attempt."""
    go_on(work, asking.take_stock(work, batch), is_due=True)


def go_on(work: Workspace, batch: Batch, *, is_due: bool = False) -> None:
    """Keep a batch with what it waits for; see to it that enough agents are at it; end its attempt if none can be."""
    if not asking.is_reachable(batch, asking.refused(batch)):
        _fail_or_widen(work, batch)
        return
    if _lacks_agents(batch):
        gone = asking.in_state(batch, AskState.GONE) & set(asking.unanswered(batch))
        batch, called = asking.call_others(work, batch, tuple(sorted(gone)))
        if _lacks_agents(batch):
            postpone(work, batch, _who_lacks(batch))
            return
        batch = asking.ask_others(work, batch, called)
    if is_due:
        batch = asking.ask_due(work, batch)
    if asking.is_short(batch):
        if asking.in_state(batch, AskState.PUT_OFF):
            flow.ease(work, batch)
        batch = asking.ask_more(work, batch)
    asking.keep(work, batch)


def fail(work: Workspace, batch: Batch, reason: str) -> None:
    """Give the lease up, wait, and try with a fresh one; out of attempts, mark the batch dead."""
    attempt = batch.attempt + 1
    reasons = (*batch.reasons, f"attempt {attempt}, {rfc3339(work.now_ms)}: {reason}")[-REASONS_MAX:]
    batch = _ended(work, attrs.evolve(batch, attempt=attempt, reasons=reasons))
    if attempt >= work.rules.attempts_at(batch.manifest.message.level):
        work.put(attrs.evolve(batch, stage=Stage.DEAD))
        work.emit(MarkDead(batch_id=batch.batch_id, reasons=reasons))
        if not batch.agreed:
            chains.advance(work, batch, None)
        return
    _back_off(work, batch, RETRY_STEP * attempt - 1)


def postpone(work: Workspace, batch: Batch, reason: str) -> None:
    """Give the lease up, and try again later with a fresh one: the batch itself has not failed."""
    postponed = batch.postponed + 1
    kept = batch.reasons[:-1] if batch.reasons and batch.reasons[-1].startswith(POSTPONED) else batch.reasons
    reasons = (*kept, f"{POSTPONED}{rfc3339(work.now_ms)}, {postponed} times so far: {reason}")[-REASONS_MAX:]
    _back_off(work, _ended(work, attrs.evolve(batch, postponed=postponed, reasons=reasons)), postponed)


def _fail_or_widen(work: Workspace, batch: Batch) -> None:
    """Settle a contradiction by asking further agents; where that cannot help, the attempt has failed."""
    if batch.stage is Stage.CERTIFYING and not asking.can_be_signed(batch, asking.refused(batch)):
        fail(work, batch, f"too many certify agents refused: {batch.refusals[-1][1]}")
    elif not asking.ask_further(work, batch):
        fail(work, batch, _why_hopeless(batch))


def _lacks_agents(batch: Batch) -> bool:
    """Whether nothing can come of the attempt without agents that are gone."""
    return not asking.is_reachable(batch, asking.refused(batch) | asking.in_state(batch, AskState.GONE))


def _ended(work: Workspace, batch: Batch) -> Batch:
    """The batch after its attempt: judged who was silent, given up the lease."""
    batch = asking.judge(work, batch)
    manifest = batch.manifest.message
    leases.revoke(work, manifest.level, manifest.quorum, batch.lease_id)
    return attrs.evolve(batch, stage=Stage.BACKOFF, asks=())


def _back_off(work: Workspace, batch: Batch, failures: int) -> None:
    batch = attrs.evolve(batch, alarm_ms=work.now_ms + leases.backoff_ms(work, failures))
    work.put(batch)
    work.alarm(batch.entity_id, batch.alarm_ms)


def _who_lacks(batch: Batch) -> str:
    gone = sorted((ask.reason, ask.agent) for ask in batch.asks if ask.state is AskState.GONE)
    named = "; ".join(f"{agent.hex()[:16]}: {reason}" for reason, agent in gone)
    return f"too few agents are left for a quorum. {named}"


def _why_hopeless(batch: Batch) -> str:
    if batch.stage is Stage.CERTIFYING:
        return "the agreement lost its quorum: one of its signers contradicted itself"
    outcomes = {vote.message.outcome for ballot in batch.ballots for vote in ballot.votes}
    refusals = "; ".join(f"{key.hex()[:16]} refused: {why}" for key, why in batch.refusals)
    return f"no quorum possible: {len(outcomes)} different outcomes. {refusals}".strip()
