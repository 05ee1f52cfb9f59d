"""A batch at an agent: which announcements it bids for, which orders it follows, and what it signs."""

import attrs
import pytest

from protocols.effects import (
    RunRole,
    Send,
    SignStatement,
)
from protocols.entities import Entity, EntityId, Findings, Task, TaskStage, task_entity_id
from protocols.messages import (
    Announcement,
    Award,
    Bid,
    CertifyOrder,
    Level,
    Role,
    Signed,
    WorkOrder,
    WorkRefused,
    WorkResult,
)
from protocols.stimuli import (
    AnnouncementReceived,
    CertifyReceived,
    RoleFinished,
    WorkReceived,
)
from tests.network_of_keys import AGENTS, NETWORK
from tests.protocols.stepping import BATCH, CONTEXT_OUT, NOW, RULES, SAID, SELF, STATEMENT, WORK, SteppedNode, sent


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


def test_nobody_orders_work_in_another_s_name() -> None:
    assert agent_world().step(WorkReceived(now_ms=NOW, order=order(coordinator=2))) == ()


def test_an_award_that_is_over_is_refused() -> None:
    effects = agent_world().step(WorkReceived(now_ms=NOW + 10_000_000, order=order()))
    assert len(sent(effects, WorkRefused)) == 1


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


def busy(batches: int) -> dict[EntityId, Entity]:
    """Tasks of another coordinator under way."""
    award = Award(
        network=NETWORK,
        lease_id="lease_x",
        announcement_id="job_x",
        agent=SELF,
        roles=WORK,
        batches=10,
        expires_ms=NOW + 60_000,
    )
    found: dict[EntityId, Entity] = {}
    for number in range(batches):
        taken_in = attrs.evolve(BATCH.manifest, message=attrs.evolve(SAID, source_sequence=number + 10))
        said = WorkOrder(network=NETWORK, award=award, manifest=taken_in, context=b"{}", attempt=0)
        order = Signed(message=said, signer=AGENTS[4].identity, signature=b"")
        task = Task(order=order, roles=WORK, stage=TaskStage.RUNNING, expires_ms=NOW + 1)
        found[task.entity_id] = task
    return found


@pytest.mark.parametrize(
    ("rules", "tasks", "changes", "offered", "reason", "free"),
    [
        ({}, 0, {}, WORK, "", 2),
        ({}, 1, {}, WORK, "", 1),
        ({}, 2, {}, (), "capacity", 0),
        ({"price": 101}, 0, {}, (), "price", 2),
        ({"roles": (Role.CERTIFY,)}, 0, {}, (Role.CERTIFY,), "", 2),
        ({"roles": ()}, 0, {}, None, "", 0),
        ({}, 0, {"closes_ms": NOW - 60_001}, None, "", 0),
    ],
    ids=["free", "some room left", "full", "too cheap", "one role of three", "no role", "long over"],
)
def test_an_agent_weighs_an_announcement(
    rules: dict[str, object],
    tasks: int,
    changes: dict[str, object],
    offered: tuple[Role, ...] | None,
    reason: str,
    free: int,
) -> None:
    agent = SteppedNode(attrs.evolve(RULES, capacity=2, **rules))  # type: ignore[arg-type]
    agent.entities = busy(tasks)
    bids = [effect.message for effect in agent.step(announced(**changes)) if isinstance(effect, Send)]
    if offered is None:
        assert bids == []
        return
    (said,) = bids
    assert isinstance(said, Bid)
    assert (said.roles, said.reason, said.capacity) == (offered, reason, free)
