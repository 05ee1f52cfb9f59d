"""The level "world": ``step`` for N nodes, a heap of deliveries, one seeded Random; no trio, no signatures.

Faults come from the seed: drop, delay, duplicate, reorder, crash and restart from the last commit, failed
commits, clock skew, lying agents that collude, and equivocating ones. After ``QUIET_MS`` the faults stop, the
crashed come back, and every batch must end.

Nothing forges signatures: a node makes ``Signed`` values of its own key only, as the real ``open_frame``
would let through nothing else.
"""

import hashlib
import heapq

import attrs

from protocols.coordination import choose_holders
from protocols.effects import (
    AdoptReplica,
    ConfirmReplication,
    DropReplica,
    Effect,
    ForgetPayload,
    LookUpCertificate,
    MarkDead,
    Publish,
    RecordAuction,
    RecordDistribution,
    RecordLateEvidence,
    ReportPeer,
    ReproduceBatch,
    RunRole,
    Send,
    SetAlarm,
    SignStatement,
    StoreCertificate,
    StoreProof,
    StoreReplica,
    WriteBatch,
)
from protocols.levels import LEVELS
from protocols.messages import (
    BatchSealed,
    Certification,
    HoldBatch,
    IdentityKey,
    Manifest,
    Signed,
    Statement,
    WorkResult,
)
from protocols.stimuli import (
    AlarmRang,
    BatchAdopted,
    BatchCommitted,
    BatchReproduced,
    BatchWritten,
    CertificateLookedUp,
    CertificateStored,
    ReplicaStored,
    RoleFinished,
    StatementSigned,
)
from tests.simulation import promises
from tests.simulation.answers import NETWORK, POLICY, evidence_of, lie, sign, truth
from tests.simulation.drivers import Drivers, Node

END_MS = 600_000


class World(Drivers):
    """A network of nodes as a function of its seed."""

    def ingest(
        self,
        node: Node,
        source_id: str,
        sequence: int,
        *,
        stateful: bool,
        replicated: bool = False,
        events: int = 10,
    ) -> str:
        """Ingest's commit: durable from here on; acknowledged now, or once it is replicated."""
        manifest = Manifest(
            network=NETWORK,
            coordinator=node.key,
            source_id=source_id,
            source_sequence=sequence,
            policy_hash=POLICY,
            level=self.level,
            quorum=LEVELS[self.level].quorum,
            input_root=hashlib.sha256(b"inputbatc").digest(),
            events=events,
            topics=(),
            durability="replicated" if replicated else "local",
            received_ms=self.now_ms,
        )
        batch_id = manifest.batch_id
        node.taken_in[batch_id] = (sign(node.key, manifest), stateful)
        node.holders[batch_id] = choose_holders(node.key, self.nodes, 3) if replicated else ()
        if not replicated:
            node.acknowledged.add(batch_id)
        self._commit_news(node, batch_id)
        return batch_id

    def _commit_news(self, node: Node, batch_id: str, *, recovered: bool = False) -> None:
        manifest, stateful = node.taken_in[batch_id]
        holders = node.holders[batch_id]
        make = lambda now: BatchCommitted(  # noqa: E731
            now_ms=now, manifest=manifest, stateful=stateful, holders=holders, recovered=recovered
        )
        self.tell(node, make, delay_ms=1)  # in the order of the commits

    def _carry_out(self, node: Node, effect: Effect) -> None:
        match effect:
            case Send(to=to, message=message):
                self.sent[type(message).__name__] += 1
                if isinstance(message, BatchSealed):
                    self._check_told(node, message)
                self._deliver(node, self.nodes[to], sign(node.key, message))
            case Publish(message=message):
                self.sent[type(message).__name__] += 1
                for other in self.nodes.values():
                    self._deliver(node, other, sign(node.key, message))
            case RunRole():
                self._run(node, effect)
            case SignStatement(statement=statement):
                self._sign_statement(node, statement)
            case WriteBatch():
                self._seal(node, effect)
            case SetAlarm(entity_id=entity_id, at_ms=at_ms):
                delay = max(0, at_ms - self.now_ms - node.skew_ms)
                self.tell(node, lambda now: AlarmRang(now_ms=now, entity_id=entity_id), delay)
            case MarkDead(batch_id=batch_id, reasons=reasons):
                node.buried[batch_id] = reasons
            case StoreProof(proof=proof):
                node.proofs.append((proof.first, proof.second))
            case RecordLateEvidence(evidence=evidence, agrees=agrees):
                node.dissent += [] if agrees else [evidence]
            case ReproduceBatch(sealed=sealed, manifest=manifest, context=context):
                if truth(manifest.batch_id, context).output_root == sealed.certificate.statement.output_root:
                    self.tell(node, lambda now: BatchReproduced(now_ms=now, sealed=sealed), 3)
            case StoreCertificate(sealed=sealed, sender=sender):
                node.ends.setdefault(sealed.certificate.statement.batch_id, sealed)
                statement = sealed.certificate.statement
                stored = lambda now: CertificateStored(  # noqa: E731
                    now_ms=now, batch_id=statement.batch_id, statement_digest=statement.digest, sender=sender
                )
                self.tell(node, stored, self.random.randint(1, 5))
            case StoreReplica(hold=hold):
                self._keep(node, hold)
            case DropReplica(batch_id=batch_id):
                node.replicas.pop(batch_id, None)
            case AdoptReplica(hold=hold):
                batch_id = hold.message.manifest.message.batch_id
                node.adopted[batch_id] = hold
                self.tell(node, lambda now: BatchAdopted(now_ms=now, batch_id=batch_id), 2)
            case ConfirmReplication(batch_id=batch_id, holders=holders):
                assert len(holders) >= node.rules.replicas, "acknowledged before enough peers hold it"
                assert all(batch_id in self._was_held(key) for key in holders)
                node.acknowledged.add(batch_id)
            case LookUpCertificate(batch_id=batch_id, asker=asker, successor=successor):
                found = node.ends.get(batch_id)
                looked_up = lambda now: CertificateLookedUp(  # noqa: E731
                    now_ms=now, batch_id=batch_id, sealed=found, asker=asker, successor=successor
                )
                self.tell(node, looked_up, 1)
            case ReportPeer(peer=peer, outcome=outcome):
                node.judged[peer, outcome] += 1
            case RecordDistribution() | ForgetPayload() | RecordAuction():
                pass
            case _:
                raise AssertionError(f"no hand for {effect}")

    def _was_held(self, key: IdentityKey) -> set[str]:
        node = self.nodes[key]
        return {*node.replicas, *node.ends, *node.adopted}

    def _keep(self, node: Node, hold: Signed[HoldBatch]) -> None:
        epoch = node.epoch

        def write() -> None:
            if node.up and node.epoch == epoch:
                node.replicas[hold.message.manifest.message.batch_id] = hold
                self.tell(node, lambda now: ReplicaStored(now_ms=now, hold=hold))

        self.at(self.random.randint(1, 10), write)

    def _run(self, node: Node, effect: RunRole) -> None:
        manifest = effect.order.message.manifest.message
        found = truth(manifest.batch_id, effect.order.message.context)
        found = attrs.evolve(found, events=manifest.events, valid=manifest.events - found.invalid)
        if node.lies:
            found = lie(found, node.lies)
        stories = [found, lie(found, 9)] if node.equivocates else [found]
        batch_id = manifest.batch_id
        node.computed[batch_id] += 1
        took = self.random.randint(5, 60) if self.costs is None else self._queue(node, self.costs.of(manifest.events))
        for story in stories:
            evidence = evidence_of(node.key, manifest, effect.order.message.context, effect.roles, story, self.now_ms)
            if story is found:
                make = lambda now, e=evidence, f=found: RoleFinished(  # noqa: E731
                    now_ms=now, batch_id=batch_id, findings=f, evidence=e
                )
                self.tell(node, make, took)
            else:  # the second story goes straight to the coordinator, beside the node's own code
                result = WorkResult(
                    network=NETWORK, batch_id=batch_id, evidence=evidence, context_out=story.context_out
                )
                self._deliver(node, self.nodes[manifest.coordinator], sign(node.key, result))

    def _queue(self, node: Node, cost_us: int) -> int:
        """How long it takes until a node's workers are done with one more batch, in milliseconds."""
        node.busy_until_us = max(node.busy_until_us, 1_000 * self.now_ms) + cost_us
        return node.busy_until_us // 1_000 - self.now_ms

    def _sign_statement(self, node: Node, statement: Statement) -> None:
        node.certified.setdefault(statement.batch_id, set()).add(statement.digest)
        message = Certification(
            network=NETWORK,
            batch_id=statement.batch_id,
            statement_digest=statement.digest,
            build="world",
            issued_ms=self.now_ms,
        )
        signed = sign(node.key, message)
        self.tell(node, lambda now: StatementSigned(now_ms=now, certification=signed), 1)

    @staticmethod
    def _check_told(node: Node, sealed: BatchSealed) -> None:
        """Holders who finish a batch may know each other's certificates too; who took it in has one."""
        batch_id = sealed.certificate.statement.batch_id
        written = node.sealed.get(batch_id) if batch_id in node.taken_in else None
        assert written is None or written == sealed.certificate, "others are told of another certificate than is kept"

    def _seal(self, node: Node, effect: WriteBatch) -> None:
        """Writing takes a while, and happens whole or not at all."""
        batch_id = effect.certificate.statement.batch_id
        epoch = node.epoch

        def write() -> None:
            if node.up and node.epoch == epoch:
                earlier = node.sealed.setdefault(batch_id, effect.certificate)
                assert earlier.statement == effect.certificate.statement, "a batch was sealed twice, differently"
                node.dissent += effect.dissent
                sealed = BatchSealed(network=NETWORK, certificate=earlier, context=effect.context_out)
                node.ends[batch_id] = sealed  # in place of what others said of it
                others = tuple(key for key in self.nodes if key != node.key) if self.subscribed else ()
                kept = None if earlier is effect.certificate else earlier
                self.tell(
                    node,
                    lambda now: BatchWritten(now_ms=now, batch_id=batch_id, subscribers=others, earlier=kept),
                )

        self.at(self.random.randint(1, 10), write)

    def run(self) -> None:
        while self._heap and self.now_ms < self.started_ms + END_MS:
            self.now_ms, _, action = heapq.heappop(self._heap)
            action()
            if not self.stormy and self._is_over():
                return

    def run_for(self, duration_ms: int) -> None:
        """Run to a time, whatever is still to come."""
        while self._heap and self._heap[0][0] < self.started_ms + duration_ms:
            self.now_ms, _, action = heapq.heappop(self._heap)
            action()

    def _is_over(self) -> bool:
        return all(
            node.gone or (node.up and all(batch in node.sealed or batch in node.buried for batch in node.taken_in))
            for node in self.nodes.values()
        ) and all(self.sealed_by(batch_id) for batch_id in self.left_behind())

    def left_behind(self) -> list[str]:
        """Batches that were replicated and acknowledged by nodes that are gone for good."""
        gone = [node for node in self.nodes.values() if node.gone]
        return [key for node in gone for key in node.acknowledged if node.holders[key]]

    def sealed_by(self, batch_id: str) -> list[Node]:
        """Who has a batch certified on its disk."""
        return [node for node in self.nodes.values() if batch_id in node.sealed]

    def check(self) -> None:
        """The promises, whatever the faults were."""
        promises.check(self)
