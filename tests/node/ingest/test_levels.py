"""Levels by rule: evaluated before the commit, in a worker; shown in answers as those of the events' batches."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio

from node.ingest.terms import IngestPolicy
from node.runtime.fair_share import OWN_ACCOUNT, Account, WorkersBusyError
from node.runtime.workers import WorkerCrashedError, Workers, WorkerTimeoutError
from protocols.canonical import parse_json
from protocols.levels import LEVELS
from protocols.messages import Level
from tests.node.operator_packages import MISBEHAVING, install, levels_policy
from tests.node.running import Running, ThreadWorkers, running

T = TypeVar("T")

BASIC = {"processingOptions": {"consensusLevel": "basic"}}
POLICY = {"certification": {"levels": [{"when": "data.value > 100", "level": "critical"}]}}
UNREACHABLE = IngestPolicy(level_floor=None, threshold=0)
"""With the operators of ``running`` the level ``critical`` cannot be reached, the others can."""


def reading(number: int, value: int) -> dict[str, Any]:
    return {"externalId": f"e{number}", "eventType": "t", "data": {"value": value}}


async def source(node: Running, policy: Any, name: str = "s1") -> str:
    made = await node.client.post("/overlay/policies", json=policy)
    assert made.status_code == 201, made.text
    digest: str = made.json()["policyHash"]
    assert (await node.source(name, policyHash=digest)).status_code == 201
    return digest


class FailingWorkers(ThreadWorkers):
    """Workers whose evaluation of level rules fails in a given way, while ``error`` is set."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.evaluations = 0

    async def decide_levels(self, call: Callable[[], T]) -> T:
        self.evaluations += 1
        if self.error is not None:
            raise self.error
        return await super().decide_levels(call)


async def test_consensus_nodes_are_those_of_the_batch_an_event_went_to(postgres_url: str) -> None:
    async with running(postgres_url, policy=UNREACHABLE) as node:
        await source(node, POLICY)
        answer = (await node.post(reading(1, 5), reading(2, 101), body=BASIC)).json()
        nodes = [each["overlayDistribution"]["consensusNodes"] for each in answer["processedEvents"]]
        assert nodes == [LEVELS[Level.BASIC].executors, LEVELS[Level.CRITICAL].executors]


async def test_an_answer_is_reachable_only_if_each_of_its_batches_is(postgres_url: str) -> None:
    async with running(postgres_url, policy=UNREACHABLE) as node:
        await source(node, POLICY)
        low = (await node.post(reading(1, 5), body=BASIC)).json()["overlayMetadata"]
        assert (low["levelReachable"], low["levelShortfall"]) == (True, None)
        mixed = (await node.post(reading(2, 6), reading(3, 101), body=BASIC)).json()["overlayMetadata"]
        assert mixed["levelReachable"] is False
        assert mixed["levelShortfall"]


async def test_a_duplicate_shows_the_level_of_the_batch_it_stands_in(postgres_url: str) -> None:
    async with running(postgres_url, policy=UNREACHABLE) as node:
        await source(node, POLICY)
        await node.post(reading(1, 101), body=BASIC)
        again = (await node.post(reading(1, 101), reading(2, 1), body=BASIC)).json()
        shown = [(each["status"], each["overlayDistribution"]["consensusNodes"]) for each in again["processedEvents"]]
        assert shown == [
            ("duplicate", LEVELS[Level.CRITICAL].executors),
            ("ingested", LEVELS[Level.BASIC].executors),
        ]
        assert again["overlayMetadata"]["levelReachable"] is True, "what is taken in now can be certified"


async def test_chained_events_show_the_level_of_their_one_batch(postgres_url: str) -> None:
    async with running(postgres_url, policy=UNREACHABLE) as node:
        await source(node, {**POLICY, "monotonic": [{"field": "value"}]})
        answer = (await node.post(reading(1, 99), reading(2, 101), body=BASIC)).json()
        nodes = {each["overlayDistribution"]["consensusNodes"] for each in answer["processedEvents"]}
        assert nodes == {LEVELS[Level.CRITICAL].executors}
        assert answer["overlayMetadata"]["levelReachable"] is False


@pytest.mark.parametrize("error", [WorkerCrashedError("crashed"), WorkerTimeoutError("too slow")])
async def test_where_rules_cannot_be_evaluated_the_strictest_level_stands(
    postgres_url: str, error: Exception
) -> None:
    workers = FailingWorkers(error)
    async with running(postgres_url, policy=UNREACHABLE, workers=workers) as node:
        await source(node, POLICY)
        await node.source("plain")
        answer = await node.post(reading(1, 5), reading(2, 101), body=BASIC)
        assert answer.status_code == 202
        assert (await node.post(reading(1, 5), source="plain", body=BASIC)).status_code == 202
        levels = {each.manifest.message.source_id: each.manifest.message.level for each in node.recorder.told}
        assert levels == {"s1": Level.CRITICAL, "plain": Level.BASIC}


async def test_while_too_many_wait_for_their_levels_a_request_is_answered_503(postgres_url: str) -> None:
    workers = FailingWorkers(WorkersBusyError("as many calls wait as may"))
    async with running(postgres_url, policy=UNREACHABLE, workers=workers) as node:
        await source(node, POLICY)
        await node.source("plain")
        refused = await node.post(reading(1, 5), body=BASIC)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "2")
        assert (await node.post(reading(1, 5), source="plain", body=BASIC)).status_code == 202
        assert node.ingest.admission.backlog.unsettled == 1, "nothing of the refused request counts"
        workers.error = None
        assert (await node.post(reading(1, 5), body=BASIC)).status_code == 202


async def test_levels_are_evaluated_only_where_they_can_matter(postgres_url: str) -> None:
    workers = FailingWorkers(None)
    async with running(postgres_url, policy=UNREACHABLE, workers=workers) as node:
        digest = await source(node, POLICY)
        await node.source("plain")
        await node.post(reading(1, 5), source="plain", body=BASIC)
        await node.post(reading(1, 500), body={"processingOptions": {"consensusLevel": "critical"}})
        assert workers.evaluations == 0
        for number in range(2, 5):
            await node.post(reading(number, 500), body=BASIC)
        assert workers.evaluations == 3, "one for each request, the first included"
        plain = (await node.client.post("/overlay/policies", json={})).json()["policyHash"]
        await node.client.patch("/overlay/sources/s1", json={"policyHash": plain})
        await node.post(reading(5, 500), body=BASIC)
        await node.post(reading(6, 500), body=BASIC)
        assert workers.evaluations == 4, "after the first request the node knows that there are no rules any more"
        await node.client.patch("/overlay/sources/s1", json={"policyHash": digest})
        await node.post(reading(7, 500), body=BASIC)
        levels = [each.manifest.message.level for each in node.recorder.told]
        assert levels[-3:] == [Level.BASIC, Level.BASIC, Level.CRITICAL]


async def test_a_policy_that_changes_meanwhile_is_the_one_that_counts(postgres_url: str) -> None:
    async with running(postgres_url, policy=UNREACHABLE) as node:
        await source(node, POLICY)
        await node.post(reading(1, 60), body=BASIC)
        stricter = {"certification": {"levels": [{"when": "data.value > 50", "level": "enhanced"}]}}
        digest = (await node.client.post("/overlay/policies", json=stricter)).json()["policyHash"]
        await node.client.patch("/overlay/sources/s1", json={"policyHash": digest})
        await node.post(reading(2, 60), body=BASIC)
        assert [each.manifest.message.level for each in node.recorder.told] == [Level.BASIC, Level.ENHANCED]


async def test_level_rules_run_in_processes_of_their_own(postgres_url: str) -> None:
    async with (
        Workers(1, levels_s=20.0) as workers,
        running(postgres_url, policy=UNREACHABLE, workers=workers) as node,
    ):
        await source(node, POLICY)
        await node.post(reading(1, 5), reading(2, 101), body=BASIC)
        levels = sorted(each.manifest.message.level for each in node.recorder.told)
        assert levels == [Level.BASIC, Level.CRITICAL]
        with pytest.raises(WorkerCrashedError):
            await workers.decide_levels(_crash)
        assert (await node.post(reading(3, 101), body=BASIC)).status_code == 202


def _crash() -> None:
    os._exit(1)


async def test_a_worker_that_is_too_slow_or_ends_is_answered_503(postgres_url: str) -> None:
    class Slow(ThreadWorkers):
        async def admit(self, call: Callable[[], T], *, account: Account = OWN_ACCOUNT, size: int | None = None) -> T:
            raise error

    for error in (WorkerTimeoutError("a call took over 1 s"), WorkerCrashedError("a call ended 2 worker processes")):
        async with running(postgres_url, workers=Slow()) as node:
            answer = await node.post(reading(1, 5))
            assert answer.status_code == 503
            assert answer.json()["type"] == f"urn:overlay:problem:{error.code}"
            assert int(answer.headers["Retry-After"]) >= 1


@pytest.mark.parametrize("value", ["hang", "end", "key", "exit", "interrupt", "odd"])
async def test_a_function_that_misbehaves_costs_its_own_request_a_higher_level_alone(
    postgres_url: str, site: Path, value: str
) -> None:
    """Before, it ran on the thread that commits: a hang stopped ingest, and the end of its process the node."""
    policy: Any = parse_json(levels_policy(install(site, "fragile", MISBEHAVING)))
    async with (
        Workers(1, levels_s=5.0) as workers,
        running(postgres_url, policy=UNREACHABLE, workers=workers) as node,
    ):
        await source(node, policy)
        await node.source("plain")
        answers: dict[str, int] = {}

        async def post(name: str) -> None:
            event = {"externalId": "e1", "eventType": "t", "data": {"v": value}}
            answers[name] = (await node.post(event, source=name, body=BASIC)).status_code

        async with trio.open_nursery() as nursery:
            nursery.start_soon(post, "s1")
            nursery.start_soon(post, "plain")
        assert answers == {"s1": 202, "plain": 202}
        levels = {each.manifest.message.source_id: each.manifest.message.level for each in node.recorder.told}
        assert levels == {"s1": Level.CRITICAL, "plain": Level.BASIC}
