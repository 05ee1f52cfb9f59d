"""Small batches that wait behind one of their source go on as one, and nothing is lost, doubled or reordered."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import attrs
import pytest
import trio

from node.coordination.serialization import read_manifest
from node.ingest.batch_merge import BatchMerger
from node.ingest.batch_rows import BatchSigner
from node.ingest.coalescing import TURN_MAX, Waiting
from node.ingest.line_pauses import QUICK_S, LinePauses
from node.worker.compute import unpack
from protocols.canonical import parse_json
from storage import batches, events
from tests.node.running import NETWORK, NODE, Running, running, until

ORDERED: Any = {"monotonic": [{"key": ["k"], "field": "n", "strict": True}]}
HELD_BACK = 100


def event(name: str, value: Any = 1) -> dict[str, Any]:
    return {"externalId": name, "eventType": "t", "data": value}


async def post(node: Running, *names: str, source: str = "s1", value: Any = 1) -> list[str]:
    """The ids of the events."""
    answered = await node.post(*(event(name, value) for name in names), source=source)
    assert answered.status_code == 202
    return [each["eventId"] for each in answered.json()["processedEvents"]]


def given(node: Running) -> list[tuple[str, int]]:
    """The source and the number of events of each batch that coordination was given."""
    manifests = [each.manifest.message for each in node.recorder.told]
    return [(each.source_id, each.events) for each in manifests]


def has_given(node: Running, count: int) -> bool:
    return len(node.recorder.told) == count


def end(node: Running, number: int) -> None:
    """Report the end of the batch that coordination was given as the ``number``-th."""
    manifest = node.recorder.told[number].manifest.message
    node.ingest.admission.backlog.leave(manifest.batch_id)
    node.coalescer.ended(manifest.batch_id)


async def names_in(node: Running, number: int) -> list[str]:
    """The external ids of a batch's records, in its order."""
    batch_id = node.recorder.told[number].manifest.message.batch_id
    packed = await node.database.run(lambda connection: batches.payload(connection, batch_id))
    assert packed is not None
    records: Sequence[Any] = [parse_json(line) for line in unpack(packed).split(b"\n")]
    return [record["externalId"] for record in records]


async def state(node: Running, batch_id: str) -> dict[str, Any]:
    document: dict[str, Any] = (await node.client.get(f"/overlay/batches/{batch_id}")).json()
    return document


@pytest.mark.parametrize("policy", [{}, ORDERED], ids=["in any order", "in their order"])
async def test_posts_that_wait_are_certified_as_one_batch(postgres_url: str, policy: Any) -> None:
    async with running(postgres_url, batch_events=HELD_BACK) as node:
        assert (await node.source(**({"validationRules": policy} if policy else {}))).status_code == 201
        await post(node, "first")
        ids = [event_id for name in ("a", "b", "c") for event_id in await post(node, name, f"{name}2")]
        assert given(node) == [("s1", 1)], "the others wait for it"
        assert node.ingest.admission.backlog.unsettled == 7
        end(node, 0)
        await until(lambda: len(node.recorder.told) == 2)
        assert await names_in(node, 1) == ["a", "a2", "b", "b2", "c", "c2"]
        assert node.ingest.admission.backlog.unsettled == 6
        whole = node.recorder.told[1].manifest
        assert whole.message.events == 6
        found = [await node.database.run(partial(events.get, event_id=event_id)) for event_id in ids]
        assert [(each.batch_id, each.position) for each in found if each] == [
            (whole.message.batch_id, position) for position in range(6)
        ]
        sealed = await node.seal(whole)
        assert sealed.certificate.statement.events == 6
        for event_id in ids:
            certified = await node.client.get(f"/overlay/events/{event_id}/certification")
            assert certified.status_code == 200


async def test_a_merged_batch_keeps_its_id_and_says_where_its_events_went(postgres_url: str) -> None:
    async with running(postgres_url, batch_events=HELD_BACK) as node:
        await node.source()
        await post(node, "first")
        answered = (await node.post(event("a"))).json()
        part = answered["batches"][0]["batchId"]
        await post(node, "b")
        assert (await state(node, part))["state"] == "pending"
        end(node, 0)
        await until(lambda: len(node.recorder.told) == 2)
        shown = await state(node, part)
        whole = node.recorder.told[1].manifest.message.batch_id
        assert (shown["state"], shown["mergedInto"], shown["receipt"]) == ("merged", whole, None)
        assert (await state(node, whole))["counts"]["events"] == 2
        again = (await node.post(event("a"))).json()
        assert again["processedEvents"][0]["status"] == "duplicate"


async def test_rows_that_readers_asked_for_follow_their_events(postgres_url: str) -> None:
    async with running(postgres_url, batch_events=HELD_BACK) as node:
        await node.source()
        await post(node, "first")
        (seen,) = await post(node, "a")
        assert (await node.client.get(f"/overlay/events/{seen}")).json()["status"] == "pending"
        (unseen,) = await post(node, "b")
        end(node, 0)
        await until(lambda: len(node.recorder.told) == 2)
        listed = (await node.client.get("/overlay/events?status=pending&sourceId=s1")).json()["events"]
        assert {seen, unseen} <= {each["eventId"] for each in listed}
        await node.seal(node.recorder.told[1].manifest)
        for event_id in (seen, unseen):
            assert (await node.client.get(f"/overlay/events/{event_id}")).json()["status"] == "certified"
        jobs = await node.database.run(
            lambda connection: connection.execute(
                "SELECT DISTINCT batch_id, job_status FROM overlay_event_jobs ORDER BY batch_id"
            ).fetchall()
        )
        assert (node.recorder.told[1].manifest.message.batch_id, "completed") in jobs


async def test_a_later_version_never_shares_a_batch_with_the_one_before(postgres_url: str) -> None:
    async with running(postgres_url, batch_events=HELD_BACK) as node:
        assert (await node.source(validationRules={"onConflict": "version"})).status_code == 201
        await post(node, "first")
        for value in (1, 2, 3):
            await post(node, "sensor", value=value)
        for number in range(3):
            end(node, number)
            await until(partial(has_given, node, number + 2))
            assert await names_in(node, number + 1) == ["sensor"]


async def test_what_fills_a_batch_is_not_held_back(postgres_url: str) -> None:
    async with running(postgres_url, batch_events=3) as node:
        await node.source()
        await post(node, "first")
        await post(node, "a", "b")
        assert len(given(node)) == 1
        await post(node, "c")
        await until(lambda: given(node) == [("s1", 1), ("s1", 3)])


async def test_what_fills_a_batch_is_held_back_while_batches_wait_for_long(postgres_url: str) -> None:
    """A small batch costs everybody nearly as much as a large one: where there is a queue, its source waits."""
    async with running(postgres_url, batch_events=2) as node:
        await node.source()
        node.coalescer.is_pressed = lambda: True
        await post(node, "first")
        for number in range(3):
            await post(node, f"a{number}", f"b{number}")
        assert given(node) == [("s1", 1)]
        end(node, 0)
        await until(lambda: given(node) == [("s1", 1), ("s1", 6)])


async def test_after_a_batch_that_took_long_the_next_waits_to_grow(postgres_url: str) -> None:
    """A network that is busy with batches is relieved by fewer ones, however few events each has."""
    async with running(postgres_url, batch_events=HELD_BACK, pause_max_s=1.0) as node:
        await node.source()
        await post(node, "first")
        await trio.sleep(0.6)
        end(node, 0)
        began_s = trio.current_time()
        for name in ("a", "b", "c"):
            await post(node, name)
        assert given(node) == [("s1", 1)]
        await until(lambda: given(node) == [("s1", 1), ("s1", 3)])
        assert trio.current_time() - began_s > 0.5


async def test_after_a_batch_that_was_quick_nothing_waits(postgres_url: str) -> None:
    async with running(postgres_url, batch_events=HELD_BACK, pause_max_s=60.0) as node:
        await node.source()
        for number in range(3):
            await post(node, f"e{number}")
            end(node, number)
        assert given(node) == 3 * [("s1", 1)]


def test_a_pause_is_as_long_as_a_batch_took_within_bounds_and_then_forgotten() -> None:
    now_s = 10.0
    pauses = LinePauses(1.0, clock=lambda: now_s)
    pauses.begin("quick", QUICK_S)
    pauses.begin("slow", QUICK_S + 0.1)
    pauses.begin("stuck", 60.0)
    assert [pauses.is_over(line) for line in ("quick", "slow", "stuck", "other")] == [True, False, False, True]
    assert pauses.next_s() == pytest.approx(0.3)
    now_s = 10.31
    assert pauses.is_over("slow")
    assert pauses.next_s() == pytest.approx(0.69)
    now_s = 11.1
    assert pauses.next_s() is None


async def test_sources_do_not_wait_for_each_other(postgres_url: str) -> None:
    async with running(postgres_url, batch_events=HELD_BACK) as node:
        for source in ("loud", "quiet"):
            await node.source(source)
        await post(node, "a", source="loud")
        await post(node, "b", source="loud")
        await post(node, "c", source="quiet")
        assert given(node) == [("loud", 1), ("quiet", 1)]


async def test_few_wait_in_coordination_and_sources_take_turns(postgres_url: str) -> None:
    async with running(postgres_url, batch_events=1) as node:
        await node.source("loud")
        await node.source("quiet")
        for number in range(TURN_MAX + 20):
            await post(node, f"e{number}", source="loud")
        assert len(given(node)) == TURN_MAX
        await post(node, "q", source="quiet")
        end(node, 0)
        end(node, 1)
        await until(lambda: len(given(node)) == TURN_MAX + 2)
        assert sorted(given(node)[TURN_MAX:]) == [("loud", 20), ("quiet", 1)]


async def test_what_waited_when_the_node_ended_is_merged_by_the_next_start(postgres_url: str) -> None:
    async with running(postgres_url, batch_events=HELD_BACK) as node:
        await node.source()
        for name in ("first", "a", "b", "c"):
            await post(node, name)
        left = await node.database.run(batches.pending)
    assert len(left) == 4
    async with running(postgres_url, batch_events=HELD_BACK) as node:
        for each in left:
            manifest = read_manifest(each.manifest, NETWORK)
            node.ingest.admission.backlog.enter(each.batch_id, each.events)
            await node.coalescer.resume(
                Waiting(manifest=manifest, stateful=each.stateful, versioned=each.versioned, recovered=True)
            )
            assert node.coalescer.holds(each.batch_id) == (each is not left[0])
        end(node, 0)
        await until(lambda: len(node.recorder.told) == 2)
        assert await names_in(node, 1) == ["a", "b", "c"]
        assert node.ingest.admission.backlog.unsettled == 3


async def test_a_replicated_batch_passes_none_of_a_source_whose_order_counts(
    postgres_url: str,
) -> None:
    async with running(postgres_url, batch_events=HELD_BACK) as node:
        await node.source(validationRules=ORDERED)
        for name in ("first", "a", "b", "replicated"):
            await post(node, name)
        left = await node.database.run(batches.pending)
    async with running(postgres_url, batch_events=HELD_BACK) as node:
        for each in left:
            waiting = Waiting(manifest=read_manifest(each.manifest, NETWORK), stateful=each.stateful, versioned=False)
            is_last = each is left[-1]
            await node.coalescer.resume(attrs.evolve(waiting, holders=(NODE.identity,) if is_last else ()))
        assert [each.manifest.message.batch_id for each in node.recorder.told] == [each.batch_id for each in left]
        assert node.coalescer.waiting == (0, 0)


async def test_a_merge_whose_commit_was_not_answered_is_found(postgres_url: str) -> None:
    """It takes its place again: what came after the parts stays after the whole."""
    async with running(postgres_url, batch_events=HELD_BACK) as node:
        await node.source(validationRules=ORDERED)
        for name in ("first", "a", "b", "c"):
            await post(node, name)
        _, *waiting = await node.database.run(batches.pending)
        ids = [each.batch_id for each in waiting]
        merge = partial(
            BatchMerger(NETWORK, BatchSigner(NETWORK, NODE)).merge,
            first=waiting[0].manifest,
            stateful=True,
            batch_ids=ids,
        )
        merged = await node.database.run(merge)
        again = await node.database.run(merge)
        assert merged.batch is not None
        assert again.batch is not None
        assert (again.batch.manifest, again.batch.record_hashes) == (
            merged.batch.manifest,
            merged.batch.record_hashes,
        )
        assert list(again.taken) == ids
        end(node, 0)
        await until(lambda: has_given(node, 2))
        assert await names_in(node, 1) == ["a", "b", "c"]
        assert node.coalescer.waiting == (0, 0)
        assert node.ingest.admission.backlog.unsettled == 3
