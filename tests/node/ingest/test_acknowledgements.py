"""Acknowledgements of a stream: in order, merged where nobody reads them, complete at the end."""

import itertools
from typing import Any

import orjson
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from node.ingest.acknowledgements import COUNTS, PENDING_MAX, REJECTIONS_MAX, Acknowledgements, Progress


def piece(first: int, last: int, *, rejected: int = 0) -> dict[str, Any]:
    counts = {"accepted": last - first + 1 - rejected, "duplicates": 0, "rejected": rejected, "versions": 0}
    return {
        "lines": [first, last],
        "counts": counts,
        "rejections": [{"line": first + number} for number in range(rejected)],
        "batches": [{"batchId": f"batch_{first}"}],
        "receipts": [{}],
    }


async def read(acknowledgements: Acknowledgements) -> list[dict[str, Any]]:
    return [orjson.loads(line) async for line in acknowledgements.lines()]


async def test_what_is_read_at_once_is_not_merged() -> None:
    acknowledgements = Acknowledgements()
    for number in range(1, PENDING_MAX + 1):
        acknowledgements.add(piece(number, number))
    acknowledgements.finish({"done": True})
    acknowledgements.close()
    documents = await read(acknowledgements)
    assert documents == [piece(number, number) for number in range(1, PENDING_MAX + 1)] + [{"done": True}]


async def test_what_nobody_reads_becomes_one() -> None:
    acknowledgements = Acknowledgements()
    for number in range(1, 10 * PENDING_MAX + 1):
        acknowledgements.add(piece(number, number, rejected=1))
    acknowledgements.finish({"done": True, "lines": 10 * PENDING_MAX})
    acknowledgements.close()
    documents = await read(acknowledgements)
    assert len(documents) <= PENDING_MAX + 1
    merged = documents[0]
    assert merged["abridged"] is True
    assert merged["batches"] == []
    assert "receipts" not in merged
    assert documents[-1] == {"done": True, "lines": 10 * PENDING_MAX}


@given(st.lists(st.integers(1, 50), min_size=1, max_size=120))
def test_merging_loses_no_line_and_no_count(sizes: list[int]) -> None:
    async def run() -> list[dict[str, Any]]:
        acknowledgements = Acknowledgements()
        first = 1
        for size in sizes:
            acknowledgements.add(piece(first, first + size - 1))
            first += size
        acknowledgements.close()
        return await read(acknowledgements)

    documents = trio.run(run)
    spans = [document["lines"] for document in documents]
    assert spans[0][0] == 1
    assert spans[-1][1] == sum(sizes)
    assert all(before[1] + 1 == after[0] for before, after in itertools.pairwise(spans))
    assert sum(document["counts"]["accepted"] for document in documents) == sum(sizes)


async def test_a_merged_acknowledgement_lists_so_many_rejections_and_counts_all() -> None:
    acknowledgements = Acknowledgements()
    for number in range(PENDING_MAX + 1):
        acknowledgements.add(piece(1 + 100 * number, 100 + 100 * number, rejected=100))
    acknowledgements.close()
    (merged,) = await read(acknowledgements)
    assert len(merged["rejections"]) == REJECTIONS_MAX
    assert merged["counts"]["rejected"] == 100 * (PENDING_MAX + 1)


async def test_a_reader_waits_for_the_next_and_ends_with_the_stream(nursery: trio.Nursery) -> None:
    acknowledgements = Acknowledgements()
    found: list[dict[str, Any]] = []

    async def collect() -> None:
        found.extend(await read(acknowledgements))

    nursery.start_soon(collect)
    await trio.testing.wait_all_tasks_blocked()
    acknowledgements.add(piece(1, 1))
    await trio.testing.wait_all_tasks_blocked()
    acknowledgements.finish({"done": True})
    acknowledgements.close()
    with trio.fail_after(10):
        while len(found) < 2:
            await trio.sleep(0.01)
    assert found == [piece(1, 1), {"done": True}]


async def test_a_stream_without_a_line_has_an_empty_answer() -> None:
    acknowledgements = Acknowledgements()
    acknowledgements.close()
    assert await read(acknowledgements) == []


def test_progress_adds_up() -> None:
    progress = Progress()
    progress.add(5, {"accepted": 4, "duplicates": 1, "rejected": 0, "versions": 2})
    progress.add(7, {"accepted": 1, "duplicates": 0, "rejected": 1, "versions": 0})
    assert progress.acknowledged == 7
    assert progress.counts == dict(zip(COUNTS, (5, 1, 1, 2), strict=True))
