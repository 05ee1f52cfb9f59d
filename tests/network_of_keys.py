"""Real certificates for tests: real agents' output over real weather, signed by real keys, no node around."""

import hashlib
from functools import cache
from pathlib import Path

import attrs

from agents.policy import policy_document
from agents.roles import BatchOutput, execute
from protocols import envelope
from protocols.canonical import canonical_json, parse_json
from protocols.keys import PrivateKey
from protocols.messages import (
    Certification,
    Evidence,
    Level,
    Manifest,
    QuorumCertificate,
    Role,
    Signed,
    Statement,
)

NETWORK = "test-network"
SOURCE = "nyc-weather-ewr"
POLICY_FILE = Path(__file__).resolve().parent.parent / "configs" / "policies" / "weather.json"


class KeySigner:
    """A signer over a key in memory."""

    def __init__(self, seed: str) -> None:
        self.key = PrivateKey(hashlib.sha256(seed.encode()).digest())
        self.identity = self.key.identity

    def sign(self, protocol: tuple[int, str], key_id: str, data: bytes) -> bytes:
        return self.key.sign(protocol, key_id, data)


AGENTS = tuple(sorted((KeySigner(f"agent {n}") for n in range(5)), key=lambda agent: agent.identity))


@attrs.frozen(kw_only=True)
class Certified:
    """A certified batch with everything that documents are made of."""

    certificate: QuorumCertificate
    manifest: Signed[Manifest]
    output: BatchOutput
    records: tuple[bytes, ...]

    @property
    def leaves(self) -> list[bytes]:
        return self.output.leaves.split(b"\n")

    @property
    def data(self) -> list[bytes]:
        return self.output.normalized.split(b"\n")


def reading(hour: int, wind: float) -> bytes:
    at = f"2013-02-12T{hour:02}:00:00Z"
    data = {"origin": "EWR", "time_hour": at, "temp": 39.02, "dewp": 26.96, "humid": 61.63, "wind_speed": wind}
    event = {"data": data, "eventType": "weather.observation", "externalId": f"EWR-{at}"}
    return canonical_json({**event, "previous": None, "timestamp": at})


@cache
def certified(events: int = 5, quorum: int = 2) -> Certified:
    """A batch of readings, the last one with an impossible wind."""
    records = tuple(reading(hour, 1048.36058 if hour == events - 1 else 10.5) for hour in range(events))
    policy = policy_document(parse_json(POLICY_FILE.read_bytes()))
    payload = b"\n".join(records)
    output = execute(network=NETWORK, source_id=SOURCE, payload=payload, policy=policy, context=b"{}")
    manifest = envelope.sign(
        AGENTS[0],
        Manifest(
            network=NETWORK,
            coordinator=AGENTS[0].identity,
            source_id=SOURCE,
            source_sequence=1,
            policy_hash=hashlib.sha256(policy).digest(),
            level=Level.ENHANCED,
            quorum=quorum,
            input_root=output.input_root,
            events=events,
            topics=("gitdata.events.weather",),
            durability="local",
            received_ms=1_700_000_000_123,
        ),
    )
    unsigned = manifest.message
    statement = Statement(
        network=NETWORK,
        batch_id=unsigned.batch_id,
        coordinator=unsigned.coordinator,
        source_id=SOURCE,
        policy_hash=unsigned.policy_hash,
        level=unsigned.level,
        quorum=quorum,
        input_root=output.input_root,
        normalized_root=output.normalized_root,
        output_root=output.output_root,
        context_in=hashlib.sha256(b"{}").digest(),
        context_out=hashlib.sha256(output.context_out).digest(),
        events=events,
        valid=output.valid,
        invalid=output.invalid,
    )
    certificate = QuorumCertificate(
        statement=statement,
        certifications=tuple(certify(statement, agent) for agent in AGENTS[:quorum]),
        evidence=tuple(
            witness(statement, role, agent) for role in (Role.NORMALIZE, Role.VALIDATE) for agent in AGENTS[:quorum]
        ),
    )
    return Certified(certificate=certificate, manifest=manifest, output=output, records=records)


def certify(statement: Statement, agent: KeySigner) -> Signed[Certification]:
    return envelope.sign(
        agent,
        Certification(
            network=statement.network,
            batch_id=statement.batch_id,
            statement_digest=statement.digest,
            build="overlay-agent-node/test",
            issued_ms=1_700_000_000_999,
        ),
    )


def witness(statement: Statement, role: Role, agent: KeySigner) -> Signed[Evidence]:
    normalize = role is Role.NORMALIZE
    return envelope.sign(
        agent,
        Evidence(
            network=statement.network,
            batch_id=statement.batch_id,
            role=role,
            policy_hash=statement.policy_hash,
            input_digest=statement.input_root if normalize else statement.normalized_root,
            context_in=statement.context_in,
            output_digest=statement.normalized_root if normalize else statement.output_root,
            context_out=statement.context_out,
            valid=statement.valid,
            invalid=statement.invalid,
            build="overlay-agent-node/test",
            finished_ms=1_700_000_000_500,
            processing_us=1_500,
        ),
    )
