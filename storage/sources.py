"""Sources: where events come from, with the policy their events are processed under."""

from typing import Any

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


def create(connection: psycopg.Connection, values: dict[str, Any]) -> Source:
    """Insert a source.

    Args:
        values: ``source_id``, ``name``, ``source_type``, ``policy_hash`` and any of ``PATCHABLE``.

    Raises:
        SourceExistsError: the id is taken.
    """
    columns = ["source_id", *sorted(PATCHABLE & set(values))]
    marks = ", ".join(["%s"] * len(columns))
    row = connection.execute(
        f"""INSERT INTO overlay_event_sources ({", ".join(columns)}) VALUES ({marks})
            ON CONFLICT DO NOTHING RETURNING source_id""".encode(),  # noqa: S608  # names of our own
        [_parameter(column, values[column]) for column in columns],
    ).fetchone()
    if row is None:
        raise SourceExistsError(
            f"there is a source {values['source_id']!r} already", field="sourceId", remedy="update it with PATCH"
        )
    created = get(connection, values["source_id"])
    assert created is not None, "the row was just inserted"
    return created


def get(connection: psycopg.Connection, source_id: str) -> Source | None:
    found = get_many(connection, [source_id])
    return found.get(source_id)


def get_many(connection: psycopg.Connection, source_ids: list[str]) -> dict[str, Source]:
    """The sources with these ids, by id."""
    query = "SELECT * FROM overlay_event_sources WHERE source_id = ANY(%s)"
    with connection.cursor(row_factory=dict_row) as cursor:
        return {row["source_id"]: _source(row) for row in cursor.execute(query, (source_ids,))}


def list_sources(connection: psycopg.Connection, *, after: str = "", limit: int = 100) -> list[Source]:
    """Sources by id, from the first one after ``after``."""
    query = "SELECT * FROM overlay_event_sources WHERE source_id > %s ORDER BY source_id LIMIT %s"
    with connection.cursor(row_factory=dict_row) as cursor:
        return [_source(row) for row in cursor.execute(query, (after, limit))]


def update(connection: psycopg.Connection, source_id: str, values: dict[str, Any]) -> Source | None:
    """Change the columns named in ``values``. None if there is no such source."""
    columns = sorted(PATCHABLE & set(values))
    changes = "".join(f"{column} = %s, " for column in columns)
    connection.execute(
        f"UPDATE overlay_event_sources SET {changes}updated_at = NOW() WHERE source_id = %s".encode(),  # noqa: S608
        [*(_parameter(column, values[column]) for column in columns), source_id],
    )
    return get(connection, source_id)


def take_sequences(connection: psycopg.Connection, source_id: str, count: int) -> int:
    """Reserve ``count`` batch numbers of a source, and mark it active. Returns the first."""
    row = connection.execute(
        """UPDATE overlay_event_sources SET next_sequence = next_sequence + %s, last_activity_at = NOW()
           WHERE source_id = %s RETURNING next_sequence""",
        (count, source_id),
    ).fetchone()
    assert row is not None, "the caller looked the source up in this transaction"
    return int(row[0]) - count


def _parameter(column: str, value: Any) -> Any:
    return Jsonb(value) if column in JSON_COLUMNS else value


def _source(row: dict[str, Any]) -> Source:
    return Source(**{**row, "policy_hash": bytes(row["policy_hash"])})
