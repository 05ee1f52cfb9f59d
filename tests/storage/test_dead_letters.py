"""Dead batches: listed, replayed with their events and jobs, their earlier lives kept."""

import psycopg

from storage import batches, dead_letters, events, jobs, policies, replicas
from tests.storage.making import event_id, new_batch, replica, sealed_batch
from tests.storage.test_replicas import adoption

FOREVER_MS = 2**60


def dead(connection: psycopg.Connection, *names: str) -> None:
    made = [new_batch(name, [name], sequence=number) for number, name in enumerate(names, 1)]
    batches.insert_ingested(connection, made)
    for name in names:
        batches.mark_dead(connection, f"batch_{name}", [f"{name} failed"])
        connection.execute("SELECT pg_sleep(0.002)")  # each dies in a millisecond of its own


def ids(
    connection: psycopg.Connection, before_ms: int = FOREVER_MS, before_id: str = "", limit: int = 9
) -> list[str]:
    found = dead_letters.page(connection, before_ms=before_ms, before_id=before_id, limit=limit)
    return [letter.batch_id for letter in found]


def test_dead_batches_are_listed_the_latest_first_page_by_page(connection: psycopg.Connection) -> None:
    dead(connection, "a", "b", "c")
    assert ids(connection) == ["batch_c", "batch_b", "batch_a"]
    (first,) = dead_letters.page(connection, before_ms=FOREVER_MS, before_id="", limit=1)
    assert first.dead_ms is not None
    assert (first.reasons, first.attempts, first.events, first.coordinator) == (["c failed"], 1, 1, None)
    assert ids(connection, first.dead_ms, first.batch_id) == ["batch_b", "batch_a"]


def test_a_replayed_batch_waits_again_with_its_events_and_jobs(connection: psycopg.Connection) -> None:
    dead(connection, "a", "b")
    row = events.get(connection, event_id("a"))
    assert row is not None
    assert row.validation_status == "dead"
    (pending,) = dead_letters.replay(connection, ["batch_a", "batch_gone"], b"operator", 7)
    assert (pending.batch_id, pending.events, pending.coordinator) == ("batch_a", 1, None)
    assert ids(connection) == ["batch_b"]
    row = events.get(connection, event_id("a"))
    assert row is not None
    assert row.validation_status == "pending"
    assert [(status, attempts) for *_, status, attempts in jobs.of_batch(connection, "batch_a")] == [("queued", 0)]
    assert dead_letters.replay(connection, ["batch_a"], None, 8) == [], "it is not dead any more"
    assert batches.seal(connection, sealed_batch(new_batch("a", ["a"]))) == 1


def test_earlier_lives_are_kept_in_their_order(connection: psycopg.Connection) -> None:
    dead(connection, "a")
    dead_letters.replay(connection, ["batch_a"], b"operator", 7)
    batches.mark_dead(connection, "batch_a", ["again"])
    dead_letters.replay(connection, ["batch_a"], None, 9)
    lives = dead_letters.replays(connection, "batch_a")
    assert [(life.asked_by, life.at_ms, life.reasons) for life in lives] == [
        (b"operator", 7, ["a failed"]),
        (None, 9, ["again"]),
    ]
    letter = dead_letters.get(connection, "batch_a")
    assert letter is not None
    assert (letter.state, letter.reasons) == ("pending", []), "a batch that was dead is still found by its id"


def test_a_batch_that_never_died_is_no_dead_letter(connection: psycopg.Connection) -> None:
    batches.insert_ingested(connection, [new_batch("a", ["a"])])
    assert dead_letters.get(connection, "batch_a") is None
    assert dead_letters.replays(connection, "batch_a") == []
    assert dead_letters.replay(connection, ["batch_a"], None, 1) == []


def test_a_batch_of_another_node_is_listed_but_not_replayed(connection: psycopg.Connection) -> None:
    policies.put(connection, bytes(32), b"{}")
    replicas.keep(connection, replica("batch_other", new_batch("o", ["o"]).payload))
    assert replicas.adopt(connection, adoption("batch_other", event_id("o")))
    assert batches.mark_dead(connection, "batch_other", ["failed"]) == 0, "its events are not counted here"
    (letter,) = dead_letters.page(connection, before_ms=FOREVER_MS, before_id="", limit=9)
    assert (letter.batch_id, letter.coordinator) == ("batch_other", b"\x02" * 33)
    assert dead_letters.replay(connection, ["batch_other"], None, 1) == []
    assert batches.dead_to_split(connection, "batch_other") is None
