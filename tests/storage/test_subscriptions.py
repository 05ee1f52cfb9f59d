"""Subscriptions: made, listed, changed; cursors that only move forward; expiry and pauses."""

import datetime
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage import subscriptions
from storage.errors import SubscriptionExistsError
from storage.subscriptions import Counts, Step, Subscription

NOW = datetime.datetime(2026, 1, 1)
HOUR = datetime.timedelta(hours=1)


def make(connection: psycopg.Connection, name: str, **values: Any) -> Subscription:
    row = {
        "subscription_id": name,
        "subscription_type": "webhook",
        "client_id": "client",
        "filter_criteria": {},
        "overlay_topics": [],
        "subscription_status": "active",
        **values,
    }
    return subscriptions.create(connection, row)


def get(connection: psycopg.Connection, name: str = "a") -> Subscription:
    found = subscriptions.get(connection, name)
    assert found is not None
    return found


def cursor(connection: psycopg.Connection, name: str = "a") -> tuple[int, int, int]:
    found = get(connection, name)
    return found.cursor_sequence, found.cursor_position, found.cursor_revision


def test_a_subscription_is_made_once(connection: psycopg.Connection) -> None:
    made = make(connection, "a", filter_criteria={"sourceIds": ["s1"]}, secret="whsec", cursor_sequence=7)
    assert made == get(connection)
    assert (made.filter_criteria, made.cursor_sequence, made.deliveries) == ({"sourceIds": ["s1"]}, 7, 0)
    assert "whsec" not in repr(made), "secrets stay out of logs"
    with pytest.raises(SubscriptionExistsError, match="'a' exists already"):
        make(connection, "a")


def test_only_columns_of_its_own_are_written(connection: psycopg.Connection) -> None:
    made = make(connection, "a", deliveries=99, cursor_revision=5)
    assert (made.deliveries, made.cursor_revision) == (0, 0)
    changed = subscriptions.update(connection, "a", {"client_id": "new", "subscription_id": "b", "failures": 4})
    assert changed is not None
    assert (changed.subscription_id, changed.client_id, changed.failures) == ("a", "new", 0)
    assert subscriptions.update(connection, "missing", {"client_id": "x"}) is None


def test_pages_follow_the_ids_and_their_holder(connection: psycopg.Connection) -> None:
    for name, holder in (("a", "k1"), ("b", "k2"), ("c", "k1"), ("d", None)):
        make(connection, name, client_identity_key=holder)

    def page(holder: str | None, after: str = "", limit: int = 10) -> list[str]:
        found = subscriptions.page(connection, holder=holder, after=after, limit=limit)
        return [each.subscription_id for each in found]

    assert page(None) == ["a", "b", "c", "d"]
    assert page(None, after="b", limit=1) == ["c"]
    assert page("k1") == ["a", "c"]
    assert page("k1", after="a") == ["c"]
    assert page("nobody") == []


def test_counts_are_by_type_and_by_holder(connection: psycopg.Connection) -> None:
    make(connection, "a", client_identity_key="k1")
    make(connection, "b", client_identity_key="k1", subscription_type="sse")
    make(connection, "c")
    counted = subscriptions.count(connection, subscription_type="webhook", holder="k1")
    assert counted == Counts(total=3, of_type=2, of_holder=2)
    anonymous = subscriptions.count(connection, subscription_type="sse", holder=None)
    assert anonymous == Counts(total=3, of_type=1, of_holder=1)


def test_while_one_creates_no_other_does(postgres_url: str, connection: psycopg.Connection) -> None:
    subscriptions.lock_creation(connection)
    with psycopg.connect(postgres_url) as other:
        other.execute("SET lock_timeout = '100ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            subscriptions.lock_creation(other)
    connection.rollback()
    with psycopg.connect(postgres_url) as other:
        subscriptions.lock_creation(other)


def test_a_deleted_subscription_is_gone(connection: psycopg.Connection) -> None:
    make(connection, "a")
    assert subscriptions.delete(connection, "a")
    assert not subscriptions.delete(connection, "a")
    assert subscriptions.get(connection, "a") is None


def test_what_has_expired_of_one_holder_makes_room(connection: psycopg.Connection) -> None:
    make(connection, "old", client_identity_key="k1", expires_at=NOW - HOUR)
    make(connection, "edge", client_identity_key="k1", expires_at=NOW)
    make(connection, "new", client_identity_key="k1", expires_at=NOW + HOUR)
    make(connection, "forever", client_identity_key="k1")
    make(connection, "other", client_identity_key="k2", expires_at=NOW - HOUR)
    make(connection, "nobody", expires_at=NOW - HOUR)
    assert subscriptions.delete_expired(connection, holder="k1", now=NOW) == 2
    assert subscriptions.delete_expired(connection, holder=None, now=NOW) == 1
    left = [each.subscription_id for each in subscriptions.page(connection, holder=None, after="", limit=9)]
    assert left == ["forever", "new", "other"]


def test_expiry_marks_once(connection: psycopg.Connection) -> None:
    make(connection, "a", expires_at=NOW - HOUR)
    make(connection, "b", expires_at=NOW + HOUR)
    assert subscriptions.expire(connection, NOW) == 1
    assert subscriptions.expire(connection, NOW) == 0
    assert (get(connection, "a").subscription_status, get(connection, "b").subscription_status) == (
        "expired",
        "active",
    )
    assert [each.subscription_id for each in subscriptions.active(connection, "webhook", 9)] == ["b"]


def test_active_ones_are_found_by_type_the_oldest_first(connection: psycopg.Connection) -> None:
    for name in ("b", "a", "c"):
        make(connection, name)
        connection.commit()  # their time is that of their transaction
    make(connection, "paused", subscription_status="paused")
    make(connection, "other", subscription_type="sse")
    assert [each.subscription_id for each in subscriptions.active(connection, "webhook", 2)] == ["b", "a"]


def test_a_pause_holds_only_for_the_cursor_it_was_meant_for(connection: psycopg.Connection) -> None:
    make(connection, "a")
    assert not subscriptions.pause(connection, "a", revision=1, reason="failing")
    assert subscriptions.pause(connection, "a", revision=0, reason="failing")
    assert not subscriptions.pause(connection, "a", revision=0, reason="again"), "it is paused already"
    found = get(connection)
    assert (found.subscription_status, found.pause_reason) == ("paused", "failing")


def test_steps_move_the_cursor_forward_and_add_up(connection: psycopg.Connection) -> None:
    make(connection, "a")
    make(connection, "b")
    step = Step(revision=0, cursor=(5, 2), deliveries=3, last_success_ms=10)
    subscriptions.take_steps(connection, {"a": step, "gone": step})
    assert cursor(connection) == (5, 2, 0)
    assert cursor(connection, "b") == (0, 0, 0)
    failed = Step(
        revision=0,
        failures=2,
        last_failure_ms=20,
        last_failure_status=500,
        last_failure_reason="server error",
        failing_since_ms=19,
    )
    subscriptions.take_steps(connection, {"a": failed})
    found = get(connection)
    assert (found.cursor_sequence, found.cursor_position) == (5, 2), "a step without a cursor moves none"
    assert (found.deliveries, found.failures, found.last_success_ms) == (3, 2, 10)
    assert (found.last_failure_ms, found.last_failure_status, found.failing_since_ms) == (20, 500, 19)
    subscriptions.take_steps(connection, {"a": Step(revision=0, cursor=(6, 0), deliveries=1, last_success_ms=30)})
    found = get(connection)
    assert (found.failing_since_ms, found.last_failure_reason) == (None, "server error")
    assert (found.deliveries, found.last_success_ms) == (4, 30)


def test_a_later_failure_without_a_status_clears_that_of_before(connection: psycopg.Connection) -> None:
    make(connection, "a")
    subscriptions.take_steps(
        connection, {"a": Step(revision=0, last_failure_ms=1, last_failure_status=500, last_failure_reason="x")}
    )
    subscriptions.take_steps(connection, {"a": Step(revision=0, last_failure_ms=2, last_failure_reason="no answer")})
    found = get(connection)
    assert (found.last_failure_ms, found.last_failure_status, found.last_failure_reason) == (2, None, "no answer")


def test_a_cursor_set_by_hand_voids_the_steps_under_way(connection: psycopg.Connection) -> None:
    make(connection, "a")
    subscriptions.take_steps(connection, {"a": Step(revision=0, cursor=(9, 0), failing_since_ms=1)})
    moved = subscriptions.set_cursor(connection, "a", (3, 1))
    assert moved is not None
    assert (moved.cursor_sequence, moved.cursor_revision, moved.failing_since_ms) == (3, 1, None)
    subscriptions.take_steps(connection, {"a": Step(revision=0, cursor=(12, 0), deliveries=1, failing_since_ms=5)})
    assert cursor(connection) == (3, 1, 1)
    assert get(connection).deliveries == 1, "what was delivered is counted all the same"
    assert get(connection).failing_since_ms is None
    subscriptions.take_steps(connection, {"a": Step(revision=1, cursor=(4, 0))})
    assert cursor(connection) == (4, 0, 1)
    assert subscriptions.set_cursor(connection, "gone", (1, 0)) is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=8))
def test_in_whatever_order_steps_come_the_cursor_is_the_furthest(
    connection: psycopg.Connection, places: list[tuple[int, int]]
) -> None:
    with connection.transaction(force_rollback=True):
        make(connection, "a")
        for place in places:
            subscriptions.take_steps(connection, {"a": Step(revision=0, cursor=place)})
        assert cursor(connection)[:2] == max(places, default=(0, 0))


def test_a_locked_subscription_waits_for_the_transaction(postgres_url: str, connection: psycopg.Connection) -> None:
    make(connection, "a")
    connection.commit()
    assert subscriptions.get(connection, "a", lock=True) is not None
    with psycopg.connect(postgres_url) as other:
        other.execute("SET lock_timeout = '100ms'")
        assert subscriptions.get(other, "a") is not None, "reading waits for nobody"
        with pytest.raises(psycopg.errors.LockNotAvailable):
            subscriptions.get(other, "a", lock=True)
