"""A batch at an agent: which announcements it bids for, which orders it follows, and what it signs."""

import attrs
import pytest

from protocols.coordination.desk import COORDINATORS_MAX, SEEN_MS
from protocols.effects import (
    RunRole,
    SignStatement,
)
from protocols.entities import Findings, Task, TaskStage, task_entity_id
from protocols.load import DESK_ID, Desk, Turn
from protocols.messages import (
    Announcement,
    Award,
    Bid,
    CertifyOrder,
    Level,
    Role,
    Signed,
    WorkOrder,
    WorkPhase,
    WorkRefused,
    WorkResult,
    WorkStatus,
)
from protocols.stimuli import (
    AnnouncementReceived,
    CertifyReceived,
    RoleFinished,
    WorkReceived,
)
from tests.network_of_keys import AGENTS, NETWORK
from tests.protocols.stepping import (
    BATCH,
    CONTEXT_OUT,
    NOW,
    RULES,
    SAID,
    STATEMENT,
    WORK,
    SteppedNode,
    messages,
    sent,
)


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


def agent_world() -> SteppedNode:
    return SteppedNode(attrs.evolve(RULES, self_key=AGENTS[1].identity))


def reported(found: Findings = FOUND) -> SteppedNode:
    node = agent_world()
    effects = node.step(WorkReceived(now_ms=NOW, order=order()))
    assert any(isinstance(effect, RunRole) for effect in effects)
    evidence = tuple(each for each in BATCH.certificate.evidence if each.signer == AGENTS[1].identity)
    finished = RoleFinished(now_ms=NOW + 50, batch_id=SAID.batch_id, findings=found, evidence=evidence)
    assert len(sent(node.step(finished), WorkResult)) == 1
    return node


def certify_order(**changes: object) -> CertifyReceived:
    message = CertifyOrder(network=NETWORK, statement=STATEMENT, evidence=BATCH.certificate.evidence)
    signed = Signed(message=attrs.evolve(message, **changes), signer=AGENTS[0].identity, signature=b"")  # type: ignore[arg-type]
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
    node = reported()
    node.step(certify_order())
    assert node.step(WorkReceived(now_ms=NOW + 200, order=order(context=b'{"other":1}'))) == ()
    task = node.entities[task_entity_id(SAID.batch_id)]
    assert isinstance(task, Task)
    assert task.stage is TaskStage.SIGNING


def test_more_coordinators_than_can_share_an_agent_take_nothing_from_those_that_do() -> None:
    node = agent_world()
    sharing = [bytes((2, *number.to_bytes(32, "big"))) for number in range(COORDINATORS_MAX)]
    desk = Desk(turns=tuple(Turn(coordinator=key, served=0, seen_ms=NOW) for key in sharing))
    node.entities[DESK_ID] = desk
    (status,) = messages(node.step(WorkReceived(now_ms=NOW + 1, order=order())), WorkStatus)
    assert status.phase is WorkPhase.NO_ROOM
    assert node.entities[DESK_ID] == desk
    effects = node.step(WorkReceived(now_ms=NOW + SEEN_MS, order=order()))
    assert any(isinstance(effect, RunRole) for effect in effects)


def test_nobody_orders_work_in_another_s_name() -> None:
    assert agent_world().step(WorkReceived(now_ms=NOW, order=order(coordinator=2))) == ()


def test_an_award_that_is_over_is_refused() -> None:
    effects = agent_world().step(WorkReceived(now_ms=NOW + 10_000_000, order=order()))
    (said,) = messages(effects, WorkStatus)
    assert (said.phase, said.wait_ms) == (WorkPhase.UNABLE, 0), "it is not asked again, and the batch is not to blame"


def test_a_role_awarded_later_is_held_by_the_same_task() -> None:
    """An agent that shadowed a batch and is then called up for it certifies it too."""
    coordinator = AGENTS[0].identity
    agent = SteppedNode(attrs.evolve(RULES, self_key=AGENTS[1].identity))
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


@pytest.mark.parametrize(
    ("rules", "changes", "offered", "reason"),
    [
        ({}, {}, WORK, ""),
        ({"price": 101}, {}, (), "price"),
        ({"roles": (Role.CERTIFY,)}, {}, (Role.CERTIFY,), ""),
        ({"roles": ()}, {}, None, ""),
        ({}, {"closes_ms": NOW - 60_001}, None, ""),
    ],
    ids=["free", "too cheap", "one role of three", "no role", "long over"],
)
def test_an_agent_weighs_an_announcement(
    rules: dict[str, object], changes: dict[str, object], offered: tuple[Role, ...] | None, reason: str
) -> None:
    agent = SteppedNode(attrs.evolve(RULES, capacity=2, **rules))  # type: ignore[arg-type]
    bids = messages(agent.step(announced(**changes)), Bid)
    if offered is None:
        assert bids == []
        return
    (said,) = bids
    assert (said.roles, said.reason, said.capacity) == (offered, reason, 2)
