"""The index of content by SHA-256, and the bounded store of copies, in a real Postgres."""

import hashlib

import attrs
import psycopg
import pytest
import zstandard

from storage import batches, objects
from storage.objects import Kind, StoredObject
from tests.storage.making import POLICY, new_batch, records_of, sealed_batch


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def sealed(connection: psycopg.Connection, name: str, sequence: int = 1) -> tuple[bytes, bytes]:
    """A sealed batch's records and certificate."""
    batch = new_batch(name, [f"{name}1", f"{name}2"], sequence=sequence)
    batches.insert_ingested(connection, [batch])
    certificate = b"certificate of " + name.encode()
    assert batches.seal(connection, attrs.evolve(sealed_batch(batch), certificate=certificate)) is not None
    return b"\n".join(records_of(batch)), certificate


def opened(connection: psycopg.Connection, digest: bytes) -> list[bytes]:
    return [
        zstandard.decompress(copy.stored) if copy.packed else copy.stored
        for copy in objects.copies(connection, digest)
    ]


def test_a_sealed_batch_is_found_by_the_digests_of_its_bytes(connection: psycopg.Connection) -> None:
    for content, kind in zip(sealed(connection, "a"), (Kind.PAYLOAD, Kind.CERTIFICATE), strict=True):
        digest = sha256(content)
        assert objects.find(connection, digest) == StoredObject(digest=digest, kind=kind, size=len(content))
        assert opened(connection, digest) == [content]


def test_a_pending_batch_is_no_object_yet(connection: psycopg.Connection) -> None:
    batch = new_batch("a", ["x"])
    batches.insert_ingested(connection, [batch])
    assert objects.find(connection, sha256(b"\n".join(records_of(batch)))) is None
    assert objects.enter_earlier(connection, 10) == 0


def test_a_policy_is_an_object_by_its_own_hash(connection: psycopg.Connection) -> None:
    assert objects.find(connection, POLICY) == StoredObject(digest=POLICY, kind=Kind.POLICY, size=2)
    assert opened(connection, POLICY) == [b"{}"]


def test_batches_with_the_same_records_share_an_object(connection: psycopg.Connection) -> None:
    records, _ = sealed(connection, "a")
    again = attrs.evolve(new_batch("b", ["b1", "b2"], sequence=2), payload=zstandard.compress(records))
    batches.insert_ingested(connection, [again])
    assert batches.seal(connection, attrs.evolve(sealed_batch(again), certificate=b"another")) is not None
    assert opened(connection, sha256(records)) == [records]
    assert opened(connection, sha256(b"another")) == [b"another"]


def test_batches_sealed_before_the_index_are_entered_step_by_step(connection: psycopg.Connection) -> None:
    """As a database looks right after the migration: certified batches, and nothing in the index."""
    known = [sealed(connection, name, number) for number, name in enumerate("abc", start=1)]
    connection.execute("DELETE FROM objects")
    connection.execute("UPDATE batches SET has_objects = false")
    connection.execute("UPDATE batches SET payload = 'spoiled' WHERE batch_id = 'batch_b'")
    assert [objects.enter_earlier(connection, 2) for _ in range(3)] == [2, 1, 0]
    found = [[bool(opened(connection, sha256(content))) for content in contents] for contents in known]
    assert found == [[True, True], [False, True], [True, True]]


def test_copies_give_way_oldest_first(connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "FETCHED_BYTES_MAX", 250)

    def keep(content: bytes) -> bytes:
        known = StoredObject(digest=sha256(content), kind=Kind.PAYLOAD, size=len(content))
        objects.keep(connection, known, content)
        return known.digest

    digests = [keep(bytes([number]) * 100) for number in range(3)]
    assert [objects.find(connection, digest) is not None for digest in digests] == [False, True, True]
    large = keep(b"x" * 1_000)
    assert [objects.find(connection, digest) is not None for digest in (*digests, large)] == [False] * 3 + [True]
    monkeypatch.setattr(objects, "FETCHED_OBJECTS_MAX", 1)
    small = keep(b"y")
    assert [objects.find(connection, digest) is not None for digest in (large, small)] == [False, True]


def test_a_copy_kept_again_is_mended(connection: psycopg.Connection) -> None:
    known = StoredObject(digest=sha256(b"good"), kind=Kind.POLICY, size=4)
    for content in (b"bad", b"good"):
        objects.keep(connection, known, zstandard.compress(content))
    assert opened(connection, known.digest) == [b"good"]
