"""Processor time of the node's processes: each counted by component, none twice, and never less than before."""

import time
from functools import partial

import trio

from node.runtime.processor_time import ProcessorTimes
from node.runtime.workers import Workers
from tests.node import work_calls

BUSY_S = 0.3


async def test_each_component_is_counted_apart_and_once() -> None:
    async with Workers(1) as workers:
        await workers.admit(work_calls.facts)
        await workers.execute(work_calls.facts)
        times = ProcessorTimes()
        assert times.since_last().keys() >= {"node", "front-door", "roles"}
        await workers.execute(partial(work_calls.compute_for, BUSY_S))
        spent, idle = times.since_last(), times.since_last()
    assert BUSY_S * 0.8 <= spent["roles"] <= BUSY_S * 3
    assert spent["front-door"] < BUSY_S / 2
    assert idle["roles"] == 0


async def test_a_process_that_ended_takes_nothing_back() -> None:
    times = ProcessorTimes()
    async with Workers(1) as workers:
        await workers.execute(partial(work_calls.compute_for, BUSY_S))
        assert times.since_last()["roles"] > 0
    assert times.since_last().get("roles", 0) == 0


async def test_the_nodes_own_time_is_its_own() -> None:
    times = ProcessorTimes()
    times.since_last()
    until = time.process_time() + BUSY_S
    while time.process_time() < until:
        await trio.lowlevel.checkpoint()
    assert BUSY_S <= times.since_last()["node"] < BUSY_S * 2
