"""The end of a batch: write it down with its certificate, tell everybody concerned, and collect confirmations.

The certificate comes from this batch's own votes (``agreement``), or from a holder that finished the batch. The
latter is believed when this node's own run gives the same result.
"""

import hashlib

import attrs

from protocols.coordination import asking, chains, holding, leases
from protocols.coordination.stages import accepts, awaiting
from protocols.coordination.workspace import Workspace
from protocols.effects import ForgetPayload, RecordDistribution, ReproduceBatch, Send, WriteBatch
from protocols.entities import Batch, Replica, Stage, replica_entity_id
from protocols.limits import SUBSCRIBERS_MAX
from protocols.load import AskState
from protocols.messages import BatchSealed, IdentityKey, QuorumCertificate
from protocols.quorum import dissenters
from protocols.reputation import Outcome
from protocols.stimuli import BatchReproduced, BatchWritten, CertificateReceived, ConfirmationReceived


def write(work: Workspace, batch: Batch) -> None:
    """Have the batch written down, and ask again if no report comes; writing twice changes nothing."""
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


def on_written(work: Workspace, stimulus: BatchWritten) -> None:
    """Tell everybody concerned, for the certificate is durable now."""
    batch = awaiting(work, stimulus.batch_id, stimulus)
    if batch is None:
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
    """The message that tells others of the certificate."""
    return BatchSealed(network=work.rules.network, certificate=_certificate(batch), context=batch.context_out)


def on_confirmation(work: Workspace, stimulus: ConfirmationReceived) -> None:
    """Count a confirmation of this certificate, one a recipient."""
    confirmed = stimulus.confirmation.message
    signer = stimulus.confirmation.signer
    batch = awaiting(work, confirmed.batch_id, stimulus)
    if batch is None or batch.statement is None:
        return
    if confirmed.statement_digest != batch.statement.digest or signer not in _recipients(batch):
        return
    if any(key == signer for key, _ in batch.confirmed):
        return
    took_ms = max(0, work.now_ms - batch.sealed_ms)
    finish_if_complete(work, attrs.evolve(batch, confirmed=(*batch.confirmed, (signer, took_ms))))


def finish_if_complete(work: Workspace, batch: Batch) -> None:
    """Finish when every recipient confirmed the certificate, and every executor that is at it gave its evidence."""
    if len(batch.confirmed) == len(_recipients(batch)) and not _owed(batch):
        finish(work, batch)
    else:
        work.put(batch)


def finish_in_time(work: Workspace, batch: Batch) -> None:
    """Finish without those that do not confirm, and judge executors once they were silent for long enough."""
    ends_ms = batch.sealed_ms + max(work.rules.confirm_ms, work.rules.late_ms)
    if _owed(batch) and work.now_ms < ends_ms:
        work.put(attrs.evolve(batch, alarm_ms=ends_ms))
        work.alarm(batch.entity_id, ends_ms)
        return
    if work.now_ms - batch.alarm_ms <= asking.BEHIND_MS:  # else this node is late itself
        judged = asking.judge(work, batch)
        late = asking.in_state(judged, AskState.GONE) - asking.in_state(batch, AskState.GONE)
        for agent in sorted(late):
            leases.substitute(work, batch, agent)
    finish(work, batch)


def finish(work: Workspace, batch: Batch) -> None:
    """Remove the entity: everything about this batch is durable elsewhere."""
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


def on_certificate(work: Workspace, batch: Batch, stimulus: CertificateReceived) -> None:
    """A holder finished the batch: run it here, to see whether that gives the same."""
    sealed = stimulus.sealed.message
    if stimulus.sealed.signer in batch.holders and accepts(batch, CertificateReceived) and _is_end_of(batch, sealed):
        work.emit(ReproduceBatch(sealed=sealed, manifest=batch.manifest.message, context=batch.context))


def on_reproduced(work: Workspace, stimulus: BatchReproduced) -> None:
    """Take over the certificate of others, and the context that the batch leaves behind with it."""
    sealed = stimulus.sealed
    statement = sealed.certificate.statement
    batch = awaiting(work, statement.batch_id, stimulus)
    if batch is None or not _is_end_of(batch, sealed):
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
        asks=(),
        awards=(),
        shadows=(),
        ballots=(),
        shadow_votes=(),
        contexts=(),
        certifications=sealed.certificate.certifications,
    )
    write(work, batch)
    chains.advance(work, batch, sealed.context)


def _is_end_of(batch: Batch, sealed: BatchSealed) -> bool:
    """Whether a certificate is of this batch as it was taken in, and of the context that it starts from here."""
    statement, manifest = sealed.certificate.statement, batch.manifest.message
    certified = (
        statement.coordinator,
        statement.source_id,
        statement.policy_hash,
        statement.level,
        statement.quorum,
        statement.input_root,
    )
    taken_in = (
        manifest.coordinator,
        manifest.source_id,
        manifest.policy_hash,
        manifest.level,
        manifest.quorum,
        manifest.input_root,
    )
    return (
        certified == taken_in
        and statement.context_in == hashlib.sha256(batch.context).digest()
        and statement.context_out == hashlib.sha256(sealed.context).digest()
    )


def _certificate(batch: Batch) -> QuorumCertificate:
    assert batch.certificate is not None, "there is one from SEALING on"
    return batch.certificate


def _owed(batch: Batch) -> bool:
    """Whether evidence may still come: of executors that were asked, and did not say that none will."""
    at_it = asking.in_state(batch, *asking.OPEN)
    return any(key in at_it for key in asking.unanswered(batch))


def _recipients(batch: Batch) -> tuple[IdentityKey, ...]:
    """The nodes that are sent the certificate: executors, holders, and subscribers of its topics."""
    return tuple(dict.fromkeys((*asking.agents_of(batch), *batch.holders, *batch.subscribers)))


def _judge_shadows(work: Workspace, batch: Batch) -> None:
    """Note whether the newcomers' evidence agrees with what was certified."""
    agreed = {ballot.role: ballot.agreed for ballot in batch.ballots if ballot.agreed is not None}
    for vote in batch.shadow_votes:
        role = vote.message.role
        if role in agreed:  # a certificate of others comes without ballots to judge by
            outcome: Outcome = "agreed" if vote.message.outcome == agreed[role] else "dissented"
            asking.report(work, batch, vote.signer, role, outcome)
