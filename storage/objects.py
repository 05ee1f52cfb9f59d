"""Content by its SHA-256 (UHRP, BRC-26): which rows hold it, and copies of what peers hold.

Nothing here checks that content still has its digest: the code that serves it does.
"""

import hashlib
from enum import StrEnum
from typing import Final

import attrs
import psycopg
import zstandard

from storage.rows import RECORDS_BYTES_MAX

FETCHED_BYTES_MAX: Final = 256 * 1024 * 1024  # as stored
FETCHED_OBJECTS_MAX: Final = 4_096


class Kind(StrEnum):
    """What an object is."""

    PAYLOAD = "payload"  # a batch's records: canonical JSON, newline-joined
    CERTIFICATE = "certificate"  # a quorum certificate: deterministic CBOR
    POLICY = "policy"  # a policy document: canonical JSON


@attrs.frozen(kw_only=True)
class StoredObject:
    """An object that this database holds; ``size`` in bytes as served."""

    digest: bytes
    kind: Kind
    size: int


@attrs.frozen(kw_only=True)
class StoredCopy:
    """An object's bytes as one row has them; a zstd frame if ``packed``."""

    kind: Kind
    stored: bytes
    packed: bool


def find(connection: psycopg.Connection, digest: bytes) -> StoredObject | None:
    """What is known of an object without looking at its bytes."""
    row = connection.execute(
        """SELECT kind, size FROM objects WHERE digest = %(digest)s
           UNION ALL SELECT 'policy', octet_length(document) FROM policies WHERE policy_hash = %(digest)s
           UNION ALL SELECT kind, size FROM fetched_objects WHERE digest = %(digest)s
           UNION ALL SELECT 'certificate', octet_length(certificate) FROM certificate_log
                     WHERE sha256(certificate) = %(digest)s AND certificate IS NOT NULL LIMIT 1""",
        {"digest": digest},
    ).fetchone()
    return None if row is None else StoredObject(digest=digest, kind=Kind(row[0]), size=int(row[1]))


def copies(connection: psycopg.Connection, digest: bytes) -> list[StoredCopy]:
    """Every row's bytes of an object, this node's own first."""
    rows = connection.execute(
        """SELECT o.kind, CASE o.kind WHEN 'payload' THEN b.payload ELSE b.certificate END, o.kind = 'payload'
           FROM objects o JOIN batches b ON b.number = o.batch WHERE o.digest = %(digest)s
           UNION ALL SELECT 'policy', document, false FROM policies WHERE policy_hash = %(digest)s
           UNION ALL SELECT kind, content, true FROM fetched_objects WHERE digest = %(digest)s
           UNION ALL SELECT 'certificate', certificate, false FROM certificate_log
                     WHERE sha256(certificate) = %(digest)s AND certificate IS NOT NULL""",
        {"digest": digest},
    ).fetchall()
    return [StoredCopy(kind=Kind(kind), stored=bytes(stored), packed=packed) for kind, stored, packed in rows]


def enter_batch(connection: psycopg.Connection, number: int, records: bytes | None, certificate: bytes) -> None:
    """Enter a sealed batch's objects into the index.

    Args:
        records: The payload, decompressed; None where it cannot be read any more.
    """
    rows = [(hashlib.sha256(certificate).digest(), Kind.CERTIFICATE.value, len(certificate))]
    if records is not None:
        rows.append((hashlib.sha256(records).digest(), Kind.PAYLOAD.value, len(records)))
    digests, kinds, sizes = zip(*rows, strict=True)
    connection.execute(
        """INSERT INTO objects (digest, kind, size, batch)
           SELECT t.*, %s FROM unnest(%b::bytea[], %b::text[], %b::bigint[]) AS t
           ON CONFLICT DO NOTHING""",
        (number, list(digests), list(kinds), list(sizes)),
    )


def enter_earlier(connection: psycopg.Connection, limit: int) -> int:
    """Enter batches that were sealed before there was an index. Returns how many; 0: there are none left."""
    rows = connection.execute(
        """SELECT number, payload, certificate FROM batches WHERE state = 'certified' AND NOT has_objects
           ORDER BY number LIMIT %s""",
        (limit,),
    ).fetchall()
    for number, payload, certificate in rows:
        enter_batch(connection, number, _records(bytes(payload)), bytes(certificate))
    connection.execute("UPDATE batches SET has_objects = true WHERE number = ANY(%b)", ([row[0] for row in rows],))
    return len(rows)


def keep(connection: psycopg.Connection, known: StoredObject, content: bytes) -> None:
    """Keep a copy of an object whose hash the caller checked; the oldest copies give way to it.

    Args:
        content: Its bytes as a zstd frame.
    """
    connection.execute(
        """INSERT INTO fetched_objects (digest, kind, size, content) VALUES (%s, %s, %s, %b)
           ON CONFLICT (digest) DO UPDATE SET content = EXCLUDED.content""",
        (known.digest, known.kind.value, known.size, content),
    )
    connection.execute(
        """DELETE FROM fetched_objects WHERE digest <> %s AND number IN (
               SELECT number FROM (
                   SELECT number, sum(octet_length(content)) OVER later AS bytes, count(*) OVER later AS objects
                   FROM fetched_objects WINDOW later AS (ORDER BY number DESC)) AS ranked
               WHERE bytes > %s OR objects > %s)""",
        (known.digest, FETCHED_BYTES_MAX, FETCHED_OBJECTS_MAX),
    )


def _records(payload: bytes) -> bytes | None:
    try:
        return zstandard.ZstdDecompressor().decompress(payload, RECORDS_BYTES_MAX)
    except zstandard.ZstdError:
        return None
