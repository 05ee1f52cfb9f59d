"""Any order of events at an agent and holder: orders, runs, certify orders, holds, adoption, and crashes.

Peers 0 and 1 coordinate. Whatever happens, the node signs one statement a batch, and only what it found itself.
"""

import attrs
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from protocols.effects import AdoptReplica, LookUpCertificate, RunRole, SignStatement, StoreReplica
from protocols.entities import Replica, ReplicaStage, Task
from protocols.messages import (
    Award,
    BatchProgress,
    BatchStatus,
    CertifyOrder,
    HoldBatch,
    IdentityKey,
    Level,
    Manifest,
    Signed,
    WorkOrder,
)
from protocols.roles import WORK_ROLES
from protocols.stimuli import (
    BatchAdopted,
    CertificateLookedUp,
    CertificateReceived,
    CertifyReceived,
    FailureCause,
    HoldReceived,
    ReplicaStored,
    RoleFailed,
    RoleFinished,
    StatementSigned,
    StatusReceived,
    WorkReceived,
)
from tests.protocols.model_node import (
    HONEST,
    NETWORK,
    PEERS,
    SELF,
    certification_of,
    manifest_of,
    sealed_elsewhere,
    signed,
)
from tests.protocols.test_step_machine import DATA, Machine
from tests.simulation.answers import evidence_of, lie, truth

COORDINATORS = HONEST[:2]
MANIFESTS = [manifest_of(key, source, 1, Level.ENHANCED) for key in COORDINATORS for source in "abcdef"]
CONTEXTS = [b"{}", b'{"seen":1}']
MANIFEST = st.sampled_from(MANIFESTS)


class AgentMachine(Machine):
    """The node's own signatures are what must never contradict each other."""

    def __init__(self) -> None:
        super().__init__()
        self.signatures: dict[str, set[bytes]] = {}

    @rule(
        manifest=MANIFEST,
        context=st.sampled_from(CONTEXTS),
        sender=st.sampled_from(COORDINATORS),
        wanted_ms=st.sampled_from([0, 1, 3_000]),
        payload_bytes=st.sampled_from([0, 10_000, 16 * 2**20]),
    )
    def order(
        self, manifest: Signed[Manifest], context: bytes, sender: IdentityKey, wanted_ms: int, payload_bytes: int
    ) -> None:
        award = Award(
            network=NETWORK,
            lease_id=f"lease_{sender.hex()[:8]}",
            announcement_id="job_enhanced_2_1",
            agent=SELF,
            roles=WORK_ROLES,
            batches=9,
            expires_ms=self.now_ms + 60_000,
        )
        message = WorkOrder(network=NETWORK, award=award, manifest=manifest, context=context, attempt=0)
        message = attrs.evolve(message, wanted_ms=wanted_ms)
        order = signed(sender, message)
        self.hear(WorkReceived(now_ms=self.now_ms, order=order, payload_bytes=payload_bytes))

    @precondition(lambda self: self.node.owed.get(RunRole))
    @rule(data=DATA, fails=st.sampled_from([None, None, *FailureCause]))
    def run(self, data: st.DataObject, fails: FailureCause | None) -> None:
        """The workers are done with a batch, be it one that nobody waits for any more."""
        effect: RunRole = data.draw(st.sampled_from(self.node.owed[RunRole]))
        order = effect.order.message
        manifest = order.manifest.message
        if fails:
            self.node.step(
                RoleFailed(now_ms=self.now_ms, batch_id=manifest.batch_id, reason="out of memory", cause=fails)
            )
            return
        found = truth(manifest.batch_id, order.context)
        evidence = evidence_of(SELF, manifest, order.context, effect.roles, found)
        self.node.step(
            RoleFinished(now_ms=self.now_ms, batch_id=manifest.batch_id, findings=found, evidence=evidence)
        )

    @rule(
        manifest=MANIFEST,
        context=st.sampled_from(CONTEXTS),
        lies=st.booleans(),
        backed=st.booleans(),
    )
    def certify(self, manifest: Signed[Manifest], context: bytes, lies: bool, backed: bool) -> None:
        """The coordinator asks for a signature: over the truth or a lie, with a quorum of evidence or without."""
        message = manifest.message
        certificate = sealed_elsewhere(message, context).certificate
        statement = certificate.statement
        if lies:
            statement = attrs.evolve(statement, output_root=lie(truth(message.batch_id, context), 1).output_root)
        order = CertifyOrder(
            network=NETWORK, statement=statement, evidence=certificate.evidence[: None if backed else 2]
        )
        self.hear(CertifyReceived(now_ms=self.now_ms, order=signed(message.coordinator, order)))

    @precondition(lambda self: self.node.owed.get(SignStatement))
    @rule(data=DATA)
    def sign(self, data: st.DataObject) -> None:
        effect: SignStatement = data.draw(st.sampled_from(self.node.owed[SignStatement]))
        signature = certification_of(SELF, effect.statement)
        self.node.step(StatementSigned(now_ms=self.now_ms, certification=signature))

    @rule(manifest=MANIFEST, context=st.sampled_from(CONTEXTS), sender=st.sampled_from(PEERS))
    def seal(self, manifest: Signed[Manifest], context: bytes, sender: IdentityKey) -> None:
        sealed = sealed_elsewhere(manifest.message, context)
        self.hear(CertificateReceived(now_ms=self.now_ms, sealed=signed(sender, sealed)))

    @rule(manifest=MANIFEST, after=st.sampled_from(["", MANIFESTS[0].message.batch_id]))
    def hold(self, manifest: Signed[Manifest], after: str) -> None:
        message = HoldBatch(
            network=NETWORK,
            manifest=manifest,
            holders=(SELF, HONEST[2]),
            stateful=True,
            after=after,
            context=b"{}",
        )
        coordinator = manifest.message.coordinator
        self.hear(HoldReceived(now_ms=self.now_ms, hold=signed(coordinator, message)))

    @precondition(lambda self: self.node.owed.get(StoreReplica))
    @rule(data=DATA)
    def store(self, data: st.DataObject) -> None:
        effect: StoreReplica = data.draw(st.sampled_from(self.node.owed[StoreReplica]))
        self.node.replicas[effect.hold.message.manifest.message.batch_id] = effect.hold
        self.node.step(ReplicaStored(now_ms=self.now_ms, hold=effect.hold))

    @precondition(lambda self: self.node.owed.get(AdoptReplica))
    @rule(data=DATA)
    def adopt(self, data: st.DataObject) -> None:
        effect: AdoptReplica = data.draw(st.sampled_from(self.node.owed[AdoptReplica]))
        batch_id = effect.hold.message.manifest.message.batch_id
        self.node.adopted[batch_id] = effect.hold
        self.node.step(BatchAdopted(now_ms=self.now_ms, batch_id=batch_id))

    @precondition(lambda self: self.node.owed.get(LookUpCertificate))
    @rule(data=DATA, known=st.booleans())
    def look_up(self, data: st.DataObject, known: bool) -> None:
        effect: LookUpCertificate = data.draw(st.sampled_from(self.node.owed[LookUpCertificate]))
        manifests = [each.message for each in MANIFESTS if each.message.batch_id == effect.batch_id]
        self.node.step(
            CertificateLookedUp(
                now_ms=self.now_ms,
                batch_id=effect.batch_id,
                sealed=sealed_elsewhere(manifests[0], b"{}") if known and manifests else None,
                asker=effect.asker,
                successor=effect.successor,
            )
        )

    @rule(manifest=MANIFEST, peer=st.sampled_from(PEERS), progress=st.sampled_from(BatchProgress))
    def report(self, manifest: Signed[Manifest], peer: IdentityKey, progress: BatchProgress) -> None:
        batch_id = manifest.message.batch_id
        message = BatchStatus(network=NETWORK, batch_id=batch_id, progress=progress)
        self.hear(StatusReceived(now_ms=self.now_ms, status=signed(peer, message)))

    @invariant()
    def one_batch_has_one_signature(self) -> None:
        for effect in self.node.effects:
            if isinstance(effect, SignStatement):
                batch_id = effect.statement.batch_id
                self.signatures.setdefault(batch_id, set()).add(effect.statement.digest)
                true_roots = {truth(batch_id, context).output_root for context in CONTEXTS}
                assert effect.statement.output_root in true_roots, "it signs what it did not find"
                assert len(self.signatures[batch_id]) == 1, "it signs two statements of one batch"

    @invariant()
    def tasks_and_replicas_end(self) -> None:
        for entity in self.node.entities.values():
            waits = isinstance(entity, Task) or (
                isinstance(entity, Replica) and entity.stage is not ReplicaStage.ADOPTED
            )
            if waits:
                assert any(key == entity.entity_id for key, _ in self.node.alarms), "it stays for ever"


AgentMachine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
test_agents_keep_their_invariants = AgentMachine.TestCase
