"""What notices of certified batches are made of: who asked for them, and what was sealed."""

from collections.abc import Sequence
from typing import Any, Final

import attrs
import psycopg

SUBSCRIPTIONS_MAX: Final = 1_000


@attrs.frozen(kw_only=True)
class OverlaySubscription:
    """An active subscription of type ``overlay``."""

    subscription_id: str
    topics: tuple[str, ...]
    criteria: dict[str, Any]


@attrs.frozen(kw_only=True)
class SealedRow:
    """A batch that was sealed here; ``outputs`` only where they were asked for."""

    sequence: int
    batch_id: str
    source_id: str
    level: int
    valid: int
    invalid: int
    topics: tuple[str, ...]
    certificate: bytes
    outputs: bytes | None


def overlay_subscriptions(connection: psycopg.Connection) -> list[OverlaySubscription]:
    """The subscriptions that are in force now, the earliest first."""
    rows = connection.execute(
        """SELECT subscription_id, overlay_topics, filter_criteria FROM overlay_event_subscriptions
           WHERE subscription_type = 'overlay' AND subscription_status = 'active'
             AND (expires_at IS NULL OR expires_at > NOW())
           ORDER BY created_at, subscription_id LIMIT %s""",
        (SUBSCRIPTIONS_MAX,),
    )
    return [
        OverlaySubscription(subscription_id=row[0], topics=tuple(row[1] or ()), criteria=row[2] or {}) for row in rows
    ]


def sealed_after(
    connection: psycopg.Connection, sequence: int, limit: int, *, with_outputs: bool
) -> Sequence[SealedRow]:
    """Batches of topics that were sealed here after a sequence, in their order."""
    rows = connection.execute(
        """SELECT seal_sequence, batch_id, source_id, level, valid, invalid, topics, certificate,
                  CASE WHEN %s THEN outputs END
           FROM batches WHERE seal_sequence > %s AND cardinality(topics) > 0 ORDER BY seal_sequence LIMIT %s""",
        (with_outputs, sequence, limit),
    )
    names = [field.name for field in attrs.fields(SealedRow)]
    return [SealedRow(**{**dict(zip(names, row, strict=True)), "topics": tuple(row[6])}) for row in rows]


def last_sequence(connection: psycopg.Connection) -> int:
    """The sequence of the batch that was sealed last; 0 for none."""
    return _number(connection.execute("SELECT max(seal_sequence) FROM batches").fetchone())


def sequence_at(connection: psycopg.Connection, certified_ms: int) -> int:
    """The last sequence that was sealed before a time; 0 for none."""
    query = """SELECT seal_sequence FROM batches WHERE seal_sequence IS NOT NULL AND certified_ms < %s
               ORDER BY seal_sequence DESC LIMIT 1"""
    return _number(connection.execute(query, (certified_ms,)).fetchone())


def _number(row: Sequence[Any] | None) -> int:
    return 0 if row is None or row[0] is None else int(row[0])
