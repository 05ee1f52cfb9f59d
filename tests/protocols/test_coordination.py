"""Transitions one by one: what a stimulus does to a batch, a lease, a task, and what it makes the node do."""

import hashlib

import attrs
import pytest

from protocols.coordination import advance, durable_mark, recover
from protocols.effects import (
    Effect,
    MarkDead,
    Publish,
    RecordDistribution,
    ReportPeer,
    RunRole,
    Send,
    SetAlarm,
    SignStatement,
    WriteBatch,
)
from protocols.entities import (
    Batch,
    Chain,
    Entity,
    EntityId,
    Findings,
    Lease,
    Stage,
    Task,
    TaskStage,
    batch_entity_id,
    chain_entity_id,
    lease_entity_id,
    task_entity_id,
)
from protocols.messages import (
    Announcement,
    Award,
    BatchSealed,
    Bid,
    CertifyOrder,
    Level,
    Role,
    SealConfirmed,
    Signed,
    WorkOrder,
    WorkRefused,
    WorkResult,
)
from protocols.rules import Rules
from protocols.stimuli import (
    AlarmRang,
    AnnouncementReceived,
    BatchCommitted,
    BatchReplayed,
    BatchWritten,
    BidReceived,
    CertificationReceived,
    CertifyReceived,
    ConfirmationReceived,
    RefusalReceived,
    ResultReceived,
    RoleFinished,
    Stimulus,
    WorkReceived,
)
from tests.network_of_keys import AGENTS, NETWORK, certified, certify

SELF = AGENTS[0].identity
RULES = Rules(network=NETWORK, self_key=SELF, attempts_max=2)
WORK = (Role.NORMALIZE, Role.VALIDATE, Role.CERTIFY)
BATCH = certified()
SAID = BATCH.manifest.message
STATEMENT = BATCH.certificate.statement
CONTEXT_OUT = BATCH.output.context_out
NOW = 1_000_000


class World:
    """One node's entities, stepped by hand."""

    def __init__(self, rules: Rules = RULES) -> None:
        self.entities: dict[EntityId, Entity] = {}
        self.rules = rules

    def step(self, stimulus: Stimulus) -> tuple[Effect, ...]:
        transition = advance(self.entities, [stimulus], self.rules)
        self.entities.update({entity.entity_id: entity for entity in transition.changed})
        for entity_id in transition.removed:
            del self.entities[entity_id]
        return transition.effects

    @property
    def batch(self) -> Batch:
        found = self.entities[batch_entity_id(SAID.batch_id)]
        assert isinstance(found, Batch)
        return found


def bid(agent: int) -> Signed[Bid]:
    message = Bid(
        network=NETWORK,
        announcement_id="",
        roles=WORK,
        capacity=1,
        price=0,
        operator="",
        region="",
        reason="",
    )
    return Signed(message=message, signer=AGENTS[agent].identity, signature=b"")


def leased(world: World, agents: int = 3, *, stateful: bool = False) -> tuple[Effect, ...]:
    """Commit the batch, hold the auction, let agents bid, close it."""
    announced = world.step(BatchCommitted(now_ms=NOW, manifest=BATCH.manifest, stateful=stateful))
    publish = next(effect for effect in announced if isinstance(effect, Publish))
    for agent in range(agents):
        offer = bid(agent)
        message = attrs.evolve(offer.message, announcement_id=publish.message.key_id)
        world.step(BidReceived(now_ms=NOW + 10, bid=attrs.evolve(offer, message=message)))
    entity_id = lease_entity_id(Level.ENHANCED, 2)
    return world.step(AlarmRang(now_ms=NOW + RULES.bid_window_ms, entity_id=entity_id))


def sent(effects: tuple[Effect, ...], kind: type) -> list[Send]:
    return [effect for effect in effects if isinstance(effect, Send) and isinstance(effect.message, kind)]


def result(agent: int) -> ResultReceived:
    evidence = tuple(
        attrs.evolve(each, signer=AGENTS[agent].identity)
        for each in BATCH.certificate.evidence
        if each.signer == AGENTS[0].identity
    )
    message = WorkResult(network=NETWORK, batch_id=SAID.batch_id, evidence=evidence, context_out=CONTEXT_OUT)
    signed = Signed(message=message, signer=AGENTS[agent].identity, signature=b"")
    return ResultReceived(now_ms=NOW + 500, result=signed)


def certification(agent: int) -> CertificationReceived:
    return CertificationReceived(now_ms=NOW + 600, certification=certify(STATEMENT, AGENTS[agent]))


def test_a_batch_goes_its_way_to_the_seal() -> None:
    world = World()
    effects = leased(world)
    assert [effect.to for effect in sent(effects, Award)] == sorted(agent.identity for agent in AGENTS[:3])
    orders = sent(effects, WorkOrder)
    assert len(orders) == 3
    assert all(order.payload_of == SAID.batch_id for order in orders)
    assert world.batch.stage is Stage.PROCESSING
    assert world.step(result(0)) == ()
    effects = world.step(result(1))
    assert world.batch.stage is Stage.CERTIFYING
    assert world.batch.statement == STATEMENT
    assert len(sent(effects, CertifyOrder)) == 3
    assert world.step(certification(0)) == ()
    assert world.step(certification(0)) == ()  # the same again is no second signature
    effects = world.step(certification(2))
    seal = next(effect for effect in effects if isinstance(effect, WriteBatch))
    assert {each.signer for each in seal.certificate.certifications} == {AGENTS[0].identity, AGENTS[2].identity}
    effects = world.step(BatchWritten(now_ms=NOW + 700, batch_id=SAID.batch_id))
    assert len(sent(effects, BatchSealed)) == 3
    assert world.batch.stage is Stage.SEALED


@pytest.mark.parametrize("resealed", [False, True])
def test_a_vote_after_the_seal_changes_no_certificate(resealed: bool) -> None:
    """What is written down is what others are told: one batch has one certificate, to the byte."""
    world = World()
    leased(world)
    for stimulus in (result(0), result(1), certification(0)):
        world.step(stimulus)
    effects = world.step(certification(1))
    world.step(result(2))
    if resealed:
        effects = world.step(AlarmRang(now_ms=world.batch.alarm_ms, entity_id=world.batch.entity_id))
    seal = next(effect for effect in effects if isinstance(effect, WriteBatch))
    effects = world.step(BatchWritten(now_ms=NOW + 700, batch_id=SAID.batch_id))
    messages = {effect.message for effect in sent(effects, BatchSealed)}
    assert [message.certificate for message in messages if isinstance(message, BatchSealed)] == [seal.certificate]


def test_a_batch_that_was_written_before_is_told_of_as_it_was_written() -> None:
    """A commit whose fate was unknown: the batch is certified again, by others, and not written again."""
    world = World()
    leased(world)
    for stimulus in (result(0), result(1), certification(0), certification(1)):
        world.step(stimulus)
    assert world.batch.certificate is not None
    earlier = attrs.evolve(world.batch.certificate, certifications=BATCH.certificate.certifications)
    written = BatchWritten(now_ms=NOW + 700, batch_id=SAID.batch_id, earlier=earlier)
    messages = {effect.message for effect in sent(world.step(written), BatchSealed)}
    assert [message.certificate for message in messages if isinstance(message, BatchSealed)] == [earlier]


def test_the_entity_goes_when_all_have_confirmed_and_voted() -> None:
    world = World()
    leased(world)
    for stimulus in (result(0), result(1), certification(0), certification(1)):
        world.step(stimulus)
    world.step(BatchWritten(now_ms=NOW + 700, batch_id=SAID.batch_id))
    message = SealConfirmed(network=NETWORK, batch_id=SAID.batch_id, statement_digest=STATEMENT.digest)
    for agent in range(3):
        signed = Signed(message=message, signer=AGENTS[agent].identity, signature=b"")
        world.step(ConfirmationReceived(now_ms=NOW + 710 + agent, confirmation=signed))
    assert world.batch.stage is Stage.SEALED  # the third agent's evidence is still owed
    effects = world.step(result(2))
    told = next(effect for effect in effects if isinstance(effect, RecordDistribution))
    assert (told.published, told.confirmed, told.latency_ms) == (3, 3, 11)
    assert batch_entity_id(SAID.batch_id) not in world.entities


def test_too_few_bidders_and_the_batch_waits() -> None:
    world = World()
    effects = leased(world, agents=1)
    assert sent(effects, WorkOrder) == []
    assert world.batch.stage is Stage.LEASING
    lease = world.entities[lease_entity_id(Level.ENHANCED, 2)]
    assert isinstance(lease, Lease)
    assert (lease.failures, lease.waiting) == (1, (world.batch.entity_id,))
    alarm = next(effect for effect in effects if isinstance(effect, SetAlarm))
    again = world.step(AlarmRang(now_ms=alarm.at_ms, entity_id=lease.entity_id))
    assert any(isinstance(effect, Publish) for effect in again)


def test_a_live_lease_takes_no_auction() -> None:
    world = World()
    leased(world)
    manifest = attrs.evolve(BATCH.manifest, message=attrs.evolve(SAID, source_sequence=2))
    effects = world.step(BatchCommitted(now_ms=NOW + 400, manifest=manifest, stateful=False))
    assert len(sent(effects, WorkOrder)) == 3
    assert not any(isinstance(effect, Publish) for effect in effects)


def test_a_lease_is_renewed_before_it_runs_out() -> None:
    world = World()
    leased(world)
    manifest = attrs.evolve(BATCH.manifest, message=attrs.evolve(SAID, source_sequence=2))
    late_ms = NOW + RULES.lease_ms - RULES.lease_ms // 4
    effects = world.step(BatchCommitted(now_ms=late_ms, manifest=manifest, stateful=False))
    assert len(sent(effects, WorkOrder)) == 3  # under the old lease
    assert any(isinstance(effect, Publish) for effect in effects)


@pytest.mark.parametrize(("agents", "early"), [(2, True), (3, False)])
def test_a_lease_with_too_few_agents_is_renewed_early(agents: int, early: bool) -> None:
    """Two of two are the quorum of enhanced: whoever was away and is back must not wait for the lease's end."""
    world = World()
    leased(world, agents=agents)
    heard = []
    for sequence, later_ms in ((2, RULES.lease_ms // 16), (3, RULES.lease_ms // 4)):
        manifest = attrs.evolve(BATCH.manifest, message=attrs.evolve(SAID, source_sequence=sequence))
        effects = world.step(BatchCommitted(now_ms=NOW + later_ms, manifest=manifest, stateful=False))
        assert len(sent(effects, WorkOrder)) == agents, "under the lease that stands"
        heard.append(any(isinstance(effect, Publish) for effect in effects))
    assert heard == [False, early]


def test_a_renewal_that_came_to_nothing_does_not_stop_the_next_auction() -> None:
    """Nobody bids while the node is cut off; its lease runs out later, and must be had again."""
    world = World()
    leased(world)
    entity_id = lease_entity_id(Level.ENHANCED, 2)
    manifest = attrs.evolve(BATCH.manifest, message=attrs.evolve(SAID, source_sequence=2))
    now_ms = NOW + RULES.lease_ms - RULES.lease_ms // 4
    world.step(BatchCommitted(now_ms=now_ms, manifest=manifest, stateful=False))
    effects = world.step(AlarmRang(now_ms=now_ms + RULES.bid_window_ms, entity_id=entity_id))
    alarm = next(effect for effect in effects if isinstance(effect, SetAlarm))
    world.step(AlarmRang(now_ms=alarm.at_ms, entity_id=entity_id))
    manifest = attrs.evolve(BATCH.manifest, message=attrs.evolve(SAID, source_sequence=3))
    effects = world.step(BatchCommitted(now_ms=NOW + 2 * RULES.lease_ms, manifest=manifest, stateful=False))
    assert any(isinstance(effect, Publish) for effect in effects)


def test_bidders_that_are_far_away_are_waited_for_longer_each_time() -> None:
    world = World()
    entity_id = lease_entity_id(Level.ENHANCED, 2)
    effects = world.step(BatchCommitted(now_ms=NOW, manifest=BATCH.manifest, stateful=False))
    windows, now_ms = [], NOW
    for _ in range(6):
        closes_ms = next(effect.at_ms for effect in effects if isinstance(effect, SetAlarm))
        windows.append((closes_ms - now_ms) // RULES.bid_window_ms)
        effects = world.step(AlarmRang(now_ms=closes_ms, entity_id=entity_id))
        now_ms = next(effect.at_ms for effect in effects if isinstance(effect, SetAlarm))
        effects = world.step(AlarmRang(now_ms=now_ms, entity_id=entity_id))
    assert windows == [1, 2, 4, 8, 16, 16]


def test_silence_is_asked_again_then_replaced_then_buried() -> None:
    world = World()
    leased(world)
    entity_id = world.batch.entity_id
    world.step(result(1))
    effects = world.step(AlarmRang(now_ms=world.batch.alarm_ms, entity_id=entity_id))
    asked_again = {effect.to for effect in sent(effects, WorkOrder)}
    assert asked_again == {AGENTS[0].identity, AGENTS[2].identity}
    effects = world.step(AlarmRang(now_ms=world.batch.attempt_ends_ms, entity_id=entity_id))
    late = {effect.peer for effect in effects if isinstance(effect, ReportPeer)}
    assert late == asked_again
    assert (world.batch.stage, world.batch.attempt) == (Stage.BACKOFF, 1)
    world.entities[entity_id] = attrs.evolve(
        world.batch, stage=Stage.PROCESSING, attempt_ends_ms=NOW + 90_000, alarm_ms=NOW + 90_000
    )
    effects = world.step(AlarmRang(now_ms=NOW + 90_000, entity_id=entity_id))
    bury = next(effect for effect in effects if isinstance(effect, MarkDead))
    assert len(bury.reasons) == RULES.attempts_max
    assert world.batch.stage is Stage.DEAD


def test_refusals_that_leave_no_quorum_end_the_attempt_at_once() -> None:
    world = World()
    leased(world)
    for agent in (0, 1):
        message = WorkRefused(network=NETWORK, batch_id=SAID.batch_id, reason="busy")
        signed = Signed(message=message, signer=AGENTS[agent].identity, signature=b"")
        world.step(RefusalReceived(now_ms=NOW + 400, refusal=signed))
    assert world.batch.stage is Stage.BACKOFF
    assert "busy" in world.batch.reasons[0]


def test_a_stateful_source_sends_one_batch_after_the_other() -> None:
    world = World()
    leased(world, stateful=True)
    manifest = attrs.evolve(BATCH.manifest, message=attrs.evolve(SAID, source_sequence=2))
    assert world.step(BatchCommitted(now_ms=NOW + 400, manifest=manifest, stateful=True)) == ()
    world.step(result(0))
    effects = world.step(result(1))
    orders = [effect.message for effect in sent(effects, WorkOrder)]
    assert {order.manifest.message.batch_id for order in orders} == {manifest.message.batch_id}
    assert {order.context for order in orders} == {CONTEXT_OUT}
    chain = world.entities[chain_entity_id(SAID.source_id)]
    assert isinstance(chain, Chain)
    assert (chain.context, chain.running, chain.queue) == (CONTEXT_OUT, manifest.message.batch_id, ())


# --- the agent's side ---------------------------------------------------------------------------------------


def order(agent: int = 1, *, coordinator: int = 0, context: bytes = b"{}") -> Signed[WorkOrder]:
    award = Award(
        network=NETWORK,
        lease_id="lease",
        announcement_id="",
        agent=AGENTS[agent].identity,
        roles=WORK,
        batches=1,
        expires_ms=NOW + 60_000,
    )
    message = WorkOrder(network=NETWORK, award=award, manifest=BATCH.manifest, context=context, attempt=0)
    return Signed(message=message, signer=AGENTS[coordinator].identity, signature=b"")


FOUND = Findings(
    input_root=STATEMENT.input_root,
    normalized_root=STATEMENT.normalized_root,
    output_root=STATEMENT.output_root,
    context_out=CONTEXT_OUT,
    events=STATEMENT.events,
    valid=STATEMENT.valid,
    invalid=STATEMENT.invalid,
)


def agent_world() -> World:
    return World(attrs.evolve(RULES, self_key=AGENTS[1].identity))


def reported(found: Findings = FOUND) -> World:
    world = agent_world()
    effects = world.step(WorkReceived(now_ms=NOW, order=order()))
    assert any(isinstance(effect, RunRole) for effect in effects)
    evidence = tuple(each for each in BATCH.certificate.evidence if each.signer == AGENTS[1].identity)
    finished = RoleFinished(now_ms=NOW + 50, batch_id=SAID.batch_id, findings=found, evidence=evidence)
    assert len(sent(world.step(finished), WorkResult)) == 1
    return world


def certify_order(**changes: object) -> CertifyReceived:
    message = CertifyOrder(network=NETWORK, statement=STATEMENT, evidence=BATCH.certificate.evidence)
    signed = Signed(message=attrs.evolve(message, **changes), signer=AGENTS[0].identity, signature=b"")
    return CertifyReceived(now_ms=NOW + 100, order=signed)


def test_an_agent_signs_what_it_found_itself() -> None:
    effects = reported().step(certify_order())
    assert effects == (SignStatement(statement=STATEMENT),)


@pytest.mark.parametrize(
    ("found", "changes", "reason"),
    [
        (attrs.evolve(FOUND, output_root=bytes(32)), {}, "recomputation"),
        (attrs.evolve(FOUND, context_out=b"other"), {}, "recomputation"),
        (attrs.evolve(FOUND, valid=0), {}, "recomputation"),
        (FOUND, {"statement": attrs.evolve(STATEMENT, quorum=1)}, "recomputation"),
        (FOUND, {"statement": attrs.evolve(STATEMENT, level=Level.CRITICAL)}, "recomputation"),
        (FOUND, {"statement": attrs.evolve(STATEMENT, output_root=bytes(32))}, "recomputation"),
        (FOUND, {"evidence": BATCH.certificate.evidence[:1]}, "1 of 2"),
        (FOUND, {"evidence": ()}, "0 of 2"),
    ],
)
def test_an_agent_refuses_what_it_did_not_find(found: Findings, changes: dict[str, object], reason: str) -> None:
    effects = reported(found).step(certify_order(**changes))
    refusals = sent(effects, WorkRefused)
    assert len(refusals) == len(effects) == 1
    assert reason in refusals[0].message.reason  # type: ignore[attr-defined]


def test_an_agent_never_signs_twice_for_a_batch_under_another_context() -> None:
    world = reported()
    world.step(certify_order())
    assert world.step(WorkReceived(now_ms=NOW + 200, order=order(context=b'{"other":1}'))) == ()
    task = world.entities[task_entity_id(SAID.batch_id)]
    assert isinstance(task, Task)
    assert task.stage is TaskStage.SIGNING


def test_nobody_orders_work_in_another_s_name() -> None:
    assert agent_world().step(WorkReceived(now_ms=NOW, order=order(coordinator=2))) == ()


def test_an_award_that_is_over_is_refused() -> None:
    effects = agent_world().step(WorkReceived(now_ms=NOW + 10_000_000, order=order()))
    assert len(sent(effects, WorkRefused)) == 1


# --- what survives ------------------------------------------------------------------------------------------


def test_only_what_would_not_come_back_is_written() -> None:
    world = World()
    leased(world, stateful=True)
    marks = {entity_id.split(":")[0]: durable_mark(entity) for entity_id, entity in world.entities.items()}
    assert marks["batch"] is None
    assert marks["lease"] is None
    assert marks["chain"] == b"{}"
    world.step(result(0))
    world.step(result(1))
    assert durable_mark(world.batch) == (Stage.CERTIFYING, 0)


def test_recovery_drops_what_ended_after_it_was_stored() -> None:
    batch = Batch(manifest=BATCH.manifest, stage=Stage.CERTIFYING, stateful=True)
    chain = Chain(source_id="s", running=SAID.batch_id, queue=("gone", "waiting"))
    assert recover([batch, chain], ["waiting"]) == (attrs.evolve(chain, running="", queue=("waiting",)),)
    assert recover([batch, chain], [SAID.batch_id, "waiting"])[0] == batch


def test_ids_are_digests() -> None:
    other = attrs.evolve(SAID, received_ms=SAID.received_ms + 1)
    assert other.batch_id != SAID.batch_id
    assert len(SAID.batch_id) == len("batch_") + 2 * hashlib.sha256().digest_size


def ring(world: World, now_ms: int) -> tuple[Effect, ...]:
    return world.step(AlarmRang(now_ms=now_ms, entity_id=batch_entity_id(SAID.batch_id)))


def executors(world: World) -> set[bytes]:
    return {key for ballot in world.batch.ballots for key in ballot.executors}


def index_of(key: bytes) -> int:
    return next(index for index, agent in enumerate(AGENTS) if agent.identity == key)


def test_those_who_stay_silent_are_replaced_well_before_the_deadline() -> None:
    world = World()
    leased(world, agents=4)
    awarded = executors(world)
    (reserve,) = {agent.identity for agent in AGENTS[:4]} - awarded
    first, *silent = sorted(awarded)
    world.step(result(index_of(first)))
    patience_ends_ms = world.batch.patience_ends_ms
    assert NOW < patience_ends_ms < world.batch.attempt_ends_ms
    effects = ring(world, patience_ends_ms)
    assert [order.to for order in sent(effects, WorkOrder)] == [reserve]
    late = [effect for effect in effects if isinstance(effect, ReportPeer)]
    assert {(each.peer, each.outcome) for each in late} == {(silent[0], "late")}
    assert {each.role for each in late} == {Role.NORMALIZE, Role.VALIDATE}
    assert executors(world) == {first, reserve, silent[1]}
    world.step(result(index_of(reserve)))
    assert world.batch.stage is Stage.CERTIFYING


def test_the_next_batch_of_a_lease_goes_to_the_substitute() -> None:
    world = World()
    leased(world, agents=4)
    silent = sorted(executors(world))[0]
    ring(world, world.batch.patience_ends_ms)
    lease = world.entities[lease_entity_id(Level.ENHANCED, 2)]
    assert isinstance(lease, Lease)
    assert lease.grant is not None
    assert silent not in {award.agent for award in lease.grant.awards}
    assert lease.grant.reserves == ()


def test_without_a_reserve_the_same_are_asked_again() -> None:
    world = World()
    leased(world, agents=3)
    asked = executors(world)
    effects = ring(world, world.batch.patience_ends_ms)
    assert {order.to for order in sent(effects, WorkOrder)} == asked
    assert executors(world) == asked


def test_patience_follows_what_is_usual() -> None:
    world = World()
    leased(world, agents=4)
    slow = world.batch.patience_ends_ms - world.batch.asked_ms
    assert slow == RULES.attempt_ms // 3, "nothing is known yet"
    for agent in sorted(executors(world))[:2]:
        observed = attrs.evolve(result(index_of(agent)), now_ms=world.batch.asked_ms + 40)
        world.step(observed)
    lease = world.entities[lease_entity_id(Level.ENHANCED, 2)]
    assert isinstance(lease, Lease)
    assert lease.pace is not None
    assert 40_000 <= lease.pace.mean_us < 60_000
    assert world.batch.patience_ends_ms - world.batch.asked_ms == RULES.patience_ms_min


def lying(agent: int, flavour: int) -> ResultReceived:
    told = result(agent)
    root = hashlib.sha256(b"lie %d" % flavour).digest()
    evidence = tuple(
        attrs.evolve(each, message=attrs.evolve(each.message, output_digest=root))
        for each in told.result.message.evidence
    )
    message = attrs.evolve(told.result.message, evidence=evidence)
    return attrs.evolve(told, result=attrs.evolve(told.result, message=message))


def test_contradictions_are_settled_by_further_agents_and_a_greater_majority() -> None:
    world = World()
    leased(world, agents=5)
    first, second, third = sorted(executors(world))
    further = {agent.identity for agent in AGENTS[:5]} - {first, second, third}
    world.step(result(index_of(first)))
    world.step(lying(index_of(second), 1))
    effects = world.step(lying(index_of(third), 2))
    assert {order.to for order in sent(effects, WorkOrder)} == further
    assert {ballot.quorum for ballot in world.batch.ballots} == {3}
    for agent in sorted(further):
        assert world.batch.stage is Stage.PROCESSING
        world.step(result(index_of(agent)))
    assert world.batch.stage is Stage.CERTIFYING
    votes = {vote.signer for ballot in world.batch.ballots for vote in ballot.votes}
    assert {second, third} <= votes, "what the dissenters said is kept"


# --- dead batches, and roles awarded later ------------------------------------------------------------------


def dead_world(*, stateful: bool = False) -> World:
    world = World()
    leased(world, stateful=stateful)
    while world.batch.stage is not Stage.DEAD:
        batch = world.batch
        if batch.stage is Stage.LEASING:
            leased(world, stateful=stateful)
        late_ms = max(batch.alarm_ms, batch.attempt_ends_ms)
        world.step(AlarmRang(now_ms=late_ms, entity_id=batch.entity_id))
        if world.batch.stage is Stage.LEASING:
            lease = world.entities[lease_entity_id(Level.ENHANCED, 2)]
            assert isinstance(lease, Lease)
            assert lease.auction is not None
            for agent in range(3):
                offer = attrs.evolve(bid(agent).message, announcement_id=lease.auction.announcement_id)
                told = attrs.evolve(bid(agent), message=offer)
                world.step(BidReceived(now_ms=late_ms + 1, bid=told))
            world.step(AlarmRang(now_ms=lease.auction.closes_ms, entity_id=lease.entity_id))
    return world


@pytest.mark.parametrize("stateful", [False, True])
def test_a_dead_batch_that_is_replayed_starts_afresh(stateful: bool) -> None:
    world = dead_world(stateful=stateful)
    assert len(world.batch.reasons) == RULES.attempts_max
    told = BatchReplayed(now_ms=NOW + 10**7, manifest=BATCH.manifest, stateful=stateful)
    world.step(told)
    assert world.batch.stage is Stage.LEASING
    assert (world.batch.attempt, world.batch.reasons) == (0, ())
    assert world.step(told) == (), "twice is once"


def test_a_replay_survives_a_crash_before_it_was_heard() -> None:
    world = dead_world()
    (kept,) = [each for each in recover([world.batch], frozenset()) if isinstance(each, Batch)]
    assert kept.stage is Stage.DEAD
    assert recover([world.batch], frozenset({SAID.batch_id})) == (), "told again as a batch that waits"


def agreed_and_dead() -> World:
    """A stateful batch that a quorum agreed upon, that nobody certified, and that died in later attempts."""
    world = World(attrs.evolve(RULES, attempts_max=1))
    leased(world, stateful=True)
    world.step(result(0))
    world.step(result(1))
    assert world.batch.stage is Stage.CERTIFYING
    world.step(AlarmRang(now_ms=world.batch.attempt_ends_ms, entity_id=world.batch.entity_id))
    assert world.batch.stage is Stage.DEAD
    chain = world.entities[chain_entity_id(SAID.source_id)]
    assert isinstance(chain, Chain)
    assert chain.context == CONTEXT_OUT, "the source went on from it"
    return world


def test_what_was_agreed_upon_is_replayed_from_its_own_context() -> None:
    world = agreed_and_dead()
    world.step(BatchReplayed(now_ms=NOW + 10**7, manifest=BATCH.manifest, stateful=True))
    assert (world.batch.stage, world.batch.context) == (Stage.LEASING, b"{}")


def test_a_crash_before_the_replay_was_heard_keeps_that_context_too() -> None:
    dead = attrs.evolve(agreed_and_dead().batch, statement=None)  # as a later attempt leaves it
    (kept,) = recover([dead], frozenset({SAID.batch_id}))
    assert isinstance(kept, Batch)
    assert (kept.stage, kept.context, kept.attempt) == (Stage.BACKOFF, b"{}", 0)


def test_a_role_awarded_later_is_held_by_the_same_task() -> None:
    """An agent that shadowed a batch and is then called up for it certifies it too."""
    coordinator = AGENTS[0].identity
    agent = World(attrs.evolve(RULES, self_key=AGENTS[1].identity))
    award = Award(
        network=NETWORK,
        lease_id="lease_shadow",
        announcement_id="job_x",
        agent=AGENTS[1].identity,
        roles=(Role.NORMALIZE, Role.VALIDATE),
        batches=1,
        expires_ms=NOW + 60_000,
    )

    def order(given: Award) -> WorkReceived:
        said = WorkOrder(network=NETWORK, award=given, manifest=BATCH.manifest, context=b"{}", attempt=0)
        return WorkReceived(now_ms=NOW, order=Signed(message=said, signer=coordinator, signature=b""))

    agent.step(order(award))
    agent.step(order(attrs.evolve(award, lease_id="lease_called", roles=WORK)))
    task = agent.entities[task_entity_id(SAID.batch_id)]
    assert isinstance(task, Task)
    assert task.roles == WORK


def struck_after_the_agreement(world: World, agents: int) -> tuple[Effect, ...]:
    """One of three lies, two agree, and then one of the two says something else as well."""
    leased(world, agents=agents)
    first, second, third = sorted(executors(world))
    world.step(lying(index_of(first), 1))
    world.step(result(index_of(second)))
    world.step(result(index_of(third)))
    assert world.batch.stage is Stage.CERTIFYING
    return world.step(lying(index_of(third), 2))


def test_an_agreement_that_loses_its_quorum_is_made_good_by_further_agents() -> None:
    world = World()
    effects = struck_after_the_agreement(world, agents=5)
    called = {order.to for order in sent(effects, WorkOrder)}
    assert len(called) == 2
    second = sorted(executors(world) - called)[1]
    for agent in (*sorted(called), second):
        world.step(certification(index_of(agent)))
    assert world.batch.stage is Stage.CERTIFYING, "three signatures, and no quorum of evidence"
    for agent in sorted(called):
        effects = world.step(result(index_of(agent)))
    seal = next(effect for effect in effects if isinstance(effect, WriteBatch))
    backing = {each.signer for each in seal.certificate.evidence if each.message.role is Role.VALIDATE}
    assert backing == {*called, second}


def test_an_agreement_that_loses_its_quorum_for_good_ends_the_attempt_at_once() -> None:
    world = World()
    struck_after_the_agreement(world, agents=3)
    assert world.batch.stage is Stage.BACKOFF
    assert "contradicted itself" in world.batch.reasons[0]


def test_who_signed_a_certificate_is_given_credit_for_it() -> None:
    """Else an agent could only ever be late as a certifier, and lose its standing by it."""
    world = World()
    leased(world)
    for stimulus in (result(0), result(1), certification(0)):
        world.step(stimulus)
    effects = world.step(certification(2))
    credited = {
        effect.peer
        for effect in effects
        if isinstance(effect, ReportPeer) and (effect.role, effect.outcome) == (Role.CERTIFY, "agreed")
    }
    assert credited == {AGENTS[0].identity, AGENTS[2].identity}


# --- weighing an announcement -------------------------------------------------------------------------------


def announced(**changes: object) -> AnnouncementReceived:
    said = Announcement(
        network=NETWORK,
        announcement_id="job_x",
        roles=WORK,
        level=Level.ENHANCED,
        quorum=2,
        lease_ms=60_000,
        batches=10,
        price_max=100,
        closes_ms=NOW + 300,
    )
    message = attrs.evolve(said, **changes)  # type: ignore[arg-type]
    signed = Signed(message=message, signer=AGENTS[4].identity, signature=b"")
    return AnnouncementReceived(now_ms=NOW, announcement=signed)


def busy(batches: int) -> dict[EntityId, Entity]:
    """Tasks of another coordinator under way."""
    award = Award(
        network=NETWORK,
        lease_id="lease_x",
        announcement_id="job_x",
        agent=SELF,
        roles=WORK,
        batches=10,
        expires_ms=NOW + 60_000,
    )
    found: dict[EntityId, Entity] = {}
    for number in range(batches):
        taken_in = attrs.evolve(BATCH.manifest, message=attrs.evolve(SAID, source_sequence=number + 10))
        said = WorkOrder(network=NETWORK, award=award, manifest=taken_in, context=b"{}", attempt=0)
        order = Signed(message=said, signer=AGENTS[4].identity, signature=b"")
        task = Task(order=order, roles=WORK, stage=TaskStage.RUNNING, expires_ms=NOW + 1)
        found[task.entity_id] = task
    return found


@pytest.mark.parametrize(
    ("rules", "tasks", "changes", "offered", "reason", "free"),
    [
        ({}, 0, {}, WORK, "", 2),
        ({}, 1, {}, WORK, "", 1),
        ({}, 2, {}, (), "capacity", 0),
        ({"price": 101}, 0, {}, (), "price", 2),
        ({"roles": (Role.CERTIFY,)}, 0, {}, (Role.CERTIFY,), "", 2),
        ({"roles": ()}, 0, {}, None, "", 0),
        ({}, 0, {"closes_ms": NOW - 60_001}, None, "", 0),
    ],
    ids=["free", "some room left", "full", "too cheap", "one role of three", "no role", "long over"],
)
def test_an_agent_weighs_an_announcement(
    rules: dict[str, object],
    tasks: int,
    changes: dict[str, object],
    offered: tuple[Role, ...] | None,
    reason: str,
    free: int,
) -> None:
    agent = World(attrs.evolve(RULES, capacity=2, **rules))  # type: ignore[arg-type]
    agent.entities = busy(tasks)
    bids = [effect.message for effect in agent.step(announced(**changes)) if isinstance(effect, Send)]
    if offered is None:
        assert bids == []
        return
    (said,) = bids
    assert isinstance(said, Bid)
    assert (said.roles, said.reason, said.capacity) == (offered, reason, free)


@pytest.mark.parametrize("stored_chain", [True, False])
def test_nothing_starts_beside_a_batch_that_failed_before_the_restart(stored_chain: bool) -> None:
    """Its chain was last stored when nothing ran, or never; found by a simulated network, seed 134."""
    batch = Batch(
        manifest=BATCH.manifest, stage=Stage.BACKOFF, stateful=True, context=b'{"a":1}', attempt=1, alarm_ms=NOW + 9
    )
    chain = Chain(source_id=SAID.source_id, context=b'{"a":1}')
    world = World()
    loaded = recover([batch, chain] if stored_chain else [batch], [SAID.batch_id])
    world.entities = {entity.entity_id: entity for entity in loaded}
    manifest = attrs.evolve(BATCH.manifest, message=attrs.evolve(SAID, source_sequence=SAID.source_sequence + 1))
    effects = world.step(BatchCommitted(now_ms=NOW, manifest=manifest, stateful=True, recovered=True))
    following = world.entities[batch_entity_id(manifest.message.batch_id)]
    assert isinstance(following, Batch)
    assert following.stage is Stage.CHAINED
    assert not any(isinstance(effect, Publish) for effect in effects)
    kept = world.entities[chain_entity_id(SAID.source_id)]
    assert kept == Chain(
        source_id=SAID.source_id,
        context=b'{"a":1}',
        running=SAID.batch_id,
        queue=(manifest.message.batch_id,),
    )
