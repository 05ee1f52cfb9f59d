"""The log of certificates: each once, in an order without gaps for readers, the oldest of others going first."""

import psycopg

from storage import certificate_log
from storage.certificate_log import Logged


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
