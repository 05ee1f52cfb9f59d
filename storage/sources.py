"""Sources: where events come from, with the policy their events are processed under."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from storage.errors import SourceExistsError

JSON_COLUMNS = frozenset({"configuration", "mapping_policy", "validation_rules"})
PATCHABLE = frozenset(
    {
        "name",
        "source_type",
        "configuration",
        "mapping_policy",
        "validation_rules",
        "overlay_topics",
        "identity_key",
        "enabled",
        "trust_score",
        "policy_hash",
    }
)


WRITABLE = PATCHABLE | {"trust_prior", "trust_valid", "trust_invalid"}
REJECTED_MAX: Final = 100
TRUST_PRIOR_EVENTS: Final = 100
TRUST_HALF_LIFE_EVENTS: Final = 1_000


@attrs.frozen(kw_only=True)
class Source:
    """A row of ``overlay_event_sources``; ``policy_hash`` 32 bytes, times UTC as Postgres gives them."""

    source_id: str
    name: str
    source_type: str
    configuration: dict[str, Any]
    mapping_policy: dict[str, Any]
    validation_rules: dict[str, Any]
    overlay_topics: list[str]
    ship_advertisement_id: str | None
    identity_key: str | None
    enabled: bool
    trust_score: int
    last_activity_at: Any
    created_at: Any
    updated_at: Any
    policy_hash: bytes
    next_sequence: int
    disabled_reason: str | None = None


COLUMNS: Final = ", ".join(field.name for field in attrs.fields(Source))


@attrs.frozen(kw_only=True)
class RejectedEvent:
    """Data of a source that was rejected as an event; ``head`` holds its first bytes."""

    external_id: str | None
    field: str
    reason: str
    remedy: str
    head: bytes


def create(connection: psycopg.Connection, values: dict[str, Any]) -> Source:
    """Insert a source; a deleted one is restored under its id, with its events.

    Args:
        values: ``source_id``, ``name``, ``source_type``, ``policy_hash`` and any of ``PATCHABLE``.

    Raises:
        SourceExistsError: the id is taken.
    """
    values = _with_prior(values)
    columns = ["source_id", *sorted(WRITABLE & set(values))]
    marks = ", ".join(["%s"] * len(columns))
    changes = ", ".join(f"{column} = excluded.{column}" for column in columns)
    row = connection.execute(
        f"""INSERT INTO overlay_event_sources AS s ({", ".join(columns)}) VALUES ({marks})
            ON CONFLICT (source_id) DO UPDATE SET {changes}, deleted_at = NULL, updated_at = NOW()
            WHERE s.deleted_at IS NOT NULL RETURNING source_id""".encode(),  # noqa: S608  # names of our own
        [_parameter(column, values[column]) for column in columns],
    ).fetchone()
    if row is None:
        raise SourceExistsError(
            f"the source {values['source_id']!r} exists already", field="sourceId", remedy="update it with PATCH"
        )
    created = get(connection, values["source_id"])
    assert created is not None, "the row was just inserted"
    return created


def get(connection: psycopg.Connection, source_id: str) -> Source | None:
    found = get_many(connection, [source_id])
    return found.get(source_id)


def get_many(connection: psycopg.Connection, source_ids: list[str]) -> dict[str, Source]:
    """The sources with these ids, by id."""
    query = f"SELECT {COLUMNS} FROM overlay_event_sources WHERE source_id = ANY(%s) AND deleted_at IS NULL".encode()  # noqa: S608
    with connection.cursor(row_factory=dict_row) as cursor:
        return {row["source_id"]: _source(row) for row in cursor.execute(query, (source_ids,))}


def list_sources(connection: psycopg.Connection, *, after: str = "", limit: int = 100) -> list[Source]:
    """Sources by id, from the first one after ``after``."""
    query = f"""SELECT {COLUMNS} FROM overlay_event_sources WHERE source_id > %s AND deleted_at IS NULL
                ORDER BY source_id LIMIT %s""".encode()  # noqa: S608  # our own columns
    with connection.cursor(row_factory=dict_row) as cursor:
        return [_source(row) for row in cursor.execute(query, (after, limit))]


def update(connection: psycopg.Connection, source_id: str, values: dict[str, Any]) -> Source | None:
    """Change the columns named in ``values``. None if the source does not exist."""
    values = _with_prior(values)
    columns = sorted(WRITABLE & set(values))
    changes = "".join(f"{column} = %s, " for column in columns)
    changes += "disabled_reason = NULL, " if "enabled" in columns else ""
    connection.execute(
        f"UPDATE overlay_event_sources SET {changes}updated_at = NOW() WHERE source_id = %s".encode(),  # noqa: S608
        [*(_parameter(column, values[column]) for column in columns), source_id],
    )
    return get(connection, source_id)


def disable(connection: psycopg.Connection, source_id: str, reason: str) -> bool:
    """Disable a source for a reason of the node's own, until a client enables it. False if it does not exist."""
    disabled = connection.execute(
        """UPDATE overlay_event_sources SET enabled = false, disabled_reason = %s, updated_at = NOW()
           WHERE source_id = %s AND deleted_at IS NULL""",
        (reason, source_id),
    )
    return disabled.rowcount == 1


def take_sequences(connection: psycopg.Connection, source_id: str, count: int) -> int:
    """Reserve ``count`` batch numbers of a source, and mark it active. Returns the first."""
    row = connection.execute(
        """UPDATE overlay_event_sources SET next_sequence = next_sequence + %s, last_activity_at = NOW()
           WHERE source_id = %s RETURNING next_sequence""",
        (count, source_id),
    ).fetchone()
    assert row is not None, "the caller looked the source up in this transaction"
    return int(row[0]) - count


def to_read(connection: psycopg.Connection, source_types: Sequence[str]) -> list[Source]:
    """The sources of these types that are enabled."""
    query = f"""SELECT {COLUMNS} FROM overlay_event_sources
                WHERE source_type = ANY(%s) AND enabled AND deleted_at IS NULL ORDER BY source_id""".encode()  # noqa: S608
    with connection.cursor(row_factory=dict_row) as cursor:
        return [_source(row) for row in cursor.execute(query, (list(source_types),))]


def delete(connection: psycopg.Connection, source_id: str) -> bool:
    """Mark a source deleted; its events, and the row that they refer to, stay. False if it does not exist."""
    connection.execute("DELETE FROM source_marks WHERE source_id = %s", (source_id,))
    connection.execute("DELETE FROM source_rejections WHERE source_id = %s", (source_id,))
    gone = connection.execute(
        """UPDATE overlay_event_sources SET deleted_at = NOW(), enabled = false, configuration = '{}'
           WHERE source_id = %s AND deleted_at IS NULL""",
        (source_id,),
    )
    return gone.rowcount == 1


def mark(connection: psycopg.Connection, source_id: str) -> dict[str, Any] | None:
    """How far a source has been read; None before the first mark."""
    row = connection.execute("SELECT mark FROM source_marks WHERE source_id = %s", (source_id,)).fetchone()
    return None if row is None else row[0]


def set_mark(connection: psycopg.Connection, source_id: str, value: Mapping[str, Any]) -> None:
    connection.execute(
        """INSERT INTO source_marks (source_id, mark) VALUES (%s, %s)
           ON CONFLICT (source_id) DO UPDATE SET mark = excluded.mark, updated_at = NOW()""",
        (source_id, Jsonb(dict(value))),
    )


def forget_mark(connection: psycopg.Connection, source_id: str) -> None:
    """Have a source read from its beginning again."""
    connection.execute("DELETE FROM source_marks WHERE source_id = %s", (source_id,))


def keep_rejected(connection: psycopg.Connection, source_id: str, rejected: Sequence[RejectedEvent]) -> None:
    """Keep what was no event, the latest ``REJECTED_MAX`` of a source."""
    kept = rejected[-REJECTED_MAX:]
    connection.execute(
        """INSERT INTO source_rejections (source_id, external_id, field, reason, remedy, head)
           SELECT %s, t.* FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %b::bytea[])
               AS t(external_id, field, reason, remedy, head)""",
        (
            source_id,
            [each.external_id for each in kept],
            [each.field for each in kept],
            [each.reason for each in kept],
            [each.remedy for each in kept],
            [each.head for each in kept],
        ),
    )
    connection.execute(
        """DELETE FROM source_rejections WHERE source_id = %(source)s AND number <= (
               SELECT number FROM source_rejections WHERE source_id = %(source)s
               ORDER BY number DESC OFFSET %(kept)s LIMIT 1)""",
        {"source": source_id, "kept": REJECTED_MAX},
    )


def rejected(connection: psycopg.Connection, source_id: str) -> list[tuple[RejectedEvent, Any]]:
    """The events of a source that were rejected, with the time, the latest first."""
    rows = connection.execute(
        """SELECT external_id, field, reason, remedy, head, rejected_at FROM source_rejections
           WHERE source_id = %s ORDER BY number DESC""",
        (source_id,),
    ).fetchall()
    return [
        (
            RejectedEvent(external_id=row[0], field=row[1], reason=row[2], remedy=row[3], head=bytes(row[4])),
            row[5],
        )
        for row in rows
    ]


def count_verdicts(connection: psycopg.Connection, counts: Mapping[str, tuple[int, int]]) -> None:
    """Move trust scores by what validation found: (valid, invalid) events by source.

    A score combines the operator's own score, which weighs as much as ``TRUST_PRIOR_EVENTS`` events, with the share
    of valid events among later ones; the weight of events halves with every ``TRUST_HALF_LIFE_EVENTS`` since.
    """
    names = sorted(counts)
    connection.execute(
        """UPDATE overlay_event_sources s SET trust_valid = t.valid, trust_invalid = t.invalid,
                  trust_score = round(100 * (%(weight)s * coalesce(s.trust_prior, 50) / 100.0 + t.valid)
                                      / (%(weight)s + t.valid + t.invalid))
           FROM (SELECT c.source_id, s.trust_valid * f.fade + c.valid AS valid,
                        s.trust_invalid * f.fade + c.invalid AS invalid
                 FROM unnest(%(names)s::text[], %(valid)s::int[], %(invalid)s::int[]) AS c(source_id, valid, invalid)
                 JOIN overlay_event_sources s USING (source_id),
                      LATERAL (SELECT 0.5 ^ ((c.valid + c.invalid) / %(half)s::double precision) AS fade) f) t
           WHERE s.source_id = t.source_id""",
        {
            "weight": TRUST_PRIOR_EVENTS,
            "half": TRUST_HALF_LIFE_EVENTS,
            "names": names,
            "valid": [counts[name][0] for name in names],
            "invalid": [counts[name][1] for name in names],
        },
    )


def _with_prior(values: dict[str, Any]) -> dict[str, Any]:
    """A trust score that an operator sets is where counting begins again."""
    if "trust_score" not in values:
        return values
    return {**values, "trust_prior": values["trust_score"], "trust_valid": 0.0, "trust_invalid": 0.0}


def _parameter(column: str, value: Any) -> Any:
    return Jsonb(value) if column in JSON_COLUMNS else value


def _source(row: dict[str, Any]) -> Source:
    return Source(**{**row, "policy_hash": bytes(row["policy_hash"])})
