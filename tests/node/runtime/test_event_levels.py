"""Levels of events are decided in a worker process, and decided whatever an operator's functions do there."""

from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from node.runtime import workers as workers_module
from node.runtime.event_levels import event_levels
from node.runtime.fair_share import WorkersBusyError
from node.runtime.workers import Workers
from protocols.canonical import canonical_json
from protocols.errors import InvalidPolicyError
from protocols.identifiers import record_line
from tests.node import work_calls
from tests.node.operator_packages import MISBEHAVING, install, levels_policy


@pytest.fixture
def policy(site: Path) -> bytes:
    """Events are ``critical`` where the function says so, and ``basic`` where they are ``plain``."""
    return levels_policy(install(site, "misbehaving", MISBEHAVING))


def lines(*values: str) -> list[bytes]:
    return [
        record_line(data={"v": value}, event_type="t", external_id=str(index), previous=None, timestamp=None)
        for index, value in enumerate(values)
    ]


async def test_each_event_has_the_level_that_it_asks_for(policy: bytes) -> None:
    async with Workers(1) as workers:
        assert await event_levels(workers, policy, lines("no", "yes", "plain", "no")) == [
            None,
            "critical",
            "basic",
            None,
        ]


async def test_a_rule_whose_function_raises_asks_for_its_level(policy: bytes) -> None:
    async with Workers(1) as workers:
        found = await event_levels(workers, policy, lines("no", "key", "exit", "interrupt", "odd", "no"))
    assert found == [None, "critical", "critical", "critical", "critical", None]


@pytest.mark.parametrize("value", ["end", "hang"])
async def test_where_a_worker_ends_or_hangs_all_get_the_strictest_level(policy: bytes, value: str) -> None:
    async with Workers(1, levels_s=2) as workers:
        assert await event_levels(workers, policy, lines("no", value, "plain")) == ["critical"] * 3
        assert await event_levels(workers, policy, lines("no", "yes")) == [None, "critical"]


async def test_a_call_that_hangs_holds_up_no_other_kind_of_work(policy: bytes) -> None:
    async with Workers(1, levels_s=60) as workers, trio.open_nursery() as nursery:
        nursery.start_soon(event_levels, workers, policy, lines("hang"))
        await wait_all_tasks_blocked()
        for run in (workers.admit, workers.read, workers.execute):
            assert await run(partial(work_calls.echo, b"x", 1)) == b"x"
        nursery.cancel_scope.cancel()


async def test_where_a_function_is_missing_all_get_the_strictest_level(policy: bytes) -> None:
    gone = policy.replace(b'"version":"1.0"', b'"version":"1.1"')
    async with Workers(1) as workers:
        assert await event_levels(workers, gone, lines("no", "plain")) == ["critical"] * 2


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"certification": {"level": "critical"}},
        {"functions": [{"name": "acme.gone", "version": "1", "hash": "00"}], "required": ["v"]},
    ],
)
async def test_a_policy_without_level_rules_costs_no_call(document: dict[str, object]) -> None:
    """The workers are not entered: a call would fail."""
    assert await event_levels(Workers(1), canonical_json(document), lines("a", "b")) == [None, None]


async def test_no_events_cost_no_call(policy: bytes) -> None:
    assert await event_levels(Workers(1), policy, []) == []


async def test_a_wrong_policy_is_refused() -> None:
    with pytest.raises(InvalidPolicyError):
        await event_levels(Workers(1), b'{"levels":[]}', lines("a"))


async def test_more_than_may_wait_are_refused(policy: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "LEVELS_WAITING_MAX", 1)
    async with Workers(1, levels_s=60) as workers, trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(event_levels, workers, policy, lines("hang"))
        await wait_all_tasks_blocked()
        with pytest.raises(WorkersBusyError):
            await event_levels(workers, policy, lines("no"))
        nursery.cancel_scope.cancel()
