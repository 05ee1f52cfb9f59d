"""A batch at its coordinator: from its commit to the certificate, and what happens when agents fail it."""

import attrs
import pytest

from protocols.effects import (
    Effect,
    MarkDead,
    RecordDistribution,
    ReportPeer,
    WriteBatch,
)
from protocols.entities import Chain, Stage, batch_entity_id, chain_entity_id
from protocols.messages import Award, BatchSealed, CertifyOrder, Role, SealConfirmed, Signed, WorkOrder
from protocols.stimuli import (
    AlarmRang,
    BatchCommitted,
    BatchReproduced,
    BatchWritten,
    ConfirmationReceived,
)
from tests.network_of_keys import AGENTS, NETWORK
from tests.protocols.stepping import (
    BATCH,
    CONTEXT_OUT,
    NOW,
    RULES,
    SAID,
    STATEMENT,
    SteppedNode,
    auctioned,
    certification,
    executors,
    index_of,
    leased,
    lying,
    messages,
    refusal,
    result,
    ring,
    sent,
)


def test_a_batch_goes_its_way_to_the_seal() -> None:
    node = SteppedNode()
    effects = leased(node)
    assert [effect.to for effect in sent(effects, Award)] == sorted(agent.identity for agent in AGENTS[:3])
    orders = sent(effects, WorkOrder)
    assert len(orders) == 3
    assert all(order.payload_of == SAID.batch_id for order in orders)
    assert node.stage() is Stage.PROCESSING
    assert node.step(result(0)) == ()
    effects = node.step(result(1))
    assert node.stage() is Stage.CERTIFYING
    assert node.batch.statement == STATEMENT
    assert len(sent(effects, CertifyOrder)) == 3
    assert node.step(certification(0)) == ()
    assert node.step(certification(0)) == ()  # the same again is no second signature
    effects = node.step(certification(2))
    seal = next(effect for effect in effects if isinstance(effect, WriteBatch))
    assert {each.signer for each in seal.certificate.certifications} == {AGENTS[0].identity, AGENTS[2].identity}
    effects = node.step(BatchWritten(now_ms=NOW + 700, batch_id=SAID.batch_id))
    assert len(sent(effects, BatchSealed)) == 3
    assert node.stage() is Stage.SEALED


@pytest.mark.parametrize("resealed", [False, True])
def test_a_vote_after_the_seal_changes_no_certificate(resealed: bool) -> None:
    """What is written down is what others are told: one batch has one certificate, to the byte."""
    node = SteppedNode()
    leased(node)
    for stimulus in (result(0), result(1), certification(0)):
        node.step(stimulus)
    effects = node.step(certification(1))
    node.step(result(2))
    if resealed:
        effects = node.step(AlarmRang(now_ms=node.batch.alarm_ms, entity_id=node.batch.entity_id))
    seal = next(effect for effect in effects if isinstance(effect, WriteBatch))
    effects = node.step(BatchWritten(now_ms=NOW + 700, batch_id=SAID.batch_id))
    assert {message.certificate for message in messages(effects, BatchSealed)} == {seal.certificate}


def test_a_batch_that_was_written_before_is_told_of_as_it_was_written() -> None:
    """A commit whose fate was unknown: the batch is certified again, by others, and not written again."""
    node = SteppedNode()
    leased(node)
    for stimulus in (result(0), result(1), certification(0), certification(1)):
        node.step(stimulus)
    assert node.batch.certificate is not None
    earlier = attrs.evolve(node.batch.certificate, certifications=BATCH.certificate.certifications)
    written = BatchWritten(now_ms=NOW + 700, batch_id=SAID.batch_id, earlier=earlier)
    assert {message.certificate for message in messages(node.step(written), BatchSealed)} == {earlier}


def test_the_entity_goes_when_all_have_confirmed_and_voted() -> None:
    node = SteppedNode()
    leased(node)
    for stimulus in (result(0), result(1), certification(0), certification(1)):
        node.step(stimulus)
    node.step(BatchWritten(now_ms=NOW + 700, batch_id=SAID.batch_id))
    message = SealConfirmed(network=NETWORK, batch_id=SAID.batch_id, statement_digest=STATEMENT.digest)
    for agent in range(3):
        signed = Signed(message=message, signer=AGENTS[agent].identity, signature=b"")
        node.step(ConfirmationReceived(now_ms=NOW + 710 + agent, confirmation=signed))
    assert node.stage() is Stage.SEALED  # the third agent's evidence is still owed
    effects = node.step(result(2))
    told = next(effect for effect in effects if isinstance(effect, RecordDistribution))
    assert (told.published, told.confirmed, told.latency_ms) == (3, 3, 11)
    assert batch_entity_id(SAID.batch_id) not in node.entities


def test_silence_is_asked_again_and_then_costs_the_batch_no_attempt() -> None:
    node = SteppedNode()
    leased(node)
    entity_id = node.batch.entity_id
    node.step(result(1))
    effects = node.step(AlarmRang(now_ms=node.batch.alarm_ms, entity_id=entity_id))
    asked_again = {effect.to for effect in sent(effects, WorkOrder)}
    assert asked_again == {AGENTS[0].identity, AGENTS[2].identity}
    effects = node.step(AlarmRang(now_ms=node.batch.attempt_ends_ms, entity_id=entity_id))
    late = {effect.peer for effect in effects if isinstance(effect, ReportPeer)}
    assert late == asked_again
    assert (node.stage(), node.batch.attempt, node.batch.postponed) == (Stage.BACKOFF, 0, 1)
    assert "silent" in node.batch.reasons[0]


def test_agents_that_are_away_never_make_a_batch_dead() -> None:
    """However often: it waits, and says for what."""
    node = SteppedNode()
    leased(node)
    for times in range(1, 3 * RULES.attempts_max):
        ring(node, node.batch.attempt_ends_ms)
        assert (node.stage(), node.batch.attempt, node.batch.postponed) == (Stage.BACKOFF, 0, times)
        ring(node, node.batch.alarm_ms)
        auctioned(node, node.batch.alarm_ms + 1)
        assert node.stage() is Stage.PROCESSING
    assert len(node.batch.reasons) == 1, "what repeats is said once"


def test_a_cause_in_the_batch_makes_it_dead_after_its_attempts() -> None:
    """A worker that crashes over it, say: refusals, in each attempt."""
    node = SteppedNode()
    leased(node)
    now_ms = NOW + 400
    for attempt in range(1, RULES.attempts_max + 1):
        node.step(refusal(0, now_ms=now_ms))
        effects = node.step(refusal(1, now_ms=now_ms))
        assert node.batch.attempt == attempt
        if node.stage() is Stage.BACKOFF:
            now_ms = node.batch.alarm_ms
            ring(node, now_ms)
            auctioned(node, now_ms + 1)
            now_ms += RULES.bid_window_ms
    bury = next(effect for effect in effects if isinstance(effect, MarkDead))
    assert len(bury.reasons) == RULES.attempts_max
    assert node.stage() is Stage.DEAD


def test_refusals_that_leave_no_quorum_end_the_attempt_at_once() -> None:
    node = SteppedNode()
    leased(node)
    for agent in (0, 1):
        node.step(refusal(agent, "out of its schema"))
    assert (node.stage(), node.batch.attempt) == (Stage.BACKOFF, 1)
    assert "out of its schema" in node.batch.reasons[0]


def test_a_stateful_source_sends_one_batch_after_the_other() -> None:
    node = SteppedNode()
    leased(node, stateful=True)
    manifest = attrs.evolve(BATCH.manifest, message=attrs.evolve(SAID, source_sequence=2))
    assert node.step(BatchCommitted(now_ms=NOW + 400, manifest=manifest, stateful=True)) == ()
    node.step(result(0))
    effects = node.step(result(1))
    orders = messages(effects, WorkOrder)
    assert {order.manifest.message.batch_id for order in orders} == {manifest.message.batch_id}
    assert {order.context for order in orders} == {CONTEXT_OUT}
    chain = node.entities[chain_entity_id(SAID.source_id)]
    assert isinstance(chain, Chain)
    assert (chain.context, chain.running, chain.queue) == (CONTEXT_OUT, manifest.message.batch_id, ())


def test_contradictions_are_settled_by_further_agents_and_a_greater_majority() -> None:
    node = SteppedNode()
    leased(node, agents=5)
    first, second, third = sorted(executors(node))
    further = {agent.identity for agent in AGENTS[:5]} - {first, second, third}
    node.step(result(index_of(first)))
    node.step(lying(index_of(second), 1))
    effects = node.step(lying(index_of(third), 2))
    assert {order.to for order in sent(effects, WorkOrder)} == further
    assert {ballot.quorum for ballot in node.batch.ballots} == {3}
    for agent in sorted(further):
        assert node.stage() is Stage.PROCESSING
        node.step(result(index_of(agent)))
    assert node.stage() is Stage.CERTIFYING
    votes = {vote.signer for ballot in node.batch.ballots for vote in ballot.votes}
    assert {second, third} <= votes, "what the dissenters said is kept"


def test_an_agent_that_was_called_up_is_no_substitute_for_a_silent_one() -> None:
    """It is awarded once: two votes of one agent would count as two."""
    node = SteppedNode()
    leased(node, agents=5)
    first, second, _ = sorted(executors(node))
    for told in (lying(index_of(first), 1), lying(index_of(second), 2), result(index_of(second))):
        node.step(told)
    node.step(lying(index_of(first), 2))  # both contradict themselves, and the third is silent
    for _ in range(4):
        ring(node, node.batch.alarm_ms)
        agents = [award.agent for award in node.batch.awards]
        assert len(set(agents)) == len(agents)


def struck_after_the_agreement(node: SteppedNode, agents: int) -> tuple[Effect, ...]:
    """One of three lies, two agree, and then one of the two says something else as well."""
    leased(node, agents=agents)
    first, second, third = sorted(executors(node))
    node.step(lying(index_of(first), 1))
    node.step(result(index_of(second)))
    node.step(result(index_of(third)))
    assert node.stage() is Stage.CERTIFYING
    return node.step(lying(index_of(third), 2))


def test_an_agreement_that_loses_its_quorum_is_made_good_by_further_agents() -> None:
    node = SteppedNode()
    effects = struck_after_the_agreement(node, agents=5)
    called = {order.to for order in sent(effects, WorkOrder)}
    assert len(called) == 2
    second = sorted(executors(node) - called)[1]
    for agent in (*sorted(called), second):
        node.step(certification(index_of(agent)))
    assert node.stage() is Stage.CERTIFYING, "three signatures, and no quorum of evidence"
    for agent in sorted(called):
        effects = node.step(result(index_of(agent)))
    seal = next(effect for effect in effects if isinstance(effect, WriteBatch))
    backing = {each.signer for each in seal.certificate.evidence if each.message.role is Role.VALIDATE}
    assert backing == {*called, second}


def test_an_agreement_that_loses_its_quorum_for_good_ends_the_attempt_at_once() -> None:
    node = SteppedNode()
    struck_after_the_agreement(node, agents=3)
    assert node.stage() is Stage.BACKOFF
    assert "contradicted itself" in node.batch.reasons[0]


def test_who_signed_a_certificate_is_given_credit_for_it() -> None:
    """Else an agent could only ever be late as a certifier, and lose its standing by it."""
    node = SteppedNode()
    leased(node)
    for stimulus in (result(0), result(1), certification(0)):
        node.step(stimulus)
    effects = node.step(certification(2))
    credited = {
        effect.peer
        for effect in effects
        if isinstance(effect, ReportPeer) and (effect.role, effect.outcome) == (Role.CERTIFY, "agreed")
    }
    assert credited == {AGENTS[0].identity, AGENTS[2].identity}


def test_a_newcomer_is_not_judged_by_a_certificate_that_came_without_ballots() -> None:
    """A holder finished the batch: what the newcomers' evidence is worth is not known here."""
    node = SteppedNode()
    leased(node)
    batch = attrs.evolve(
        node.batch,
        holders=(AGENTS[3].identity,),
        shadows=(attrs.evolve(node.batch.awards[0], agent=AGENTS[4].identity),),
    )
    node.entities[batch.entity_id] = batch
    node.step(result(4))
    assert {vote.signer for vote in node.batch.shadow_votes} == {AGENTS[4].identity}
    sealed = BatchSealed(network=NETWORK, certificate=BATCH.certificate, context=CONTEXT_OUT)
    node.step(BatchReproduced(now_ms=NOW + 600, sealed=sealed))
    node.step(BatchWritten(now_ms=NOW + 700, batch_id=SAID.batch_id))
    effects = ring(node, node.batch.alarm_ms)
    assert [effect.published for effect in effects if isinstance(effect, RecordDistribution)] == [4]
    assert [effect for effect in effects if isinstance(effect, ReportPeer)] == []
    assert batch.entity_id not in node.entities
