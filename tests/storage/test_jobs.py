"""Job rows follow the coordination of their batches."""

import attrs
import psycopg

from protocols.roles import Role
from storage import batches, jobs
from storage.jobs import JobChange
from tests.storage.making import new_batch, sealed_batch


def test_jobs_follow_the_batch_until_it_ends(connection: psycopg.Connection) -> None:
    batch = new_batch("a", ["x"])
    batches.insert_ingested(connection, [batch])
    assert batches.materialise(connection, batch.received_ms + 1) == 1
    assert batches.materialise(connection, batch.received_ms + 1) == 0
    change = JobChange(batch_id="batch_a", role=Role.VALIDATE, status="running", agent="agent_1", attempts=1)
    jobs.apply(connection, [change, attrs.evolve(change, role=Role.NORMALIZE)])
    running = {role: (agent, status) for _, role, agent, status, _ in jobs.of_batch(connection, "batch_a")}
    assert running == {"normalize": ("agent_1", "running"), "validate": ("agent_1", "running")}
    waits = attrs.evolve(change, role=Role.NORMALIZE, status="queued", max_attempts=5, next_run_ms=1_700_000_009_000)
    jobs.apply(connection, [waits])
    row = connection.execute(
        """SELECT job_status, max_attempts, extract(epoch FROM next_run_at)::bigint FROM overlay_event_jobs
           WHERE job_type = 'normalize'"""
    ).fetchone()
    assert row == ("queued", 5, 1_700_000_009)
    batches.seal(connection, sealed_batch(batch))
    jobs.apply(connection, [change])
    assert {status for _, _, _, status, _ in jobs.of_batch(connection, "batch_a")} == {"completed"}


def test_job_rows_of_a_batch_whose_events_have_no_rows_yet_come_with_the_seal(connection: psycopg.Connection) -> None:
    batch = new_batch("a", ["x"])
    batches.insert_ingested(connection, [batch])
    jobs.apply(
        connection, [JobChange(batch_id="batch_a", role=Role.VALIDATE, status="running", agent="a", attempts=1)]
    )
    assert jobs.of_batch(connection, "batch_a") == []
    batches.seal(connection, sealed_batch(batch))
    assert len(jobs.of_batch(connection, "batch_a")) == 3
