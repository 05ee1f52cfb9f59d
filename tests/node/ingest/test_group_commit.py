"""A group's transaction that runs again: after it was rolled back, and after it was committed unheard."""

from collections.abc import AsyncIterator
from functools import partial

import orjson
import pytest

from node.ingest.admission_control import AdmissionControl, IngestLimits
from node.ingest.group_commit import Committed, Outcome, RequestGroup
from node.ingest.requests import QueuedRequest
from node.ingest.terms import IngestPolicy
from node.worker.parsing.admission import admit
from tests.node.certified_batches import NETWORK
from tests.node.running import Running, group_writer, running


@pytest.fixture
async def node(postgres_url: str) -> AsyncIterator[Running]:
    async with running(postgres_url) as started:
        await started.source()
        yield started


def group() -> RequestGroup:
    event = {"externalId": "e1", "eventType": "reading", "data": 1}
    admitted = admit(orjson.dumps({"sourceId": "s1", "events": [event]}), network=NETWORK)
    room = AdmissionControl(IngestLimits()).backlog.reserve(1, source_id="s1")
    request = QueuedRequest(admitted=admitted, room=room, caller=None, ingestion_id="i", started_s=0.0)
    return RequestGroup(requests=[request])


def statuses(committed: Committed) -> list[str]:
    return [
        status
        for outcome in committed.outcomes
        if isinstance(outcome, Outcome)
        for status in outcome.classification.statuses
    ]


async def test_a_commit_whose_answer_was_lost_counts_and_is_not_made_again(node: Running) -> None:
    writer = group_writer(IngestPolicy())
    work = partial(writer.write, group=group(), now_ms=1)
    first = await node.database.run(work)
    again = await node.database.run(work)
    assert again is first
    assert statuses(again) == ["ingested"]
    assert (await node.client.get("/overlay/stats")).json()["acknowledged"] == 1


async def test_a_transaction_that_was_rolled_back_is_made_anew(node: Running) -> None:
    writer = group_writer(IngestPolicy())
    retried = group()

    def undone(connection: object) -> None:
        writer.write(connection, group=retried, now_ms=1)  # type: ignore[arg-type]
        raise LookupError

    with pytest.raises(LookupError):
        await node.database.run(undone)
    committed = await node.database.run(partial(writer.write, group=retried, now_ms=2))
    assert statuses(committed) == ["ingested"]
    assert (await node.client.get("/overlay/stats")).json()["acknowledged"] == 1
