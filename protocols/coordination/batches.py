"""The coordinator's side of a batch: dispatch, agree, certify, seal, confirm; retry and bury."""

import hashlib

import attrs

from protocols.certificate import rfc3339
from protocols.coordination import asking, holding, leases, proving
from protocols.coordination.workspace import Workspace
from protocols.effects import (
    ForgetPayload,
    MarkDead,
    RecordDistribution,
    RecordLateEvidence,
    ReproduceBatch,
    Send,
    WriteBatch,
)
from protocols.entities import (
    Ballot,
    Batch,
    Chain,
    Grant,
    Replica,
    Stage,
    batch_entity_id,
    chain_entity_id,
    replica_entity_id,
)
from protocols.limits import SUBSCRIBERS_MAX
from protocols.messages import (
    BatchProgress,
    BatchQuery,
    BatchSealed,
    Evidence,
    IdentityKey,
    QuorumCertificate,
    Role,
    Signed,
    Statement,
    WorkResult,
)
from protocols.proofs import proof_of, proof_problem
from protocols.quorum import dissenters, is_hopeless, supporters, tally
from protocols.reputation import Outcome
from protocols.roles import EVIDENCE_ROLES
from protocols.stimuli import (
    BatchCommitted,
    BatchReplayed,
    BatchReproduced,
    BatchWritten,
    CertificateReceived,
    CertificationReceived,
    ConfirmationReceived,
    RefusalReceived,
    ResultReceived,
)

COUNTING = (Stage.PROCESSING, Stage.CERTIFYING, Stage.SEALING, Stage.SEALED)
REASONS_MAX = 128  # above what the retries of any template come to
RETRY_STEP = 2  # attempts back off four times as long each: about 1, 4, 16 and 30 s
ASKS_MAX = 8  # how often holders are asked about a batch left behind: links take a moment after a start


def on_committed(work: Workspace, stimulus: BatchCommitted) -> None:
    batch = Batch(
        manifest=stimulus.manifest,
        stage=Stage.CHAINED,
        stateful=stimulus.stateful,
        holders=stimulus.holders,
        recovered=stimulus.recovered,
    )
    known = work.find(Batch, batch.entity_id)
    if known is not None:
        holding.offer(work, known)  # told again: whoever waits for holders still has none
        return
    _enter(work, batch)


def _enter(work: Workspace, batch: Batch) -> None:
    if batch.stateful:
        _enchain(work, batch)
    else:
        lease_or_wait(work, batch)
    holding.offer(work, batch)


def on_replayed(work: Workspace, stimulus: BatchReplayed) -> None:
    """Start a dead batch afresh.

    One that was agreed upon goes on from the context it had: the batches after it started from what it leaves behind.
    Any other takes its place at the end of its source, where the context is now.
    """
    batch = Batch(
        manifest=stimulus.manifest, stage=Stage.CHAINED, stateful=stimulus.stateful, holders=stimulus.holders
    )
    dead = work.find(Batch, batch.entity_id)
    if dead is None:
        _enter(work, batch)
    elif dead.stage is Stage.DEAD and dead.agreed:
        lease_or_wait(work, attrs.evolve(batch, context=dead.context, agreed=True))
    elif dead.stage is Stage.DEAD:
        _enter(work, batch)


def _enchain(work: Workspace, batch: Batch) -> None:
    """Start a stateful batch if it is its turn; else it waits for the one before it in its source."""
    source_id = batch.manifest.message.source_id
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
    """Dispatch under a live lease, or wait for one; what others may have finished meanwhile is asked for first."""
    if batch.recovered and batch.holders and batch.resends < ASKS_MAX:
        alarm_ms = work.now_ms + work.rules.ask_ms
        batch = attrs.evolve(batch, stage=Stage.ASKING, resends=batch.resends + 1, alarm_ms=alarm_ms)
        work.put(batch)
        work.alarm(batch.entity_id, alarm_ms)
        _ask_holders(work, batch)
        return
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


def on_news(work: Workspace, batch: Batch, holder: IdentityKey, progress: BatchProgress) -> None:
    """A holder that is at a batch is waited for; when all say that they are not, this node goes on with it."""
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


def _ask_holders(work: Workspace, batch: Batch) -> None:
    query = BatchQuery(network=work.rules.network, batch_id=batch.batch_id)
    work.emit(*(Send(to=key, message=query) for key in batch.holders))


def on_others_sealed(work: Workspace, batch: Batch, stimulus: CertificateReceived) -> None:
    """A holder finished the batch. What it did is believed when this node's own run gives the same."""
    sealed = stimulus.sealed.message
    if stimulus.sealed.signer in batch.holders and _can_learn(batch, sealed):
        work.emit(ReproduceBatch(sealed=sealed, manifest=batch.manifest.message, context=batch.context))


def on_checked(work: Workspace, stimulus: BatchReproduced) -> None:
    """Take the certificate that others brought about, and what the batch leaves behind with it."""
    sealed = stimulus.sealed
    statement = sealed.certificate.statement
    batch = work.find(Batch, batch_entity_id(statement.batch_id))
    if batch is None or not _can_learn(batch, sealed):
        return
    batch = attrs.evolve(
        batch,
        stage=Stage.SEALING,
        statement=statement,
        certificate=sealed.certificate,
        learned=True,
        agreed=True,
        context_out=sealed.context,
        holders=_recipients(batch),
        awards=(),
        shadows=(),
        ballots=(),
        certifications=sealed.certificate.certifications,
    )
    _seal(work, batch)
    _advance_chain(work, batch, sealed.context)


def _can_learn(batch: Batch, sealed: BatchSealed) -> bool:
    """Whether a certificate is the end this batch waits for. One in its chain is asked for when its turn comes."""
    statement = sealed.certificate.statement
    if batch.stage in (Stage.CHAINED, Stage.SEALING, Stage.SEALED, Stage.DEAD) or not _is_of(batch, statement):
        return False
    return hashlib.sha256(sealed.context).digest() == statement.context_out


def _is_of(batch: Batch, statement: Statement) -> bool:
    """Whether a quorum's statement speaks of this batch as it was taken in, started from where it stands here."""
    said = batch.manifest.message
    mine = (said.coordinator, said.source_id, said.policy_hash, said.level, said.quorum, said.input_root)
    theirs = (
        statement.coordinator,
        statement.source_id,
        statement.policy_hash,
        statement.level,
        statement.quorum,
        statement.input_root,
    )
    return mine == theirs and statement.context_in == hashlib.sha256(batch.context).digest()


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
    if batch.stage is Stage.PROCESSING and result.signer in asking.agents_of(
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
    known = {(vote.signer, vote.message.role): vote for vote in batch.shadow_votes}
    for evidence in result.message.evidence:
        earlier = known.get((evidence.signer, evidence.message.role))
        if earlier is not None and not proof_problem(proof_of(earlier, evidence)):
            proving.found(work, earlier, evidence)
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
        asking.report(work, batch, vote.signer, said.role, outcome)


def _observe(work: Workspace, batch: Batch) -> None:
    said = batch.manifest.message
    leases.observe(work, said.level, said.quorum, work.now_ms - batch.asked_ms)


def _record_late(work: Workspace, batch: Batch, signer: IdentityKey) -> None:
    """A vote that came after the seal was uttered counts for its signer's record, dissent above all."""
    for ballot in batch.ballots:
        for vote in ballot.votes:
            if vote.signer == signer:
                agreed = vote.message.outcome == ballot.agreed
                asking.report(work, batch, signer, ballot.role, "agreed" if agreed else "dissented")
                work.emit(RecordLateEvidence(evidence=vote, agrees=agreed))


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
                proving.found(work, equivocation.first, equivocation.second)
        ballots.append(ballot)
    return attrs.evolve(batch, ballots=tuple(ballots))


def _try_to_agree(work: Workspace, batch: Batch) -> None:
    normalize, validate = batch.ballots
    refused = frozenset(key for key, _ in batch.refusals)
    if normalize.agreed is None or validate.agreed is None:
        if not (is_hopeless(normalize, refused) or is_hopeless(validate, refused)):
            work.put(batch)
        elif not asking.ask_further(work, batch):
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
    batch = attrs.evolve(
        batch, stage=Stage.CERTIFYING, statement=statement, contexts=(), context_out=context, agreed=True
    )
    asking.await_answers(work, batch)
    asking.send_certify(work, batch, asking.holders_of(batch.awards, Role.CERTIFY))
    _advance_chain(work, batch, context)


def _why_hopeless(batch: Batch) -> str:
    outcomes = {vote.message.outcome for ballot in batch.ballots for vote in ballot.votes}
    refusals = "; ".join(f"{key.hex()[:16]} refused: {why}" for key, why in batch.refusals)
    return f"no quorum possible: {len(outcomes)} different outcomes. {refusals}".strip()


def on_certification(work: Workspace, stimulus: CertificationReceived) -> None:
    signed = stimulus.certification
    batch = work.find(Batch, batch_entity_id(signed.message.batch_id))
    if batch is None or batch.stage is not Stage.CERTIFYING or batch.statement is None:
        return
    known = any(earlier.signer == signed.signer for earlier in batch.certifications)
    if known or signed.signer not in asking.holders_of(batch.awards, Role.CERTIFY):
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
    refused = frozenset(key for key, _ in batch.refusals)
    if any(is_hopeless(ballot, refused) for ballot in batch.ballots):
        if not asking.ask_further(work, batch):
            _fail_attempt(work, batch, "the agreement lost its quorum: one of it contradicted itself")
        return
    backed = all(len(supporters(ballot, ballot.agreed or b"")) >= ballot.quorum for ballot in batch.ballots)
    if len(batch.certifications) < quorum or not backed:
        work.put(batch)
        return
    assert batch.statement is not None, "there is a statement from CERTIFYING on"
    certificate = QuorumCertificate(
        statement=batch.statement, certifications=batch.certifications, evidence=asking.evidence_of(batch)
    )
    batch = attrs.evolve(batch, stage=Stage.SEALING, certificate=certificate)
    _report_votes(work, batch)
    _seal(work, batch)


def _certificate(batch: Batch) -> QuorumCertificate:
    assert batch.certificate is not None, "there is one from SEALING on"
    return batch.certificate


def _seal(work: Workspace, batch: Batch) -> None:
    """Have the batch written down, and ask again if nothing comes of it; writing twice changes nothing."""
    batch = attrs.evolve(batch, alarm_ms=work.now_ms + work.rules.attempt_ms)
    work.put(batch)
    work.alarm(batch.entity_id, batch.alarm_ms)
    dissent = tuple(vote for ballot in batch.ballots for vote in dissenters(ballot))
    work.emit(
        WriteBatch(
            certificate=_certificate(batch),
            dissent=dissent,
            manifest=batch.manifest.message,
            context=batch.context,
            context_out=batch.context_out,
            attempts=batch.attempt + 1,
        )
    )


def _report_votes(work: Workspace, batch: Batch) -> None:
    for ballot in batch.ballots:
        for vote in ballot.votes:
            outcome: Outcome = "agreed" if vote.message.outcome == ballot.agreed else "dissented"
            asking.report(work, batch, vote.signer, ballot.role, outcome)
    for signed in batch.certifications:
        asking.report(work, batch, signed.signer, Role.CERTIFY, "agreed")


def on_written(work: Workspace, stimulus: BatchWritten) -> None:
    batch = work.find(Batch, batch_entity_id(stimulus.batch_id))
    if batch is None or batch.stage is not Stage.SEALING:
        return
    alarm_ms = work.now_ms + work.rules.confirm_ms
    batch = attrs.evolve(batch, stage=Stage.SEALED, sealed_ms=work.now_ms, alarm_ms=alarm_ms)
    batch = attrs.evolve(batch, subscribers=stimulus.subscribers[:SUBSCRIBERS_MAX])
    if stimulus.earlier is not None and stimulus.earlier.statement == batch.statement:
        batch = attrs.evolve(batch, certificate=stimulus.earlier)
    work.put(batch)
    work.alarm(batch.entity_id, alarm_ms)
    sealed = sealed_message(work, batch)
    work.emit(*(Send(to=key, message=sealed) for key in _recipients(batch)))
    replica = work.find(Replica, replica_entity_id(batch.batch_id))
    if replica is not None:
        holding.finish(work, replica, sealed)


def sealed_message(work: Workspace, batch: Batch) -> BatchSealed:
    """The end of a batch, as others are told of it."""
    return BatchSealed(network=work.rules.network, certificate=_certificate(batch), context=batch.context_out)


def _recipients(batch: Batch) -> tuple[IdentityKey, ...]:
    """Who is told of the end: those who worked, those who hold the batch, those who follow its topics."""
    return tuple(dict.fromkeys((*asking.agents_of(batch), *batch.holders, *batch.subscribers)))


def on_confirmation(work: Workspace, stimulus: ConfirmationReceived) -> None:
    said = stimulus.confirmation.message
    signer = stimulus.confirmation.signer
    batch = work.find(Batch, batch_entity_id(said.batch_id))
    if batch is None or batch.stage is not Stage.SEALED or batch.statement is None:
        return
    if said.statement_digest != batch.statement.digest or signer not in _recipients(batch):
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
    """Whether everybody told confirmed the certificate, and every award-holder gave its evidence."""
    return len(batch.confirmed) == len(_recipients(batch)) and all(
        len(ballot.votes) == len(ballot.executors) for ballot in batch.ballots
    )


def _finish(work: Workspace, batch: Batch) -> None:
    """All that this batch was about is durable elsewhere: let its entity go."""
    latencies = [took_ms for _, took_ms in batch.confirmed]
    _judge_shadows(work, batch)
    work.emit(
        RecordDistribution(
            batch_id=batch.batch_id,
            published=len(_recipients(batch)),
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
    if signer not in asking.agents_of(batch) or any(key == signer for key, _ in batch.refusals):
        return
    batch = attrs.evolve(batch, refusals=(*batch.refusals, (signer, said.reason)))
    if batch.stage is Stage.PROCESSING:
        _try_to_agree(work, batch)
        return
    certifiers = asking.holders_of(batch.awards, Role.CERTIFY)
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
        asking.report_silent(work, batch)
        for silent in asking.unanswered(batch):
            leases.substitute(work, batch, silent)
        _finish(work, batch)
    elif batch.stage is Stage.SEALING:
        _seal(work, batch)
    elif batch.stage in (Stage.BACKOFF, Stage.ASKING):
        lease_or_wait(work, batch)
    elif batch.stage in (Stage.PROCESSING, Stage.CERTIFYING):
        if work.now_ms >= batch.attempt_ends_ms:
            asking.report_silent(work, batch)
            _fail_attempt(work, batch, "the attempt ran out of time")
        elif work.now_ms >= batch.patience_ends_ms:
            asking.replace_silent(work, batch)
        else:
            asking.resend(work, batch)


def _fail_attempt(work: Workspace, batch: Batch, reason: str) -> None:
    """Give the lease up, wait, and try with a fresh one; out of attempts, bury the batch."""
    said = batch.manifest.message
    leases.revoke(work, said.level, said.quorum, batch.lease_id)
    attempt = batch.attempt + 1
    reasons = (*batch.reasons, f"attempt {attempt}, {rfc3339(work.now_ms)}: {reason}")[-REASONS_MAX:]
    batch = attrs.evolve(batch, attempt=attempt, reasons=reasons, stage=Stage.BACKOFF)
    if attempt >= work.rules.attempts_at(said.level):
        work.put(attrs.evolve(batch, stage=Stage.DEAD))
        work.emit(MarkDead(batch_id=batch.batch_id, reasons=reasons))
        if not batch.agreed:
            _advance_chain(work, batch, None)
        return
    batch = attrs.evolve(batch, alarm_ms=work.now_ms + leases.backoff_ms(work, RETRY_STEP * attempt - 1))
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
        _ask_holders(work, batch)
        attempt_ms = work.rules.attempt_ms_at(batch.manifest.message.level)
        batch = attrs.evolve(batch, attempt_ends_ms=work.now_ms + attempt_ms)
        asking.await_answers(work, batch)
        silent = asking.unanswered(batch)
        asking.send_orders(work, batch, silent)
        if batch.stage is Stage.CERTIFYING:
            asking.send_certify(work, batch, silent)
    elif batch.stage is Stage.LEASING:
        lease_or_wait(work, batch)
    elif batch.stage is Stage.SEALING:
        _seal(work, batch)
    elif batch.stage in (Stage.SEALED, Stage.BACKOFF, Stage.ASKING):
        work.alarm(batch.entity_id, max(batch.alarm_ms, work.now_ms))
