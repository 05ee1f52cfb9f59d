"""Holding batches for each other: have peers keep one, count their confirmations, and drop one that is finished."""

import hashlib
import itertools
from collections.abc import Iterable

import attrs

from protocols.coordination.workspace import Workspace
from protocols.effects import ConfirmReplication, DropReplica, Send
from protocols.entities import (
    Batch,
    Chain,
    Replica,
    ReplicaStage,
    Replication,
    batch_entity_id,
    chain_entity_id,
    replication_entity_id,
)
from protocols.messages import BatchSealed, HoldBatch, IdentityKey
from protocols.stimuli import HoldConfirmed

RESENDS_MAX = 8
REMEMBERED_MS = 60_000


def choose_holders(self_key: IdentityKey, candidates: Iterable[IdentityKey], count: int) -> tuple[IdentityKey, ...]:
    """Up to ``count`` of the candidates: always the same ones for a coordinator, and others for another."""
    others = (key for key in candidates if key != self_key)
    return tuple(sorted(others, key=lambda key: hashlib.sha256(self_key + key).digest())[:count])


def offer(work: Workspace, batch: Batch) -> None:
    """Ask the batch's holders to keep it. Its place in its source's chain must be known by now.

    The unfinished batches before it in the chain are worth nothing to it elsewhere, so they are held with it.
    """
    if not batch.holders or work.find(Replication, replication_entity_id(batch.batch_id)) is not None:
        return
    after, context = _heritage(work, batch)
    order = HoldBatch(
        network=work.rules.network,
        manifest=batch.manifest,
        holders=batch.holders,
        stateful=batch.stateful,
        after=after,
        context=context,
    )
    before = work.find(Batch, batch_entity_id(after))
    if before is not None and not before.holders:
        before = attrs.evolve(before, holders=batch.holders)
        work.put(before)
        offer(work, before)
    _ask(work, Replication(order=order, alarm_ms=0))


def on_held(work: Workspace, stimulus: HoldConfirmed) -> None:
    replication = work.find(Replication, replication_entity_id(stimulus.held.message.batch_id))
    signer = stimulus.held.signer
    if replication is None or signer not in replication.order.holders or signer in replication.held:
        return
    held = (*replication.held, signer)
    if len(held) < work.rules.replicas:
        work.put(attrs.evolve(replication, held=held))
        return
    work.drop(replication.entity_id)
    work.emit(ConfirmReplication(batch_id=replication.batch_id, holders=held))
    _go_on(work, replication)


def on_alarm(work: Workspace, replication: Replication) -> None:
    """Ask silent holders again; after the last time, a client that repeats its request starts again."""
    if work.now_ms < replication.alarm_ms:
        work.alarm(replication.entity_id, replication.alarm_ms)
    elif replication.resends >= RESENDS_MAX:
        work.drop(replication.entity_id)
        _go_on(work, replication)
    else:
        _ask(work, attrs.evolve(replication, resends=replication.resends + 1))


def finish(work: Workspace, replica: Replica, sealed: BatchSealed) -> None:
    """Delete a replica that has its certificate, and remember the certificate while a successor may need it."""
    work.emit(DropReplica(batch_id=replica.batch_id))
    if not replica.hold.message.stateful:
        work.drop(replica.entity_id)
        return
    alarm_ms = work.now_ms + REMEMBERED_MS
    work.put(attrs.evolve(replica, stage=ReplicaStage.FINISHED, sealed=sealed, alarm_ms=alarm_ms))
    work.alarm(replica.entity_id, alarm_ms)


def _ask(work: Workspace, replication: Replication) -> None:
    """Ask the holders that have not confirmed, unless the batch before it is not held yet."""
    alarm_ms = work.now_ms + (work.rules.ask_ms << min(replication.resends, 4)) // 2
    work.put(attrs.evolve(replication, alarm_ms=alarm_ms))
    work.alarm(replication.entity_id, alarm_ms)
    order = replication.order
    if order.after and work.find(Replication, replication_entity_id(order.after)) is not None:
        return
    silent = (key for key in order.holders if key not in replication.held)
    work.emit(*(Send(to=key, message=order, payload_of=replication.batch_id) for key in silent))


def _go_on(work: Workspace, done: Replication) -> None:
    """Have the next batch of the chain held, if it waits for this one."""
    manifest = done.order.manifest.message
    chain = work.find(Chain, chain_entity_id(manifest.source_id)) if done.order.stateful else None
    order = () if chain is None else (chain.running, *chain.queue)
    for before, following in itertools.pairwise(order):
        waiting = work.find(Replication, replication_entity_id(following))
        if before == done.batch_id and waiting is not None:
            _ask(work, waiting)


def _heritage(work: Workspace, batch: Batch) -> tuple[str, bytes]:
    """The batch that this one starts after, or the context that it starts from."""
    chain = work.find(Chain, chain_entity_id(batch.manifest.message.source_id)) if batch.stateful else None
    if chain is None:
        return "", batch.context
    order = [key for key in (chain.running, *chain.queue) if key]
    place = order.index(batch.batch_id) if batch.batch_id in order else len(order)
    return ("", chain.context) if place == 0 else (order[place - 1], b"{}")
