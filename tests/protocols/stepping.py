"""One node's entities stepped by hand, and the stimuli that bring a batch through its stages."""

import hashlib
from typing import TypeVar

import attrs

from protocols.coordination import advance
from protocols.effects import (
    Effect,
    Publish,
    Send,
)
from protocols.entities import (
    Batch,
    Entity,
    EntityId,
    Lease,
    Stage,
    batch_entity_id,
    lease_entity_id,
)
from protocols.messages import (
    Bid,
    Level,
    Message,
    Role,
    Signed,
    WorkPhase,
    WorkRefused,
    WorkResult,
    WorkStatus,
)
from protocols.rules import Rules
from protocols.stimuli import (
    AlarmRang,
    BatchCommitted,
    BidReceived,
    CertificationReceived,
    RefusalReceived,
    ResultReceived,
    Stimulus,
    WorkStatusReceived,
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


class SteppedNode:
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

    def stage(self) -> Stage:
        return self.batch.stage

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
        capacity=8,
        price=0,
        operator="",
        region="",
        reason="",
    )
    return Signed(message=message, signer=AGENTS[agent].identity, signature=b"")


def leased(node: SteppedNode, agents: int = 3, *, stateful: bool = False) -> tuple[Effect, ...]:
    """Commit the batch, hold the auction, let agents bid, close it."""
    announced = node.step(BatchCommitted(now_ms=NOW, manifest=BATCH.manifest, stateful=stateful))
    publish = next(effect for effect in announced if isinstance(effect, Publish))
    for agent in range(agents):
        offer = bid(agent)
        message = attrs.evolve(offer.message, announcement_id=publish.message.key_id)
        node.step(BidReceived(now_ms=NOW + 10, bid=attrs.evolve(offer, message=message)))
    entity_id = lease_entity_id(Level.ENHANCED, 2)
    return node.step(AlarmRang(now_ms=NOW + RULES.bid_window_ms, entity_id=entity_id))


M = TypeVar("M", bound=Message)


def messages(effects: tuple[Effect, ...], kind: type[M]) -> list[M]:
    """The messages of a class that are sent to one node each."""
    return [effect.message for effect in effects if isinstance(effect, Send) and isinstance(effect.message, kind)]


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


def refusal(agent: int, reason: str = "the policy divides by zero", now_ms: int = NOW + 400) -> RefusalReceived:
    """An agent's word that it will not do the batch because of what is in it."""
    message = WorkRefused(network=NETWORK, batch_id=SAID.batch_id, reason=reason)
    return RefusalReceived(
        now_ms=now_ms, refusal=Signed(message=message, signer=AGENTS[agent].identity, signature=b"")
    )


def status(
    agent: int, phase: WorkPhase, *, now_ms: int = NOW + 400, running_ms: int = 0, wait_ms: int = 0, credit: int = 8
) -> WorkStatusReceived:
    """An agent's word on where the order for the batch is."""
    message = WorkStatus(
        network=NETWORK,
        batch_id=SAID.batch_id,
        phase=phase,
        ahead=0,
        running_ms=running_ms,
        wait_ms=wait_ms,
        credit=credit,
        reason="",
    )
    signed = Signed(message=message, signer=AGENTS[agent].identity, signature=b"")
    return WorkStatusReceived(now_ms=now_ms, status=signed)


def auctioned(node: SteppedNode, now_ms: int, agents: int = 3) -> tuple[Effect, ...]:
    """Let agents bid in the auction that is being held, and close it."""
    lease = node.entities[lease_entity_id(Level.ENHANCED, 2)]
    assert isinstance(lease, Lease)
    assert lease.auction is not None
    for agent in range(agents):
        offer = attrs.evolve(bid(agent).message, announcement_id=lease.auction.announcement_id)
        node.step(BidReceived(now_ms=now_ms, bid=attrs.evolve(bid(agent), message=offer)))
    return node.step(AlarmRang(now_ms=max(now_ms, lease.auction.closes_ms), entity_id=lease.entity_id))


def certification(agent: int) -> CertificationReceived:
    return CertificationReceived(now_ms=NOW + 600, certification=certify(STATEMENT, AGENTS[agent]))


def ring(node: SteppedNode, now_ms: int) -> tuple[Effect, ...]:
    return node.step(AlarmRang(now_ms=now_ms, entity_id=batch_entity_id(SAID.batch_id)))


def executors(node: SteppedNode) -> set[bytes]:
    return {key for ballot in node.batch.ballots for key in ballot.executors}


def index_of(key: bytes) -> int:
    return next(index for index, agent in enumerate(AGENTS) if agent.identity == key)


def lying(agent: int, flavour: int) -> ResultReceived:
    told = result(agent)
    root = hashlib.sha256(b"lie %d" % flavour).digest()
    evidence = tuple(
        attrs.evolve(each, message=attrs.evolve(each.message, output_digest=root))
        for each in told.result.message.evidence
    )
    message = attrs.evolve(told.result.message, evidence=evidence)
    return attrs.evolve(told, result=attrs.evolve(told.result, message=message))
