"""A node as its driver runs it, in memory: entities, those that are durable, and the effects that it owes.

Other nodes are keys. What they send is made here without signatures: ``step`` gets messages that were checked.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import attrs

from protocols.coordination import advance, durable_mark, recover
from protocols.effects import (
    AdoptReplica,
    Effect,
    LookUpCertificate,
    MarkDead,
    Publish,
    ReproduceBatch,
    RunRole,
    Send,
    SetAlarm,
    SignStatement,
    StoreReplica,
    WriteBatch,
)
from protocols.entities import Batch, Entity, EntityId, batch_entity_id
from protocols.levels import LEVELS
from protocols.messages import (
    Announcement,
    BatchSealed,
    Certification,
    CertifyOrder,
    HoldBatch,
    IdentityKey,
    Level,
    Manifest,
    Message,
    QuorumCertificate,
    Signed,
    Statement,
    WorkOrder,
    WorkResult,
)
from protocols.roles import EVIDENCE_ROLES
from protocols.rules import Rules
from protocols.stimuli import BatchAdopted, BatchCommitted, ReplicaStored, Restarted, Stimulus
from tests.simulation.answers import evidence_of, lie, truth

NETWORK = "model"
SELF = b"\x02" + hashlib.sha256(b"self").digest()
PEERS = tuple(sorted(b"\x02" + hashlib.sha256(b"peer %d" % number).digest() for number in range(6)))
LIARS = {PEERS[4]: 1, PEERS[5]: 2}  # each tells its own lie, so no two liars make a quorum
HONEST = tuple(key for key in PEERS if key not in LIARS)
HOLDERS = HONEST[:3]
RULES = Rules(network=NETWORK, self_key=SELF, attempts_max=2, replicas=2, capacity=3, window_first=2, window_max=4)
POLICY = hashlib.sha256(b"policy").digest()
INPUT_ROOT = hashlib.sha256(b"inputbatc").digest()  # as ``truth`` has it
OWED_MAX = 40  # effects of a kind that are remembered; older ones got lost


def signed(key: IdentityKey, message: Message) -> Signed[Any]:
    return Signed(message=message, signer=key, signature=b"")


def manifest_of(coordinator: IdentityKey, source: str, sequence: int, level: Level) -> Signed[Manifest]:
    message = Manifest(
        network=NETWORK,
        coordinator=coordinator,
        source_id=source,
        source_sequence=sequence,
        policy_hash=POLICY,
        level=level,
        quorum=LEVELS[level].quorum,
        input_root=INPUT_ROOT,
        events=10,
        topics=(),
        durability="local",
        received_ms=1,
    )
    return signed(coordinator, message)


def result_of(key: IdentityKey, order: WorkOrder, *, lies: bool) -> Signed[WorkResult]:
    """An agent's answer to an order: the truth, or its own lie."""
    found = truth(order.manifest.message.batch_id, order.context)
    if lies:
        found = lie(found, LIARS[key])
    manifest = order.manifest.message
    message = WorkResult(
        network=NETWORK,
        batch_id=manifest.batch_id,
        evidence=evidence_of(key, manifest, order.context, order.award.roles, found),
        context_out=found.context_out,
    )
    return signed(key, message)


def sealed_elsewhere(manifest: Manifest, context: bytes) -> BatchSealed:
    """The certificate that honest agents give a batch which starts from a context."""
    found = truth(manifest.batch_id, context)
    statement = Statement(
        network=NETWORK,
        batch_id=manifest.batch_id,
        coordinator=manifest.coordinator,
        source_id=manifest.source_id,
        policy_hash=manifest.policy_hash,
        level=manifest.level,
        quorum=manifest.quorum,
        input_root=found.input_root,
        normalized_root=found.normalized_root,
        output_root=found.output_root,
        context_in=hashlib.sha256(context).digest(),
        context_out=hashlib.sha256(found.context_out).digest(),
        events=found.events,
        valid=found.valid,
        invalid=found.invalid,
    )
    signers = HONEST[: manifest.quorum]
    evidence = [each for key in signers for each in evidence_of(key, manifest, context, EVIDENCE_ROLES, found)]
    certificate = QuorumCertificate(
        statement=statement,
        certifications=tuple(certification_of(key, statement) for key in signers),
        evidence=tuple(sorted(evidence, key=lambda each: (each.message.role, each.signer))),
    )
    return BatchSealed(network=NETWORK, certificate=certificate, context=found.context_out)


def certification_of(key: IdentityKey, statement: Statement) -> Signed[Certification]:
    message = Certification(
        network=NETWORK,
        batch_id=statement.batch_id,
        statement_digest=statement.digest,
        build="model",
        issued_ms=1,
    )
    return signed(key, message)


@attrs.define
class Taken:
    """A batch that ingest made durable."""

    manifest: Signed[Manifest]
    stateful: bool
    holders: tuple[IdentityKey, ...]

    def committed(self, now_ms: int, *, recovered: bool = False) -> BatchCommitted:
        return BatchCommitted(
            now_ms=now_ms,
            manifest=self.manifest,
            stateful=self.stateful,
            holders=self.holders,
            recovered=recovered,
        )


class ModelNode:
    """Steps, stores what must be durable, and keeps what the effects ask for until a rule of the machine does it."""

    def __init__(self) -> None:
        self.rules = RULES
        self.now_ms = 1_000_000
        self.entities: dict[EntityId, Entity] = {}
        self.stored: dict[EntityId, Entity] = {}
        self.taken: dict[str, Taken] = {}
        self.written: dict[str, QuorumCertificate] = {}
        self.dead: set[str] = set()
        self.replicas: dict[str, Signed[HoldBatch]] = {}
        self.adopted: dict[str, Signed[HoldBatch]] = {}
        self.alarms: set[tuple[EntityId, int]] = set()
        self.owed: dict[type[Effect], list[Any]] = {}
        self.orders: list[tuple[IdentityKey, WorkOrder]] = []
        self.certify_orders: list[tuple[IdentityKey, CertifyOrder]] = []
        self.sealed: list[tuple[IdentityKey, BatchSealed]] = []
        self.announced: list[Announcement] = []
        self.effects: tuple[Effect, ...] = ()  # of the latest step

    def step(self, stimulus: Stimulus) -> None:
        """One turn of the driver: step, commit what must be durable, remember the effects."""
        before = dict(self.stored)
        transition = advance(self.entities, [stimulus], self.rules)
        for entity in transition.changed:
            mark = durable_mark(entity)
            known = before.get(entity.entity_id)
            if mark is not None and (known is None or mark != durable_mark(known)):
                self.stored[entity.entity_id] = entity
            self.entities[entity.entity_id] = entity
        for entity_id in transition.removed:
            del self.entities[entity_id]
            self.stored.pop(entity_id, None)
        self.effects = transition.effects
        for effect in transition.effects:
            self._remember(effect)

    def _remember(self, effect: Effect) -> None:
        match effect:
            case SetAlarm(entity_id=entity_id, at_ms=at_ms):
                self.alarms.add((entity_id, at_ms))
            case Publish(message=Announcement() as announcement):
                self._add(self.announced, announcement)
            case Send(to=to, message=WorkOrder() as order):
                self._add(self.orders, (to, order))
            case Send(to=to, message=CertifyOrder() as order):
                self._add(self.certify_orders, (to, order))
            case Send(to=to, message=BatchSealed() as sealed):
                self._add(self.sealed, (to, sealed))
            case MarkDead(batch_id=batch_id):
                self.dead.add(batch_id)
            case (
                WriteBatch()
                | ReproduceBatch()
                | RunRole()
                | SignStatement()
                | StoreReplica()
                | AdoptReplica()
                | LookUpCertificate()
            ):
                self._add(self.owed.setdefault(type(effect), []), effect)

    @staticmethod
    def _add(items: list[Any], item: Any) -> None:
        items.append(item)
        del items[:-OWED_MAX]

    def batches(self) -> Iterator[Batch]:
        return (entity for entity in self.entities.values() if isinstance(entity, Batch))

    def pending(self) -> list[str]:
        """Batches of this node without an end: its own, and those that it adopted."""
        known = (*self.taken, *self.adopted)
        return [key for key in known if key not in self.written and key not in self.dead]

    def restart(self) -> None:
        """Crash, and start from what is durable: memory, alarms and effects under way are gone."""
        self.effects = ()
        self.alarms.clear()
        self.owed.clear()
        pending = self.pending()
        self.entities = {entity.entity_id: entity for entity in recover(self.stored.values(), pending)}
        self.stored = dict(self.entities)
        for entity_id in list(self.entities):
            self.step(Restarted(now_ms=self.now_ms, entity_id=entity_id))
        for batch_id in pending:
            if batch_id in self.taken and batch_entity_id(batch_id) not in self.entities:
                self.step(self.taken[batch_id].committed(self.now_ms, recovered=True))
        for hold in self.replicas.values():
            self.step(ReplicaStored(now_ms=self.now_ms, hold=hold))
        for batch_id in pending:
            if batch_id in self.adopted:
                self.step(BatchAdopted(now_ms=self.now_ms, batch_id=batch_id))
