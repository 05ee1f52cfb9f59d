"""Answers under idempotency keys: found while they are young, pruned by age, number and bytes."""

import psycopg
import pytest

from storage import idempotency
from storage.idempotency import KeptResponse

FINGERPRINT = b"f" * 32


def kept(body: bytes = b"{}", status: int = 202) -> KeptResponse:
    return KeptResponse(fingerprint=FINGERPRINT, status=status, headers={"X-Place": "ä"}, body=body)


def scope(number: int) -> bytes:
    return bytes([number]) * 32


def fill(connection: psycopg.Connection, *sizes: int) -> None:
    """Answers with bodies of these sizes, one a millisecond."""
    for number, size in enumerate(sizes, 1):
        idempotency.keep(connection, scope(number), kept(b"x" * size), number)


def left(connection: psycopg.Connection, count: int = 9) -> list[int]:
    return [number for number in range(1, count) if idempotency.find(connection, scope(number), 0) is not None]


def test_an_answer_is_found_as_it_was_given(connection: psycopg.Connection) -> None:
    answer = kept(b"\x00\xffbytes", 409)
    idempotency.keep(connection, scope(1), answer, 5)
    assert idempotency.find(connection, scope(1), 5) == answer
    assert idempotency.find(connection, scope(1), 6) is None, "it is too old"
    assert idempotency.find(connection, scope(2), 0) is None


def test_a_later_answer_takes_the_place_of_one_that_is_too_old(connection: psycopg.Connection) -> None:
    idempotency.keep(connection, scope(1), kept(b"old"), 5)
    idempotency.keep(connection, scope(1), kept(b"new"), 50)
    found = idempotency.find(connection, scope(1), 0)
    assert found is not None
    assert found.body == b"new"
    assert idempotency.size(connection) == (1, 3)


def test_the_size_counts_bodies(connection: psycopg.Connection) -> None:
    assert idempotency.size(connection) == (0, 0)
    fill(connection, 10, 0, 5)
    assert idempotency.size(connection) == (3, 15)


@pytest.mark.parametrize(
    ("since_ms", "count_max", "bytes_max", "numbers"),
    [
        (0, 9, 99, [1, 2, 3, 4]),
        (3, 9, 99, [3, 4]),
        (0, 2, 99, [3, 4]),
        (0, 9, 25, [3, 4]),
        (0, 9, 10, [4]),
        (0, 9, 9, []),
        (0, 0, 99, []),
        (9, 9, 99, []),
    ],
)
def test_the_oldest_are_let_go(
    connection: psycopg.Connection, since_ms: int, count_max: int, bytes_max: int, numbers: list[int]
) -> None:
    fill(connection, 10, 10, 10, 10)
    size = idempotency.prune(connection, since_ms, count_max, bytes_max)
    assert size == (len(numbers), 10 * len(numbers))
    assert left(connection) == numbers
