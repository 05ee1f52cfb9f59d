"""Subscriptions: which certified events clients want, how they are delivered, and the cursor of each."""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from storage.errors import SubscriptionExistsError

CREATE_LOCK: Final = 0x73756273
JSON_COLUMNS: Final = frozenset({"filter_criteria", "delivery", "authority"})
WRITABLE: Final = frozenset(
    {
        "client_id",
        "filter_criteria",
        "overlay_topics",
        "callback_url",
        "subscription_status",
        "expires_at",
        "delivery",
        "secret",
        "previous_secret",
        "previous_secret_until_ms",
        "failing_since_ms",
        "pause_reason",
        "authority",
    }
)
CREATED: Final = WRITABLE | {
    "subscription_id",
    "subscription_type",
    "client_identity_key",
    "cursor_sequence",
    "cursor_position",
}


@attrs.frozen(kw_only=True)
class Subscription:
    """A row of ``overlay_event_subscriptions``; ``*_at`` UTC as Postgres gives them, ``*_ms`` UTC milliseconds.

    Attributes:
        cursor_sequence: With ``cursor_position``: all up to there was delivered, or not wanted.
        cursor_revision: How often the cursor was set by hand.
        failing_since_ms: The first failure since the last success.
        authority: Who wrote it last; see ``node.delivery.subscriptions.is_authorized``. Empty: before that was kept.
    """

    subscription_id: str
    client_id: str
    subscription_type: str
    filter_criteria: dict[str, Any]
    overlay_topics: list[str]
    callback_url: str | None
    client_identity_key: str | None
    subscription_status: str
    last_activity_at: datetime.datetime | None
    expires_at: datetime.datetime | None
    created_at: datetime.datetime
    delivery: dict[str, Any]
    secret: str | None = attrs.field(repr=False)
    previous_secret: str | None = attrs.field(repr=False)
    previous_secret_until_ms: int
    cursor_sequence: int
    cursor_position: int
    cursor_revision: int
    deliveries: int
    failures: int
    last_success_ms: int | None
    last_failure_ms: int | None
    last_failure_status: int | None
    last_failure_reason: str | None
    failing_since_ms: int | None
    pause_reason: str | None
    authority: dict[str, Any]
    updated_at: datetime.datetime


COLUMNS: Final = ", ".join(field.name for field in attrs.fields(Subscription))


@attrs.frozen(kw_only=True)
class Step:
    """Progress of a subscription since its last step was written.

    Attributes:
        revision: That of the cursor it stepped from.
        cursor: (sequence, position) it came to, if it moved.
        deliveries: Successes to be counted, as ``failures`` are.
        failing_since_ms: As it is now; None while deliveries succeed.
    """

    revision: int
    cursor: tuple[int, int] | None = None
    deliveries: int = 0
    failures: int = 0
    last_success_ms: int | None = None
    last_failure_ms: int | None = None
    last_failure_status: int | None = None
    last_failure_reason: str | None = None
    failing_since_ms: int | None = None


@attrs.frozen(kw_only=True)
class Counts:
    """Numbers of subscriptions: in all, of one type, and of one holder (None: of anonymous clients)."""

    total: int
    of_type: int
    of_holder: int


def lock_creation(connection: psycopg.Connection) -> None:
    """Keep other transactions from creating subscriptions until this one ends, so that counts stay true."""
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (CREATE_LOCK,))


def count(connection: psycopg.Connection, *, subscription_type: str, holder: str | None) -> Counts:
    row = connection.execute(
        """SELECT count(*), count(*) FILTER (WHERE subscription_type = %s),
                  count(*) FILTER (WHERE client_identity_key IS NOT DISTINCT FROM %s)
           FROM overlay_event_subscriptions""",
        (subscription_type, holder),
    ).fetchone()
    assert row is not None, "an aggregate has a row"
    return Counts(total=int(row[0]), of_type=int(row[1]), of_holder=int(row[2]))


def delete_expired(connection: psycopg.Connection, *, holder: str | None, now: datetime.datetime) -> int:
    """Delete the expired subscriptions of one holder. Returns how many."""
    gone = connection.execute(
        """DELETE FROM overlay_event_subscriptions
           WHERE expires_at <= %s AND client_identity_key IS NOT DISTINCT FROM %s""",
        (now, holder),
    )
    return gone.rowcount


def create(connection: psycopg.Connection, values: Mapping[str, Any]) -> Subscription:
    """Insert a subscription.

    Args:
        values: ``subscription_id``, ``subscription_type``, ``client_id`` and any other of ``CREATED``.

    Raises:
        SubscriptionExistsError: the id is taken.
    """
    columns = sorted(CREATED & set(values))
    marks = ", ".join(["%s"] * len(columns))
    query = f"""INSERT INTO overlay_event_subscriptions ({", ".join(columns)}) VALUES ({marks})
                ON CONFLICT (subscription_id) DO NOTHING RETURNING {COLUMNS}""".encode()  # noqa: S608  # our own names
    found = _rows(connection, query, [_parameter(column, values[column]) for column in columns])
    if not found:
        raise SubscriptionExistsError(
            f"the subscription {values['subscription_id']!r} exists already",
            field="subscriptionId",
            remedy="change it with PATCH, or leave the id out",
        )
    return found[0]


def get(connection: psycopg.Connection, subscription_id: str, *, lock: bool = False) -> Subscription | None:
    query = f"SELECT {COLUMNS} FROM overlay_event_subscriptions WHERE subscription_id = %s"  # noqa: S608
    found = _rows(connection, (query + (" FOR UPDATE" if lock else "")).encode(), [subscription_id])
    return found[0] if found else None


def page(connection: psycopg.Connection, *, holder: str | None, after: str, limit: int) -> list[Subscription]:
    """Subscriptions by id, from the first one after ``after``; those of one holder, or all where it is None."""
    query = f"""SELECT {COLUMNS} FROM overlay_event_subscriptions
                WHERE subscription_id > %s AND (%s::text IS NULL OR client_identity_key = %s)
                ORDER BY subscription_id LIMIT %s""".encode()  # noqa: S608
    return _rows(connection, query, [after, holder, holder, limit])


def update(connection: psycopg.Connection, subscription_id: str, values: Mapping[str, Any]) -> Subscription | None:
    """Change the columns named in ``values``. None if it does not exist."""
    columns = sorted(WRITABLE & set(values))
    changes = "".join(f"{column} = %s, " for column in columns)
    query = f"""UPDATE overlay_event_subscriptions SET {changes}updated_at = NOW()
                WHERE subscription_id = %s RETURNING {COLUMNS}""".encode()  # noqa: S608
    found = _rows(connection, query, [*(_parameter(name, values[name]) for name in columns), subscription_id])
    return found[0] if found else None


def delete(connection: psycopg.Connection, subscription_id: str) -> bool:
    gone = connection.execute(
        "DELETE FROM overlay_event_subscriptions WHERE subscription_id = %s", (subscription_id,)
    )
    return gone.rowcount == 1


def set_cursor(connection: psycopg.Connection, subscription_id: str, cursor: tuple[int, int]) -> Subscription | None:
    """Set a subscription's cursor to (sequence, position); steps under way are void, failures are cleared."""
    query = f"""UPDATE overlay_event_subscriptions SET cursor_sequence = %s, cursor_position = %s,
                       cursor_revision = cursor_revision + 1, failing_since_ms = NULL, updated_at = NOW()
                WHERE subscription_id = %s RETURNING {COLUMNS}""".encode()  # noqa: S608
    found = _rows(connection, query, [*cursor, subscription_id])
    return found[0] if found else None


def pause(connection: psycopg.Connection, subscription_id: str, *, revision: int, reason: str) -> bool:
    """Stop an active subscription, unless its cursor was set by hand since. Returns whether it was stopped."""
    done = connection.execute(
        """UPDATE overlay_event_subscriptions
           SET subscription_status = 'paused', pause_reason = %s, updated_at = NOW()
           WHERE subscription_id = %s AND subscription_status = 'active' AND cursor_revision = %s""",
        (reason, subscription_id, revision),
    )
    return done.rowcount == 1


def expire(connection: psycopg.Connection, now: datetime.datetime) -> int:
    """Mark what has expired. Returns how many did now."""
    done = connection.execute(
        """UPDATE overlay_event_subscriptions SET subscription_status = 'expired', updated_at = NOW()
           WHERE expires_at <= %s AND subscription_status <> 'expired'""",
        (now,),
    )
    return done.rowcount


def active(connection: psycopg.Connection, subscription_type: str, limit: int) -> list[Subscription]:
    """Active subscriptions of a type, the oldest first."""
    query = f"""SELECT {COLUMNS} FROM overlay_event_subscriptions
                WHERE subscription_type = %s AND subscription_status = 'active'
                ORDER BY created_at, subscription_id LIMIT %s""".encode()  # noqa: S608
    return _rows(connection, query, [subscription_type, limit])


def take_steps(connection: psycopg.Connection, steps: Mapping[str, Step]) -> None:
    """Write the progress of subscriptions, all in one statement. Cursors only move forward.

    The commit does not wait for the disk: what a crash takes with it is delivered again.
    """
    connection.execute("SET LOCAL synchronous_commit = off")
    names = sorted(steps)
    parts = [steps[name] for name in names]
    connection.execute(
        """UPDATE overlay_event_subscriptions s SET
               cursor_sequence = CASE WHEN s.cursor_revision = n.revision
                                       AND (n.sequence, n.position) > (s.cursor_sequence, s.cursor_position)
                                      THEN n.sequence ELSE s.cursor_sequence END,
               cursor_position = CASE WHEN s.cursor_revision = n.revision
                                       AND (n.sequence, n.position) > (s.cursor_sequence, s.cursor_position)
                                      THEN n.position ELSE s.cursor_position END,
               failing_since_ms = CASE WHEN s.cursor_revision = n.revision
                                       THEN n.failing_since_ms ELSE s.failing_since_ms END,
               deliveries = s.deliveries + n.deliveries,
               failures = s.failures + n.failures,
               last_success_ms = coalesce(n.last_success_ms, s.last_success_ms),
               last_failure_status = CASE WHEN n.last_failure_ms IS NULL
                                          THEN s.last_failure_status ELSE n.last_failure_status END,
               last_failure_reason = coalesce(n.last_failure_reason, s.last_failure_reason),
               last_failure_ms = coalesce(n.last_failure_ms, s.last_failure_ms),
               last_activity_at = NOW()
           FROM unnest(%s::text[], %s::int[], %s::bigint[], %s::bigint[], %s::int[], %s::int[], %s::bigint[],
                       %s::bigint[], %s::int[], %s::text[], %s::bigint[])
                AS n(subscription_id, revision, sequence, position, deliveries, failures, last_success_ms,
                     last_failure_ms, last_failure_status, last_failure_reason, failing_since_ms)
           WHERE s.subscription_id = n.subscription_id""",
        (
            names,
            [step.revision for step in parts],
            [step.cursor and step.cursor[0] for step in parts],
            [step.cursor and step.cursor[1] for step in parts],
            [step.deliveries for step in parts],
            [step.failures for step in parts],
            [step.last_success_ms for step in parts],
            [step.last_failure_ms for step in parts],
            [step.last_failure_status for step in parts],
            [step.last_failure_reason for step in parts],
            [step.failing_since_ms for step in parts],
        ),
    )


def _rows(connection: psycopg.Connection, query: bytes, parameters: Sequence[Any]) -> list[Subscription]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return [Subscription(**row) for row in cursor.execute(query, parameters)]


def _parameter(column: str, value: Any) -> Any:
    return Jsonb(value) if column in JSON_COLUMNS else value
