"""Keys, a manifest and certificates that node tests share: a batch certified by two agents, without a network."""

from agents.roles import execute
from node.coordination.serialization import certificate_bytes, evidence_bytes
from node.runtime.clock import clock_ms
from node.worker.compute import pack_outputs
from protocols import keys
from protocols.certificate import agent_id
from protocols.entities import Findings
from protocols.envelope import sign
from protocols.messages import (
    Certification,
    Evidence,
    IdentityKey,
    Level,
    Manifest,
    QuorumCertificate,
    Role,
    Statement,
)
from storage.rows import EvidenceRow, SealedBatch

NETWORK = "testnet"
PUBLIC_URL = "https://node.example"
DIGEST = bytes(32)


class KeySigner:
    def __init__(self, number: int) -> None:
        self.key = keys.PrivateKey.from_bytes(number.to_bytes(32, "big"))

    @property
    def identity(self) -> IdentityKey:
        return self.key.identity

    def sign(self, protocol: tuple[int, str], key_id: str, data: bytes) -> bytes:
        return keys.sign(self.key, protocol, key_id, data)


NODE, AGENT = KeySigner(1), KeySigner(2)


MANIFEST = Manifest(
    network=NETWORK,
    coordinator=NODE.identity,
    source_id="s",
    source_sequence=1,
    policy_hash=DIGEST,
    level=Level.ENHANCED,
    quorum=2,
    input_root=DIGEST,
    events=1,
    topics=(),
    durability="local",
    received_ms=1,
)
FOUND = Findings(
    input_root=DIGEST,
    normalized_root=DIGEST,
    output_root=DIGEST,
    context_out=b"{}",
    events=1,
    valid=1,
    invalid=0,
)


def certified(said: Manifest, payload: bytes, level: Level) -> tuple[QuorumCertificate, bytes, bytes]:
    output = execute(network=NETWORK, source_id=said.source_id, payload=payload, policy=b"{}", context=b"{}")
    statement = Statement(
        network=NETWORK,
        batch_id=said.batch_id,
        coordinator=said.coordinator,
        source_id=said.source_id,
        policy_hash=said.policy_hash,
        level=level,
        quorum=said.quorum,
        input_root=output.input_root,
        normalized_root=output.normalized_root,
        output_root=output.output_root,
        context_in=DIGEST,
        context_out=DIGEST,
        events=output.events,
        valid=output.valid,
        invalid=output.invalid,
    )
    certifications = tuple(
        sign(
            agent,
            Certification(
                network=NETWORK,
                batch_id=said.batch_id,
                statement_digest=statement.digest,
                build="test",
                issued_ms=clock_ms(),
            ),
        )
        for agent in (NODE, AGENT)
    )
    roots = {
        Role.NORMALIZE: (output.input_root, output.normalized_root),
        Role.VALIDATE: (output.normalized_root, output.output_root),
    }
    evidence = tuple(
        sign(
            agent,
            Evidence(
                network=NETWORK,
                batch_id=said.batch_id,
                role=role,
                policy_hash=said.policy_hash,
                input_digest=roots[role][0],
                context_in=DIGEST,
                output_digest=roots[role][1],
                context_out=DIGEST,
                valid=output.valid,
                invalid=output.invalid,
                build="test",
                finished_ms=clock_ms(),
                processing_us=4_600,
            ),
        )
        for role in (Role.NORMALIZE, Role.VALIDATE)
        for agent in (NODE, AGENT)
    )
    certificate = QuorumCertificate(statement=statement, certifications=certifications, evidence=evidence)
    return certificate, output.leaves, output.normalized


def sealed_row(certificate: QuorumCertificate, leaves: bytes, normalized: bytes, now_ms: int) -> SealedBatch:
    statement = certificate.statement
    return SealedBatch(
        context_out=b"{}",
        batch_id=statement.batch_id,
        certificate=certificate_bytes(certificate),
        outputs=pack_outputs(leaves, normalized),
        valid=statement.valid,
        invalid=statement.invalid,
        attempts=1,
        certified_ms=now_ms,
        level=statement.level.word,
        agents=[agent_id(signed.signer) for signed in certificate.certifications],
        leaves=leaves,
        normalized=normalized,
        evidence=tuple(
            EvidenceRow(
                role=signed.message.role.word,
                signer=signed.signer,
                agrees=True,
                frame=evidence_bytes(signed),
                processing_us=signed.message.processing_us,
                events=statement.events,
            )
            for signed in certificate.evidence
        ),
    )
