"""Batches held for others: kept once, bounded, entered among the node's own, without disturbing what is there."""

from collections.abc import Iterator

import psycopg
import pytest

from storage import batches, policies, replicas, sources
from storage.replicas import Adoption

POLICY = bytes(32)


@pytest.fixture
def connection(postgres_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres_url) as opened:
        policies.put(opened, POLICY, b"{}")
        yield opened


def adoption(batch_id: str, *event_ids: str) -> Adoption:
    return Adoption(
        batch_id=batch_id,
        coordinator=b"\x02" * 33,
        source_id="s1",
        source_sequence=1,
        policy_hash=POLICY,
        level=2,
        quorum=2,
        stateful=False,
        topics=[],
        manifest=b"manifest",
        received_ms=1,
        event_ids=list(event_ids),
        record_hashes=[bytes.fromhex(event_id.removeprefix("event_")) for event_id in event_ids],
    )


def test_a_replica_is_kept_once_and_let_go(connection: psycopg.Connection) -> None:
    assert replicas.keep(connection, "batch_x", b"hold", b"payload", 1)
    assert replicas.keep(connection, "batch_x", b"hold again", b"payload", 2)
    assert replicas.holds(connection) == [b"hold again"]
    assert batches.payload(connection, "batch_x") == b"payload", "agents' payloads are found here too"
    replicas.drop(connection, ["batch_x"])
    assert replicas.holds(connection) == []


def test_no_more_is_held_than_may_be(connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "KEPT_MAX", 1)
    assert replicas.keep(connection, "batch_x", b"hold", b"payload", 1)
    assert not replicas.keep(connection, "batch_y", b"hold", b"payload", 1)
    monkeypatch.setattr(replicas, "KEPT_MAX", 9)
    monkeypatch.setattr(replicas, "KEPT_BYTES_MAX", len(b"payload"))
    assert not replicas.keep(connection, "batch_y", b"hold", b"payload", 1)


def test_what_is_not_held_is_not_adopted(connection: psycopg.Connection) -> None:
    assert not replicas.adopt(connection, adoption("batch_x", "event_" + "11" * 32))


def test_an_adopted_batch_stands_beside_the_node_s_own(connection: psycopg.Connection) -> None:
    """Same source, same number, one event in common: the common one stays with its own batch."""
    common, other = "event_" + "11" * 32, "event_" + "22" * 32
    assert replicas.keep(connection, "batch_x", b"hold", b"payload", 1)
    assert replicas.adopt(connection, adoption("batch_x", common, other))
    assert not replicas.adopt(connection, adoption("batch_x", common, other)), "once"
    source = sources.get(connection, "s1")
    assert source is not None
    assert not source.enabled, "nobody posts to it here"
    (pending,) = batches.pending(connection)
    assert pending.coordinator == b"\x02" * 33
    assert replicas.keep(connection, "batch_y", b"hold", b"payload", 1)
    assert replicas.adopt(connection, adoption("batch_y", common))
    rows = connection.execute("SELECT version, batch FROM event_index ORDER BY event_digest, version").fetchall()
    assert len(rows) == 2, "the record that is known already has no second place"
