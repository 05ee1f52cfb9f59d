"""Batches and their events: taken in, sealed, marked dead, counted."""

import attrs
import psycopg

from storage import batches, events, jobs, metrics
from tests.storage.making import AGENT, event_id, new_batch, sealed_batch


def test_ingested_events_are_found_at_once_and_pending(connection: psycopg.Connection) -> None:
    batches.insert_ingested(connection, [new_batch("a", ["x", "y"])])
    row = events.get(connection, event_id("y"))
    assert row is not None
    assert (row.validation_status, row.batch_id, row.position, row.external_id) == ("pending", "batch_a", 1, "y")
    assert row.raw_data["data"] == {"name": "a y"}
    assert row.overlay_distribution == {"topics": ["gitdata.events.iot"]}
    assert row.overlay_job_id == "job_normalize_a"
    assert events.get(connection, event_id("z")) is None
    assert jobs.of_batch(connection, "batch_a") == [("job_normalize_a", "normalize", None, "queued", 0)]


def test_known_versions_are_listed_oldest_first(connection: psycopg.Connection) -> None:
    first, second = new_batch("a", ["x", "y"]), new_batch("b", ["x"], version=2, sequence=2)
    batches.insert_ingested(connection, [first])
    batches.insert_ingested(connection, [second])
    known = events.find_known(connection, [event_id("x"), event_id("y"), event_id("none")])
    assert [each.record_hash for each in known[event_id("x")]] == [first.record_hashes[0], second.record_hashes[0]]
    assert [each.batch_id for each in known[event_id("y")]] == ["batch_a"]
    assert event_id("none") not in known


def test_a_seal_writes_every_verdict_once(connection: psycopg.Connection) -> None:
    batch = new_batch("a", ["x", "y", "z"])
    batches.insert_ingested(connection, [batch])
    sealed = sealed_batch(batch, invalid=("y",))
    assert batches.seal(connection, sealed) == 1
    assert batches.seal(connection, attrs.evolve(sealed, valid=0)) is None
    statuses = {row.event_id: row.validation_status for row in events.list_events(connection)}
    assert statuses == {event_id("x"): "certified", event_id("y"): "invalid", event_id("z"): "certified"}
    row = events.get(connection, event_id("y"))
    assert row is not None
    assert row.validation_issues == [{"rule": "bounds"}]
    assert row.content_hash == f"sha256:{batch.record_hashes[1]}"
    assert row.processing_agents == ["agent_1", "agent_2"]
    assert row.certification_evidence == {"batchId": "batch_a", "position": 1, "level": "enhanced"}
    assert {role: status for _, role, _, status, _ in jobs.of_batch(connection, "batch_a")} == {
        "normalize": "completed",
        "validate": "completed",
        "certify": "completed",
    }
    assert batches.outputs(connection, "batch_a") == b"outputs"
    assert [row.role for row in batches.evidence(connection, "batch_a")] == ["normalize"]


def test_seal_sequences_have_no_gaps_and_keep_their_order(connection: psycopg.Connection) -> None:
    made = [new_batch(name, [name], sequence=n) for n, name in enumerate("abc", 1)]
    batches.insert_ingested(connection, made)
    assert [batches.seal(connection, sealed_batch(each)) for each in (made[2], made[0], made[1])] == [1, 2, 3]
    found = batches.sealed_since(connection, 1, 10)
    assert [(row.batch_id, row.seal_sequence, outputs) for row, outputs in found] == [
        ("batch_a", 2, b"outputs"),
        ("batch_b", 3, b"outputs"),
    ]
    assert batches.last_sequence(connection) == 3


def test_an_older_version_is_sealed_beside_the_latest(connection: psycopg.Connection) -> None:
    first, second = new_batch("a", ["x", "y"]), new_batch("b", ["x"], version=2, sequence=2)
    batches.insert_ingested(connection, [first])
    batches.insert_ingested(connection, [second])
    batches.seal(connection, sealed_batch(first, invalid=("x",)))
    row = events.get(connection, event_id("x"))
    assert row is not None
    assert (row.version, row.validation_status, row.batch_id) == (2, "pending", "batch_b")
    old = connection.execute("SELECT validation_status, version_id FROM event_versions").fetchall()
    assert old == [("invalid", f"ver_{first.record_hashes[0]}")]
    batches.seal(connection, sealed_batch(second))
    row = events.get(connection, event_id("x"))
    assert row is not None
    assert row.validation_status == "certified"


def test_a_dead_batch_stays_dead(connection: psycopg.Connection) -> None:
    batch = new_batch("a", ["x"])
    batches.insert_ingested(connection, [batch])
    assert batches.mark_dead(connection, "batch_a", ["one", "two"]) == 1
    assert batches.mark_dead(connection, "batch_a", ["three"]) == 0
    assert batches.seal(connection, sealed_batch(batch)) is None
    row = batches.get(connection, "batch_a")
    assert row is not None
    assert (row.state, row.reasons) == ("dead", ["one", "two"])
    assert jobs.of_batch(connection, "batch_a")[0][3] == "dead"


def test_pending_batches_are_found_for_recovery(connection: psycopg.Connection) -> None:
    one, two = new_batch("a", ["x"]), new_batch("b", ["y"], sequence=2)
    batches.insert_ingested(connection, [one, two])
    batches.seal(connection, sealed_batch(one))
    pending = batches.pending(connection)
    assert [(each.batch_id, each.manifest, each.stateful, each.events) for each in pending] == [
        ("batch_b", b"manifest", False, 1)
    ]


def test_counts_add_up(connection: psycopg.Connection) -> None:
    made = [new_batch("a", ["x", "y"]), new_batch("b", ["z"], sequence=2), new_batch("c", ["w"], sequence=3)]
    batches.insert_ingested(connection, made)
    batches.seal(connection, sealed_batch(made[0], invalid=("x",)))
    batches.mark_dead(connection, "batch_b", ["no quorum"])
    found = metrics.stats(connection)
    assert (found.acknowledged, found.certified, found.invalid, found.dead, found.pending) == (4, 1, 1, 1, 1)
    assert found.latency_ms["p50"] == 250
    assert found.agents == [(AGENT, "normalize", 2, 1)]


def test_a_later_version_that_is_sealed_first_stays_the_latest(connection: psycopg.Connection) -> None:
    first, second = new_batch("a", ["x", "y"]), new_batch("b", ["x"], version=2, sequence=2)
    batches.insert_ingested(connection, [first])
    batches.insert_ingested(connection, [second])
    batches.seal(connection, sealed_batch(second))
    batches.seal(connection, sealed_batch(first, invalid=("x",)))
    row = events.get(connection, event_id("x"))
    assert row is not None
    assert (row.version, row.validation_status) == (2, "certified")
    old = connection.execute("SELECT version, validation_status FROM event_versions").fetchall()
    assert old == [(1, "invalid")]
