"""What survives a crash, and how dead batches are tried again."""

import attrs
import pytest

from protocols.coordination import durable_mark, recover
from protocols.effects import Publish
from protocols.entities import Batch, Chain, Stage, batch_entity_id, chain_entity_id
from protocols.stimuli import BatchCommitted, BatchReplayed
from tests.protocols.stepping import (
    BATCH,
    CONTEXT_OUT,
    NOW,
    RULES,
    SAID,
    SteppedNode,
    auctioned,
    leased,
    refusal,
    result,
    ring,
)


def test_only_what_would_not_come_back_is_written() -> None:
    node = SteppedNode()
    leased(node, stateful=True)
    marks = {entity_id.split(":")[0]: durable_mark(entity) for entity_id, entity in node.entities.items()}
    assert marks["batch"] is None
    assert marks["lease"] is None
    assert marks["chain"] == b"{}"
    node.step(result(0))
    node.step(result(1))
    assert durable_mark(node.batch) == (Stage.CERTIFYING, 0)


def test_recovery_drops_what_ended_after_it_was_stored() -> None:
    batch = Batch(manifest=BATCH.manifest, stage=Stage.CERTIFYING, stateful=True)
    chain = Chain(source_id="s", running=SAID.batch_id, queue=("gone", "waiting"))
    assert recover([batch, chain], ["waiting"]) == (attrs.evolve(chain, running="", queue=("waiting",)),)
    assert recover([batch, chain], [SAID.batch_id, "waiting"])[0] == batch


def dead_world(*, stateful: bool = False) -> SteppedNode:
    """A batch that its agents refused in each attempt."""
    node = SteppedNode()
    leased(node, stateful=stateful)
    now_ms = NOW + 400
    while node.stage() is not Stage.DEAD:
        node.step(refusal(0, now_ms=now_ms))
        node.step(refusal(1, now_ms=now_ms))
        if node.stage() is Stage.BACKOFF:
            now_ms = node.batch.alarm_ms
            ring(node, now_ms)
            auctioned(node, now_ms + 1)
            now_ms += RULES.bid_window_ms
    return node


@pytest.mark.parametrize("stateful", [False, True])
def test_a_dead_batch_that_is_replayed_starts_afresh(stateful: bool) -> None:
    node = dead_world(stateful=stateful)
    assert len(node.batch.reasons) == RULES.attempts_max
    told = BatchReplayed(now_ms=NOW + 10**7, manifest=BATCH.manifest, stateful=stateful)
    node.step(told)
    assert node.stage() is Stage.LEASING
    assert (node.batch.attempt, node.batch.reasons) == (0, ())
    assert node.step(told) == (), "twice is once"


def test_a_replay_survives_a_crash_before_it_was_heard() -> None:
    node = dead_world()
    (kept,) = [each for each in recover([node.batch], frozenset()) if isinstance(each, Batch)]
    assert kept.stage is Stage.DEAD
    assert recover([node.batch], frozenset({SAID.batch_id})) == (), "told again as a batch that waits"


def agreed_and_dead() -> SteppedNode:
    """A stateful batch that a quorum agreed upon, that nobody certified, and that died in later attempts."""
    node = SteppedNode(attrs.evolve(RULES, attempts_max=1))
    leased(node, stateful=True)
    node.step(result(0))
    node.step(result(1))
    assert node.stage() is Stage.CERTIFYING
    node.step(refusal(0))
    node.step(refusal(1))
    assert node.stage() is Stage.DEAD
    chain = node.entities[chain_entity_id(SAID.source_id)]
    assert isinstance(chain, Chain)
    assert chain.context == CONTEXT_OUT, "the source went on from it"
    return node


def test_what_was_agreed_upon_is_replayed_from_its_own_context() -> None:
    node = agreed_and_dead()
    node.step(BatchReplayed(now_ms=NOW + 10**7, manifest=BATCH.manifest, stateful=True))
    assert (node.stage(), node.batch.context) == (Stage.LEASING, b"{}")


def test_a_crash_before_the_replay_was_heard_keeps_that_context_too() -> None:
    dead = attrs.evolve(agreed_and_dead().batch, statement=None)  # as a later attempt leaves it
    (kept,) = recover([dead], frozenset({SAID.batch_id}))
    assert isinstance(kept, Batch)
    assert (kept.stage, kept.context, kept.attempt) == (Stage.BACKOFF, b"{}", 0)


@pytest.mark.parametrize("stored_chain", [True, False])
def test_nothing_starts_beside_a_batch_that_failed_before_the_restart(stored_chain: bool) -> None:
    """Its chain was last stored when nothing ran, or never; found by a simulated network, seed 134."""
    batch = Batch(
        manifest=BATCH.manifest, stage=Stage.BACKOFF, stateful=True, context=b'{"a":1}', attempt=1, alarm_ms=NOW + 9
    )
    chain = Chain(source_id=SAID.source_id, context=b'{"a":1}')
    node = SteppedNode()
    loaded = recover([batch, chain] if stored_chain else [batch], [SAID.batch_id])
    node.entities = {entity.entity_id: entity for entity in loaded}
    manifest = attrs.evolve(BATCH.manifest, message=attrs.evolve(SAID, source_sequence=SAID.source_sequence + 1))
    effects = node.step(BatchCommitted(now_ms=NOW, manifest=manifest, stateful=True, recovered=True))
    following = node.entities[batch_entity_id(manifest.message.batch_id)]
    assert isinstance(following, Batch)
    assert following.stage is Stage.CHAINED
    assert not any(isinstance(effect, Publish) for effect in effects)
    kept = node.entities[chain_entity_id(SAID.source_id)]
    assert kept == Chain(
        source_id=SAID.source_id,
        context=b'{"a":1}',
        running=SAID.batch_id,
        queue=(manifest.message.batch_id,),
    )
