"""The holder's side of a batch: keep it, see whether its coordinator finishes it, and finish it in its place.

The coordinator's signed ``HoldBatch`` names who may. The first in the order of ``rank`` waits for ``adopt_ms``,
each further one so much longer; when its time is up, a holder asks coordinator and holders what became of the batch,
and adopts it when nobody works on it. Two who adopt the same batch do the same: the roles are deterministic and the
context is proven, so there is one result, and the second takes the certificate of the first.
"""

import hashlib

import attrs

from protocols.coordination import dispatch, sealing, tasks
from protocols.coordination.holding import finish
from protocols.coordination.stages import accepts
from protocols.coordination.workspace import Workspace
from protocols.effects import AdoptReplica, DropReplica, LookUpCertificate, ReproduceBatch, Send, StoreReplica
from protocols.entities import Batch, Replica, ReplicaStage, Stage, batch_entity_id, replica_entity_id
from protocols.messages import (
    BatchHeld,
    BatchProgress,
    BatchQuery,
    BatchSealed,
    BatchStatus,
    Claim,
    HoldBatch,
    IdentityKey,
)
from protocols.stimuli import (
    BatchAdopted,
    CertificateLookedUp,
    CertificateReceived,
    HoldReceived,
    QueryReceived,
    ReplicaLost,
    ReplicaStored,
    StatusReceived,
)

OURS = (ReplicaStage.ADOPTING, ReplicaStage.ADOPTED)
LOOKUP_PAUSE_MS_MAX = 300_000


def rank(hold: HoldBatch, holder: IdentityKey) -> int:
    """The position of a holder in the order of adoption, by the hash of key and batch id; the first is 0."""
    batch_id = hold.manifest.message.batch_id.encode()
    return sorted(hold.holders, key=lambda key: hashlib.sha256(key + batch_id).digest()).index(holder)


def on_hold(work: Workspace, stimulus: HoldReceived) -> None:
    hold = stimulus.hold
    message = hold.message
    manifest = message.manifest.message
    if not hold.signer == message.manifest.signer == manifest.coordinator != work.rules.self_key:
        return  # only a coordinator has its own batch held
    if work.rules.self_key not in message.holders:
        return
    replica = work.find(Replica, replica_entity_id(manifest.batch_id))
    if replica is None:
        _rest(work, Replica(hold=hold, stage=ReplicaStage.KEEPING, alarm_ms=0), work.rules.attempt_ms)
        work.emit(StoreReplica(hold=hold))
    elif replica.stage is not ReplicaStage.KEEPING:
        _confirm(work, replica)


def on_kept(work: Workspace, stimulus: ReplicaStored) -> None:
    replica = work.find(Replica, replica_entity_id(stimulus.hold.message.manifest.message.batch_id))
    if replica is None or replica.stage is ReplicaStage.KEEPING:
        replica = Replica(hold=stimulus.hold, stage=ReplicaStage.HELD, alarm_ms=0)
        _be_patient(work, replica)
    _confirm(work, replica)


def on_lost(work: Workspace, stimulus: ReplicaLost) -> None:
    """Forget a batch that cannot be adopted any more; one that is adopted does not need it."""
    replica = work.find(Replica, replica_entity_id(stimulus.batch_id))
    if replica is not None and replica.stage is not ReplicaStage.ADOPTED:
        work.drop(replica.entity_id)


def on_alarm(work: Workspace, replica: Replica) -> None:
    if work.now_ms < replica.alarm_ms:
        work.alarm(replica.entity_id, replica.alarm_ms)
        return
    match replica.stage:
        case ReplicaStage.KEEPING | ReplicaStage.FINISHED:  # not written down: the coordinator asks again
            work.drop(replica.entity_id)
        case ReplicaStage.HELD:
            _rest(work, attrs.evolve(replica, stage=ReplicaStage.ASKING), work.rules.ask_ms)
            _query(work, replica, replica.batch_id)
        case ReplicaStage.ASKING | ReplicaStage.WAITING | ReplicaStage.ADOPTING:
            _adopt(work, replica)
        case ReplicaStage.ADOPTED:
            pass


def on_status(work: Workspace, stimulus: StatusReceived) -> None:
    """An answer of the coordinator or a holder about a batch. Without answers, the alarm decides."""
    message, signer = stimulus.status.message, stimulus.status.signer
    batch = work.find(Batch, batch_entity_id(message.batch_id))
    if batch is not None and accepts(batch, StatusReceived):
        if signer in batch.holders:
            dispatch.on_status(work, batch, signer, message.progress)
        return
    replica = work.find(Replica, replica_entity_id(message.batch_id))
    if replica is None or replica.stage is not ReplicaStage.ASKING or signer not in _others(work, replica):
        return
    if message.progress is BatchProgress.WORKING:
        _be_patient(work, attrs.evolve(replica, stage=ReplicaStage.HELD))
    elif message.progress is BatchProgress.DEAD and signer == replica.coordinator:
        _drop(work, replica)


def on_query(work: Workspace, stimulus: QueryReceived) -> None:
    batch_id, asker = stimulus.query.message.batch_id, stimulus.query.signer
    batch = work.find(Batch, batch_entity_id(batch_id))
    replica = work.find(Replica, replica_entity_id(batch_id))
    if batch is not None and batch.stage is Stage.SEALED:
        work.emit(Send(to=asker, message=sealing.sealed_message(work, batch)))
    elif batch is not None:
        _tell(work, asker, batch_id, BatchProgress.DEAD if batch.stage is Stage.DEAD else BatchProgress.WORKING)
    elif replica is not None and replica.sealed is not None:
        work.emit(Send(to=asker, message=replica.sealed))
    elif replica is not None:
        _tell(work, asker, batch_id, BatchProgress.WORKING if replica.stage in OURS else BatchProgress.HELD)
    else:
        work.emit(LookUpCertificate(batch_id=batch_id, asker=asker, successor=""))


def on_end_found(work: Workspace, stimulus: CertificateLookedUp) -> None:
    sealed = stimulus.sealed
    if stimulus.asker is not None:
        if sealed is None:
            _tell(work, stimulus.asker, stimulus.batch_id, BatchProgress.UNKNOWN)
        else:
            work.emit(Send(to=stimulus.asker, message=sealed))
        return
    replica = work.find(Replica, replica_entity_id(stimulus.successor))
    if replica is not None and sealed is not None and replica.stage is ReplicaStage.WAITING:
        replica = _heir(replica, sealed)
        if replica.before is not None:
            _adopt(work, replica)


def on_adopted(work: Workspace, stimulus: BatchAdopted) -> None:
    """Process an adopted batch: from here on this node does what its coordinator would."""
    replica = work.find(Replica, replica_entity_id(stimulus.batch_id))
    if replica is not None and replica.stage in (ReplicaStage.HELD, ReplicaStage.ASKING):
        _adopt(work, replica)  # entered in an earlier run of this node: what it starts from is to be known again
        return
    if replica is None or replica.stage is not ReplicaStage.ADOPTING:
        return
    work.put(attrs.evolve(replica, stage=ReplicaStage.ADOPTED))
    if work.find(Batch, batch_entity_id(replica.batch_id)) is not None:
        return  # an earlier run of this node was at it
    batch = Batch(
        manifest=replica.hold.message.manifest,
        stage=Stage.LEASING,
        stateful=False,  # its place in the source's chain is proven, not kept here
        holders=_others(work, replica),
        claim=Claim(hold=replica.hold, before=replica.before),
        context=replica.context if replica.hold.message.after else replica.hold.message.context,
    )
    dispatch.wait(work, batch)
    if replica.sealed is not None:
        work.emit(ReproduceBatch(sealed=replica.sealed, manifest=batch.manifest.message, context=batch.context))


def on_sealed(work: Workspace, stimulus: CertificateReceived) -> None:
    """A checked certificate: for the task here, the replica here, or the own batch that others finished."""
    tasks.on_sealed(work, stimulus)
    statement = stimulus.sealed.message.certificate.statement
    batch = work.find(Batch, batch_entity_id(statement.batch_id))
    if batch is not None:
        sealing.on_certificate(work, batch, stimulus)
        return
    replica = work.find(Replica, replica_entity_id(statement.batch_id))
    if replica is None or stimulus.sealed.signer not in _others(work, replica):  # nobody else lets a batch go
        return
    if replica.stage in (ReplicaStage.WAITING, ReplicaStage.ADOPTING):  # it is being entered, and takes its end then
        work.put(attrs.evolve(replica, sealed=stimulus.sealed.message))
    else:
        finish(work, replica, stimulus.sealed.message)


def _adopt(work: Workspace, replica: Replica) -> None:
    """Enter the batch among this node's own, once the context that it starts from is known."""
    after = replica.hold.message.after
    before = work.find(Replica, replica_entity_id(after)) if after else None
    if replica.before is None and before is not None and before.sealed is not None:
        replica = _heir(replica, before.sealed)
    if after and replica.before is None:
        _rest(work, attrs.evolve(replica, stage=ReplicaStage.WAITING), _lookup_pause_ms(work, replica))
        work.emit(LookUpCertificate(batch_id=after, asker=None, successor=replica.batch_id))
        _query(work, replica, after)
        return
    _rest(work, attrs.evolve(replica, stage=ReplicaStage.ADOPTING), work.rules.attempt_ms)
    work.emit(AdoptReplica(hold=replica.hold))


def _lookup_pause_ms(work: Workspace, replica: Replica) -> int:
    """The pause between two lookups of the batch before: longer the older the batch is, or the further it is ahead.

    The batch before it may be one that there never was: at one rate, each order to hold such a batch would cost this
    node and the others work for good.
    """
    age_ms = abs(work.now_ms - replica.hold.message.manifest.message.received_ms)
    return max(work.rules.ask_ms // 3, min(age_ms // 8, LOOKUP_PAUSE_MS_MAX))


def _heir(replica: Replica, sealed: BatchSealed) -> Replica:
    """The replica with the context of the batch before it; unchanged if the certificate is of another batch."""
    statement = sealed.certificate.statement
    before = (statement.batch_id, statement.coordinator, statement.context_out)
    if before != (replica.hold.message.after, replica.coordinator, hashlib.sha256(sealed.context).digest()):
        return replica
    return attrs.evolve(replica, before=sealed.certificate, context=sealed.context)


def _be_patient(work: Workspace, replica: Replica) -> None:
    _rest(work, replica, work.rules.adopt_ms * (1 + rank(replica.hold.message, work.rules.self_key)))


def _rest(work: Workspace, replica: Replica, pause_ms: int) -> None:
    alarm_ms = work.now_ms + pause_ms
    work.put(attrs.evolve(replica, alarm_ms=alarm_ms))
    work.alarm(replica.entity_id, alarm_ms)


def _query(work: Workspace, replica: Replica, batch_id: str) -> None:
    query = BatchQuery(network=work.rules.network, batch_id=batch_id)
    work.emit(*(Send(to=key, message=query) for key in _others(work, replica)))


def _others(work: Workspace, replica: Replica) -> tuple[IdentityKey, ...]:
    """Coordinator and holders, without this node."""
    known = {replica.coordinator, *replica.hold.message.holders} - {work.rules.self_key}
    return tuple(sorted(known))


def _confirm(work: Workspace, replica: Replica) -> None:
    held = BatchHeld(network=work.rules.network, batch_id=replica.batch_id)
    work.emit(Send(to=replica.coordinator, message=held))


def _tell(work: Workspace, asker: IdentityKey, batch_id: str, progress: BatchProgress) -> None:
    status = BatchStatus(network=work.rules.network, batch_id=batch_id, progress=progress)
    work.emit(Send(to=asker, message=status))


def _drop(work: Workspace, replica: Replica) -> None:
    work.drop(replica.entity_id)
    work.emit(DropReplica(batch_id=replica.batch_id))
