"""From evidence to certificate: count votes, fix the statement at a quorum, collect signatures over it."""

import hashlib

import attrs

from protocols.coordination import asking, attempts, chains, leases, proving, sealing
from protocols.coordination.stages import awaiting
from protocols.coordination.workspace import Workspace
from protocols.effects import RecordLateEvidence
from protocols.entities import Batch, Stage
from protocols.messages import Evidence, IdentityKey, QuorumCertificate, Signed, Statement, WorkResult
from protocols.proofs import proof_of, proof_problem
from protocols.quorum import is_hopeless, supporters, tally
from protocols.reputation import Outcome
from protocols.roles import EVIDENCE_ROLES, Role
from protocols.stimuli import CertificationReceived, RefusalReceived, ResultReceived


def on_result(work: Workspace, stimulus: ResultReceived) -> None:
    """Count an agent's evidence, in every stage from PROCESSING to SEALED."""
    result = stimulus.result
    batch = awaiting(work, result.message.batch_id, stimulus)
    if batch is None:
        return
    if any(award.agent == result.signer for award in batch.shadows):
        _keep_shadow_votes(work, batch, result)
        return
    earlier = batch.ballots
    for evidence in result.message.evidence:
        if evidence.signer == result.signer and _is_about(batch, evidence.message):
            batch = _count(work, batch, evidence)
    counted = batch.ballots != earlier
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
    """Note that an agent will not do its part; go on without it if that can still lead to a quorum."""
    refusal = stimulus.refusal.message
    signer = stimulus.refusal.signer
    batch = awaiting(work, refusal.batch_id, stimulus)
    if batch is None or signer not in asking.agents_of(batch) or any(key == signer for key, _ in batch.refusals):
        return
    batch = attrs.evolve(batch, refusals=(*batch.refusals, (signer, refusal.reason)))
    if batch.stage is Stage.PROCESSING:
        _agree_or_wait(work, batch)
        return
    signed = {each.signer for each in batch.certifications}
    certifiers = asking.holders_of(batch.awards, Role.CERTIFY)
    left = [key for key in certifiers if key in signed or key not in _refused(batch)]
    if len(left) < batch.manifest.message.quorum:
        attempts.fail(work, batch, f"too many certify agents refused: {refusal.reason}")
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
    """Fix the statement if both ballots have their quorum; ask further executors if they cannot reach it any more."""
    normalize, validate = batch.ballots
    if normalize.agreed is None or validate.agreed is None:
        if not _is_hopeless(batch):
            work.put(batch)
        elif not asking.ask_further(work, batch):
            attempts.fail(work, batch, _why_hopeless(batch))
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
    asking.await_answers(work, batch)
    asking.send_certify(work, batch, asking.holders_of(batch.awards, Role.CERTIFY))
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


def _refused(batch: Batch) -> frozenset[IdentityKey]:
    return frozenset(key for key, _ in batch.refusals)


def _is_hopeless(batch: Batch) -> bool:
    """Whether a ballot cannot reach its quorum any more, or lost it."""
    return any(is_hopeless(ballot, _refused(batch)) for ballot in batch.ballots)


def _why_hopeless(batch: Batch) -> str:
    outcomes = {vote.message.outcome for ballot in batch.ballots for vote in ballot.votes}
    refusals = "; ".join(f"{key.hex()[:16]} refused: {why}" for key, why in batch.refusals)
    return f"no quorum possible: {len(outcomes)} different outcomes. {refusals}".strip()


def _observe_pace(work: Workspace, batch: Batch) -> None:
    manifest = batch.manifest.message
    leases.observe(work, manifest.level, manifest.quorum, work.now_ms - batch.asked_ms)


# --- CERTIFYING and after -----------------------------------------------------------------------------------------


def _seal_or_wait(work: Workspace, batch: Batch) -> None:
    """Write the batch down at the quorum of signatures, if the evidence still has its own.

    An equivocator's vote is struck even after it made the agreement: then another agent's vote must replace it.
    """
    if _is_hopeless(batch):
        if not asking.ask_further(work, batch):
            attempts.fail(work, batch, "the agreement lost its quorum: one of its signers contradicted itself")
        return
    backed = all(len(supporters(ballot, ballot.agreed or b"")) >= ballot.quorum for ballot in batch.ballots)
    if len(batch.certifications) < batch.manifest.message.quorum or not backed:
        work.put(batch)
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
