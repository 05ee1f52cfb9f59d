"""Commit, then act; and nothing acted when the commit failed."""

from collections.abc import Sequence

import pytest
import trio

from node.coordination.driver import Driver
from node.runtime.clock import clock_ms
from protocols.effects import Effect, Publish, Send, Transition
from protocols.entities import Entity, EntityId, batch_entity_id, chain_entity_id
from protocols.levels import LEVELS
from protocols.messages import Bid, Level, Role, Signed
from protocols.rules import Rules
from protocols.stimuli import BatchCommitted, BidReceived
from tests.network_of_keys import AGENTS, NETWORK, certified

RULES = Rules(network=NETWORK, self_key=AGENTS[0].identity, bid_window_ms=20)


class DiskError(Exception):
    """The disk said no."""


class Disk:
    """A journal that remembers, and fails when told to."""

    def __init__(self) -> None:
        self.stored: dict[EntityId, Entity] = {}
        self.commits = 0
        self.broken = False

    async def load(self) -> Sequence[Entity]:
        return tuple(self.stored.values())

    async def commit(self, changed: Sequence[Entity], removed: Sequence[EntityId]) -> None:
        await trio.lowlevel.checkpoint()
        if self.broken:
            raise DiskError
        self.commits += 1
        self.stored.update({entity.entity_id: entity for entity in changed})
        for entity_id in removed:
            self.stored.pop(entity_id, None)

    def note(self, transition: Transition, rules: Rules) -> None:
        pass


class Acted:
    def __init__(self, disk: Disk) -> None:
        self.effects: list[Effect] = []
        self.commits_before: list[int] = []
        self._disk = disk

    async def __call__(self, effects: Sequence[Effect]) -> None:
        self.effects += effects
        self.commits_before += [self._disk.commits] * len(effects)


def batch_committed(*, stateful: bool) -> BatchCommitted:
    return BatchCommitted(now_ms=clock_ms(), manifest=certified().manifest, stateful=stateful)


async def until(condition: object) -> None:
    with trio.fail_after(5):
        while not condition():  # type: ignore[operator]
            await trio.sleep(0.005)


async def test_effects_come_after_the_commit_that_caused_them(nursery: trio.Nursery) -> None:
    disk = Disk()
    acted = Acted(disk)
    driver = Driver(RULES, disk)
    await nursery.start(driver.run, acted)
    await driver.submit(batch_committed(stateful=True))
    await until(lambda: acted.effects)
    assert isinstance(acted.effects[0], Publish)
    assert acted.commits_before[0] == 1  # the chain of the source is on disk
    nursery.cancel_scope.cancel()


async def test_what_comes_back_by_itself_is_not_written(nursery: trio.Nursery) -> None:
    disk = Disk()
    acted = Acted(disk)
    driver = Driver(RULES, disk)
    await nursery.start(driver.run, acted)
    await driver.submit(batch_committed(stateful=False))
    await until(lambda: acted.effects)
    assert disk.commits == 0
    assert driver.find(batch_entity_id(certified().manifest.message.batch_id)) is not None
    nursery.cancel_scope.cancel()


async def test_a_failed_commit_lets_nothing_out() -> None:
    disk = Disk()
    acted = Acted(disk)
    driver = Driver(RULES, disk)
    disk.broken = True
    await driver.submit(batch_committed(stateful=True))
    with trio.fail_after(5), pytest.raises(DiskError):
        await driver.run(acted)
    assert acted.effects == []


async def test_an_alarm_rings_and_the_lease_is_awarded(nursery: trio.Nursery) -> None:
    """A window closes on time although nothing else happens."""
    disk = Disk()
    acted = Acted(disk)
    driver = Driver(RULES, disk)
    await nursery.start(driver.run, acted)
    await driver.submit(batch_committed(stateful=False))
    await until(lambda: acted.effects)
    announcement = acted.effects[0]
    assert isinstance(announcement, Publish)
    for agent in AGENTS[:3]:
        bid = Bid(
            network=NETWORK,
            announcement_id=announcement.message.key_id,
            roles=(Role.NORMALIZE, Role.VALIDATE, Role.CERTIFY),
            capacity=9,
            price=0,
            operator="",
            region="",
            reason="",
        )
        signed = Signed(message=bid, signer=agent.identity, signature=b"checked by the caller")
        await driver.submit(BidReceived(now_ms=clock_ms(), bid=signed))
    await until(lambda: len(acted.effects) > 3)
    sent = [type(effect.message).__name__ for effect in acted.effects if isinstance(effect, Send)]
    assert sent.count("Award") == LEVELS[Level.ENHANCED].executors
    assert sent.count("WorkOrder") == LEVELS[Level.ENHANCED].executors
    nursery.cancel_scope.cancel()


async def test_a_restart_goes_on_from_the_disk() -> None:
    disk = Disk()
    async with trio.open_nursery() as nursery:
        first = Driver(RULES, disk)
        await nursery.start(first.run, Acted(disk))
        await first.submit(batch_committed(stateful=True))
        await until(lambda: disk.stored)
        nursery.cancel_scope.cancel()
    acted = Acted(disk)
    async with trio.open_nursery() as nursery:
        second = Driver(RULES, disk)
        await nursery.start(second.run, acted)
        assert second.find(chain_entity_id(certified().manifest.message.source_id)) is not None
        await second.submit(batch_committed(stateful=True))  # recovery tells it again
        await until(lambda: acted.effects)
        nursery.cancel_scope.cancel()


async def test_the_same_driver_goes_on_when_the_disk_is_back() -> None:
    disk = Disk()
    acted = Acted(disk)
    driver = Driver(RULES, disk)
    disk.broken = True
    await driver.submit(batch_committed(stateful=True))
    with trio.fail_after(5), pytest.raises(DiskError):
        await driver.run(acted)
    assert list(driver.entities()) == []
    disk.broken = False
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run, acted)
        await driver.submit(batch_committed(stateful=True))  # the node tells forgotten batches again
        await until(lambda: acted.effects)
        assert disk.commits == 1
        nursery.cancel_scope.cancel()
