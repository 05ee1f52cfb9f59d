"""The log of certificates: each once, in an order without gaps for readers, the oldest of others going first."""

import attrs
import psycopg
import pytest

from storage import batches, certificate_log, peers, reputations
from storage.certificate_log import VOUCHED, Logged
from storage.reputations import Reputation
from tests.storage.making import new_batch, sealed_batch


def entry(number: int) -> Logged:
    return Logged(
        batch_id=f"batch_{number}",
        source_id="s1",
        certificate=b"certificate %d" % number,
        context=b"{}",
        learned_ms=number,
    )


def test_a_certificate_is_entered_once(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        assert certificate_log.put_many(connection, [entry(1), entry(2)], 100) == 2
        assert certificate_log.put_many(connection, [entry(2), entry(3)], 100) == 1
        assert [batch_id for _, batch_id in certificate_log.ids_since(connection, 0, 10)] == [
            "batch_1",
            "batch_2",
            "batch_3",
        ]
        assert certificate_log.find(connection, ["batch_2", "batch_9"]) == [(b"certificate 2", b"{}")]
        assert certificate_log.unknown(connection, ["batch_9", "batch_1", "batch_8"]) == ["batch_9", "batch_8"]


def test_readers_go_on_from_where_they_stood(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        certificate_log.put_many(connection, [entry(number) for number in range(5)], 100)
        first = certificate_log.ids_since(connection, 0, 3)
        rest = certificate_log.ids_since(connection, first[-1][0], 3)
        assert [batch_id for _, batch_id in (*first, *rest)] == [f"batch_{number}" for number in range(5)]
        assert certificate_log.last_number(connection) == rest[-1][0]
        certificate_log.set_cursor(connection, b"peer", 3)
        certificate_log.set_cursor(connection, b"peer", 4)
        assert certificate_log.cursors(connection) == {b"peer": 4}


def test_the_oldest_go_past_the_bound(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        certificate_log.put_many(connection, [entry(number) for number in range(10)], 4)
        kept = [batch_id for _, batch_id in certificate_log.ids_since(connection, 0, 20)]
        assert kept == ["batch_6", "batch_7", "batch_8", "batch_9"]
        assert certificate_log.foreign(connection, batch_id=None, source_id="s1", from_ms=7, to_ms=9, limit=9) == [
            (b"certificate 8", 8),
            (b"certificate 7", 7),
        ]


KNOWN, STRANGER, OTHER = (bytes((number,)) * 33 for number in (2, 3, 4))


def of(coordinator: bytes, *numbers: int, size: int = 10) -> list[Logged]:
    return [attrs.evolve(entry(each), signer=coordinator, certificate=bytes(size)) for each in numbers]


def kept(connection: psycopg.Connection) -> list[int]:
    return [int(batch_id.removeprefix("batch_")) for _, batch_id in certificate_log.ids_since(connection, 0, 99)]


def usage(connection: psycopg.Connection) -> tuple[int, int]:
    row = connection.execute("SELECT sum(certificates), sum(bytes) FROM certificate_usage").fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def test_past_the_bound_those_of_strangers_go_first(connection: psycopg.Connection) -> None:
    """Fails where the oldest go, whosever they are: a quorum of keys is made in a moment."""
    reputations.save(connection, [Reputation(agent=KNOWN, role="validate", agreed=1)], [])
    certificate_log.put_many(connection, of(KNOWN, 1, 2), 5)
    certificate_log.put_many(connection, of(STRANGER, 3), 5)
    certificate_log.put_many(connection, of(OTHER, *range(10, 20)), 5)
    assert kept(connection) == [1, 2, 3, 18, 19], "of the one who has most"
    certificate_log.put_many(connection, of(KNOWN, 20, 21, 22), 5)
    assert kept(connection) == [1, 2, 20, 21, 22]
    certificate_log.put_many(connection, of(STRANGER, 23), 5)
    certificate_log.put_many(connection, of(KNOWN, 24), 5)
    assert kept(connection) == [2, 20, 21, 22, 24]
    assert usage(connection) == (5, 5 * 12)


def test_one_that_somebody_vouched_for_is_no_stranger_s(connection: psycopg.Connection) -> None:
    certificate_log.put_many(connection, of(VOUCHED, 1, 2, 3), 5)
    certificate_log.put_many(connection, of(STRANGER, 4, 5, 6), 5)
    assert kept(connection) == [1, 2, 3, 5, 6]
    certificate_log.put_many(connection, of(VOUCHED, 7, 8, 9), 5)
    assert kept(connection) == [2, 3, 7, 8, 9]


def test_certificates_are_bounded_in_bytes_too(connection: psycopg.Connection) -> None:
    size = certificate_log.BYTES_EACH
    for number in range(40):
        certificate_log.put_many(connection, of(STRANGER, number, size=4 * size), 100)
    left = kept(connection)
    assert len(left) <= 25
    assert left[-1] == 39
    count, used = usage(connection)
    assert (count, used) == (len(left), len(left) * (4 * size + 2))


def test_one_that_is_sealed_here_is_no_longer_counted(connection: psycopg.Connection) -> None:
    certificate_log.put_many(connection, [attrs.evolve(entry(1), batch_id="batch_a"), *of(STRANGER, 2)], 100)
    batch = new_batch("a", ["x"])
    batches.insert_ingested(connection, [batch])
    batches.seal(connection, sealed_batch(batch))
    assert usage(connection) == (1, 12)


def test_cursors_of_peers_that_are_not_remembered_go_first(
    connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificate_log, "CURSORS_MAX", 2)
    peers.remember(connection, KNOWN, [], b"", 1)
    for peer in (KNOWN, STRANGER, OTHER):
        certificate_log.set_cursor(connection, peer, 7)
    assert certificate_log.cursors(connection) == {KNOWN: 7, OTHER: 7}


def test_a_batch_of_this_node_s_own_takes_the_place_of_what_others_sent(connection: psycopg.Connection) -> None:
    certificate_log.put_many(connection, [attrs.evolve(entry(1), batch_id="batch_a"), entry(2)], 100)
    batch = new_batch("a", ["x"])
    batches.insert_ingested(connection, [batch])
    batches.seal(connection, sealed_batch(batch))
    assert certificate_log.find(connection, ["batch_a"]) == [(b"certificate", b"{}")]
    assert [batch_id for _, batch_id in certificate_log.ids_since(connection, 0, 9)] == ["batch_a", "batch_2"]
    _, _, foreign = certificate_log.foreign_after(connection, 0, 9)
    assert [each.batch_id for each in foreign] == ["batch_2"], "a batch of this node's own is not foreign"


def test_entries_of_others_are_read_in_spans(connection: psycopg.Connection) -> None:
    certificate_log.put_many(connection, [entry(number) for number in range(1, 6)], 100)
    last, end, found = certificate_log.foreign_after(connection, 0, 2)
    assert (last, end, [each.number for each in found]) == (5, 2, [1, 2])
    last, end, found = certificate_log.foreign_after(connection, end, 9)
    assert (last, end, [each.number for each in found]) == (5, 5, [3, 4, 5])
    assert certificate_log.foreign_after(connection, 5, 9) == (5, 5, [])
    assert [each.certificate for each in certificate_log.foreign_at(connection, [4, 2, 99])] == [
        b"certificate 2",
        b"certificate 4",
    ]
    assert certificate_log.foreign_at(connection, []) == []


def test_one_look_passes_over_no_more_than_a_span(
    connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificate_log, "SPAN_MAX", 2)
    certificate_log.put_many(connection, [entry(number) for number in range(1, 6)], 100)
    last, end, found = certificate_log.foreign_after(connection, 1, 9)
    assert (last, end, [each.number for each in found]) == (5, 3, [2, 3])


def test_certificates_of_others_are_found_by_batch_or_source(connection: psycopg.Connection) -> None:
    entries = [entry(1), attrs.evolve(entry(2), source_id="s2"), entry(3)]
    certificate_log.put_many(connection, entries, 100)

    def foreign(batch_id: str | None, source_id: str | None, limit: int = 9) -> list[int]:
        rows = certificate_log.foreign(
            connection, batch_id=batch_id, source_id=source_id, from_ms=0, to_ms=99, limit=limit
        )
        return [learned_ms for _, learned_ms in rows]

    assert foreign("batch_2", None) == [2]
    assert foreign(None, "s1") == [3, 1]
    assert foreign(None, "s1", limit=1) == [3]
    assert foreign("batch_2", "s1") == []
    assert foreign(None, None) == [3, 2, 1]


def test_an_empty_log_has_no_last_number(connection: psycopg.Connection) -> None:
    assert certificate_log.last_number(connection) == 0
    assert certificate_log.put_many(connection, [], 100) == 0
    assert certificate_log.ids_since(connection, 0, 9) == []
    assert certificate_log.foreign_after(connection, 0, 9) == (0, 0, [])
    assert certificate_log.unknown(connection, []) == []
    assert certificate_log.cursors(connection) == {}
