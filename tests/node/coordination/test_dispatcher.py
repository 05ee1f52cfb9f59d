"""One handler for each type of effect; bounded, in order where order matters, and no world fault ends the node."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio
import trio.lowlevel
import trio.testing

from node.coordination.dispatcher import CATALOGUE, IN_ORDER, TASKS_MAX, Dispatcher, Handlers
from node.runtime.containment import Quarantine
from protocols.effects import DropReplica, Effect, ForgetPayload, Publish, Send, SetAlarm
from protocols.errors import WorldFault
from storage import replicas
from storage.database import Database
from storage.errors import SchemaError, StatementError
from tests.node.certified_batches import AGENT, MANIFEST
from tests.node.running import until


async def ignore(effect: Effect) -> None:
    """Carry nothing out."""


def handlers(**named: Callable[[Any], Awaitable[None]]) -> Handlers:
    return {effect: named.get(effect.__name__, ignore) for effect in CATALOGUE}


def sends(count: int) -> list[Send]:
    return [Send(to=AGENT.identity, message=MANIFEST, payload_of=str(number)) for number in range(count)]


def test_every_effect_that_leaves_the_driver_is_in_the_catalogue() -> None:
    assert SetAlarm not in CATALOGUE
    assert IN_ORDER <= CATALOGUE
    names = [effect.__name__ for effect in CATALOGUE]
    assert len(set(names)) == len(names), "attrs leaves the classes behind that it replaced"
    assert set(names) == {effect.__name__ for effect in Effect.__subclasses__()} - {"SetAlarm"}


@pytest.mark.parametrize("effect", sorted(CATALOGUE, key=str))
def test_a_type_without_handler_is_refused(effect: type[Effect]) -> None:
    table = dict(handlers())
    del table[effect]
    with pytest.raises(AssertionError, match=f"no handler for {effect.__name__}"):
        Dispatcher(table)


def test_a_type_with_two_handlers_is_refused() -> None:
    with pytest.raises(AssertionError, match="more than one handler"):
        Dispatcher(handlers(), {Send: ignore})


def test_a_handler_that_nothing_would_reach_is_refused() -> None:
    with pytest.raises(AssertionError, match="SetAlarm"):
        Dispatcher(handlers(), {SetAlarm: ignore})


async def test_tables_of_several_parts_make_one(nursery: trio.Nursery) -> None:
    done: list[Effect] = []

    async def note(effect: Effect) -> None:
        done.append(effect)

    rest = {effect: handler for effect, handler in handlers().items() if effect is not DropReplica}
    dispatcher = Dispatcher(rest, {DropReplica: note})
    nursery.start_soon(dispatcher.run)
    effect = DropReplica(batch_id="b")
    await dispatcher.dispatch([effect, ForgetPayload(batch_id="b")])
    await until(lambda: done == [effect])
    nursery.cancel_scope.cancel()


async def test_messages_keep_the_order_of_the_commits() -> None:
    left: list[Effect] = []

    async def leave(effect: Effect) -> None:
        await trio.lowlevel.checkpoint()
        left.append(effect)

    dispatcher = Dispatcher(handlers(Send=leave, Publish=leave))
    effects: list[Effect] = [*sends(3), Publish(message=MANIFEST), *sends(2)]
    await dispatcher.dispatch(effects)
    assert left == effects, "they were handed over before the driver went on, with nobody else running"


class Gate:
    """A handler that holds effects up until it opens."""

    def __init__(self) -> None:
        self.open = trio.Event()
        self.running = 0
        self.most = 0

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self.running += 1
        self.most = max(self.most, self.running)
        yield
        self.running -= 1

    async def __call__(self, effect: Effect) -> None:
        with self._counted():
            await self.open.wait()


async def test_effects_under_way_are_bounded_and_the_driver_waits(nursery: trio.Nursery) -> None:
    gate = Gate()
    dispatcher = Dispatcher(handlers(DropReplica=gate))
    nursery.start_soon(dispatcher.run)
    handed = 0

    async def drive() -> None:
        nonlocal handed
        for _ in range(3 * TASKS_MAX):
            await dispatcher.dispatch([DropReplica(batch_id="b")])
            handed += 1

    nursery.start_soon(drive)
    await trio.testing.wait_all_tasks_blocked()
    assert gate.running == TASKS_MAX
    assert handed <= 2 * TASKS_MAX + 1, "running, queued, and the one that waits for a place"
    await dispatcher.dispatch(sends(1))  # messages do not wait for them
    gate.open.set()
    await until(lambda: handed == 3 * TASKS_MAX and gate.running == 0)
    assert gate.most == TASKS_MAX
    nursery.cancel_scope.cancel()


async def test_a_world_fault_stays_with_its_effect(nursery: trio.Nursery) -> None:
    done: list[str] = []

    async def drop(effect: DropReplica) -> None:
        if effect.batch_id == "bad":
            raise WorldFault("the database is away")
        done.append(effect.batch_id)

    dispatcher = Dispatcher(handlers(DropReplica=drop))
    nursery.start_soon(dispatcher.run)
    await dispatcher.dispatch([DropReplica(batch_id=name) for name in ("a", *["bad"] * 2 * TASKS_MAX, "b")])
    await until(lambda: sorted(done) == ["a", "b"])
    nursery.cancel_scope.cancel()


async def test_a_value_that_the_database_cannot_hold_stays_with_its_effect(
    nursery: trio.Nursery, postgres_url: str
) -> None:
    done: list[str] = []
    quarantine = Quarantine()
    with Database(postgres_url) as database:

        async def drop(effect: DropReplica) -> None:
            await database.run(lambda connection: replicas.drop(connection, [effect.batch_id]))
            done.append(effect.batch_id)

        dispatcher = Dispatcher(handlers(DropReplica=drop), quarantine=quarantine)
        nursery.start_soon(dispatcher.run)
        await dispatcher.dispatch([DropReplica(batch_id=name) for name in ("a", "\0", "\ud800", "b")])
        await until(lambda: sorted(done) == ["a", "b"] and quarantine.counts["effect"] == 2)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("fault", [KeyError("a bug"), StatementError("a bug of ours"), SchemaError("no table")])
async def test_a_fault_of_this_program_is_not_hidden(fault: Exception) -> None:
    async def drop(effect: DropReplica) -> None:
        raise fault

    dispatcher = Dispatcher(handlers(DropReplica=drop))
    await dispatcher.dispatch([DropReplica(batch_id="b")])
    with trio.fail_after(5), pytest.RaisesGroup(type(fault)):
        await dispatcher.run()
