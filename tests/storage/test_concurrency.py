"""What several database threads do to the same tables at once."""

import threading
import time
from collections.abc import Callable

import psycopg
import pytest

from storage import batches, events, policies, sources
from storage.rows import NewBatch
from tests.storage.making import POLICY, new_batch, sealed_batch

THREADS, BATCHES, EVENTS = 4, 40, 20


def ingest(url: str, made: list[NewBatch]) -> None:
    with psycopg.connect(url) as connection:
        policies.put(connection, POLICY, b"{}")
        row = {"source_id": "s1", "name": "One", "source_type": "webhook", "policy_hash": POLICY}
        sources.create(connection, row)
        batches.insert_ingested(connection, made)


def test_batches_sealed_side_by_side_are_numbered_without_gaps(postgres_url: str) -> None:
    """Every batch is offered to two threads: one of them seals it, the other is told that it was sealed."""
    made = [
        new_batch(f"{number}", [f"{number}-{each}" for each in range(EVENTS)], sequence=number)
        for number in range(BATCHES)
    ]
    ingest(postgres_url, made)
    answers: list[int | None] = []
    seen: list[int] = []

    def seal(part: list[NewBatch]) -> None:
        with psycopg.connect(postgres_url) as connection:
            for batch in part:
                with connection.transaction():
                    answers.append(batches.seal(connection, sealed_batch(batch)))
                with connection.transaction():
                    found = batches.sealed_since(connection, 0, BATCHES)
                    assert [row.seal_sequence for row, _ in found] == list(range(1, len(found) + 1))
                    seen.append(len(found))

    halves = [made[number % 2 :: 2] for number in range(THREADS)]
    threads = [threading.Thread(target=seal, args=(half,)) for half in halves]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(number for number in answers if number is not None) == list(range(1, BATCHES + 1))
    assert answers.count(None) == BATCHES
    assert len(seen) == 2 * BATCHES, "no reader saw a gap"


def test_a_seal_reads_no_more_of_the_index_than_its_own_batch(postgres_url: str) -> None:
    """Else its cost grows with all that was ever taken in."""
    made = [
        new_batch(f"{number}", [f"{number}-{each}" for each in range(EVENTS)], sequence=number)
        for number in range(BATCHES)
    ]
    ingest(postgres_url, made)
    with psycopg.connect(postgres_url) as connection:
        batches.seal(connection, sealed_batch(made[7]))
        row = connection.execute(
            """SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables
               WHERE relname = 'event_index'"""
        ).fetchone()
    assert row is None or row[0] <= EVENTS


def read(connection: psycopg.Connection, batch: NewBatch) -> None:
    assert events.get(connection, batch.event_ids[0]) is not None


def sweep(connection: psycopg.Connection, batch: NewBatch) -> None:
    batches.materialise(connection, batch.received_ms + 1)


@pytest.mark.parametrize("early", [read, sweep])
@pytest.mark.parametrize("seal_first", [True, False])
def test_a_verdict_is_never_overwritten_by_a_pending_row(
    postgres_url: str, early: Callable[[psycopg.Connection, NewBatch], None], seal_first: bool
) -> None:
    """One transaction seals a batch while another writes its rows as pending, whichever commits first."""
    batch = new_batch("a", ["x", "y"])
    ingest(postgres_url, [batch])

    def seal(connection: psycopg.Connection, batch: NewBatch) -> None:
        assert batches.seal(connection, sealed_batch(batch)) == 1

    steps = (seal, early) if seal_first else (early, seal)

    def second() -> None:
        with psycopg.connect(postgres_url) as connection:
            steps[1](connection, batch)

    waiting = threading.Thread(target=second)
    with psycopg.connect(postgres_url) as connection:
        steps[0](connection, batch)
        waiting.start()
        time.sleep(0.2)  # long enough to reach the lock; the outcome may not depend on it
    waiting.join()
    with psycopg.connect(postgres_url) as connection:
        rows = connection.execute("SELECT validation_status, content_hash IS NULL FROM overlay_events").fetchall()
    assert rows == [("certified", False)] * 2
