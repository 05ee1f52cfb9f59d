"""Asking agents about a batch: the first time, again, in place of silent ones, and beside contradicting ones."""

import attrs

from protocols.coordination import leases
from protocols.coordination.workspace import Workspace
from protocols.effects import ReportPeer, Send
from protocols.entities import Batch, Stage
from protocols.levels import quorum_of
from protocols.messages import Award, CertifyOrder, Evidence, IdentityKey, Role, Signed, WorkOrder
from protocols.quorum import is_hopeless, supporters
from protocols.reputation import Outcome

FURTHER = 2  # how many more agents are asked when those asked contradict each other
EXECUTORS_MAX = 9


def await_answers(work: Workspace, batch: Batch) -> None:
    """Set the deadlines for the answers just asked for: when to ask again, when to replace the silent."""
    manifest = batch.manifest.message
    patience_ends_ms = work.now_ms + leases.patience_ms(work, manifest.level, manifest.quorum)
    alarm_ms = min(work.now_ms + work.rules.resend_ms, patience_ends_ms, batch.attempt_ends_ms)
    batch = attrs.evolve(batch, asked_ms=work.now_ms, patience_ends_ms=patience_ends_ms, resends=0, alarm_ms=alarm_ms)
    work.put(batch)
    work.alarm(batch.entity_id, alarm_ms)


def send_orders(work: Workspace, batch: Batch, agents: tuple[IdentityKey, ...]) -> None:
    """Send work orders to these agents, executors or shadows of the batch."""
    for award in (*batch.awards, *batch.shadows):
        if award.agent in agents:
            order = WorkOrder(
                network=work.rules.network,
                award=award,
                manifest=batch.manifest,
                context=batch.context,
                attempt=batch.attempt,
                claim=batch.claim,
            )
            work.emit(Send(to=award.agent, message=order, payload_of=batch.batch_id))


def send_certify(work: Workspace, batch: Batch, agents: tuple[IdentityKey, ...]) -> None:
    """Ask agents to sign the statement that was agreed upon."""
    assert batch.statement is not None, "there is a statement from CERTIFYING on"
    order = CertifyOrder(network=work.rules.network, statement=batch.statement, evidence=evidence_of(batch))
    work.emit(*(Send(to=agent, message=order) for agent in agents))


def resend(work: Workspace, batch: Batch) -> None:
    """Ask silent agents again: a message may be lost, or an agent may have restarted."""
    silent = unanswered(batch)
    batch = attrs.evolve(
        batch,
        resends=batch.resends + 1,
        refusals=tuple(entry for entry in batch.refusals if entry[0] not in silent),
        alarm_ms=min(
            work.now_ms + work.rules.resend_ms * 2**batch.resends,
            max(batch.patience_ends_ms, work.now_ms + 1),
            batch.attempt_ends_ms,
        ),
    )
    work.put(batch)
    work.alarm(batch.entity_id, batch.alarm_ms)
    send_orders(work, batch, silent)
    if batch.stage is Stage.CERTIFYING:
        send_certify(work, batch, silent)


def replace_silent(work: Workspace, batch: Batch) -> None:
    """Replace agents that are silent for longer than is usual, well before the deadline."""
    orders = []
    for silent in unanswered(batch):
        award = leases.substitute(work, batch, silent)
        if award is None:
            continue
        _report_late(work, batch, silent)
        orders.append(award.agent)
        batch = _with_substitute(batch, silent, award)
    if not orders:
        resend(work, attrs.evolve(batch, patience_ends_ms=batch.attempt_ends_ms))
        return
    await_answers(work, batch)
    send_orders(work, batch, tuple(orders))
    if batch.stage is Stage.CERTIFYING:
        send_certify(work, batch, tuple(orders))


def ask_further(work: Workspace, batch: Batch) -> bool:
    """Widen the ballots of a batch whose agents contradict each other. False when that cannot help any more.

    Two more executors, and as many more votes as keep the quorum more than half (of ``critical``, two thirds) of
    them: so there is still at most one outcome. Those who voted keep their votes, the dissenters too.
    """
    manifest = batch.manifest.message
    if len(batch.awards) >= EXECUTORS_MAX:
        return False
    called = leases.call_up(work, batch, FURTHER)
    if not called:
        return False
    awards = (*batch.awards, *called)
    ballots = tuple(
        attrs.evolve(ballot, executors=executors, quorum=quorum_of(manifest.level, manifest.quorum, len(executors)))
        for ballot in batch.ballots
        for executors in [(*ballot.executors, *holders_of(called, ballot.role))]
    )
    refused = frozenset(key for key, _ in batch.refusals)
    if any(is_hopeless(ballot, refused) for ballot in ballots):
        return False
    batch = _out_of_the_shadow(attrs.evolve(batch, awards=awards, ballots=ballots), called)
    await_answers(work, batch)
    send_orders(work, batch, tuple(award.agent for award in called))
    return True


def unanswered(batch: Batch) -> tuple[IdentityKey, ...]:
    """The agents that have not answered what the stage asks."""
    if batch.stage is Stage.CERTIFYING:
        signed = {each.signer for each in batch.certifications}
        return tuple(key for key in holders_of(batch.awards, Role.CERTIFY) if key not in signed)
    voted = {vote.signer for ballot in batch.ballots for vote in ballot.votes}
    asked = {key for ballot in batch.ballots for key in ballot.executors}
    return tuple(key for key in agents_of(batch) if key in asked - voted)


def agents_of(batch: Batch) -> tuple[IdentityKey, ...]:
    """The executors: the agents whose answers count."""
    return tuple(award.agent for award in batch.awards)


def holders_of(awards: tuple[Award, ...], role: Role) -> tuple[IdentityKey, ...]:
    """The agents that hold a role."""
    return tuple(award.agent for award in awards if role in award.roles)


def evidence_of(batch: Batch) -> tuple[Signed[Evidence], ...]:
    """The votes that support the statement, in both roles."""
    return tuple(vote for ballot in batch.ballots for vote in supporters(ballot, ballot.agreed or b""))


def report_silent(work: Workspace, batch: Batch) -> None:
    """Report every silent agent as late."""
    for silent in unanswered(batch):
        _report_late(work, batch, silent)


def report(work: Workspace, batch: Batch, peer: IdentityKey, role: Role, outcome: Outcome) -> None:
    """Report an outcome for an agent's reputation in a role."""
    work.emit(ReportPeer(peer=peer, role=role, outcome=outcome, batch_id=batch.batch_id))


def _report_late(work: Workspace, batch: Batch, silent: IdentityKey) -> None:
    if batch.stage is Stage.CERTIFYING:
        report(work, batch, silent, Role.CERTIFY, "late")
        return
    for ballot in batch.ballots:
        if silent in ballot.executors and silent not in {vote.signer for vote in ballot.votes}:
            report(work, batch, silent, ballot.role, "late")


def _with_substitute(batch: Batch, silent: IdentityKey, award: Award) -> Batch:
    """The batch with one executor for another; a vote already given in another role stays counted."""
    ballots = tuple(
        attrs.evolve(ballot, executors=tuple(award.agent if key == silent else key for key in ballot.executors))
        if silent not in {vote.signer for vote in ballot.votes}
        else ballot
        for ballot in batch.ballots
    )
    awards = tuple(award if kept.agent == silent else kept for kept in batch.awards)
    return _out_of_the_shadow(attrs.evolve(batch, awards=awards, ballots=ballots), (award,))


def _out_of_the_shadow(batch: Batch, called: tuple[Award, ...]) -> Batch:
    """An agent that is called up counts from here on; its earlier evidence counts when it sends it again."""
    agents = {award.agent for award in called}
    return attrs.evolve(
        batch,
        shadows=tuple(award for award in batch.shadows if award.agent not in agents),
        shadow_votes=tuple(vote for vote in batch.shadow_votes if vote.signer not in agents),
    )
