"""The coordinator's side of a batch: dispatch, agree, certify, seal, confirm; retry and bury."""

import hashlib

import attrs

from protocols.coordination import leases
from protocols.coordination.workspace import Workspace
from protocols.job import (
    Ballot,
    Batch,
    BatchCommitted,
    BatchWritten,
    Bury,
    CertificationReceived,
    Chain,
    ConfirmationReceived,
    ForgetPayload,
    Grant,
    KeepProof,
    RecordDistribution,
    RecordLate,
    RefusalReceived,
    ReportPeer,
    ResultReceived,
    Seal,
    Send,
    Stage,
    batch_entity_id,
    chain_entity_id,
)
from protocols.levels import quorum_of
from protocols.messages import (
    Award,
    BatchSealed,
    CertifyOrder,
    Evidence,
    IdentityKey,
    QuorumCertificate,
    Role,
    Signed,
    Statement,
    WorkOrder,
    WorkResult,
)
from protocols.quorum import dissenters, is_hopeless, supporters, tally
from protocols.reputation import Outcome

EVIDENCE_ROLES = (Role.NORMALIZE, Role.VALIDATE)
COUNTING = (Stage.PROCESSING, Stage.CERTIFYING, Stage.SEALING, Stage.SEALED)
REASONS_MAX = 16
FURTHER = 2  # how many more agents are asked when those asked contradict each other
EXECUTORS_MAX = 9


def on_committed(work: Workspace, stimulus: BatchCommitted) -> None:
    batch = Batch(manifest=stimulus.manifest, stage=Stage.CHAINED, stateful=stimulus.stateful)
    if work.find(Batch, batch.entity_id) is not None:
        return
    if not stimulus.stateful:
        lease_or_wait(work, batch)
        return
    source_id = stimulus.manifest.message.source_id
    chain = work.find(Chain, chain_entity_id(source_id)) or Chain(source_id=source_id)
    if chain.running not in ("", batch.batch_id):
        if batch.batch_id not in chain.queue:
            chain = attrs.evolve(chain, queue=(*chain.queue, batch.batch_id))
        work.put(chain)
        work.put(batch)
        return
    if not chain.running and chain.queue and chain.queue[0] != batch.batch_id:
        _start_next(work, chain, (*(key for key in chain.queue if key != batch.batch_id), batch.batch_id), batch)
        return
    chain = attrs.evolve(chain, queue=tuple(key for key in chain.queue if key != batch.batch_id))
    work.put(attrs.evolve(chain, running=batch.batch_id))
    lease_or_wait(work, attrs.evolve(batch, context=chain.context))


def lease_or_wait(work: Workspace, batch: Batch) -> None:
    """Dispatch under a live lease, or wait for one."""
    batch = attrs.evolve(batch, stage=Stage.LEASING)
    said = batch.manifest.message
    grant = leases.take(work, said.level, said.quorum, batch.entity_id)
    if grant is None:
        work.put(batch)
    else:
        _dispatch(work, batch, grant)


def _dispatch(work: Workspace, batch: Batch, grant: Grant) -> None:
    quorum = batch.manifest.message.quorum
    batch = attrs.evolve(
        batch,
        stage=Stage.PROCESSING,
        lease_id=grant.lease_id,
        awards=grant.awards,
        shadows=grant.shadows,
        shadow_votes=(),
        ballots=tuple(
            Ballot(role=role, executors=_holders(grant.awards, role), quorum=quorum) for role in EVIDENCE_ROLES
        ),
        contexts=(),
        refusals=(),
        resends=0,
        statement=None,
        certifications=(),
        attempt_ends_ms=work.now_ms + work.rules.attempt_ms_at(batch.manifest.message.level),
    )
    _await_answers(work, batch)
    _send_orders(work, batch, (*_agents(batch), *(award.agent for award in batch.shadows)))


def _await_answers(work: Workspace, batch: Batch) -> None:
    """Wait for what was just asked: first patiently, then with others beside those who do not answer."""
    said = batch.manifest.message
    patience_ends_ms = work.now_ms + leases.patience_ms(work, said.level, said.quorum)
    alarm_ms = min(work.now_ms + work.rules.resend_ms, patience_ends_ms, batch.attempt_ends_ms)
    batch = attrs.evolve(batch, asked_ms=work.now_ms, patience_ends_ms=patience_ends_ms, resends=0, alarm_ms=alarm_ms)
    work.put(batch)
    work.alarm(batch.entity_id, alarm_ms)


def _agents(batch: Batch) -> tuple[IdentityKey, ...]:
    return tuple(award.agent for award in batch.awards)


def _holders(awards: tuple[Award, ...], role: Role) -> tuple[IdentityKey, ...]:
    return tuple(award.agent for award in awards if role in award.roles)


def _send_orders(work: Workspace, batch: Batch, agents: tuple[IdentityKey, ...]) -> None:
    for award in (*batch.awards, *batch.shadows):
        if award.agent in agents:
            order = WorkOrder(
                network=work.rules.network,
                award=award,
                manifest=batch.manifest,
                context=batch.context,
                attempt=batch.attempt,
            )
            work.utter(Send(to=award.agent, message=order, payload_of=batch.batch_id))


def on_result(work: Workspace, stimulus: ResultReceived) -> None:
    result = stimulus.result
    batch = work.find(Batch, batch_entity_id(result.message.batch_id))
    if batch is None or batch.stage not in COUNTING:
        return
    if any(award.agent == result.signer for award in batch.shadows):
        _hear_shadow(work, batch, result)
        return
    earlier = batch.ballots
    for evidence in result.message.evidence:
        if evidence.signer == result.signer and _is_about(batch, evidence.message):
            batch = _count(work, batch, evidence)
    if batch.stage is Stage.PROCESSING and batch.ballots != earlier:
        _observe(work, batch)
    if batch.stage is Stage.PROCESSING and result.signer in _agents(
        batch
    ):  # one each, the latest: nobody crowds out the others
        others = tuple(entry for entry in batch.contexts if entry[0] != result.signer)
        batch = attrs.evolve(batch, contexts=(*others, (result.signer, result.message.context_out)))
    if batch.stage is Stage.PROCESSING:
        _try_to_agree(work, batch)
        return
    if batch.stage is Stage.CERTIFYING:
        _seal_if_ready(work, batch)
        return
    if batch.ballots != earlier:
        _record_late(work, batch, result.signer)
    if batch.stage is Stage.SEALED and _is_complete(batch):
        _finish(work, batch)
    else:
        work.put(batch)


def _hear_shadow(work: Workspace, batch: Batch, result: Signed[WorkResult]) -> None:
    """A newcomer's evidence is kept until there is an agreement to judge it by."""
    known = {(vote.signer, vote.message.role) for vote in batch.shadow_votes}
    fresh = tuple(
        evidence
        for evidence in result.message.evidence
        if evidence.signer == result.signer
        and (evidence.signer, evidence.message.role) not in known
        and _is_about(batch, evidence.message)
    )[: len(EVIDENCE_ROLES)]
    work.put(attrs.evolve(batch, shadow_votes=(*batch.shadow_votes, *fresh)))


def _judge_shadows(work: Workspace, batch: Batch) -> None:
    agreed = {ballot.role: ballot.agreed for ballot in batch.ballots}
    for vote in batch.shadow_votes:
        said = vote.message
        outcome: Outcome = "agreed" if said.outcome == agreed.get(said.role) else "dissented"
        _report(work, batch, vote.signer, said.role, outcome)


def _observe(work: Workspace, batch: Batch) -> None:
    said = batch.manifest.message
    leases.observe(work, said.level, said.quorum, work.now_ms - batch.asked_ms)


def _record_late(work: Workspace, batch: Batch, signer: IdentityKey) -> None:
    """A vote that came after the seal was uttered counts for its signer's record, dissent above all."""
    for ballot in batch.ballots:
        for vote in ballot.votes:
            if vote.signer == signer:
                agreed = vote.message.outcome == ballot.agreed
                _report(work, batch, signer, ballot.role, "agreed" if agreed else "dissented")
                work.utter(RecordLate(evidence=vote, agrees=agreed))


def _is_about(batch: Batch, evidence: Evidence) -> bool:
    """Whether evidence answers the question this batch asks now."""
    said = batch.manifest.message
    return (
        evidence.batch_id == batch.batch_id
        and evidence.policy_hash == said.policy_hash
        and evidence.context_in == hashlib.sha256(batch.context).digest()
        and (evidence.role is not Role.NORMALIZE or evidence.input_digest == said.input_root)
    )


def _count(work: Workspace, batch: Batch, evidence: Signed[Evidence]) -> Batch:
    ballots = []
    for ballot in batch.ballots:
        if ballot.role is evidence.message.role:
            ballot, equivocation = tally(ballot, evidence)
            if equivocation is not None:
                work.utter(KeepProof(first=equivocation.first, second=equivocation.second))
                _report(work, batch, evidence.signer, ballot.role, "equivocated")
        ballots.append(ballot)
    return attrs.evolve(batch, ballots=tuple(ballots))


def _try_to_agree(work: Workspace, batch: Batch) -> None:
    normalize, validate = batch.ballots
    refused = frozenset(key for key, _ in batch.refusals)
    if normalize.agreed is None or validate.agreed is None:
        if not (is_hopeless(normalize, refused) or is_hopeless(validate, refused)):
            work.put(batch)
        elif not _ask_further(work, batch):
            _fail_attempt(work, batch, _why_hopeless(batch))
        return
    first = supporters(normalize, normalize.agreed)[0].message
    last = supporters(validate, validate.agreed)[0].message
    context = next((c for _, c in batch.contexts if hashlib.sha256(c).digest() == last.context_out), None)
    if first.output_digest != last.input_digest or context is None:
        _fail_attempt(work, batch, "the agreed validation is not of the agreed normalization")
        return
    said = batch.manifest.message
    statement = Statement(
        network=said.network,
        batch_id=batch.batch_id,
        coordinator=said.coordinator,
        source_id=said.source_id,
        policy_hash=said.policy_hash,
        level=said.level,
        quorum=said.quorum,
        input_root=said.input_root,
        normalized_root=first.output_digest,
        output_root=last.output_digest,
        context_in=last.context_in,
        context_out=last.context_out,
        events=said.events,
        valid=last.valid,
        invalid=last.invalid,
    )
    batch = attrs.evolve(batch, stage=Stage.CERTIFYING, statement=statement, contexts=())
    _await_answers(work, batch)
    _send_certify(work, batch, _holders(batch.awards, Role.CERTIFY))
    _advance_chain(work, batch, context)


def _ask_further(work: Workspace, batch: Batch) -> bool:
    """Widen the ballots of a batch whose agents contradict each other. False when that cannot help any more.

    Two more executors, and as many more votes as keep the quorum more than half (of ``critical``, two thirds) of
    them: so there is still at most one outcome. Those who voted keep their votes, the dissenters too.
    """
    said = batch.manifest.message
    if len(batch.awards) >= EXECUTORS_MAX:
        return False
    called = leases.call_up(work, batch, FURTHER)
    if not called:
        return False
    awards = (*batch.awards, *called)
    ballots = tuple(
        attrs.evolve(ballot, executors=executors, quorum=quorum_of(said.level, said.quorum, len(executors)))
        for ballot in batch.ballots
        for executors in [(*ballot.executors, *_holders(called, ballot.role))]
    )
    refused = frozenset(key for key, _ in batch.refusals)
    if any(is_hopeless(ballot, refused) for ballot in ballots):
        return False
    batch = attrs.evolve(batch, awards=awards, ballots=ballots)
    _await_answers(work, batch)
    _send_orders(work, batch, tuple(award.agent for award in called))
    return True


def _why_hopeless(batch: Batch) -> str:
    outcomes = {vote.message.outcome for ballot in batch.ballots for vote in ballot.votes}
    refusals = "; ".join(f"{key.hex()[:16]} refused: {why}" for key, why in batch.refusals)
    return f"no quorum possible: {len(outcomes)} different outcomes. {refusals}".strip()


def _evidence(batch: Batch) -> tuple[Signed[Evidence], ...]:
    """The votes that carry the statement, both roles."""
    return tuple(vote for ballot in batch.ballots for vote in supporters(ballot, ballot.agreed or b""))


def _send_certify(work: Workspace, batch: Batch, agents: tuple[IdentityKey, ...]) -> None:
    assert batch.statement is not None, "there is a statement from CERTIFYING on"
    order = CertifyOrder(network=work.rules.network, statement=batch.statement, evidence=_evidence(batch))
    work.utter(*(Send(to=agent, message=order) for agent in agents))


def on_certification(work: Workspace, stimulus: CertificationReceived) -> None:
    signed = stimulus.certification
    batch = work.find(Batch, batch_entity_id(signed.message.batch_id))
    if batch is None or batch.stage is not Stage.CERTIFYING or batch.statement is None:
        return
    known = any(earlier.signer == signed.signer for earlier in batch.certifications)
    if known or signed.signer not in _holders(batch.awards, Role.CERTIFY):
        return
    if signed.message.statement_digest != batch.statement.digest:
        return
    certifications = tuple(sorted((*batch.certifications, signed), key=lambda each: each.signer))
    _observe(work, batch)
    _seal_if_ready(work, attrs.evolve(batch, certifications=certifications))


def _seal_if_ready(work: Workspace, batch: Batch) -> None:
    """Seal at the quorum of signatures, if the evidence still has its own: an equivocator's vote is struck
    even after it made the agreement, and then another agent's must take its place.
    """
    quorum = batch.manifest.message.quorum
    backed = all(len(supporters(ballot, ballot.agreed or b"")) >= ballot.quorum for ballot in batch.ballots)
    if len(batch.certifications) < quorum or not backed:
        work.put(batch)
        return
    batch = attrs.evolve(batch, stage=Stage.SEALING)
    _report_votes(work, batch)
    _seal(work, batch)


def _certificate(batch: Batch) -> QuorumCertificate:
    assert batch.statement is not None, "there is a statement from CERTIFYING on"
    return QuorumCertificate(
        statement=batch.statement, certifications=batch.certifications, evidence=_evidence(batch)
    )


def _seal(work: Workspace, batch: Batch) -> None:
    """Have the batch written down, and ask again if nothing comes of it; writing twice changes nothing."""
    batch = attrs.evolve(batch, alarm_ms=work.now_ms + work.rules.attempt_ms)
    work.put(batch)
    work.alarm(batch.entity_id, batch.alarm_ms)
    dissent = tuple(vote for ballot in batch.ballots for vote in dissenters(ballot))
    work.utter(
        Seal(
            certificate=_certificate(batch),
            dissent=dissent,
            manifest=batch.manifest.message,
            context=batch.context,
            attempts=batch.attempt + 1,
        )
    )


def _report_votes(work: Workspace, batch: Batch) -> None:
    for ballot in batch.ballots:
        for vote in ballot.votes:
            outcome: Outcome = "agreed" if vote.message.outcome == ballot.agreed else "dissented"
            _report(work, batch, vote.signer, ballot.role, outcome)


def on_written(work: Workspace, stimulus: BatchWritten) -> None:
    batch = work.find(Batch, batch_entity_id(stimulus.batch_id))
    if batch is None or batch.stage is not Stage.SEALING:
        return
    alarm_ms = work.now_ms + work.rules.confirm_ms
    batch = attrs.evolve(batch, stage=Stage.SEALED, sealed_ms=work.now_ms, alarm_ms=alarm_ms)
    work.put(batch)
    work.alarm(batch.entity_id, alarm_ms)
    sealed = BatchSealed(network=work.rules.network, certificate=_certificate(batch))
    work.utter(*(Send(to=agent, message=sealed) for agent in _agents(batch)))


def on_confirmation(work: Workspace, stimulus: ConfirmationReceived) -> None:
    said = stimulus.confirmation.message
    signer = stimulus.confirmation.signer
    batch = work.find(Batch, batch_entity_id(said.batch_id))
    if batch is None or batch.stage is not Stage.SEALED or batch.statement is None:
        return
    if said.statement_digest != batch.statement.digest or signer not in _agents(batch):
        return
    if any(key == signer for key, _ in batch.confirmed):
        return
    took_ms = max(0, work.now_ms - batch.sealed_ms)
    batch = attrs.evolve(batch, confirmed=(*batch.confirmed, (signer, took_ms)))
    if _is_complete(batch):
        _finish(work, batch)
    else:
        work.put(batch)


def _is_complete(batch: Batch) -> bool:
    """Whether every award-holder confirmed the certificate and gave its evidence."""
    return len(batch.confirmed) == len(batch.awards) and all(
        len(ballot.votes) == len(ballot.executors) for ballot in batch.ballots
    )


def _finish(work: Workspace, batch: Batch) -> None:
    """All that this batch was about is durable elsewhere: let its entity go."""
    latencies = [took_ms for _, took_ms in batch.confirmed]
    _judge_shadows(work, batch)
    work.utter(
        RecordDistribution(
            batch_id=batch.batch_id,
            published=len(_agents(batch)),
            confirmed=len(latencies),
            latency_ms=sum(latencies) // len(latencies) if latencies else 0,
        ),
        ForgetPayload(batch_id=batch.batch_id),
    )
    work.drop(batch.entity_id)


def on_refusal(work: Workspace, stimulus: RefusalReceived) -> None:
    said = stimulus.refusal.message
    signer = stimulus.refusal.signer
    batch = work.find(Batch, batch_entity_id(said.batch_id))
    if batch is None or batch.stage not in (Stage.PROCESSING, Stage.CERTIFYING):
        return
    if signer not in _agents(batch) or any(key == signer for key, _ in batch.refusals):
        return
    batch = attrs.evolve(batch, refusals=(*batch.refusals, (signer, said.reason)))
    if batch.stage is Stage.PROCESSING:
        _try_to_agree(work, batch)
        return
    certifiers = _holders(batch.awards, Role.CERTIFY)
    refused = {key for key, _ in batch.refusals}
    signed = {each.signer for each in batch.certifications}
    left = [key for key in certifiers if key not in refused or key in signed]
    if len(left) < batch.manifest.message.quorum:
        _fail_attempt(work, batch, f"too many certify agents refused: {said.reason}")
    else:
        work.put(batch)


def on_alarm(work: Workspace, batch: Batch) -> None:
    if work.now_ms < batch.alarm_ms:
        work.alarm(batch.entity_id, batch.alarm_ms)
        return
    if batch.stage is Stage.SEALED:
        _report_silent(work, batch)
        for silent in _unanswered(batch):
            leases.substitute(work, batch, silent)
        _finish(work, batch)
    elif batch.stage is Stage.SEALING:
        _seal(work, batch)
    elif batch.stage is Stage.BACKOFF:
        lease_or_wait(work, batch)
    elif batch.stage in (Stage.PROCESSING, Stage.CERTIFYING):
        if work.now_ms >= batch.attempt_ends_ms:
            _report_silent(work, batch)
            _fail_attempt(work, batch, "the attempt ran out of time")
        elif work.now_ms >= batch.patience_ends_ms:
            _replace_silent(work, batch)
        else:
            _resend(work, batch)


def _replace_silent(work: Workspace, batch: Batch) -> None:
    """Ask others in place of those who have not answered for longer than is usual, well before the deadline."""
    orders = []
    for silent in _unanswered(batch):
        award = leases.substitute(work, batch, silent)
        if award is None:
            continue
        _report_late(work, batch, silent)
        orders.append(award.agent)
        batch = _with_substitute(batch, silent, award)
    if not orders:
        _resend(work, attrs.evolve(batch, patience_ends_ms=batch.attempt_ends_ms))
        return
    _await_answers(work, batch)
    _send_orders(work, batch, tuple(orders))
    if batch.stage is Stage.CERTIFYING:
        _send_certify(work, batch, tuple(orders))


def _with_substitute(batch: Batch, silent: IdentityKey, award: Award) -> Batch:
    """The batch with one executor for another; a vote already given in another role stays counted."""
    ballots = tuple(
        attrs.evolve(ballot, executors=tuple(award.agent if key == silent else key for key in ballot.executors))
        if silent not in {vote.signer for vote in ballot.votes}
        else ballot
        for ballot in batch.ballots
    )
    awards = tuple(award if kept.agent == silent else kept for kept in batch.awards)
    return attrs.evolve(batch, awards=awards, ballots=ballots)


def _unanswered(batch: Batch) -> tuple[IdentityKey, ...]:
    if batch.stage is Stage.CERTIFYING:
        signed = {each.signer for each in batch.certifications}
        return tuple(key for key in _holders(batch.awards, Role.CERTIFY) if key not in signed)
    voted = {vote.signer for ballot in batch.ballots for vote in ballot.votes}
    asked = {key for ballot in batch.ballots for key in ballot.executors}
    return tuple(key for key in _agents(batch) if key in asked - voted)


def _resend(work: Workspace, batch: Batch) -> None:
    """Ask those who did not answer once more: a message was lost, or an agent came back without memory."""
    silent = _unanswered(batch)
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
    _send_orders(work, batch, silent)
    if batch.stage is Stage.CERTIFYING:
        _send_certify(work, batch, silent)


def _report_silent(work: Workspace, batch: Batch) -> None:
    for silent in _unanswered(batch):
        _report_late(work, batch, silent)


def _report_late(work: Workspace, batch: Batch, silent: IdentityKey) -> None:
    if batch.stage is Stage.CERTIFYING:
        _report(work, batch, silent, Role.CERTIFY, "late")
        return
    for ballot in batch.ballots:
        if silent in ballot.executors and silent not in {vote.signer for vote in ballot.votes}:
            _report(work, batch, silent, ballot.role, "late")


def _report(work: Workspace, batch: Batch, peer: IdentityKey, role: Role, outcome: Outcome) -> None:
    work.utter(ReportPeer(peer=peer, role=role, outcome=outcome, batch_id=batch.batch_id))


def _fail_attempt(work: Workspace, batch: Batch, reason: str) -> None:
    """Give the lease up, wait, and try with a fresh one; out of attempts, bury the batch."""
    said = batch.manifest.message
    leases.revoke(work, said.level, said.quorum, batch.lease_id)
    attempt = batch.attempt + 1
    reasons = (*batch.reasons, f"attempt {attempt}: {reason}")[-REASONS_MAX:]
    was_agreed = batch.stage is Stage.CERTIFYING
    batch = attrs.evolve(batch, attempt=attempt, reasons=reasons, stage=Stage.BACKOFF)
    if attempt >= work.rules.attempts_at(said.level):
        work.put(attrs.evolve(batch, stage=Stage.DEAD))
        work.utter(Bury(batch_id=batch.batch_id, reasons=reasons))
        if not was_agreed:
            _advance_chain(work, batch, None)
        return
    batch = attrs.evolve(batch, alarm_ms=work.now_ms + leases.backoff_ms(work, attempt))
    work.put(batch)
    work.alarm(batch.entity_id, batch.alarm_ms)


def _advance_chain(work: Workspace, batch: Batch, context: bytes | None) -> None:
    """Let the source's next stateful batch start with what this one left behind."""
    chain = work.find(Chain, chain_entity_id(batch.manifest.message.source_id))
    if not batch.stateful or chain is None or chain.running != batch.batch_id:
        return
    chain = attrs.evolve(chain, context=chain.context if context is None else context)
    if not chain.queue:
        work.put(attrs.evolve(chain, running=""))
        return
    _start_next(work, chain, chain.queue, None)


def _start_next(work: Workspace, chain: Chain, queue: tuple[str, ...], known: Batch | None) -> None:
    """Run the first of the queue. After a restart it may not have been told yet: it starts when it is."""
    if known is not None:
        work.put(known)
    work.put(attrs.evolve(chain, running=queue[0], queue=queue[1:]))
    following = work.find(Batch, batch_entity_id(queue[0]))
    if following is not None:
        lease_or_wait(work, attrs.evolve(following, context=chain.context))


def on_restart(work: Workspace, batch: Batch) -> None:
    """Utter again what the stage owes."""
    if batch.stage in (Stage.PROCESSING, Stage.CERTIFYING):
        attempt_ms = work.rules.attempt_ms_at(batch.manifest.message.level)
        batch = attrs.evolve(batch, attempt_ends_ms=work.now_ms + attempt_ms)
        _await_answers(work, batch)
        silent = _unanswered(batch)
        _send_orders(work, batch, silent)
        if batch.stage is Stage.CERTIFYING:
            _send_certify(work, batch, silent)
    elif batch.stage is Stage.LEASING:
        lease_or_wait(work, batch)
    elif batch.stage is Stage.SEALING:
        _seal(work, batch)
    elif batch.stage in (Stage.SEALED, Stage.BACKOFF):
        work.alarm(batch.entity_id, max(batch.alarm_ms, work.now_ms))
