"""Dead batches whose roles end their worker: examined in real worker processes, split where events are to blame."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from node.ingest.batch_rows import BatchSigner
from node.ingest.batch_split import BatchSplitter
from node.ingest.bisection import Bisection
from node.network.content_exchange import ContentExchange
from node.runtime.workers import Workers
from protocols.canonical import parse_json
from storage import batches, policies
from tests.node.memory_transport import MemoryTransport
from tests.node.operator_packages import MISBEHAVING, install, rule_policy
from tests.node.running import NETWORK, NODE, Running, running

WAIT_S = 120.0
BASIC = {"processingOptions": {"consensusLevel": "basic"}}


@attrs.frozen(kw_only=True)
class Examined:
    node: Running
    bisection: Bisection
    numbers: Iterator[int] = attrs.field(factory=count)

    async def dead(self, *values: str) -> tuple[str, list[str]]:
        """Post events whose function misbehaves by their value, and mark their batch dead."""
        events = [
            {"externalId": f"e{next(self.numbers)}", "eventType": "t", "data": {"v": value}} for value in values
        ]
        answer = await self.node.post(*events, body=BASIC)
        assert answer.status_code == 202, answer.text
        batch_id = self.node.recorder.told[-1].manifest.message.batch_id
        mark = partial(batches.mark_dead, batch_id=batch_id, reasons=["worker-crashed"])
        await self.node.database.run(mark)
        self.node.ingest.admission.backlog.leave(batch_id)
        return batch_id, [event["eventId"] for event in answer.json()["processedEvents"]]

    async def state(self, batch_id: str) -> str:
        row = await self.node.database.run(partial(batches.get, batch_id=batch_id))
        assert row is not None
        return row.state

    async def statuses(self, ids: Sequence[str]) -> list[str]:
        return [(await self.node.client.get(f"/overlay/events/{event_id}")).json()["status"] for event_id in ids]

    async def until_examined(self, batch_id: str) -> None:
        """Wait until the batch and all queued before it were examined: the one after it is split then."""
        sentinel, _ = await self.dead("yes", "end")
        self.bisection.enqueue(batch_id)
        self.bisection.enqueue(sentinel)
        with trio.fail_after(WAIT_S):
            while await self.state(sentinel) != "split":
                await trio.sleep(0.05)


@asynccontextmanager
async def examining(postgres_url: str, site: Path, *, timeout_s: float = 30.0) -> AsyncIterator[Examined]:
    entry = install(site, "fragile", MISBEHAVING)
    async with Workers(1) as workers, running(postgres_url) as node:
        rules: Any = parse_json(rule_policy(entry))
        assert (await node.source(validationRules=rules)).status_code == 201

        async def find(policy_hash: bytes) -> bytes | None:
            return await node.database.run(partial(policies.get, policy_hash=policy_hash))

        async def keep(policy_hash: bytes, document: bytes, sender: bytes) -> None:
            raise AssertionError("the policy is here")

        contents = ContentExchange(
            transport=MemoryTransport(NODE.identity),  # type: ignore[arg-type]  # as much of one as is used here
            find_policy=find,
            keep_policy=keep,
        )
        bisection = Bisection(
            database=node.database,
            network=NETWORK,
            workers=workers,
            splitter=BatchSplitter(NETWORK, BatchSigner(NETWORK, NODE)),
            contents=contents,
            submit=node.recorder.tell,
            enter=node.ingest.admission.backlog.enter_of,
            timeout_s=timeout_s,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bisection.run)
            yield Examined(node=node, bisection=bisection)
            nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_events_that_end_their_worker_are_split_off_and_the_rest_goes_on(postgres_url: str, site: Path) -> None:
    async with examining(postgres_url, site) as examined:
        batch_id, ids = await examined.dead("yes", "end", "no", "end", "yes")
        examined.bisection.enqueue(batch_id)
        with trio.fail_after(WAIT_S):
            while len(examined.node.recorder.told) < 2:
                await trio.sleep(0.05)
        rest = examined.node.recorder.told[-1]
        assert (rest.manifest.message.events, rest.recovered) == (3, False)
        assert await examined.state(batch_id) == "split"
        assert await examined.statuses(ids) == ["pending", "dead", "pending", "dead", "pending"]
        assert examined.node.ingest.admission.backlog.unsettled == 3, "the events that go on are waited for again"


@pytest.mark.slow
async def test_an_event_that_hangs_is_found_by_its_time(postgres_url: str, site: Path) -> None:
    async with examining(postgres_url, site, timeout_s=4.0) as examined:
        batch_id, ids = await examined.dead("yes", "hang")
        examined.bisection.enqueue(batch_id)
        with trio.fail_after(WAIT_S):
            while await examined.state(batch_id) != "split":
                await trio.sleep(0.05)
        assert await examined.statuses(ids) == ["pending", "dead"]


@pytest.mark.slow
async def test_a_batch_that_died_of_something_else_stays_whole(postgres_url: str, site: Path) -> None:
    async with examining(postgres_url, site) as examined:
        batch_id, ids = await examined.dead("yes", "key", "no")
        await examined.until_examined(batch_id)
        assert await examined.state(batch_id) == "dead"
        assert await examined.statuses(ids) == ["dead"] * 3


@pytest.mark.slow
async def test_what_is_not_dead_or_not_known_is_passed_over(postgres_url: str, site: Path) -> None:
    async with examining(postgres_url, site) as examined:
        event = {"externalId": "waiting", "eventType": "t", "data": {"v": "end"}}
        assert (await examined.node.post(event, body=BASIC)).status_code == 202
        waiting = examined.node.recorder.told[-1].manifest.message.batch_id
        examined.bisection.enqueue("batch_unknown")
        await examined.until_examined(waiting)
        assert await examined.state(waiting) == "pending"


@pytest.mark.slow
async def test_a_single_event_needs_no_search(postgres_url: str, site: Path) -> None:
    async with examining(postgres_url, site) as examined:
        batch_id, ids = await examined.dead("end")
        await examined.until_examined(batch_id)
        assert await examined.state(batch_id) == "dead"
        assert await examined.statuses(ids) == ["dead"]
