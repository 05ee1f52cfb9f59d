"""Batches without an end are resumed: after a restart, and where the driver lost their stimulus."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import attrs
import pytest
import trio

from node.coordination.batch_store import BatchStore
from node.coordination.driver import Driver
from node.ingest.recovery import Recovery
from node.ingest.replication import Replications
from node.runtime.clock import clock_ms
from protocols.effects import Effect, Transition
from protocols.entities import Batch, Entity, EntityId, batch_entity_id
from protocols.rules import Rules
from protocols.stimuli import BatchCommitted
from storage import batches
from tests.node.running import NETWORK, NODE, Running, coalescing, running, until

EVENTS = 3
CHECK_S = 0.05


class Memory:
    """A journal that keeps nothing: what a restart finds is what the database has."""

    async def load(self) -> Sequence[Entity]:
        return ()

    async def commit(self, changed: Sequence[Entity], removed: Sequence[EntityId]) -> None:
        await trio.lowlevel.checkpoint()

    def note(self, transition: Transition, rules: Rules) -> None:
        pass


async def act_not(effects: Sequence[Effect]) -> None:
    """Effects are not what these tests are about."""


@attrs.frozen(kw_only=True)
class Restarted:
    """A node as it was left, with a driver that knows nothing yet."""

    node: Running
    driver: Driver
    replications: Replications
    recovery: Recovery

    def known(self) -> set[str]:
        """Batches that the driver has."""
        return {entity.batch_id for entity in self.driver.entities() if isinstance(entity, Batch)}

    async def post(self, first: int) -> str:
        events = [{"externalId": f"e{first + number}", "eventType": "t", "data": 1} for number in range(EVENTS)]
        assert (await self.node.post(*events)).status_code == 202
        return self.node.recorder.told[-1].manifest.message.batch_id

    def forget_counts(self) -> None:
        self.node.forget_unsettled()


@asynccontextmanager
async def restarted(postgres_url: str) -> AsyncIterator[Restarted]:
    async with running(postgres_url) as node:
        await node.source()
        driver = Driver(Rules(network=NETWORK, self_key=NODE.identity), Memory())
        replications = Replications()
        recovery = Recovery(
            network=NETWORK,
            batches=BatchStore(node.database),
            driver=driver,
            ingest=node.ingest,
            coalescer=coalescing(node.database, driver.submit),
            replications=replications,
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(driver.run, act_not)
            yield Restarted(node=node, driver=driver, replications=replications, recovery=recovery)
            nursery.cancel_scope.cancel()


async def test_what_an_earlier_run_left_unfinished_is_counted_and_resumed(postgres_url: str) -> None:
    async with restarted(postgres_url) as found:
        left = {await found.post(0), await found.post(10)}
        found.forget_counts()
        await found.recovery.resume_unfinished()
        await until(lambda: found.known() == left)
        assert found.node.ingest.admission.backlog.unsettled == 2 * EVENTS


async def test_what_has_its_end_is_not_resumed(postgres_url: str) -> None:
    async with restarted(postgres_url) as found:
        await found.post(0)
        await found.node.seal(found.node.recorder.told[-1].manifest)
        dead = await found.post(10)
        await found.node.database.run(partial(batches.mark_dead, batch_id=dead, reasons=["no quorum"]))
        left = await found.post(20)
        found.forget_counts()
        await found.recovery.resume_unfinished()
        await until(lambda: found.known() == {left})
        assert found.node.ingest.admission.backlog.unsettled == EVENTS


async def test_a_batch_that_the_driver_has_is_counted_and_not_submitted_again(postgres_url: str) -> None:
    async with restarted(postgres_url) as found:
        batch_id = await found.post(0)
        told = found.node.recorder.told[-1]
        await found.driver.submit(BatchCommitted(now_ms=clock_ms(), manifest=told.manifest, stateful=False))
        await until(lambda: found.known() == {batch_id})
        before = found.driver.find(batch_entity_id(batch_id))
        found.forget_counts()
        await found.recovery.resume_unfinished()
        assert found.driver.depth == 0
        assert found.driver.find(batch_entity_id(batch_id)) is before
        assert found.node.ingest.admission.backlog.unsettled == EVENTS


async def test_a_batch_that_waits_for_holders_is_expected_again(postgres_url: str) -> None:
    async with restarted(postgres_url) as found:
        batch_id, other = await found.post(0), await found.post(10)
        query = "UPDATE batches SET holders = ARRAY['\\x02'::bytea] WHERE batch_id = %s"
        await found.node.database.run(lambda connection: connection.execute(query, (batch_id,)).rowcount)
        await found.recovery.resume_unfinished()
        assert found.replications.waits(batch_id)
        assert not found.replications.waits(other)


async def test_a_lost_stimulus_is_made_up_for_while_the_node_runs(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.ingest.recovery.CHECK_S", CHECK_S)
    async with restarted(postgres_url) as found, trio.open_nursery() as nursery:
        nursery.start_soon(found.recovery.run)
        lost = await found.post(0)
        await until(lambda: found.known() == {lost})
        assert found.node.ingest.admission.backlog.unsettled == EVENTS, "it was counted when it was taken in"
        nursery.cancel_scope.cancel()


async def test_events_of_a_commit_whose_outcome_was_unknown_are_counted_once(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails where they are counted by number: refused with their request and certified later, they left twice."""
    monkeypatch.setattr("node.ingest.recovery.CHECK_S", CHECK_S)
    async with restarted(postgres_url) as found, trio.open_nursery() as nursery:
        admission = found.node.ingest.admission
        admission.backlog.enter("waiting", 100)
        refused = await found.post(0)
        admission.backlog.leave(refused)  # as if its request was refused, its batch committed all the same
        assert admission.backlog.unsettled == 100
        nursery.start_soon(found.recovery.run)
        await until(lambda: refused in admission.backlog.batches)
        await until(lambda: "waiting" not in admission.backlog.batches)
        assert admission.backlog.unsettled == EVENTS, "what is pending in the database, and nothing else"
        nursery.cancel_scope.cancel()


async def test_an_end_that_was_not_reported_is_counted_out(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.ingest.recovery.CHECK_S", CHECK_S)
    async with restarted(postgres_url) as found, trio.open_nursery() as nursery:
        await found.post(0)
        sealed = found.node.recorder.told[-1].manifest
        dead, left = await found.post(10), await found.post(20)
        await found.node.seal(sealed)
        await found.node.database.run(partial(batches.mark_dead, batch_id=dead, reasons=["no quorum"]))
        assert found.node.ingest.admission.backlog.unsettled == 3 * EVENTS
        nursery.start_soon(found.recovery.run)
        await until(lambda: set(found.node.ingest.admission.backlog.batches) == {left})
        assert found.node.ingest.admission.backlog.unsettled == EVENTS
        nursery.cancel_scope.cancel()
