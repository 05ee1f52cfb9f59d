"""From evidence to certificate: count votes, fix the statement at a quorum, collect signatures over it."""

import hashlib
from typing import Final

import attrs

from protocols.coordination import accounts, asking, attempts, chains, leases, proving, sealing
from protocols.coordination.stages import awaiting
from protocols.coordination.workspace import Workspace
from protocols.effects import RecordLateEvidence
from protocols.entities import Batch, Stage
from protocols.load import Ask, AskState
from protocols.messages import (
    Evidence,
    IdentityKey,
    QuorumCertificate,
    Signed,
    Statement,
    WorkPhase,
    WorkResult,
    WorkStatus,
)
from protocols.proofs import proof_of, proof_problem
from protocols.quorum import supporters, tally
from protocols.reputation import Outcome
from protocols.roles import EVIDENCE_ROLES, Role
from protocols.stimuli import CertificationReceived, RefusalReceived, ResultReceived, WorkStatusReceived

WAIT_MS_MIN: Final = 50  # before an agent that has no room is asked again


def on_result(work: Workspace, stimulus: ResultReceived) -> None:
    """Count an agent's evidence, in every stage from PROCESSING to SEALED."""
    result = stimulus.result
    batch = awaiting(work, result.message.batch_id, stimulus)
    if batch is None:
        return
    if any(award.agent == result.signer for award in batch.shadows):
        _keep_shadow_votes(work, asking.answered(work, batch, result.signer), result)
        return
    earlier = batch.ballots
    for evidence in result.message.evidence:
        if evidence.signer == result.signer and _is_about(batch, evidence.message):
            batch = _count(work, batch, evidence)
    counted = batch.ballots != earlier
    batch = asking.answered(work, batch, result.signer)
    if batch.stage is Stage.PROCESSING:
        if counted:
            _observe_pace(work, batch)
        _agree_or_wait(work, _with_context(batch, result))
    elif batch.stage is Stage.CERTIFYING:
        _seal_or_wait(work, batch)
    else:
        if counted:
            _record_late(work, batch, result.signer)
        if batch.stage is Stage.SEALED:
            sealing.finish_if_complete(work, batch)
        else:
            work.put(batch)


def on_refusal(work: Workspace, stimulus: RefusalReceived) -> None:
    """Note that an agent will not do its part because of the batch; go on without it if there can be a quorum."""
    refusal = stimulus.refusal.message
    signer = stimulus.refusal.signer
    batch = awaiting(work, refusal.batch_id, stimulus)
    if batch is None or signer not in asking.agents_of(batch) or signer in asking.refused(batch):
        return
    batch = attrs.evolve(batch, refusals=(*batch.refusals, (signer, refusal.reason)))
    attempts.go_on(work, asking.answered(work, batch, signer))


def on_work_status(work: Workspace, stimulus: WorkStatusReceived) -> None:
    """Note where an order is at its agent, and how much that takes."""
    status, signer = stimulus.status.message, stimulus.status.signer
    accounts.learn(work, signer, status.credit)
    batch = awaiting(work, status.batch_id, stimulus)
    known = None if batch is None else asking.ask_of(batch, signer)
    if batch is None or known is None or known.state is AskState.GONE:
        return
    wait_ms = min(max(status.wait_ms, WAIT_MS_MIN), work.rules.queue_ms)
    match status.phase:
        case WorkPhase.QUEUED | WorkPhase.RUNNING:
            if known.state is AskState.ANSWERED:
                return
            batch = asking.with_ask(batch, _heard(work, known, status))
        case WorkPhase.NO_ROOM:
            accounts.close(work, signer, work.now_ms + wait_ms)
            batch = asking.put_off(work, batch, signer, work.now_ms + wait_ms, "no room")
        case WorkPhase.UNABLE if status.wait_ms:
            batch = asking.put_off(work, batch, signer, work.now_ms + wait_ms, status.reason)
        case WorkPhase.UNABLE | WorkPhase.DROPPED:
            batch = asking.give_up(work, batch, signer, status.reason or "it dropped the order")
    if batch.stage in (Stage.PROCESSING, Stage.CERTIFYING):
        attempts.go_on(work, batch)
    elif batch.stage is Stage.SEALED:
        sealing.finish_if_complete(work, batch)
    else:
        work.put(batch)


def on_certification(work: Workspace, stimulus: CertificationReceived) -> None:
    """Collect an executor's signature over the statement."""
    signed = stimulus.certification
    batch = awaiting(work, signed.message.batch_id, stimulus)
    if batch is None or batch.statement is None or signed.message.statement_digest != batch.statement.digest:
        return
    known = any(earlier.signer == signed.signer for earlier in batch.certifications)
    if known or signed.signer not in asking.holders_of(batch.awards, Role.CERTIFY):
        return
    certifications = tuple(sorted((*batch.certifications, signed), key=lambda each: each.signer))
    batch = asking.answered(work, batch, signed.signer)
    _observe_pace(work, batch)
    _seal_or_wait(work, attrs.evolve(batch, certifications=certifications))


# --- PROCESSING -------------------------------------------------------------------------------------------------


def _is_about(batch: Batch, evidence: Evidence) -> bool:
    """Whether evidence answers the question that this batch asks now."""
    manifest = batch.manifest.message
    return (
        evidence.batch_id == batch.batch_id
        and evidence.policy_hash == manifest.policy_hash
        and evidence.context_in == hashlib.sha256(batch.context).digest()
        and (evidence.role is not Role.NORMALIZE or evidence.input_digest == manifest.input_root)
    )


def _count(work: Workspace, batch: Batch, evidence: Signed[Evidence]) -> Batch:
    """The batch with one more vote; a contradiction in it is published as a proof."""
    ballots = []
    for ballot in batch.ballots:
        if ballot.role is evidence.message.role:
            ballot, equivocation = tally(ballot, evidence)
            if equivocation is not None:
                proving.found(work, equivocation.first, equivocation.second)
        ballots.append(ballot)
    return attrs.evolve(batch, ballots=tuple(ballots))


def _with_context(batch: Batch, result: Signed[WorkResult]) -> Batch:
    """The batch with the context that an executor's rules leave behind: the latest of each, so it is bounded."""
    if result.signer not in asking.agents_of(batch):
        return batch
    others = tuple(entry for entry in batch.contexts if entry[0] != result.signer)
    return attrs.evolve(batch, contexts=(*others, (result.signer, result.message.context_out)))


def _agree_or_wait(work: Workspace, batch: Batch) -> None:
    """Fix the statement if both ballots have their quorum; else see to it that they can reach it."""
    normalize, validate = batch.ballots
    if normalize.agreed is None or validate.agreed is None:
        attempts.go_on(work, batch)
        return
    first = supporters(normalize, normalize.agreed)[0].message
    last = supporters(validate, validate.agreed)[0].message
    context = next((c for _, c in batch.contexts if hashlib.sha256(c).digest() == last.context_out), None)
    if first.output_digest != last.input_digest or context is None:
        attempts.fail(work, batch, "the agreed validation is not of the agreed normalization")
        return
    batch = attrs.evolve(
        batch,
        stage=Stage.CERTIFYING,
        statement=_statement(batch, first, last),
        contexts=(),
        context_out=context,
        agreed=True,
    )
    asking.begin_certifying(work, batch)
    chains.advance(work, batch, context)


def _statement(batch: Batch, normalized: Evidence, validated: Evidence) -> Statement:
    """What the quorum is asked to sign: the batch as it was taken in, with the agreed roots, counts and contexts."""
    manifest = batch.manifest.message
    return Statement(
        network=manifest.network,
        batch_id=batch.batch_id,
        coordinator=manifest.coordinator,
        source_id=manifest.source_id,
        policy_hash=manifest.policy_hash,
        level=manifest.level,
        quorum=manifest.quorum,
        input_root=manifest.input_root,
        normalized_root=normalized.output_digest,
        output_root=validated.output_digest,
        context_in=validated.context_in,
        context_out=validated.context_out,
        events=manifest.events,
        valid=validated.valid,
        invalid=validated.invalid,
    )


def _heard(work: Workspace, known: Ask, status: WorkStatus) -> Ask:
    """What is known of an order once its agent said where it is: times are relative, since clocks differ."""
    is_running = status.phase is WorkPhase.RUNNING
    began_ms = work.now_ms - status.running_ms
    if known.state is AskState.RUNNING:  # it began once, whatever it says later
        began_ms = min(began_ms, known.began_ms)
    return attrs.evolve(
        known,
        state=AskState.RUNNING if is_running else AskState.QUEUED,
        since_ms=work.now_ms,
        began_ms=began_ms if is_running else 0,
    )


def _observe_pace(work: Workspace, batch: Batch) -> None:
    manifest = batch.manifest.message
    leases.observe(work, manifest.level, manifest.quorum, work.now_ms - batch.asked_ms)


# --- CERTIFYING and after -----------------------------------------------------------------------------------------


def _seal_or_wait(work: Workspace, batch: Batch) -> None:
    """Write the batch down at the quorum of signatures, if the evidence still has its own.

    An equivocator's vote is struck even after it made the agreement: then another agent's vote must replace it.
    """
    backed = all(len(supporters(ballot, ballot.agreed or b"")) >= ballot.quorum for ballot in batch.ballots)
    if len(batch.certifications) < batch.manifest.message.quorum or not backed:
        attempts.go_on(work, batch)
        return
    assert batch.statement is not None, "there is a statement from CERTIFYING on"
    certificate = QuorumCertificate(
        statement=batch.statement, certifications=batch.certifications, evidence=asking.evidence_of(batch)
    )
    batch = attrs.evolve(batch, stage=Stage.SEALING, certificate=certificate)
    _report_votes(work, batch)
    sealing.write(work, batch)


def _report_votes(work: Workspace, batch: Batch) -> None:
    """Note how each executor did, for its reputation."""
    for ballot in batch.ballots:
        for vote in ballot.votes:
            asking.report(work, batch, vote.signer, ballot.role, _outcome(vote, ballot.agreed))
    for signed in batch.certifications:
        asking.report(work, batch, signed.signer, Role.CERTIFY, "agreed")


def _record_late(work: Workspace, batch: Batch, signer: IdentityKey) -> None:
    """Evidence that came after the certificate counts for its signer's reputation, dissent above all."""
    for ballot in batch.ballots:
        for vote in ballot.votes:
            if vote.signer == signer:
                outcome = _outcome(vote, ballot.agreed)
                asking.report(work, batch, signer, ballot.role, outcome)
                work.emit(RecordLateEvidence(evidence=vote, agrees=outcome == "agreed"))


def _outcome(vote: Signed[Evidence], agreed: bytes | None) -> Outcome:
    return "agreed" if vote.message.outcome == agreed else "dissented"


def _keep_shadow_votes(work: Workspace, batch: Batch, result: Signed[WorkResult]) -> None:
    """Keep a newcomer's evidence until there is an agreement to judge it by."""
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
