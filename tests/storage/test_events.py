"""Events: found by id from their acknowledgement on, listed, with their versions."""

import attrs
import psycopg
import pytest

from storage import batches, events, policies, replicas
from tests.storage.making import event_id, new_batch, replica, sealed_batch
from tests.storage.test_replicas import adoption


def two_versions(connection: psycopg.Connection) -> None:
    batches.insert_ingested(connection, [new_batch("a", ["x", "y"])])
    batches.insert_ingested(connection, [new_batch("b", ["x"], version=2, sequence=2)])


def test_known_versions_name_the_one_before_and_their_batch_s_level(connection: psycopg.Connection) -> None:
    first = new_batch("a", ["x"])
    second = attrs.evolve(new_batch("b", ["x"], version=2, sequence=2), level=3, quorum=4)
    batches.insert_ingested(connection, [first])
    batches.insert_ingested(connection, [second])
    one, two = events.find_known(connection, [event_id("x")])[event_id("x")]
    assert (one.previous, two.previous) == (None, first.record_hashes[0])
    assert ((one.level, one.quorum), (two.level, two.quorum)) == ((2, 2), (3, 4))
    assert events.find_known(connection, []) == {}


def test_reading_an_event_writes_the_rows_of_its_batch(connection: psycopg.Connection) -> None:
    batches.insert_ingested(connection, [new_batch("a", ["x", "y"])])
    assert events.list_events(connection) == []
    assert events.get(connection, event_id("x")) is not None
    assert [row.event_id for row in events.list_events(connection)] == sorted([event_id("x"), event_id("y")])


@pytest.mark.parametrize("name", ["", "event_", "event_zz", "nothing", "event_" + 63 * "0"])
def test_what_is_no_event_id_is_not_found(connection: psycopg.Connection, name: str) -> None:
    assert events.get(connection, name) is None
    assert events.versions(connection, name, limit=5) == []
    assert not events.expired(connection, name)


def test_versions_are_listed_the_latest_first(connection: psycopg.Connection) -> None:
    two_versions(connection)
    found = events.versions(connection, event_id("x"), limit=5)
    assert [(row.version, row.batch_id, row.state) for row in found] == [
        (2, "batch_b", "pending"),
        (1, "batch_a", "pending"),
    ]
    assert found[0].status == "pending"
    batches.seal(connection, sealed_batch(new_batch("b", ["x"], version=2, sequence=2)))
    batches.seal(connection, sealed_batch(new_batch("a", ["x", "y"]), invalid=("x",)))
    latest, first = events.versions(connection, event_id("x"), limit=5)
    assert (latest.status, first.status, first.issues) == ("certified", "invalid", [{"rule": "bounds"}])
    assert [row.version for row in events.versions(connection, event_id("x"), limit=1)] == [2]
    assert events.versions(connection, event_id("none"), limit=5) == []


def test_lists_are_filtered_and_continued(connection: psycopg.Connection) -> None:
    batch = new_batch("a", ["x", "y", "z"])
    batches.insert_ingested(connection, [batch])
    batches.seal(connection, sealed_batch(batch, invalid=("y",)))
    ids = sorted(batch.event_ids)
    assert [row.event_id for row in events.list_events(connection)] == ids
    assert [row.event_id for row in events.list_events(connection, after=ids[0], limit=1)] == [ids[1]]
    assert [row.external_id for row in events.list_events(connection, status="invalid")] == ["y"]
    assert [row.event_id for row in events.list_events(connection, external_id="z")] == [event_id("z")]
    assert events.list_events(connection, source_id="s2") == []
    assert events.list_events(connection, status="certified", external_id="y") == []
    assert events.list_events(connection, after=ids[-1]) == []


def test_events_are_found_by_the_hash_of_their_content(connection: psycopg.Connection) -> None:
    batch = new_batch("a", ["x", "y"])
    batches.insert_ingested(connection, [batch])
    content = f"sha256:{batch.record_hashes[0]}"
    assert events.ids_by_content(connection, content, skip=0, limit=9) == [], "before its verdict there is none"
    batches.seal(connection, sealed_batch(batch))
    assert events.ids_by_content(connection, content, skip=0, limit=9) == [event_id("x")]
    assert events.ids_by_content(connection, content, skip=1, limit=9) == []


def test_events_of_this_node_are_told_from_those_it_finished_for_others(connection: psycopg.Connection) -> None:
    policies.put(connection, bytes(32), b"{}")
    batches.insert_ingested(connection, [new_batch("a", ["x"])])
    replicas.keep(connection, replica("batch_other", new_batch("o", ["o"]).payload))
    assert replicas.adopt(connection, adoption("batch_other", event_id("o")))
    asked = [event_id("x"), event_id("o"), event_id("none")]
    assert events.own_among(connection, asked) == {event_id("x")}
    assert events.own_among(connection, []) == set()


def test_an_event_is_not_expired_while_its_data_is_there(connection: psycopg.Connection) -> None:
    batches.insert_ingested(connection, [new_batch("a", ["x"])])
    assert not events.expired(connection, event_id("x"))
    assert not events.expired(connection, event_id("none"))
