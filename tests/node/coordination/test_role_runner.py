"""What a node does with what its workers found, apart from any network."""

from collections.abc import Callable
from typing import Any, TypeVar

import attrs
import pytest
import trio

from node.coordination.payloads import Payloads
from node.coordination.result_cache import ResultCache
from node.coordination.role_runner import RoleRunner
from node.runtime.caches import BytesCache
from node.worker.compute import Run
from protocols.effects import RunRole
from protocols.envelope import sign
from protocols.messages import Award, Role, WorkOrder
from protocols.stimuli import RoleFailed, RoleFinished, Stimulus
from tests.node.running import AGENT, FOUND, MANIFEST, NETWORK, NODE

T = TypeVar("T")


class Workers:
    def __init__(self, run: Run) -> None:
        self.result = run
        self.calls = 0

    async def execute(self, call: Callable[[], T]) -> Any:
        await trio.lowlevel.checkpoint()
        self.calls += 1
        return self.result


class Library:
    async def policy(self, policy_hash: bytes, holder: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        return b"{}"


def order() -> RunRole:
    award = Award(
        network=NETWORK,
        lease_id="lease",
        announcement_id="job",
        agent=AGENT.identity,
        roles=(Role.NORMALIZE, Role.VALIDATE),
        batches=1,
        expires_ms=1,
    )
    work = WorkOrder(network=NETWORK, award=award, manifest=sign(NODE, MANIFEST), context=b"{}", attempt=1)
    return RunRole(order=sign(NODE, work), roles=(Role.NORMALIZE, Role.VALIDATE))


async def absent(batch_id: str) -> None:
    """No database holds the payload."""


async def carry_out(workers: Workers, *effects: RunRole) -> list[Stimulus]:
    posted: list[Stimulus] = []
    payloads = Payloads(own=BytesCache(1_000), find=absent, strike=lambda peer, reason: None)
    payloads.receive(MANIFEST.batch_id, NODE.identity, b"payload")
    runner = RoleRunner(
        network=NETWORK,
        build="test",
        signer=AGENT,
        workers=workers,  # type: ignore[arg-type]
        payloads=payloads,
        policies=Library(),
        cache=ResultCache(100_000),
        enqueue=posted.append,
    )
    for effect in effects:
        await runner.handlers[RunRole](effect)
    return posted


@pytest.mark.parametrize(("level", "does"), [(0, True), (2, True), (3, False)])
async def test_a_batch_below_the_level_that_its_policy_wants_is_refused(level: int, does: bool) -> None:
    run = Run(findings=FOUND, leaves=b"", normalized=b"", outputs=b"", issues_by_rule=(), cpu_us=1, level=level)
    (told,) = await carry_out(Workers(run), order())
    if does:
        assert isinstance(told, RoleFinished)
        assert len(told.evidence) == 2
    else:
        assert isinstance(told, RoleFailed)
        assert told.reason == "the policy asks for level critical for an event of this batch"


async def test_the_same_work_is_not_done_twice() -> None:
    run = Run(findings=FOUND, leaves=b"", normalized=b"", outputs=b"", issues_by_rule=(), cpu_us=1)
    workers = Workers(run)
    first, second = await carry_out(workers, order(), order())
    assert workers.calls == 1
    assert isinstance(first, RoleFinished)
    assert isinstance(second, RoleFinished)
    assert first.findings == second.findings
    assert attrs.evolve(first.evidence[0].message, processing_us=0, finished_ms=0) == attrs.evolve(
        second.evidence[0].message, processing_us=0, finished_ms=0
    )
