"""Data of events is deleted when its policy's time is over; what proves that they were certified stays."""

import attrs
import psycopg

from storage import batches, events, jobs, objects, policies, retention
from tests.storage.making import POLICY, RECEIVED_MS, event_id, new_batch, sealed_batch

KEPT = b'{"certification":{"retention":{"days":30}}}'


def certified(connection: psycopg.Connection, name: str, certified_ms: int, sequence: int = 1) -> None:
    batch = new_batch(name, [name], sequence=sequence)
    batches.insert_ingested(connection, [batch])
    batches.seal(connection, attrs.evolve(sealed_batch(batch), certified_ms=certified_ms))


def expire(connection: psycopg.Connection, before_ms: int, limit: int = 10) -> int:
    return retention.expire(
        connection, policy_hash=POLICY, certified_before_ms=before_ms, now_ms=RECEIVED_MS + 99, limit=limit
    )


def test_only_policies_that_may_name_a_retention_are_looked_at(connection: psycopg.Connection) -> None:
    policies.put(connection, b"r" * 32, KEPT)
    policies.put(connection, b"s" * 32, b'{"unmapped":"drop"}')
    assert retention.policies(connection) == [(b"r" * 32, KEPT)]


def test_data_is_deleted_and_the_certificate_stays(connection: psycopg.Connection) -> None:
    certified(connection, "a", RECEIVED_MS + 1)
    (own,) = connection.execute("SELECT digest FROM objects WHERE kind = 'payload'").fetchall()
    assert expire(connection, RECEIVED_MS + 2) == 1
    assert events.get(connection, event_id("a")) is None
    assert events.expired(connection, event_id("a"))
    assert batches.payload(connection, "batch_a") == b""
    assert batches.outputs(connection, "batch_a") is None
    assert jobs.of_batch(connection, "batch_a") == []
    assert objects.find(connection, own[0]) is None
    row = batches.get(connection, "batch_a")
    assert row is not None
    assert (row.certificate, row.state, row.valid) == (b"certificate", "certified", 1)
    assert len(batches.evidence(connection, "batch_a")) == 1
    assert event_id("a") in events.find_known(connection, [event_id("a")]), "a repeat is still a duplicate"


def test_the_oldest_go_first_and_each_once(connection: psycopg.Connection) -> None:
    for number, name in enumerate("cab", 1):
        certified(connection, name, RECEIVED_MS + number, sequence=number)
    assert expire(connection, RECEIVED_MS + 10, limit=2) == 2
    assert [events.expired(connection, event_id(name)) for name in "cab"] == [True, True, False]
    assert expire(connection, RECEIVED_MS + 10, limit=2) == 1
    assert expire(connection, RECEIVED_MS + 10, limit=2) == 0


def test_the_time_itself_is_not_over_yet(connection: psycopg.Connection) -> None:
    certified(connection, "a", RECEIVED_MS + 5)
    assert expire(connection, RECEIVED_MS + 5) == 0
    assert expire(connection, RECEIVED_MS + 6) == 1


def test_batches_that_are_not_certified_keep_their_data(connection: psycopg.Connection) -> None:
    made = [new_batch("a", ["a"]), new_batch("b", ["b"], sequence=2)]
    batches.insert_ingested(connection, made)
    batches.mark_dead(connection, "batch_b", ["failed"])
    assert expire(connection, RECEIVED_MS + 1_000) == 0
    assert batches.payload(connection, "batch_a") == made[0].payload


def test_a_batch_of_another_policy_is_left_alone(connection: psycopg.Connection) -> None:
    certified(connection, "a", RECEIVED_MS + 1)
    deleted = retention.expire(
        connection, policy_hash=b"r" * 32, certified_before_ms=2**60, now_ms=RECEIVED_MS, limit=10
    )
    assert deleted == 0


def test_what_another_transaction_holds_is_passed_over(postgres_url: str, connection: psycopg.Connection) -> None:
    certified(connection, "a", RECEIVED_MS + 1)
    connection.commit()
    with psycopg.connect(postgres_url) as other:
        other.execute("SELECT 1 FROM batches FOR UPDATE")
        assert expire(connection, RECEIVED_MS + 2) == 0
    assert expire(connection, RECEIVED_MS + 2) == 1


def test_only_the_version_whose_time_is_over_is_deleted(connection: psycopg.Connection) -> None:
    first, second = new_batch("a", ["x"]), new_batch("b", ["x"], version=2, sequence=2)
    for batch, certified_ms in ((first, 1), (second, 50)):
        batches.insert_ingested(connection, [batch])
        batches.seal(connection, attrs.evolve(sealed_batch(batch), certified_ms=RECEIVED_MS + certified_ms))
    assert expire(connection, RECEIVED_MS + 10) == 1
    row = events.get(connection, event_id("x"))
    assert row is not None
    assert (row.version, row.validation_status) == (2, "certified")
    assert [
        (each.version, each.raw_data is None) for each in events.versions(connection, event_id("x"), limit=9)
    ] == [
        (2, False),
        (1, True),
    ]


def test_the_first_version_s_time_being_over_last_takes_the_jobs_of_others_that_name_its_event(
    connection: psycopg.Connection,
) -> None:
    """The jobs of a batch name its first event, whose row may be another batch's by now."""
    first, second = new_batch("a", ["x", "y"]), new_batch("b", ["x"], version=2, sequence=2)
    for batch, certified_ms in ((first, 50), (second, 1)):
        batches.insert_ingested(connection, [batch])
        batches.seal(connection, attrs.evolve(sealed_batch(batch), certified_ms=RECEIVED_MS + certified_ms))
    assert expire(connection, RECEIVED_MS + 10) == 1
    assert events.get(connection, event_id("y")) is not None
    assert expire(connection, RECEIVED_MS + 100) == 1
    for table in ("overlay_events", "event_versions", "overlay_event_jobs"):
        assert connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone() == (0,)


def test_no_table_of_events_is_walked_through(connection: psycopg.Connection) -> None:
    """Fails where a statement, or the check of a foreign key for each event deleted, finds no index to use."""
    for number, name in enumerate("abc", 1):
        certified(connection, name, RECEIVED_MS + number, sequence=number)
    connection.commit()
    connection.execute("SET LOCAL enable_seqscan = off")  # of tables so small, walking is cheaper
    assert expire(connection, RECEIVED_MS + 2) == 1
    walked = connection.execute("SELECT relname FROM pg_stat_xact_user_tables WHERE seq_scan > 0").fetchall()
    assert walked == []
