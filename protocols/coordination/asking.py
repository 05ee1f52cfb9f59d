"""Asking agents about a batch: the first time, again, in place of silent ones, and beside contradicting ones.

Each order has an ``Ask``, which says what is known of it. An agent that says that the order waits for its turn, or is
being computed, is left in peace within bounds: only silence counts against it, and computing for longer than allowed.
Replacing an agent is quick and can be undone; a judgement on it (``late``) takes ``late_ms`` of silence.
"""

from collections.abc import Iterable
from typing import Final

import attrs

from protocols.coordination import accounts, leases
from protocols.coordination.workspace import Workspace
from protocols.effects import ReportPeer, Send
from protocols.entities import Batch, Stage
from protocols.levels import quorum_of
from protocols.load import Ask, AskState
from protocols.messages import Award, CertifyOrder, Evidence, IdentityKey, Role, Signed, WorkOrder
from protocols.quorum import is_hopeless, supporters
from protocols.reputation import Outcome

FURTHER: Final = 2  # how many more agents are asked when those asked contradict each other
EXECUTORS_MAX: Final = 9
STATUS_MS_MIN, STATUS_MS_MAX = 50, 1_000  # after which an agent that is not done says so
STATUSES_MISSED: Final = 3  # after which an agent that said something counts as silent again
BEHIND_MS: Final = 1_000  # an alarm that is later than that: what looks like silence may wait in this node's inbox
OPEN: Final = (AskState.SILENT, AskState.QUEUED, AskState.RUNNING)


def begin(work: Workspace, batch: Batch, agents: Iterable[IdentityKey]) -> None:
    """Order the work of these agents, and wait for what they say."""
    keep(work, _patiently(work, order(work, batch, agents), afresh=True))


def begin_certifying(work: Workspace, batch: Batch) -> None:
    """Ask those to sign the statement that did the work or are at it, and wait for what they say."""
    batch = _patiently(work, batch, afresh=True)
    asked = {ask.agent for ask in batch.asks if ask.state in (*OPEN, AskState.ANSWERED)}
    send_certify(work, batch, [key for key in holders_of(batch.awards, Role.CERTIFY) if key in asked])
    keep(work, batch)


def resume(work: Workspace, batch: Batch) -> None:
    """Ask everybody again who has not answered, after a restart."""
    asks = tuple(attrs.evolve(ask, state=AskState.ANSWERED) for ask in batch.asks)
    batch = _patiently(work, attrs.evolve(batch, asks=asks, alarm_ms=0, dispatched_ms=work.now_ms), afresh=True)
    keep(work, ask_again(work, batch, unanswered(batch)))


def keep(work: Workspace, batch: Batch) -> None:
    """Put the batch back, and have it looked at again when the next thing about its orders is due."""
    due_ms = max(_due_ms(work, batch), work.now_ms + 1)
    if not work.now_ms < batch.alarm_ms <= due_ms:
        batch = attrs.evolve(batch, alarm_ms=due_ms)
        work.alarm(batch.entity_id, due_ms)
    work.put(batch)


def order(work: Workspace, batch: Batch, agents: Iterable[IdentityKey]) -> Batch:
    """Send work orders to these agents, executors or shadows of the batch, and note that they were asked."""
    manifest = batch.manifest.message
    status_ms = leases.patience_ms(work, manifest.level, manifest.quorum) // 2
    named = set(agents)
    for award in (*batch.awards, *batch.shadows):
        if award.agent not in named:
            continue
        message = WorkOrder(
            network=work.rules.network,
            award=award,
            manifest=batch.manifest,
            context=batch.context,
            attempt=batch.attempt,
            claim=batch.claim,
            wanted_ms=work.rules.queue_ms,
            status_ms=min(max(status_ms, STATUS_MS_MIN), STATUS_MS_MAX),
        )
        work.emit(Send(to=award.agent, message=message, payload_of=batch.batch_id))
        known = ask_of(batch, award.agent)
        asked_ms = work.now_ms if known is None else known.asked_ms
        since_ms = known.since_ms if known is not None and known.state is AskState.SILENT else work.now_ms
        batch = with_ask(batch, Ask(agent=award.agent, state=AskState.SILENT, asked_ms=asked_ms, since_ms=since_ms))
    return batch


def send_certify(work: Workspace, batch: Batch, agents: Iterable[IdentityKey]) -> None:
    """Ask agents to sign the statement that was agreed upon."""
    assert batch.statement is not None, "there is a statement from CERTIFYING on"
    message = CertifyOrder(network=work.rules.network, statement=batch.statement, evidence=evidence_of(batch))
    work.emit(*(Send(to=agent, message=message) for agent in agents))


def take_stock(work: Workspace, batch: Batch) -> Batch:
    """The batch without the agents that have been silent, or at it, for too long. Nothing is sent."""
    batch = _without_overdue(work, batch)
    waits = silent(batch)
    due_ms = batch.attempt_ends_ms if work.now_ms >= batch.attempt_ends_ms else batch.patience_ends_ms
    if waits and work.now_ms - due_ms > BEHIND_MS and work.now_ms - batch.dispatched_ms < work.rules.queue_ms:
        return _hear_out(work, batch)
    return _give_up_silent(work, batch, waits) if work.now_ms >= batch.attempt_ends_ms else batch


def ask_due(work: Workspace, batch: Batch) -> Batch:
    """Ask those that are due: again, where they had no room or are silent; others, where these are for too long."""
    batch = _ask_put_off(work, batch)
    if unasked(batch) and batch.patience_ends_ms <= work.now_ms < _replaced_ms(work, batch):
        return _ask_beside(work, batch)
    waits = silent(batch)
    if waits and work.now_ms >= batch.patience_ends_ms:
        batch, called = call_others(work, batch, waits)
        if called:
            return ask_others(work, batch, called)
        batch = attrs.evolve(batch, patience_ends_ms=batch.attempt_ends_ms)  # nobody is left: once is enough
        return ask_again(work, batch, waits)
    if waits and work.now_ms >= _resend_ms(work, batch):
        return ask_again(work, batch, waits)
    return batch


def call_others(
    work: Workspace, batch: Batch, failed: tuple[IdentityKey, ...]
) -> tuple[Batch, tuple[IdentityKey, ...]]:
    """Find others in place of agents that do not answer: the next in the ranking, or executors not asked so far.

    Returns:
        The batch with them as its executors, and who is to be asked.
    """
    called: list[IdentityKey] = []
    for agent in failed:
        award = leases.substitute(work, batch, agent)
        if award is not None:
            batch = _with_substitute(judge(work, batch, (agent,)), agent, award)
            called.append(award.agent)
    return batch, (*called, *unasked(batch)[: len(failed) - len(called)])


def ask_more(work: Workspace, batch: Batch) -> Batch:
    """Ask others beside those that have no room: executors not asked so far, then a reserve, for this batch alone.

    Those not asked that have no room either are asked when they may have some.
    """
    flow = accounts.flow_of(work)
    called: list[IdentityKey] = []
    for agent in unasked(batch):
        if accounts.has_room(flow, agent, work.now_ms):
            called.append(agent)
        else:
            again_ms = max(accounts.reopens_ms(flow, agent), work.now_ms + work.rules.patience_ms_min)
            batch = put_off(work, batch, agent, again_ms, "no room")
    for agent in sorted(in_state(batch, AskState.PUT_OFF)):
        award = None if called else leases.stand_in(work, batch, agent)
        if award is not None:
            batch = _with_substitute(give_up(work, batch, agent, "no room"), agent, award)
            called.append(award.agent)
    return ask_others(work, batch, called) if called else batch


def ask_others(work: Workspace, batch: Batch, called: Iterable[IdentityKey]) -> Batch:
    """Send the order to agents that were called in place of others, with as much time as those had."""
    return ask_again(work, _patiently(work, batch), called)


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
    if any(is_hopeless(ballot, refused(batch)) for ballot in ballots):
        return False
    batch = _out_of_the_shadow(attrs.evolve(batch, awards=awards, ballots=ballots), called)
    begin(work, batch, [award.agent for award in called])
    return True


# --- what is known of the orders ----------------------------------------------------------------------------------


def ask_of(batch: Batch, agent: IdentityKey) -> Ask | None:
    return next((ask for ask in batch.asks if ask.agent == agent), None)


def with_ask(batch: Batch, ask: Ask) -> Batch:
    """The batch with what is known of one order."""
    others = (each for each in batch.asks if each.agent != ask.agent)
    return attrs.evolve(batch, asks=tuple(sorted((*others, ask), key=lambda each: each.agent)))


def put_off(work: Workspace, batch: Batch, agent: IdentityKey, again_ms: int, reason: str) -> Batch:
    """Note that an agent cannot take the order now, and is to be asked again."""
    now_ms = work.now_ms
    known = ask_of(batch, agent) or Ask(agent=agent, state=AskState.PUT_OFF, asked_ms=now_ms, since_ms=now_ms)
    return with_ask(batch, attrs.evolve(known, state=AskState.PUT_OFF, since_ms=again_ms, reason=reason))


def answered(work: Workspace, batch: Batch, agent: IdentityKey) -> Batch:
    """Note that an agent answered; one that owes evidence still has not, be it that it answered another question."""
    known = ask_of(batch, agent)
    if known is None or known.state is AskState.ANSWERED or (agent in _owing(batch) and agent not in refused(batch)):
        return batch
    return with_ask(batch, attrs.evolve(known, state=AskState.ANSWERED, since_ms=work.now_ms, reason=""))


def unanswered(batch: Batch) -> tuple[IdentityKey, ...]:
    """The executors that have not answered what the stage asks."""
    if batch.stage is Stage.CERTIFYING:
        signed = {each.signer for each in batch.certifications}
        return tuple(key for key in holders_of(batch.awards, Role.CERTIFY) if key not in signed)
    owing = _owing(batch)
    return tuple(key for key in agents_of(batch) if key in owing)


def silent(batch: Batch) -> tuple[IdentityKey, ...]:
    """The executors that were asked, have not answered, and have not said why."""
    mute = (AskState.SILENT, AskState.ANSWERED) if batch.stage is Stage.CERTIFYING else (AskState.SILENT,)
    found = {ask.agent for ask in batch.asks if ask.state in mute}
    return tuple(key for key in unanswered(batch) if key in found)


def unasked(batch: Batch) -> tuple[IdentityKey, ...]:
    """The executors that were not sent an order: they had no room when the batch was dispatched."""
    asked = {ask.agent for ask in batch.asks}
    return tuple(key for key in agents_of(batch) if key not in asked)


def refused(batch: Batch) -> frozenset[IdentityKey]:
    """The agents that will not answer, because of the batch."""
    return frozenset(key for key, _ in batch.refusals)


def in_state(batch: Batch, *states: AskState) -> frozenset[IdentityKey]:
    return frozenset(ask.agent for ask in batch.asks if ask.state in states)


def is_reachable(batch: Batch, without: frozenset[IdentityKey]) -> bool:
    """Whether what the stage waits for can still come if these agents do not answer."""
    if any(is_hopeless(ballot, without) for ballot in batch.ballots):
        return False
    return batch.stage is not Stage.CERTIFYING or can_be_signed(batch, without)


def is_short(batch: Batch) -> bool:
    """Whether those that are at it are too few, and others are needed that have no room or were not asked."""
    away = in_state(batch, AskState.GONE, AskState.PUT_OFF)
    return not is_reachable(batch, refused(batch) | away | set(unasked(batch)))


def can_be_signed(batch: Batch, without: frozenset[IdentityKey]) -> bool:
    """Whether there can be enough signatures if these agents give none."""
    signed = {each.signer for each in batch.certifications}
    signers = [key for key in holders_of(batch.awards, Role.CERTIFY) if key in signed or key not in without]
    return len(signers) >= batch.manifest.message.quorum


def agents_of(batch: Batch) -> tuple[IdentityKey, ...]:
    """The executors: the agents whose answers count."""
    return tuple(award.agent for award in batch.awards)


def holders_of(awards: tuple[Award, ...], role: Role) -> tuple[IdentityKey, ...]:
    """The agents that hold a role."""
    return tuple(award.agent for award in awards if role in award.roles)


def evidence_of(batch: Batch) -> tuple[Signed[Evidence], ...]:
    """The votes that support the statement, in both roles."""
    return tuple(vote for ballot in batch.ballots for vote in supporters(ballot, ballot.agreed or b""))


def judge(work: Workspace, batch: Batch, agents: Iterable[IdentityKey] | None = None) -> Batch:
    """Report those that were silent for too long as late; ``agents``: of these only. They are not reported again."""
    named = {ask.agent for ask in batch.asks} if agents is None else set(agents)
    for ask in batch.asks:
        silence_ms = work.now_ms - ask.since_ms
        if ask.agent in named and ask.state is AskState.SILENT and silence_ms >= work.rules.late_ms:
            _report_late(work, batch, ask.agent)
            batch = with_ask(batch, attrs.evolve(ask, state=AskState.GONE, since_ms=work.now_ms, reason="silent"))
    return batch


def give_up(work: Workspace, batch: Batch, agent: IdentityKey, reason: str) -> Batch:
    """Wait for an agent no more, within this attempt. What it still answers counts."""
    known = ask_of(batch, agent)
    assert known is not None, "only those that were asked are given up"
    return with_ask(batch, attrs.evolve(known, state=AskState.GONE, since_ms=work.now_ms, reason=reason))


def report(work: Workspace, batch: Batch, peer: IdentityKey, role: Role, outcome: Outcome) -> None:
    """Report an outcome for an agent's reputation in a role."""
    work.emit(ReportPeer(peer=peer, role=role, outcome=outcome, batch_id=batch.batch_id))


def _owing(batch: Batch) -> set[IdentityKey]:
    """The executors whose evidence is wanted in some role."""
    return {key for ballot in batch.ballots for key in set(ballot.executors) - {vote.signer for vote in ballot.votes}}


# --- what is due --------------------------------------------------------------------------------------------------


def _due_ms(work: Workspace, batch: Batch) -> int:
    """When something about the orders is due next."""
    due = [
        ask.since_ms if ask.state is AskState.PUT_OFF else ask.since_ms + STATUSES_MISSED * work.rules.status_ms
        for ask in batch.asks
        if ask.state in (AskState.PUT_OFF, AskState.QUEUED, AskState.RUNNING)
    ]
    if silent(batch):
        due += [_resend_ms(work, batch), batch.attempt_ends_ms]
    if (silent(batch) or unasked(batch)) and batch.patience_ends_ms > work.now_ms:
        due.append(batch.patience_ends_ms)
    return min(due, default=work.now_ms + work.rules.resend_ms)


def _resend_ms(work: Workspace, batch: Batch) -> int:
    """When those that are silent are asked again: after a pause that doubles each time."""
    return batch.asked_ms + (work.rules.resend_ms << batch.resends)


def _patiently(work: Workspace, batch: Batch, *, afresh: bool = False) -> Batch:
    """The batch with its deadlines counted from now; ``afresh``: that for giving up too.

    To ask one more costs little, so that is done sooner than an agent is replaced.
    """
    manifest = batch.manifest.message
    wait_ms = leases.usual_ms if unasked(batch) else leases.patience_ms
    patience_ends_ms = work.now_ms + wait_ms(work, manifest.level, manifest.quorum)
    ends_ms = work.now_ms + work.rules.attempt_ms_at(manifest.level) if afresh else batch.attempt_ends_ms
    return attrs.evolve(
        batch, asked_ms=work.now_ms, patience_ends_ms=patience_ends_ms, attempt_ends_ms=ends_ms, resends=0
    )


def _hear_out(work: Workspace, batch: Batch) -> Batch:
    """The batch with all silence counted from now: this node was late itself."""
    asks = tuple(
        attrs.evolve(ask, since_ms=work.now_ms) if ask.state is AskState.SILENT else ask for ask in batch.asks
    )
    return _patiently(work, attrs.evolve(batch, asks=asks), afresh=True)


def ask_again(work: Workspace, batch: Batch, agents: Iterable[IdentityKey]) -> Batch:
    """Send the order, once more perhaps, and what is to be signed: a message may be lost, an agent restarted."""
    named = tuple(agents)
    while _resend_ms(work, batch) <= work.now_ms:
        batch = attrs.evolve(batch, resends=batch.resends + 1)
    batch = attrs.evolve(batch, refusals=tuple(entry for entry in batch.refusals if entry[0] not in named))
    batch = order(work, batch, named)
    if batch.stage is Stage.CERTIFYING and named:
        send_certify(work, batch, named)
    return batch


def _ask_put_off(work: Workspace, batch: Batch) -> Batch:
    """Ask those again that had no room, where it is time and they are needed."""
    due = [ask for ask in batch.asks if ask.state is AskState.PUT_OFF and ask.since_ms <= work.now_ms]
    wanted = [ask.agent for ask in due if ask.agent in unanswered(batch)] if due and is_short(batch) else []
    for ask in due:
        batch = with_ask(batch, attrs.evolve(ask, since_ms=work.now_ms + work.rules.status_ms))
    return ask_others(work, batch, wanted) if wanted else batch


def _ask_beside(work: Workspace, batch: Batch) -> Batch:
    """Ask executors that were not asked so far, beside those that take longer than is usual."""
    flow = accounts.flow_of(work)
    waits = set(unanswered(batch)).difference(unasked(batch))
    called = [key for key in unasked(batch) if accounts.has_room(flow, key, work.now_ms)][: len(waits)]
    if called:
        return _patiently(work, ask_again(work, batch, called))
    return attrs.evolve(batch, patience_ends_ms=_replaced_ms(work, batch))


def _replaced_ms(work: Workspace, batch: Batch) -> int:
    """When those that are silent since they were asked are replaced."""
    manifest = batch.manifest.message
    return batch.asked_ms + leases.patience_ms(work, manifest.level, manifest.quorum)


def _without_overdue(work: Workspace, batch: Batch) -> Batch:
    """The batch without the agents that have been at it for too long; those not heard any more are silent again."""
    rules, now_ms = work.rules, work.now_ms
    attempt_ms = rules.attempt_ms_at(batch.manifest.message.level)
    mute = False
    for ask in batch.asks:
        is_waiting = ask.state in (AskState.QUEUED, AskState.PUT_OFF)
        is_heard = ask.state in (AskState.QUEUED, AskState.RUNNING)
        if ask.state is AskState.RUNNING and now_ms - ask.began_ms >= attempt_ms:
            _report_late(work, batch, ask.agent)
            batch = give_up(work, batch, ask.agent, "computed for longer than allowed")
        elif is_waiting and now_ms - ask.asked_ms >= rules.queue_ms:
            batch = give_up(work, batch, ask.agent, ask.reason or "queued for longer than is waited for")
        elif is_heard and now_ms - ask.since_ms >= STATUSES_MISSED * rules.status_ms:
            batch = with_ask(batch, attrs.evolve(ask, state=AskState.SILENT, since_ms=now_ms))
            mute = True
    if not mute:
        return batch
    return attrs.evolve(
        _patiently(work, batch, afresh=True), patience_ends_ms=work.now_ms
    )  # it was waited for already


def _give_up_silent(work: Workspace, batch: Batch, waits: tuple[IdentityKey, ...]) -> Batch:
    """Give those up that were silent for as long as an attempt may take; the others have until then."""
    attempt_ms = work.rules.attempt_ms_at(batch.manifest.message.level)
    starts_ms = []
    for agent in waits:
        known = ask_of(batch, agent)
        assert known is not None, "who is silent was asked"
        since_ms = known.since_ms if known.state is AskState.SILENT else batch.asked_ms
        if work.now_ms - since_ms < attempt_ms:
            starts_ms.append(since_ms)
            continue
        if work.now_ms - since_ms >= work.rules.late_ms:
            _report_late(work, batch, agent)
        batch = give_up(work, batch, agent, "silent")
    return attrs.evolve(batch, attempt_ends_ms=min(starts_ms, default=work.now_ms) + attempt_ms)


def _report_late(work: Workspace, batch: Batch, agent: IdentityKey) -> None:
    """Report what the agent owes: a signature where it gave its evidence, else evidence in its roles."""
    voted = {vote.signer for ballot in batch.ballots for vote in ballot.votes}
    if batch.stage is Stage.CERTIFYING and agent in voted:
        report(work, batch, agent, Role.CERTIFY, "late")
        return
    mine = [ballot for ballot in batch.ballots if agent in ballot.executors] or batch.ballots
    for ballot in mine:
        if agent not in {vote.signer for vote in ballot.votes}:
            report(work, batch, agent, ballot.role, "late")


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
