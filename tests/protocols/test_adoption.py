"""Holding and adopting: who may have a batch kept, who may finish it, from what, and when."""

import hashlib
from collections.abc import Callable

import attrs
import pytest

from protocols import envelope
from protocols.coordination import choose_holders
from protocols.coordination.adoption import rank
from protocols.effects import (
    AdoptReplica,
    ConfirmReplication,
    DropReplica,
    Effect,
    Publish,
    ReproduceBatch,
    RunRole,
    SetAlarm,
    StoreReplica,
    WriteBatch,
)
from protocols.entities import (
    Batch,
    Chain,
    EntityId,
    Replica,
    ReplicaStage,
    Stage,
    batch_entity_id,
    chain_entity_id,
    replica_entity_id,
    replication_entity_id,
    task_entity_id,
)
from protocols.messages import (
    Award,
    BatchHeld,
    BatchProgress,
    BatchQuery,
    BatchSealed,
    BatchStatus,
    Claim,
    HoldBatch,
    IdentityKey,
    Manifest,
    Signed,
    WorkOrder,
    WorkRefused,
)
from protocols.roles import WORK_ROLES
from protocols.rules import Rules
from protocols.stimuli import (
    AlarmRang,
    BatchAdopted,
    BatchCommitted,
    BatchReproduced,
    CertificateLookedUp,
    CertificateReceived,
    HoldConfirmed,
    HoldReceived,
    ReplicaLost,
    ReplicaStored,
    RoleFailed,
    StatusReceived,
    WorkReceived,
)
from tests.network_of_keys import AGENTS, NETWORK, KeySigner, certified
from tests.protocols.stepping import SteppedNode, sent

COORDINATOR, *OTHERS = AGENTS
HOLDERS = tuple(sorted(agent.identity for agent in OTHERS[:3]))
STRANGER = OTHERS[3]
NOW = 1_000_000
RULES = Rules(network=NETWORK, self_key=HOLDERS[0])
BEFORE = certified()
CONTEXT = BEFORE.output.context_out
EVERYBODY = {agent.identity: agent for agent in AGENTS}


def manifest(sequence: int = 2) -> Signed[Manifest]:
    said = attrs.evolve(BEFORE.manifest.message, source_sequence=sequence, durability="replicated")
    return envelope.sign(COORDINATOR, said)


BATCH = manifest()
BATCH_ID = BATCH.message.batch_id


def hold(*, after: str = "", context: bytes = b"{}", signer: KeySigner = COORDINATOR) -> Signed[HoldBatch]:
    said = HoldBatch(network=NETWORK, manifest=BATCH, holders=HOLDERS, stateful=True, after=after, context=context)
    return envelope.sign(signer, said)


class Holder(SteppedNode):
    """A node that holds the batch, with a clock that its alarms advance."""

    def __init__(self, key: IdentityKey = HOLDERS[0]) -> None:
        super().__init__(attrs.evolve(RULES, self_key=key))
        self.now_ms = NOW

    def later(self, entity_id: EntityId, ms: int) -> tuple[Effect, ...]:
        self.now_ms += ms
        return self.step(AlarmRang(now_ms=self.now_ms, entity_id=entity_id))

    @property
    def replica(self) -> Replica | None:
        found = self.entities.get(replica_entity_id(BATCH_ID))
        assert found is None or isinstance(found, Replica)
        return found

    def kept(self, order: Signed[HoldBatch]) -> tuple[Effect, ...]:
        self.step(HoldReceived(now_ms=self.now_ms, hold=order))
        return self.step(ReplicaStored(now_ms=self.now_ms, hold=order))

    def until_asking(self) -> tuple[Effect, ...]:
        return self.later(replica_entity_id(BATCH_ID), 3 * self.rules.adopt_ms)

    def until_adopting(self) -> tuple[Effect, ...]:
        self.until_asking()
        return self.later(replica_entity_id(BATCH_ID), self.rules.ask_ms)


def status(signer: IdentityKey, progress: BatchProgress) -> StatusReceived:
    said = BatchStatus(network=NETWORK, batch_id=BATCH_ID, progress=progress)
    return StatusReceived(now_ms=NOW, status=envelope.sign(EVERYBODY[signer], said))


def seal(context: bytes = CONTEXT, sender: KeySigner | None = None) -> CertificateReceived:
    statement = attrs.evolve(BEFORE.certificate.statement, batch_id=BATCH_ID)
    certificate = attrs.evolve(BEFORE.certificate, statement=statement)
    said = BatchSealed(network=NETWORK, certificate=certificate, context=context)
    return CertificateReceived(now_ms=NOW, sealed=envelope.sign(sender or EVERYBODY[HOLDERS[1]], said))


@pytest.mark.parametrize("stage", ["held", "asking", "adopting"])
def test_a_batch_that_made_room_for_another_is_forgotten(stage: str) -> None:
    node = Holder()
    node.kept(hold())
    if stage == "asking":
        node.until_asking()
    elif stage == "adopting":
        node.until_adopting()
    assert node.replica is not None
    node.step(ReplicaLost(now_ms=NOW, batch_id=BATCH_ID))
    assert node.replica is None
    node.step(ReplicaLost(now_ms=NOW, batch_id=BATCH_ID))


def test_a_batch_that_is_adopted_needs_no_replica() -> None:
    node = Holder()
    node.kept(hold())
    node.until_adopting()
    node.step(BatchAdopted(now_ms=NOW, batch_id=BATCH_ID))
    node.step(ReplicaLost(now_ms=NOW, batch_id=BATCH_ID))
    assert node.replica is not None


def test_a_batch_is_confirmed_once_it_is_on_disk() -> None:
    node = Holder()
    effects = node.step(HoldReceived(now_ms=NOW, hold=hold()))
    assert [type(effect) for effect in effects if not isinstance(effect, SetAlarm)] == [StoreReplica]
    assert sent(node.step(HoldReceived(now_ms=NOW, hold=hold())), BatchHeld) == [], "it is still being written"
    (confirmed,) = sent(node.step(ReplicaStored(now_ms=NOW, hold=hold())), BatchHeld)
    assert confirmed.to == COORDINATOR.identity
    assert len(sent(node.step(HoldReceived(now_ms=NOW, hold=hold())), BatchHeld)) == 1, "asked again, told again"


@pytest.mark.parametrize(
    ("order", "key"),
    [
        (hold(signer=STRANGER), HOLDERS[0]),
        (hold(), STRANGER.identity),
        (hold(), COORDINATOR.identity),
    ],
    ids=["not the coordinator's word", "not named as a holder", "its own batch"],
)
def test_nobody_keeps_what_it_was_not_asked_to(order: Signed[HoldBatch], key: IdentityKey) -> None:
    node = Holder(key)
    assert node.step(HoldReceived(now_ms=NOW, hold=order)) == ()
    assert node.entities == {}


def test_the_holders_turns_follow_one_order() -> None:
    turns = [rank(hold().message, key) for key in HOLDERS]
    assert sorted(turns) == [0, 1, 2]
    alarms = []
    for key in HOLDERS:
        node = Holder(key)
        node.kept(hold())
        assert node.replica is not None
        alarms.append(node.replica.alarm_ms - NOW)
    assert alarms == [RULES.adopt_ms * (1 + turn) for turn in turns]


def test_coordinator_and_holders_are_asked_before_a_batch_is_taken_over() -> None:
    node = Holder()
    node.kept(hold())
    asked = sent(node.until_asking(), BatchQuery)
    assert {effect.to for effect in asked} == {COORDINATOR.identity, *HOLDERS} - {HOLDERS[0]}
    effects = node.later(replica_entity_id(BATCH_ID), RULES.ask_ms)
    assert [effect for effect in effects if isinstance(effect, AdoptReplica)] == [AdoptReplica(hold=hold())]


@pytest.mark.parametrize("signer", [COORDINATOR.identity, HOLDERS[1]])
def test_a_batch_somebody_is_at_is_left_to_them(signer: IdentityKey) -> None:
    node = Holder()
    node.kept(hold())
    node.until_asking()
    node.step(status(signer, BatchProgress.WORKING))
    assert node.replica is not None
    assert node.replica.stage is ReplicaStage.HELD


@pytest.mark.parametrize(
    ("signer", "progress"),
    [
        (STRANGER.identity, BatchProgress.WORKING),
        (HOLDERS[1], BatchProgress.HELD),
        (HOLDERS[1], BatchProgress.DEAD),
        (COORDINATOR.identity, BatchProgress.UNKNOWN),
    ],
    ids=["a stranger's word", "held by another too", "a holder cannot bury it", "the coordinator forgot it"],
)
def test_other_answers_hinder_nobody(signer: IdentityKey, progress: BatchProgress) -> None:
    node = Holder()
    node.kept(hold())
    node.until_asking()
    node.step(status(signer, progress))
    effects = node.later(replica_entity_id(BATCH_ID), RULES.ask_ms)
    assert any(isinstance(effect, AdoptReplica) for effect in effects)


def test_a_batch_the_coordinator_buried_is_let_go() -> None:
    node = Holder()
    node.kept(hold())
    node.until_asking()
    assert DropReplica(batch_id=BATCH_ID) in node.step(status(COORDINATOR.identity, BatchProgress.DEAD))
    assert node.replica is None


def test_the_certificate_ends_the_holding() -> None:
    node = Holder()
    node.kept(hold())
    assert DropReplica(batch_id=BATCH_ID) in node.step(seal())
    assert node.replica is not None
    assert node.replica.stage is ReplicaStage.FINISHED, "the next of its source may start from it"
    node.later(node.replica.entity_id, 60_001)
    assert node.replica is None


def adopted(order: Signed[HoldBatch], end: CertificateLookedUp | None = None) -> Batch | None:
    """A holder's batch after its adoption; None if it did not come to that."""
    node = Holder()
    node.kept(order)
    node.until_adopting()
    if end is not None:
        node.step(end)
    node.step(BatchAdopted(now_ms=node.now_ms, batch_id=BATCH_ID))
    found = node.entities.get(batch_entity_id(BATCH_ID))
    assert found is None or isinstance(found, Batch)
    return found


def test_it_starts_from_the_context_that_the_coordinator_named() -> None:
    batch = adopted(hold(context=b'{"a":1}'))
    assert batch is not None
    assert (batch.stage, batch.context) == (Stage.LEASING, b'{"a":1}')
    assert batch.claim == Claim(hold=hold(context=b'{"a":1}'), before=None)


AFTER = BEFORE.certificate.statement.batch_id


def found_end(context: bytes = CONTEXT, after: str = AFTER) -> CertificateLookedUp:
    statement = attrs.evolve(BEFORE.certificate.statement, batch_id=after)
    certificate = attrs.evolve(BEFORE.certificate, statement=statement)
    sealed = BatchSealed(network=NETWORK, certificate=certificate, context=context)
    return CertificateLookedUp(now_ms=NOW, batch_id=AFTER, sealed=sealed, asker=None, successor=BATCH_ID)


def test_it_waits_for_the_batch_before_it_and_starts_from_what_that_left() -> None:
    assert adopted(hold(after=AFTER)) is None
    batch = adopted(hold(after=AFTER), found_end())
    assert batch is not None
    assert batch.context == CONTEXT
    assert batch.claim == Claim(hold=hold(after=AFTER), before=BEFORE.certificate)


@pytest.mark.parametrize("received_ms", [NOW, 0, 2**47, NOW + 60_000])
def test_a_batch_that_nobody_knows_is_looked_up_ever_more_rarely(received_ms: int) -> None:
    """Fails where it is asked for at one rate: each order to hold one would cost every holder work for good."""
    node = Holder()
    said = attrs.evolve(BATCH.message, received_ms=received_ms)
    order = attrs.evolve(hold(after="batch_" + 64 * "0").message, manifest=envelope.sign(COORDINATOR, said))
    entity_id = replica_entity_id(said.batch_id)
    node.kept(envelope.sign(COORDINATOR, order))
    asked, end_ms = 0, NOW + 24 * 3_600_000
    while node.now_ms < end_ms:
        replica = node.entities[entity_id]
        assert isinstance(replica, Replica)
        effects = node.later(entity_id, max(1, replica.alarm_ms - node.now_ms))
        asked += len(sent(effects, BatchQuery)) > 0
    assert isinstance(replica, Replica)
    assert replica.stage is ReplicaStage.WAITING
    assert 10 < asked < 400


@pytest.mark.parametrize(
    "end", [found_end(context=b'{"forged":1}'), found_end(after="batch_other")], ids=["context", "another batch"]
)
def test_what_was_not_left_behind_is_not_started_from(end: CertificateLookedUp) -> None:
    assert adopted(hold(after=AFTER), end) is None


# --- the agent's side: whose orders are followed ------------------------------------------------------------

AGENT = STRANGER.identity
LEASE = Award(
    network=NETWORK,
    lease_id="lease_x",
    announcement_id="job_x",
    agent=AGENT,
    roles=(WORK_ROLES[0],),
    batches=1,
    expires_ms=NOW + 10_000,
)


def order(claim: Claim | None, context: bytes = b"{}", signer: KeySigner | None = None) -> WorkReceived:
    said = WorkOrder(network=NETWORK, award=LEASE, manifest=BATCH, context=context, attempt=0, claim=claim)
    holder = EVERYBODY[HOLDERS[1]] if signer is None else signer
    return WorkReceived(now_ms=NOW, order=envelope.sign(holder, said))


FOR_OTHERS = envelope.sign(COORDINATOR, attrs.evolve(hold().message, holders=(HOLDERS[0],)))
OTHER_BATCH = envelope.sign(COORDINATOR, attrs.evolve(hold().message, manifest=manifest(3)))
SHORT = attrs.evolve(BEFORE.certificate, certifications=BEFORE.certificate.certifications[:1])


@pytest.mark.parametrize(
    "make",
    [
        lambda: order(Claim(hold=hold(), before=None)),
        lambda: order(Claim(hold=hold(after=AFTER), before=BEFORE.certificate), CONTEXT),
        lambda: order(None, b'{"any":1}', COORDINATOR),
    ],
    ids=["first of its source", "after a proven one", "the coordinator itself"],
)
def test_orders_that_are_followed(make: Callable[[], WorkReceived]) -> None:
    assert any(isinstance(effect, RunRole) for effect in Holder(AGENT).step(make()))


@pytest.mark.parametrize(
    "make",
    [
        lambda: order(None),
        lambda: order(Claim(hold=hold(), before=None), signer=STRANGER),
        lambda: order(Claim(hold=FOR_OTHERS, before=None)),
        lambda: order(Claim(hold=OTHER_BATCH, before=None)),
        lambda: order(Claim(hold=hold(signer=STRANGER), before=None)),
        lambda: order(Claim(hold=hold(), before=None), b'{"forged":1}'),
        lambda: order(Claim(hold=hold(after=AFTER), before=None)),
        lambda: order(Claim(hold=hold(after=AFTER), before=BEFORE.certificate), b'{"forged":1}'),
        lambda: order(Claim(hold=hold(after="batch_other"), before=BEFORE.certificate), CONTEXT),
        lambda: order(Claim(hold=hold(after=AFTER), before=SHORT), CONTEXT),
    ],
    ids=[
        "without a claim",
        "by somebody who does not hold it",
        "held by others",
        "a hold of another batch",
        "a hold that the coordinator did not sign",
        "another context than the one named",
        "nothing proves the context",
        "another context than the one proven",
        "the certificate of another batch",
        "a certificate without its quorum",
    ],
)
def test_orders_in_another_s_name_are_not_followed(make: Callable[[], WorkReceived]) -> None:
    node = Holder(AGENT)
    assert node.step(make()) == ()
    assert node.entities == {}


def test_whoever_asked_last_is_answered() -> None:
    node = Holder(AGENT)
    node.step(order(None, b"{}", COORDINATOR))
    node.step(order(Claim(hold=hold(), before=None)))
    (refused,) = sent(node.step(RoleFailed(now_ms=NOW, batch_id=BATCH_ID, reason="no payload")), WorkRefused)
    assert refused.to == HOLDERS[1]


# --- the coordinator's side ---------------------------------------------------------------------------------


def committed(node: Holder, *, recovered: bool = False) -> tuple[Effect, ...]:
    told = BatchCommitted(now_ms=NOW, manifest=BATCH, stateful=True, holders=HOLDERS, recovered=recovered)
    return node.step(told)


def held(signer: IdentityKey) -> HoldConfirmed:
    said = BatchHeld(network=NETWORK, batch_id=BATCH_ID)
    return HoldConfirmed(now_ms=NOW, held=envelope.sign(EVERYBODY[signer], said))


def test_it_is_replicated_once_enough_distinct_holders_say_so() -> None:
    node = Holder(COORDINATOR.identity)
    orders = sent(committed(node), HoldBatch)
    assert [effect.to for effect in orders] == list(HOLDERS)
    assert all(effect.payload_of == BATCH_ID for effect in orders)
    assert node.step(held(HOLDERS[0])) == ()
    assert node.step(held(HOLDERS[0])) == (), "one holder counts once"
    assert node.step(held(STRANGER.identity)) == (), "a stranger not at all"
    assert node.step(held(HOLDERS[1])) == (ConfirmReplication(batch_id=BATCH_ID, holders=HOLDERS[:2]),)


def test_silent_holders_are_asked_again() -> None:
    node = Holder(COORDINATOR.identity)
    committed(node)
    node.step(held(HOLDERS[0]))
    again = sent(node.later(replication_entity_id(BATCH_ID), RULES.ask_ms), HoldBatch)
    assert [effect.to for effect in again] == list(HOLDERS[1:])


def test_who_comes_back_asks_before_it_does_anything_again() -> None:
    node = Holder(COORDINATOR.identity)
    effects = committed(node, recovered=True)
    assert {effect.to for effect in sent(effects, BatchQuery)} == set(HOLDERS)
    assert not any(isinstance(effect, Publish) for effect in effects), "no auction yet"
    for holder in HOLDERS[:2]:
        assert node.step(status(holder, BatchProgress.HELD)) == ()
    assert any(isinstance(effect, Publish) for effect in node.step(status(HOLDERS[2], BatchProgress.UNKNOWN)))


def test_who_comes_back_takes_the_certificate_that_others_brought_about() -> None:
    node = Holder(COORDINATOR.identity)
    committed(node, recovered=True)
    (check,) = (effect for effect in node.step(seal()) if isinstance(effect, ReproduceBatch))
    assert check.context == b"{}", "its own run decides whether that is the truth"
    effects = node.step(BatchReproduced(now_ms=NOW, sealed=check.sealed))
    (sealing,) = (effect for effect in effects if isinstance(effect, WriteBatch))
    assert sealing.certificate.statement.batch_id == BATCH_ID
    chain = node.entities[chain_entity_id(BATCH.message.source_id)]
    assert isinstance(chain, Chain)
    assert (chain.context, chain.running) == (CONTEXT, ""), "the source goes on from what it left behind"


@pytest.mark.parametrize(
    "stimulus",
    [seal(context=b"{}"), seal(context=b'{"forged":1}'), seal(sender=STRANGER)],
    ids=["no context", "a context that the quorum did not sign", "not from a holder"],
)
def test_what_is_not_a_holder_s_certificate_of_the_batch_is_not_even_checked(stimulus: CertificateReceived) -> None:
    node = Holder(COORDINATOR.identity)
    committed(node, recovered=True)
    effects = node.step(stimulus)
    assert not any(isinstance(effect, ReproduceBatch | WriteBatch) for effect in effects)


def test_a_stranger_lets_no_replica_and_no_task_go() -> None:
    node = Holder()
    node.kept(hold())
    assert not any(isinstance(effect, DropReplica) for effect in node.step(seal(sender=STRANGER)))
    agent = Holder(AGENT)
    agent.step(order(None, b"{}", COORDINATOR))
    before = agent.entities[task_entity_id(BATCH_ID)]
    agent.step(seal(sender=OTHERS[1]))
    assert agent.entities[task_entity_id(BATCH_ID)] == before
    agent.step(seal(sender=COORDINATOR))
    assert agent.entities[task_entity_id(BATCH_ID)] != before


def test_holders_are_the_same_every_time() -> None:
    keys = [hashlib.sha256(b"%d" % n).digest() for n in range(20)]
    chosen = choose_holders(keys[0], keys, 3)
    assert chosen == choose_holders(keys[0], reversed(keys), 3)
    assert keys[0] not in chosen
    assert len(chosen) == 3
    assert choose_holders(keys[0], keys[:2], 3) == (keys[1],)
