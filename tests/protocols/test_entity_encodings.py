"""The stored form of every entity, byte for byte: a database written by an earlier version stays readable."""

import hashlib

import attrs
import pytest

from protocols import codec, envelope
from protocols.entities import (
    ENTITIES,
    Auction,
    Ballot,
    Batch,
    Chain,
    Entity,
    Findings,
    Grant,
    HeldAward,
    Lease,
    Pace,
    ReceivedBid,
    Replica,
    ReplicaStage,
    Replication,
    Reserve,
    Stage,
    Task,
    TaskStage,
)
from protocols.load import Ask, AskState
from protocols.messages import (
    Award,
    BatchSealed,
    Bid,
    CertifyOrder,
    Claim,
    HoldBatch,
    Level,
    Role,
    WorkOrder,
)
from protocols.roles import WORK_ROLES
from tests.network_of_keys import AGENTS, NETWORK, certified

BATCH = certified()
CERTIFICATE = BATCH.certificate
KEYS = tuple(agent.identity for agent in AGENTS)
AWARD = Award(
    network=NETWORK,
    lease_id="lease_1",
    announcement_id="job_enhanced_2_1",
    agent=KEYS[1],
    roles=WORK_ROLES,
    batches=9,
    expires_ms=1_700_000_060_000,
)
HOLD = envelope.sign(
    AGENTS[0],
    HoldBatch(
        network=NETWORK, manifest=BATCH.manifest, holders=KEYS[1:3], stateful=True, after="batch_0", context=b"{}"
    ),
)
CLAIM = Claim(hold=HOLD, before=CERTIFICATE)
ORDER = envelope.sign(
    AGENTS[0],
    WorkOrder(network=NETWORK, award=AWARD, manifest=BATCH.manifest, context=b"{}", attempt=2, claim=CLAIM),
)
BID = envelope.sign(
    AGENTS[1],
    Bid(
        network=NETWORK,
        announcement_id="job_enhanced_2_1",
        roles=WORK_ROLES,
        capacity=4,
        price=7,
        operator="operator",
        region="eu",
        reason="",
    ),
)
CERTIFY = envelope.sign(
    AGENTS[0], CertifyOrder(network=NETWORK, statement=CERTIFICATE.statement, evidence=CERTIFICATE.evidence)
)
SEALED = BatchSealed(network=NETWORK, certificate=CERTIFICATE, context=b'{"a":1}')
BALLOTS = tuple(
    Ballot(
        role=role,
        executors=KEYS[:3],
        quorum=2,
        votes=tuple(vote for vote in CERTIFICATE.evidence if vote.message.role is role),
        equivocators=KEYS[2:3],
        agreed=CERTIFICATE.statement.digest,
    )
    for role in (Role.NORMALIZE, Role.VALIDATE)
)
FULL: dict[str, Entity] = {
    "lease": Lease(
        level=Level.CRITICAL,
        quorum=3,
        round=2,
        auction=Auction(
            announcement_id="job_critical_3_1",
            closes_ms=1_700_000_000_300,
            bids=(ReceivedBid(bid=BID, latency_ms=12, reputations=((Role.CERTIFY, 70),), topics=("t",)),),
        ),
        grant=Grant(
            lease_id="lease_1",
            awards=(AWARD,),
            expires_ms=1_700_000_060_000,
            batches_left=8,
            operators=("operator",),
            reserves=(Reserve(agent=KEYS[3], roles=WORK_ROLES, operator="another"),),
            shadows=(attrs.evolve(AWARD, agent=KEYS[4]),),
        ),
        pace=Pace(mean_us=1_500, deviation_us=300),
        waiting=("batch:batch_1",),
        failures=1,
    ),
    "batch": Batch(
        manifest=BATCH.manifest,
        stage=Stage.SEALED,
        stateful=True,
        holders=KEYS[1:3],
        subscribers=KEYS[3:],
        claim=CLAIM,
        certificate=CERTIFICATE,
        learned=True,
        recovered=True,
        without_news=KEYS[1:2],
        agreed=True,
        context=b'{"a":0}',
        context_out=b'{"a":1}',
        attempt=3,
        resends=4,
        asked_ms=5,
        patience_ends_ms=6,
        attempt_ends_ms=7,
        alarm_ms=8,
        lease_id="lease_1",
        awards=(AWARD,),
        shadows=(attrs.evolve(AWARD, agent=KEYS[4]),),
        ballots=BALLOTS,
        shadow_votes=CERTIFICATE.evidence[:1],
        contexts=((KEYS[1], b'{"a":1}'),),
        refusals=((KEYS[2], "busy"),),
        reasons=("attempt 1: late",),
        statement=CERTIFICATE.statement,
        certifications=CERTIFICATE.certifications,
        sealed_ms=9,
        confirmed=((KEYS[1], 10),),
    ),
    "chain": Chain(source_id="source", context=b'{"a":1}', running="batch_1", queue=("batch_2", "batch_3")),
    "held award": HeldAward(coordinator=KEYS[0], award=AWARD),
    "task": Task(
        order=ORDER,
        roles=WORK_ROLES,
        stage=TaskStage.CERTIFIED,
        expires_ms=11,
        findings=Findings(
            input_root=CERTIFICATE.statement.input_root,
            normalized_root=CERTIFICATE.statement.normalized_root,
            output_root=CERTIFICATE.statement.output_root,
            context_out=b'{"a":1}',
            events=5,
            valid=4,
            invalid=1,
        ),
        evidence=CERTIFICATE.evidence,
        pending=CERTIFY,
        certification=CERTIFICATE.certifications[0],
        sealed=True,
    ),
    "replica": Replica(
        hold=HOLD, stage=ReplicaStage.ADOPTED, alarm_ms=12, before=CERTIFICATE, context=b'{"a":1}', sealed=SEALED
    ),
    "replication": Replication(order=HOLD.message, alarm_ms=13, resends=14, held=KEYS[1:2]),
    "batch in flight": Batch(
        manifest=BATCH.manifest,
        stage=Stage.PROCESSING,
        stateful=False,
        payload_bytes=1,
        dispatched_ms=2,
        asks=(
            Ask(agent=KEYS[1], state=AskState.RUNNING, asked_ms=3, since_ms=4, began_ms=5),
            Ask(agent=KEYS[2], state=AskState.GONE, asked_ms=6, since_ms=7, reason="silent"),
        ),
        postponed=8,
    ),
    "eager lease": Lease(level=Level.BASIC, quorum=1, is_eager=True),
}
EMPTY: dict[str, Entity] = {
    "new lease": Lease(level=Level.BASIC, quorum=1),
    "new batch": Batch(manifest=BATCH.manifest, stage=Stage.CHAINED, stateful=False),
    "new chain": Chain(source_id="source"),
    "new task": Task(order=ORDER, roles=(Role.CERTIFY,), stage=TaskStage.RUNNING, expires_ms=0),
}
GOLDEN = {
    "lease": "e861829372970bec695bbcb83fb987c7",
    "batch": "12e2ca19f69564c48e3cd8c8750db3ee",
    "chain": "dd13c1a6fadca1f618c1fed6709a8c03",
    "held award": "59b6e57be3cbe3f572fbd4193fffdb12",
    "task": "e10d08eb34c881b8d5821face7dc62f7",
    "replica": "3a96def59554d49d892e9ec03f2ccc74",
    "replication": "b64036bf57d6176108575ea40526a0fe",
    "batch in flight": "7f7a5bffacb0279d535059ed3f2ea9b7",
    "eager lease": "a2c6301ed66e15c0881542ccc9c683c7",
    "new lease": "a06049ce6e3f7a20919a24648cc77983",
    "new batch": "792a8a1a400c012a2f2291105e6acc25",
    "new chain": "2d0240d7e57113633fb30155b4d10a01",
    "new task": "7b403d718f4a81650653375dde8ca9fe",
}


@pytest.mark.parametrize("name", [*FULL, *EMPTY])
def test_the_stored_form_of_an_entity_does_not_change(name: str) -> None:
    entity = (FULL | EMPTY)[name]
    stored = codec.encode(entity)
    assert hashlib.sha256(stored).hexdigest()[:32] == GOLDEN[name]
    assert codec.decode_tagged(ENTITIES, stored) == entity


def test_every_kind_of_entity_has_a_golden_form() -> None:
    assert {type(entity) for entity in FULL.values()} == set(ENTITIES)


def test_every_field_of_the_golden_batch_is_set() -> None:
    """A field at its default would hide a change of order among such fields."""
    default = EMPTY["new batch"]
    unset = [
        field.name
        for field in attrs.fields(Batch)
        if field.name not in {"manifest"}
        and all(
            getattr(FULL[name], field.name) == getattr(default, field.name) for name in ("batch", "batch in flight")
        )
    ]
    assert unset == []
