"""Messages that fit together, so that a node acts on them: batches of hostile records, and what is signed of them."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import attrs

from agents.roles import BatchOutput, execute
from node.network.discovery import Offer, make_tokens
from node.runtime.keyring import Keyring
from node.worker.compute import pack
from protocols.certificate import verify_quorum
from protocols.envelope import digest, sign
from protocols.errors import OverlayError
from protocols.identifiers import record_line
from protocols.merkle import root_of_records
from protocols.messages import (
    Advertisement,
    Announcement,
    Award,
    Bid,
    Certification,
    CertifyOrder,
    Evidence,
    FraudProof,
    HoldBatch,
    Level,
    Manifest,
    Message,
    QuorumCertificate,
    Role,
    Signed,
    Statement,
    WorkOrder,
)
from protocols.roles import WORK_ROLES
from scripts.fuzzing.values import Draw
from scripts.fuzzing.world import World, key_of

PAYLOADS: Final = 48
CERTIFICATES: Final = 32
RECORDS_MAX: Final = 12
RAISED: Final = 0.05  # of batches, the part that asks for more agents than there are
CHEATS: Final = 32
SOURCE: Final = "fuzz"
TOPICS: Final = ("gitdata.events.ingest",)
BATCH_MS: Final = 1_700_000_000_000
WORK: Final = tuple(sorted(WORK_ROLES))


@attrs.frozen(kw_only=True)
class Payload:
    """Records of a batch: joined, as they are sent, with the root over them."""

    records: tuple[bytes, ...]
    packed: bytes
    root: bytes
    policy_hash: bytes


class Batches:
    """Batches of peers, each a function of the seed and its number."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.payload_of = lru_cache(maxsize=PAYLOADS)(self._payload)
        self._certificate_of = lru_cache(maxsize=CERTIFICATES)(self._certificate)

    def payload(self, draw: Draw) -> Payload:
        return self.payload_of(draw.below(PAYLOADS))

    def manifest(self, draw: Draw, coordinator: Keyring) -> tuple[Signed[Manifest], Payload]:
        """A manifest of a coordinator's own, and what it is of."""
        payload = self.payload(draw)
        level = draw.pick(list(Level)) if draw.chance(RAISED) else Level.BASIC
        made = self._manifest(coordinator, payload, self.world.now_ms - draw.below(1_000), level)
        return made, payload

    def certificate(self, draw: Draw, signer: Keyring) -> QuorumCertificate:
        """A quorum's certificate that holds: of a batch of one of the agents, signed by agents."""
        return self._certificate_of(draw.below(CERTIFICATES))

    def _payload(self, number: int) -> Payload:
        draw = Draw(f"{self.world.seed} payload {number}")
        lines: list[bytes] = []
        while len(lines) < 1 + number % RECORDS_MAX:
            line = self._record(draw)
            if line is not None:
                lines.append(line)
        return Payload(
            records=tuple(lines),
            packed=pack(b"\n".join(lines)),
            root=root_of_records(lines),
            policy_hash=draw.pick(list(self.world.policies)),
        )

    def _record(self, draw: Draw) -> bytes | None:
        samples = draw.pick(list(self.world.sources.values()))
        data = draw.pick(samples) if draw.chance(0.5) else plain(draw)
        external = draw.text(nul=False) if draw.chance(0.7) else None
        try:
            return record_line(
                data=data,
                event_type=draw.text(least=1, nul=False),
                external_id=external,
                previous=None,
                timestamp=None,
            )
        except OverlayError:
            return None

    def _manifest(self, coordinator: Keyring, payload: Payload, now_ms: int, level: Level) -> Signed[Manifest]:
        return sign(
            coordinator,
            Manifest(
                network=self.world.network,
                coordinator=coordinator.identity,
                source_id=SOURCE,
                source_sequence=1,
                policy_hash=payload.policy_hash,
                level=level,
                quorum=int(level),
                input_root=payload.root,
                events=len(payload.records),
                topics=TOPICS,
                durability="local",
                received_ms=now_ms,
            ),
        )

    def _certificate(self, number: int) -> QuorumCertificate:
        coordinator, payload = self.world.agents[number % len(self.world.agents)], self.payload_of(number % PAYLOADS)
        manifest = self._manifest(coordinator, payload, BATCH_MS + number, Level.ENHANCED).message
        policy = self.world.policies[payload.policy_hash]
        output = execute(
            network=self.world.network,
            source_id=SOURCE,
            payload=b"\n".join(payload.records),
            policy=policy,
            context=b"{}",
        )
        statement = self._statement(manifest, output)
        signers = self.world.agents[: statement.quorum]
        made = QuorumCertificate(
            statement=statement,
            certifications=tuple(self._certification(statement, each) for each in signers),
            evidence=tuple(
                self._evidence(statement, role, each) for role in (Role.NORMALIZE, Role.VALIDATE) for each in signers
            ),
        )
        verify_quorum(made, network=self.world.network)
        return made

    def _statement(self, manifest: Manifest, output: BatchOutput) -> Statement:
        return Statement(
            network=manifest.network,
            batch_id=manifest.batch_id,
            coordinator=manifest.coordinator,
            source_id=manifest.source_id,
            policy_hash=manifest.policy_hash,
            level=manifest.level,
            quorum=manifest.quorum,
            input_root=manifest.input_root,
            normalized_root=output.normalized_root,
            output_root=output.output_root,
            context_in=digest(b"{}"),
            context_out=digest(output.context_out),
            events=manifest.events,
            valid=output.valid,
            invalid=output.invalid,
        )

    def _certification(self, statement: Statement, signer: Keyring) -> Signed[Certification]:
        message = Certification(
            network=statement.network,
            batch_id=statement.batch_id,
            statement_digest=statement.digest,
            build="fuzz",
            issued_ms=BATCH_MS,
        )
        return sign(signer, message)

    def _evidence(self, statement: Statement, role: Role, signer: Keyring) -> Signed[Evidence]:
        first = role is Role.NORMALIZE
        message = Evidence(
            network=statement.network,
            batch_id=statement.batch_id,
            role=role,
            policy_hash=statement.policy_hash,
            input_digest=statement.input_root if first else statement.normalized_root,
            context_in=statement.context_in,
            output_digest=statement.normalized_root if first else statement.output_root,
            context_out=statement.context_out,
            valid=statement.valid,
            invalid=statement.invalid,
            build="fuzz",
            finished_ms=BATCH_MS,
            processing_us=1,
        )
        return sign(signer, message)


def plain(draw: Draw, depth: int = 2) -> Any:
    """A JSON value of values that Python has."""
    match draw.below(6 if depth else 4):
        case 0:
            return draw.text(nul=False)
        case 1:
            return draw.number(2**53 - 1) * draw.pick((1, -1))
        case 2:
            return draw.pick((None, True, False, 0.1, -0.0, 1e308, 5e-324))
        case 3:
            return draw.rng.uniform(-1e6, 1e6)
        case 4:
            return {draw.key(): plain(draw, depth - 1) for _ in range(draw.size(24))}
        case _:
            return [plain(draw, depth - 1) for _ in range(draw.size(64))]


Values = tuple[dict[str, Any], bytes]
Maker = Callable[[Draw, Keyring, Batches], Values]


def coherent(draw: Draw, cls: type[Any], signer: Keyring, batches: Batches) -> Values:
    """Values of fields that fit together, and the attachment; empty for classes that need none."""
    make = _MAKERS.get(cls)
    return ({}, b"") if make is None else make(draw, signer, batches)


def _manifest(draw: Draw, signer: Keyring, batches: Batches) -> Values:
    made, _ = batches.manifest(draw, signer)
    return attrs.asdict(made.message, recurse=False), b""


def _award(draw: Draw, signer: Keyring, batches: Batches) -> dict[str, Any]:
    world = batches.world
    return {
        "network": world.network,
        "lease_id": f"lease-{signer.identity.hex()[:16]}-{draw.below(8)}",
        "announcement_id": f"work-{draw.below(8)}",
        "agent": world.node,
        "roles": draw.pick((WORK, WORK, (Role.NORMALIZE,), (Role.CERTIFY,))),
        "batches": 1_000,
        "expires_ms": world.now_ms + 60_000,
    }


def _work(draw: Draw, signer: Keyring, batches: Batches) -> Values:
    manifest, payload = batches.manifest(draw, signer)
    batches.world.live.add("batch", manifest.message.batch_id)
    values = {
        "network": batches.world.network,
        "award": Award(**_award(draw, signer, batches)),
        "manifest": manifest,
        "context": b"{}",
        "attempt": draw.below(3),
        "claim": None,
    }
    return values, payload.packed


def _hold(draw: Draw, signer: Keyring, batches: Batches) -> Values:
    manifest, payload = batches.manifest(draw, signer)
    values = {
        "network": batches.world.network,
        "manifest": manifest,
        "holders": (batches.world.node,),
        "stateful": draw.chance(0.3),
        "after": "",
        "context": b"{}",
    }
    return values, payload.packed


def _certify(draw: Draw, signer: Keyring, batches: Batches) -> Values:
    held = batches.certificate(draw, signer)
    return {"network": batches.world.network, "statement": held.statement, "evidence": held.evidence}, b""


def _announcement(draw: Draw, signer: Keyring, batches: Batches) -> Values:
    values = {
        "network": batches.world.network,
        "roles": WORK,
        "level": draw.pick(list(Level)),
        "quorum": draw.pick((1, 2, 3)),
        "lease_ms": 60_000,
        "batches": 1_000,
        "price_max": 2**53,
        "closes_ms": batches.world.now_ms + 1_000,
    }
    return values, b""


def _bid(draw: Draw, signer: Keyring, batches: Batches) -> Values:
    values = {
        "network": batches.world.network,
        "roles": draw.pick((WORK, WORK[:1], ())),
        "capacity": draw.pick((1, 64)),
        "price": draw.below(3),
        "operator": draw.text(16, nul=False),
        "reason": "",
    }
    return values, b""


def advertisement(draw: Draw, signer: Keyring, batches: Batches) -> Values:
    """What a peer that plays a part advertises."""
    now_ms = batches.world.now_ms
    values = {
        "network": batches.world.network,
        "sequence": now_ms,
        "issued_ms": now_ms,
        "expires_ms": now_ms + 60_000,
        "tokens": _tokens(signer, draw.below(4)),
        "addresses": (),
        "url": "http://127.0.0.1:1",
        "capacity": 64,
        "price": 0,
        "operator": signer.identity.hex()[:12],
        "region": "",
        "build": "fuzz",
        "membership": b"",
    }
    return values, b""


@lru_cache(maxsize=1_024)
def _tokens(signer: Keyring, number: int) -> tuple[bytes, ...]:
    offer = Offer(
        roles=((), WORK[:1], WORK, WORK)[number],
        topics=TOPICS if number == 3 else (),
        url="http://127.0.0.1:1",
        capacity=64,
        price=0,
        operator="",
        region="",
        build="fuzz",
        ttl_ms=3_600_000,
        allow_local_urls=True,
    )
    return make_tokens(signer.key, offer)


def _evidence(draw: Draw, signer: Keyring, batches: Batches) -> Values:
    found = draw.pick(batches.certificate(draw, signer).evidence).message
    return attrs.asdict(found, recurse=False), b""


def _fraud(draw: Draw, signer: Keyring, batches: Batches) -> Values:
    """Two answers of one agent to one question."""
    world = batches.world
    cheat = key_of(f"{world.seed} cheat {draw.below(CHEATS)}")
    said = draw.pick(batches.certificate(draw, signer).evidence).message
    other = attrs.evolve(said, output_digest=draw.rng.randbytes(32))
    first, second = sorted((sign(cheat, said), sign(cheat, other)), key=lambda each: each.message.outcome)
    return {"network": world.network, "first": first, "second": second}, b""


_MAKERS: Final[dict[type[Any], Maker]] = {
    Manifest: _manifest,
    Announcement: _announcement,
    Award: lambda draw, signer, batches: (_award(draw, signer, batches), b""),
    Bid: _bid,
    WorkOrder: _work,
    HoldBatch: _hold,
    CertifyOrder: _certify,
    Evidence: _evidence,
    FraudProof: _fraud,
    Advertisement: advertisement,
}

__all__ = ["Batches", "Message", "advertisement", "coherent", "key_of", "plain"]
