"""The order of a source's stateful batches: one runs, the others wait for the context that it leaves behind."""

import attrs

from protocols.coordination.dispatch import wait
from protocols.coordination.workspace import Workspace
from protocols.entities import Batch, Chain, batch_entity_id, chain_entity_id


def enter(work: Workspace, batch: Batch) -> None:
    """Start a batch if it is its turn; else it waits for the one before it in its source."""
    source_id = batch.manifest.message.source_id
    chain = work.find(Chain, chain_entity_id(source_id)) or Chain(source_id=source_id)
    if chain.running not in ("", batch.batch_id):
        if batch.batch_id not in chain.queue:
            chain = attrs.evolve(chain, queue=(*chain.queue, batch.batch_id))
        work.put(chain)
        work.put(batch)
        return
    if not chain.running and chain.queue and chain.queue[0] != batch.batch_id:
        work.put(batch)
        _start_next(work, chain, (*(key for key in chain.queue if key != batch.batch_id), batch.batch_id))
        return
    chain = attrs.evolve(chain, queue=tuple(key for key in chain.queue if key != batch.batch_id))
    work.put(attrs.evolve(chain, running=batch.batch_id))
    wait(work, attrs.evolve(batch, context=chain.context))


def advance(work: Workspace, batch: Batch, context: bytes | None) -> None:
    """Let the source's next batch start, if this one runs.

    Args:
        context: What this batch leaves behind; None if it ended without an agreement.
    """
    chain = work.find(Chain, chain_entity_id(batch.manifest.message.source_id))
    if not batch.stateful or chain is None or chain.running != batch.batch_id:
        return
    chain = attrs.evolve(chain, context=chain.context if context is None else context)
    if chain.queue:
        _start_next(work, chain, chain.queue)
    else:
        work.put(attrs.evolve(chain, running=""))


def _start_next(work: Workspace, chain: Chain, queue: tuple[str, ...]) -> None:
    """Run the first of the queue. If it has no entity yet after a restart, it starts when it is committed again."""
    work.put(attrs.evolve(chain, running=queue[0], queue=queue[1:]))
    following = work.find(Batch, batch_entity_id(queue[0]))
    if following is not None:
        wait(work, attrs.evolve(following, context=chain.context))
