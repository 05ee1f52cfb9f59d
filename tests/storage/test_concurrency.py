"""What several database threads do to the same tables at once."""

import hashlib
import threading

import psycopg

from storage import batches, policies, sources
from storage.batches import NewBatch, SealedBatch

POLICY = hashlib.sha256(b"{}").digest()
THREADS, BATCHES, EVENTS = 4, 40, 20


def new_batch(number: int) -> NewBatch:
    names = [f"{number}-{position}" for position in range(EVENTS)]
    lines = [b'{"data":"%s"}' % name.encode() for name in names]
    return NewBatch(
        batch_id=f"batch_{number}",
        source_id="s1",
        source_sequence=number,
        policy_hash=POLICY,
        level=2,
        quorum=2,
        stateful=False,
        topics=[],
        manifest=b"m",
        payload=b"p",
        received_ms=1_700_000_000_000 + number,
        event_ids=[f"event_{name}" for name in names],
        external_ids=list(names),
        event_types=["reading"] * EVENTS,
        records=lines,
        record_hashes=[hashlib.sha256(line).hexdigest() for line in lines],
        versions=[1] * EVENTS,
        job_id=f"job_normalize_{number}",
    )


def sealed_batch(batch: NewBatch) -> SealedBatch:
    return SealedBatch(
        batch_id=batch.batch_id,
        certificate=b"c",
        outputs=batch.batch_id.encode(),
        valid=EVENTS,
        invalid=0,
        attempts=1,
        certified_ms=batch.received_ms + 100,
        level="enhanced",
        agents=["agent_1"],
        event_ids=batch.event_ids,
        statuses=["valid"] * EVENTS,
        content_hashes=[f"sha256:{each}" for each in batch.record_hashes],
        version_ids=[f"ver_{each}" for each in batch.record_hashes],
        issues=["[]"] * EVENTS,
        normalized=["1"] * EVENTS,
        evidence=(),
    )


def test_batches_sealed_side_by_side_are_numbered_without_gaps(postgres_url: str) -> None:
    """Every batch is offered to two threads: one of them seals it, the other is told that it was sealed."""
    made = [new_batch(number) for number in range(BATCHES)]
    with psycopg.connect(postgres_url) as connection:
        policies.put(connection, POLICY, b"{}")
        row = {"source_id": "s1", "name": "One", "source_type": "webhook", "policy_hash": POLICY}
        sources.create(connection, row)
        batches.insert_ingested(connection, made)
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
