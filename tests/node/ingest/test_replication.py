"""Requests wait until their batches are held by peers, or have their end, or too long."""

from collections.abc import Mapping

import trio
import trio.testing

from node.ingest.replication import Replications
from protocols.messages import IdentityKey
from tests.node.running import AGENT, NODE

HOLDERS = (AGENT.identity, NODE.identity)
LONG_S = 3_600.0


async def test_a_batch_that_is_not_expected_is_not_waited_for() -> None:
    replications = Replications()
    assert not replications.waits("a")
    assert await replications.wait(["a"], 0) == {}
    replications.held("a", HOLDERS)
    assert not replications.waits("a")


async def test_an_answer_waits_for_all_of_its_batches(autojump_clock: trio.testing.MockClock) -> None:
    replications = Replications()
    for batch_id in ("a", "b"):
        replications.expect(batch_id)
    found: list[Mapping[str, tuple[IdentityKey, ...]] | None] = []

    async def wait() -> None:
        found.append(await replications.wait(["a", "b", "unknown"], LONG_S))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        replications.held("b", HOLDERS[:1])
        await trio.testing.wait_all_tasks_blocked()
        assert found == []
        replications.held("a", HOLDERS)
    assert found == [{"a": HOLDERS, "b": HOLDERS[:1]}]


async def test_several_requests_can_wait_for_one_batch(autojump_clock: trio.testing.MockClock) -> None:
    replications = Replications()
    replications.expect("a")
    found: list[Mapping[str, tuple[IdentityKey, ...]] | None] = []

    async def wait() -> None:
        found.append(await replications.wait(["a"], LONG_S))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        replications.expect("a")  # a repeat of the request: those that wait go on waiting for the same
        replications.held("a", HOLDERS)
    assert found == [{"a": HOLDERS}] * 3


async def test_after_its_time_a_request_is_told_that_nothing_is_known(autojump_clock: trio.testing.MockClock) -> None:
    replications = Replications()
    replications.expect("a")
    started_s = trio.current_time()
    assert await replications.wait(["a"], 10.0) is None
    assert trio.current_time() - started_s == 10.0
    assert replications.waits("a"), "the batch itself still waits for holders"


async def test_the_end_of_a_batch_answers_whoever_waits_for_its_holders(
    autojump_clock: trio.testing.MockClock,
) -> None:
    replications = Replications()
    replications.expect("a")

    async def end() -> None:
        await trio.sleep(5)
        replications.held("a", ())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end)
        assert await replications.wait(["a"], LONG_S) == {"a": ()}
    assert not replications.waits("a")
