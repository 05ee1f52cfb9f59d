"""Sealed batches as notices to peers need them."""

from collections.abc import Sequence

import attrs
import psycopg


@attrs.frozen(kw_only=True)
class CertifiedBatchRow:
    """A batch that was sealed here; ``outputs`` only where they were asked for."""

    sequence: int
    batch_id: str
    source_id: str
    level: int
    valid: int
    invalid: int
    topics: tuple[str, ...]
    certificate: bytes
    received_ms: int
    certified_ms: int
    outputs: bytes | None


def sealed_after(
    connection: psycopg.Connection, sequence: int, limit: int, *, with_outputs: bool
) -> Sequence[CertifiedBatchRow]:
    """Batches that were sealed here after a sequence, in their order."""
    rows = connection.execute(
        """SELECT seal_sequence, batch_id, source_id, level, valid, invalid, topics, certificate,
                  received_ms, certified_ms, CASE WHEN %s THEN outputs END
           FROM batches WHERE seal_sequence > %s ORDER BY seal_sequence LIMIT %s""",
        (with_outputs, sequence, limit),
    )
    names = [field.name for field in attrs.fields(CertifiedBatchRow)]
    return [CertifiedBatchRow(**{**dict(zip(names, row, strict=True)), "topics": tuple(row[6])}) for row in rows]
