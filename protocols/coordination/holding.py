"""The coordinator's side of holding: have peers keep a batch, and learn that enough of them do."""

import attrs

from protocols.coordination.workspace import Workspace
from protocols.job import (
    Batch,
    Chain,
    HeldReceived,
    Replicated,
    Replication,
    Send,
    chain_entity_id,
    replication_entity_id,
)
from protocols.messages import HoldBatch, IdentityKey

RESENDS_MAX = 8


def offer(work: Workspace, batch: Batch) -> None:
    """Ask the batch's holders to keep it. Its place in its source's chain must be known by now."""
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
    _ask(work, Replication(order=order, alarm_ms=0), batch.holders)


def on_held(work: Workspace, stimulus: HeldReceived) -> None:
    replication = work.find(Replication, replication_entity_id(stimulus.held.message.batch_id))
    signer = stimulus.held.signer
    if replication is None or signer not in replication.order.holders or signer in replication.held:
        return
    held = (*replication.held, signer)
    if len(held) < work.rules.replicas:
        work.put(attrs.evolve(replication, held=held))
        return
    work.drop(replication.entity_id)
    work.utter(Replicated(batch_id=replication.batch_id, holders=held))


def on_alarm(work: Workspace, replication: Replication) -> None:
    """Ask those again who have not answered; a client that repeats its request starts afresh after the last time."""
    if work.now_ms < replication.alarm_ms:
        work.alarm(replication.entity_id, replication.alarm_ms)
    elif replication.resends >= RESENDS_MAX:
        work.drop(replication.entity_id)
    else:
        silent = tuple(key for key in replication.order.holders if key not in replication.held)
        _ask(work, attrs.evolve(replication, resends=replication.resends + 1), silent)


def _ask(work: Workspace, replication: Replication, holders: tuple[IdentityKey, ...]) -> None:
    alarm_ms = work.now_ms + (work.rules.ask_ms << min(replication.resends, 4)) // 2
    work.put(attrs.evolve(replication, alarm_ms=alarm_ms))
    work.alarm(replication.entity_id, alarm_ms)
    work.utter(*(Send(to=key, message=replication.order, payload_of=replication.batch_id) for key in holders))


def _heritage(work: Workspace, batch: Batch) -> tuple[str, bytes]:
    """The batch that this one starts after, or the context that it starts from."""
    chain = work.find(Chain, chain_entity_id(batch.manifest.message.source_id)) if batch.stateful else None
    if chain is None:
        return "", batch.context
    order = [key for key in (chain.running, *chain.queue) if key]
    place = order.index(batch.batch_id) if batch.batch_id in order else len(order)
    return ("", chain.context) if place == 0 else (order[place - 1], b"{}")
