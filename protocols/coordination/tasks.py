"""The agent's side of a batch: take the order, run the roles, report evidence, sign what it found itself."""

import hashlib
from typing import Final

import attrs

from protocols.certificate import quorum_problem
from protocols.coordination import desk, leases
from protocols.coordination.workspace import Workspace
from protocols.effects import ForgetPayload, RunRole, Send, SignStatement, StoreCertificate
from protocols.entities import Findings, Replica, Task, TaskStage, replica_entity_id, task_entity_id
from protocols.messages import (
    CertifyOrder,
    Evidence,
    IdentityKey,
    Role,
    SealConfirmed,
    Signed,
    Statement,
    WorkOrder,
    WorkPhase,
    WorkRefused,
    WorkResult,
)
from protocols.stimuli import (
    CertificateReceived,
    CertificateStored,
    CertifyReceived,
    FailureCause,
    RoleFailed,
    RoleFinished,
    StatementSigned,
    WorkReceived,
)

AT_IT: Final = (TaskStage.QUEUED, TaskStage.RUNNING)
ASK_AGAIN_MS: Final = 1_000  # what is missing here may have come by then
NO_WORK_MS: Final = 50


def on_work(work: Workspace, stimulus: WorkReceived) -> None:
    order = stimulus.order
    order_message = order.message
    manifest = order_message.manifest.message
    if order_message.manifest.signer != manifest.coordinator or not _may_order(order):
        return  # nobody orders work under another's name without its word
    task = work.find(Task, task_entity_id(manifest.batch_id))
    if task is not None and task.order.message.context == order_message.context:
        _again(work, task, order)
        return
    if task is not None and task.stage in (TaskStage.SIGNING, TaskStage.CERTIFIED):
        return  # what was signed under one context is not done again under another
    if leases.hold(work, order.signer, order_message.award) is None:
        reason = "the award has expired or is not for this node"
        desk.say(work, order.signer, manifest.batch_id, WorkPhase.UNABLE, reason=reason)
        return
    if task is not None:
        desk.leave(work, task.batch_id)
    task = Task(
        order=order,
        roles=order_message.award.roles,  # one called up from the shadow holds more than its lease began with
        stage=TaskStage.QUEUED,
        expires_ms=work.now_ms + work.rules.task_ttl_ms,
    )
    work.put(task)
    if not desk.take_in(work, order, stimulus.payload_bytes):
        _refuse_for_room(work, order)
        return
    work.alarm(task.entity_id, task.expires_ms)


def _refuse_for_room(work: Workspace, order: Signed[WorkOrder]) -> None:
    batch_id = order.message.manifest.message.batch_id
    work.drop(task_entity_id(batch_id))
    desk.no_room(work, order)
    if work.find(Replica, replica_entity_id(batch_id)) is None:  # what is held comes with the same payload
        work.emit(ForgetPayload(batch_id=batch_id, sender=order.signer))


def _again(work: Workspace, task: Task, order: Signed[WorkOrder]) -> None:
    """Answer a repeated order: from another node, or for roles that were not awarded before."""
    award = order.message.award
    wider = set(award.roles) - set(task.roles)
    if wider and leases.hold(work, order.signer, award) is not None:
        task = attrs.evolve(task, roles=tuple(sorted({*task.roles, *award.roles})))
    if task.order.signer != order.signer or wider:
        task = attrs.evolve(task, order=order)  # the latest sender is answered
        work.put(task)
    if task.stage in AT_IT:
        desk.ask_again(work, order)
        return
    given = {each.message.role for each in task.evidence}
    if task.stage is TaskStage.REPORTED and not {Role.NORMALIZE, Role.VALIDATE} & set(task.roles) <= given:
        work.put(attrs.evolve(task, stage=TaskStage.RUNNING))
        work.emit(RunRole(order=order, roles=task.roles))  # its result is known: only evidence is to be signed
        return
    _report(work, task)


def _may_order(order: Signed[WorkOrder]) -> bool:
    """Whether the sender may order the work: the coordinator, or a holder it named that proves the context."""
    order_message = order.message
    manifest = order_message.manifest.message
    if order.signer == manifest.coordinator:
        return True
    claim = order_message.claim
    if claim is None or claim.hold.signer != manifest.coordinator:
        return False
    hold = claim.hold.message
    if order.signer not in hold.holders or hold.manifest != order_message.manifest:
        return False
    if not hold.after or claim.before is None:
        return not hold.after and order_message.context == hold.context
    before = claim.before.statement
    proven = (before.batch_id, before.coordinator, before.source_id, before.context_out)
    asked = (hold.after, manifest.coordinator, manifest.source_id, hashlib.sha256(order_message.context).digest())
    return proven == asked and not quorum_problem(claim.before)


def on_finished(work: Workspace, stimulus: RoleFinished) -> None:
    task = work.find(Task, task_entity_id(stimulus.batch_id))
    if task is None:
        desk.leave(work, stimulus.batch_id, is_done=True)
        return
    if task.stage is not TaskStage.RUNNING:
        return
    asked = hashlib.sha256(task.order.message.context).digest()
    if any(evidence.message.context_in != asked for evidence in stimulus.evidence):
        return  # an answer to an order that a later one replaced
    desk.leave(work, task.batch_id, is_done=True)
    pending = task.pending
    task = attrs.evolve(
        task,
        stage=TaskStage.REPORTED,
        findings=stimulus.findings,
        evidence=stimulus.evidence,
        pending=None,
        expires_ms=work.now_ms + work.rules.task_ttl_ms,
    )
    _report(work, task)
    if task.sealed:
        _let_go(work, task)
        return
    work.put(task)
    if pending is not None:
        _weigh(work, task, pending.message)


def on_failed(work: Workspace, stimulus: RoleFailed) -> None:
    task = work.find(Task, task_entity_id(stimulus.batch_id))
    if task is not None and task.stage is not TaskStage.RUNNING:
        return
    if task is not None:
        coordinator, batch_id, reason = task.order.signer, task.batch_id, stimulus.reason
        match stimulus.cause:
            case FailureCause.BATCH:
                _refuse(work, coordinator, batch_id, reason)
            case FailureCause.NODE:
                desk.say(work, coordinator, batch_id, WorkPhase.UNABLE, wait_ms=ASK_AGAIN_MS, reason=reason)
            case FailureCause.UNWANTED:
                desk.say(work, coordinator, batch_id, WorkPhase.DROPPED, reason=reason)
        work.drop(task.entity_id)
    desk.leave(work, stimulus.batch_id)


def on_certify(work: Workspace, stimulus: CertifyReceived) -> None:
    statement = stimulus.order.message.statement
    task = work.find(Task, task_entity_id(statement.batch_id))
    if task is None or task.order.signer != stimulus.order.signer:
        reason = "this node has no such work"  # it was restarted since, or dropped it: it can do it again
        desk.say(work, stimulus.order.signer, statement.batch_id, WorkPhase.UNABLE, wait_ms=NO_WORK_MS, reason=reason)
    elif task.stage in AT_IT:
        work.put(attrs.evolve(task, pending=stimulus.order))
    elif task.stage is TaskStage.CERTIFIED and task.certification is not None:
        if task.certification.message.statement_digest == statement.digest:
            work.emit(Send(to=task.order.signer, message=task.certification.message))
    else:
        _weigh(work, task, stimulus.order.message)


def on_signed(work: Workspace, stimulus: StatementSigned) -> None:
    task = work.find(Task, task_entity_id(stimulus.certification.message.batch_id))
    if task is None or task.stage is not TaskStage.SIGNING:
        return
    work.put(attrs.evolve(task, stage=TaskStage.CERTIFIED, certification=stimulus.certification))
    work.emit(Send(to=task.order.signer, message=stimulus.certification.message))


def on_sealed(work: Workspace, stimulus: CertificateReceived) -> None:
    """The certificate was checked by the caller: keep it, and let the task go."""
    statement = stimulus.sealed.message.certificate.statement
    task = work.find(Task, task_entity_id(statement.batch_id))
    if task is not None and stimulus.sealed.signer in (task.order.signer, statement.coordinator):
        if task.stage is TaskStage.RUNNING:
            work.put(attrs.evolve(task, sealed=True))  # its evidence is still owed: it may be dissent
        else:
            if task.stage is TaskStage.QUEUED:
                reason = "the certificate came first"
                desk.say(work, task.order.signer, task.batch_id, WorkPhase.DROPPED, reason=reason)
            _let_go(work, task)
    work.emit(StoreCertificate(sealed=stimulus.sealed.message, sender=stimulus.sealed.signer))


def on_certificate_kept(work: Workspace, stimulus: CertificateStored) -> None:
    confirmation = SealConfirmed(
        network=work.rules.network, batch_id=stimulus.batch_id, statement_digest=stimulus.statement_digest
    )
    work.emit(Send(to=stimulus.sender, message=confirmation))


def on_alarm(work: Workspace, task: Task) -> None:
    if work.now_ms < task.expires_ms:
        work.alarm(task.entity_id, task.expires_ms)
    else:
        _let_go(work, task)


def _let_go(work: Workspace, task: Task) -> None:
    work.drop(task.entity_id)
    desk.leave(work, task.batch_id)
    if task.order.signer != work.rules.self_key:
        work.emit(ForgetPayload(batch_id=task.batch_id))


def on_restart(work: Workspace, task: Task) -> None:
    """Work that was not done is dropped, since its payload is lost: the coordinator will ask again."""
    if task.stage in AT_IT:
        work.drop(task.entity_id)
        return
    if task.stage is TaskStage.SIGNING and task.findings is not None:
        work.emit(SignStatement(statement=_statement(task, task.findings)))
    work.alarm(task.entity_id, task.expires_ms)


def _report(work: Workspace, task: Task) -> None:
    assert task.findings is not None, "a task reports what it found"
    result = WorkResult(
        network=work.rules.network,
        batch_id=task.batch_id,
        evidence=task.evidence,
        context_out=task.findings.context_out,
    )
    work.emit(Send(to=task.order.signer, message=result))


def _refuse(work: Workspace, to: IdentityKey, batch_id: str, reason: str) -> None:
    refusal = WorkRefused(network=work.rules.network, batch_id=batch_id, reason=reason[:500])
    work.emit(Send(to=to, message=refusal))


def _weigh(work: Workspace, task: Task, order: CertifyOrder) -> None:
    """Sign only what this node found itself and what a quorum of others signed evidence for."""
    if task.stage is not TaskStage.REPORTED:
        return
    problem = _problem(task, order)
    if problem:
        _refuse(work, task.order.signer, task.batch_id, problem)
        return
    work.put(attrs.evolve(task, stage=TaskStage.SIGNING))
    work.emit(SignStatement(statement=order.statement))


def _problem(task: Task, order: CertifyOrder) -> str:
    found = task.findings
    assert found is not None, "a reported task has findings"
    if Role.CERTIFY not in task.roles:
        return "the certify role is not held here"
    if order.statement != _statement(task, found):
        return "my own recomputation gives another result"
    for role in (Role.NORMALIZE, Role.VALIDATE):
        signers = {
            evidence.signer
            for evidence in order.evidence
            if evidence.message.role is role and _supports(evidence, order.statement)
        }
        if len(signers) < order.statement.quorum:
            return f"{len(signers)} of {order.statement.quorum} needed signatures for {role.word}"
    return ""


def _statement(task: Task, found: Findings) -> Statement:
    """The statement this node would make: every field from its own order and its own findings."""
    order_message = task.order.message
    manifest = order_message.manifest.message
    return Statement(
        network=manifest.network,
        batch_id=task.batch_id,
        coordinator=manifest.coordinator,
        source_id=manifest.source_id,
        policy_hash=manifest.policy_hash,
        level=manifest.level,
        quorum=manifest.quorum,
        input_root=found.input_root,
        normalized_root=found.normalized_root,
        output_root=found.output_root,
        context_in=hashlib.sha256(order_message.context).digest(),
        context_out=hashlib.sha256(found.context_out).digest(),
        events=found.events,
        valid=found.valid,
        invalid=found.invalid,
    )


def _supports(evidence: Signed[Evidence], statement: Statement) -> bool:
    message = evidence.message
    expected = {
        Role.NORMALIZE: (statement.input_root, statement.normalized_root),
        Role.VALIDATE: (statement.normalized_root, statement.output_root),
    }[message.role]
    return (
        message.batch_id == statement.batch_id
        and message.policy_hash == statement.policy_hash
        and message.context_in == statement.context_in
        and (message.input_digest, message.output_digest) == expected
    )
