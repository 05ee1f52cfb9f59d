"""Subscription documents: what they set, what they refuse, and what is shown of a row."""

import datetime
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.delivery.criteria import InvalidCriteriaError
from node.delivery.cursor import WHOLE_BATCH, Cursor
from node.delivery.signatures import make_secret
from node.delivery.subscription_documents import (
    InvalidSubscriptionError,
    UnfitMemberError,
    milliseconds,
    moment_of,
    read_delivery,
    read_filter,
    read_replacement,
    read_rotation,
    read_since,
    read_values,
    shown,
    status_of,
    without_set_once,
)
from node.delivery.subscription_models import SubscriptionDocument
from node.runtime.document_models import FixedMemberError
from storage.subscriptions import Subscription

KEY = "02" + "ab" * 32
ROW = Subscription(
    subscription_id="sub_1",
    client_id="c",
    subscription_type="webhook",
    filter_criteria={"sourceIds": ["s1"]},
    overlay_topics=[],
    callback_url="https://receiver.example/hook",
    client_identity_key=KEY,
    subscription_status="active",
    last_activity_at=None,
    expires_at=None,
    created_at=datetime.datetime(2026, 1, 1),
    delivery={"maxEvents": 7},
    secret="whsec_secret",
    previous_secret=None,
    previous_secret_until_ms=0,
    cursor_sequence=3,
    cursor_position=WHOLE_BATCH,
    cursor_revision=0,
    deliveries=1,
    failures=0,
    last_success_ms=None,
    last_failure_ms=None,
    last_failure_status=None,
    last_failure_reason=None,
    failing_since_ms=None,
    pause_reason=None,
    authority={},
    updated_at=datetime.datetime(2026, 1, 1),
)


def test_only_what_is_sent_is_set_and_as_it_was_sent() -> None:
    assert read_values({}) == {}
    assert read_values({"filterCriteria": {"topics": None, "status": "valid"}, "delivery": {}}) == {
        "filter_criteria": {"topics": None, "status": "valid"},
        "delivery": {},
    }
    created = read_values({"subscriptionType": "sse", "since": "7"}, creates=True)
    assert created == {"subscription_type": "sse", "since": Cursor(7, WHOLE_BATCH)}


def test_a_replacement_sets_what_it_leaves_out_to_its_default() -> None:
    assert read_replacement({"clientId": "x"}) == {
        "client_id": "x",
        "filter_criteria": {},
        "overlay_topics": [],
        "callback_url": None,
        "subscription_status": "active",
        "expires_at": None,
        "delivery": {},
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-31T12:00:00Z", datetime.datetime(2026, 1, 31, 12)),
        ("2026-01-31T12:00:00.25+02:00", datetime.datetime(2026, 1, 31, 10, 0, 0, 250_000)),
    ],
)
def test_times_are_kept_in_utc(text: str, expected: datetime.datetime) -> None:
    assert read_values({"expiresAt": text}) == {"expires_at": expected}
    assert read_values({"expiresAt": None}) == {"expires_at": None}


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({}, "/subscriptionType: is missing"),
        (
            {"subscriptionType": "carrier pigeon"},
            "must be one of sse, websocket, webhook, overlay, found 'carrier pig",
        ),
        (
            {"overlayTopics": ["t"] * 17},
            "/overlayTopics: must be an array of at most 16 strings, found an array of 17",
        ),
        (
            {"overlayTopics": ["t", ""]},
            "/overlayTopics/1: must be a string of 1 to 128 printable characters, not only spaces",
        ),
        ({"overlayTopics": [" "]}, "/overlayTopics/0: must consist of printable characters"),
        ({"clientId": "a\nb"}, "/clientId: must consist of printable characters"),
        ({"subscriptionId": "a/b"}, "/subscriptionId: must be a string matching"),
        ({"expiresAt": "soon"}, "/expiresAt: must be a time as in RFC 3339"),
        ({"delivery": {"maxEvents": 1_001}}, "/delivery/maxEvents: must be an integer of 1 to 1000, found 1001"),
        ({"since": "-1"}, "/since: must be a cursor of the feed such as 12.5, or 0 for everything"),
        ({"secret": "whsec_hunter2"}, "/secret: must be whsec_ and the base64 of 24 to 64 bytes"),
        ({"createdAt": "2026-01-01T00:00:00Z"}, "/createdAt: unknown member"),
    ],
)
def test_errors_say_where_what_was_found_and_what_is_allowed(document: dict[str, Any], text: str) -> None:
    complete = document if "missing" in text else {"subscriptionType": "sse", **document}
    with pytest.raises(InvalidSubscriptionError) as refused:
        read_values(complete, creates=True)
    assert text in str(refused.value)
    assert str(refused.value).startswith(str(refused.value.fields["field"]))
    assert "hunter2" not in str(refused.value)


def test_wrong_criteria_have_their_own_code_and_place() -> None:
    with pytest.raises(InvalidCriteriaError) as refused:
        read_values({"filterCriteria": {"eventTypes": ["a", ""]}})
    assert refused.value.fields["field"] == "/filterCriteria/eventTypes/1"
    with pytest.raises(InvalidSubscriptionError) as other:
        read_values({"filterCriteria": ["a"]})
    assert other.value.fields["field"] == "/filterCriteria"


@pytest.mark.parametrize("member", ["secret", "since"])
def test_what_only_a_creation_sets_is_unknown_to_a_change(member: str) -> None:
    with pytest.raises(InvalidSubscriptionError, match="unknown member"):
        read_values({member: make_secret() if member == "secret" else "0"})


def test_what_is_set_once_may_be_repeated_and_not_changed() -> None:
    same = {"subscription_id": "sub_1", "subscription_type": "webhook", "client_identity_key": KEY}
    assert without_set_once(ROW, {**same, "client_id": "d"}) == {"client_id": "d"}
    for column, member in (("subscription_id", "subscriptionId"), ("subscription_type", "subscriptionType")):
        with pytest.raises(FixedMemberError, match="cannot be changed") as refused:
            without_set_once(ROW, {**same, column: "sse"})
        assert refused.value.fields["field"] == f"/{member}"


def test_a_rotation_and_its_defaults() -> None:
    rotation = read_rotation({})
    assert (rotation.secret, rotation.keep_previous_seconds) == (None, 86_400)
    secret = make_secret()
    given_both = read_rotation({"secret": secret, "keepPreviousSeconds": 0})
    assert (given_both.secret, given_both.keep_previous_seconds) == (secret, 0)
    for wrong in ({"keepPreviousSeconds": -1}, {"keepPreviousSeconds": True}, {"secret": "x"}, {"other": 1}):
        with pytest.raises(InvalidSubscriptionError) as refused:
            read_rotation(wrong)
        assert refused.value.fields["field"] == f"/{next(iter(wrong))}"


@pytest.mark.parametrize("document", [{}, {"since": None}, {"since": 5}, {"since": "x"}, {"since": "1", "more": 1}])
def test_a_replay_names_its_cursor_and_nothing_else(document: dict[str, Any]) -> None:
    assert read_since({"since": "1.2"}) == Cursor(1, 2)
    with pytest.raises(InvalidSubscriptionError):
        read_since(document)


def test_topics_stand_in_one_place() -> None:
    assert read_filter({}, ["t.#"]) == read_filter({"topics": ["t.#"]}, [])
    with pytest.raises(UnfitMemberError, match=r"excludes filterCriteria\.topics"):
        read_filter({"topics": ["a"]}, ["b"])


def test_delivery_options_have_defaults() -> None:
    options = read_delivery({})
    assert (options.max_events, options.retry_for_seconds, options.timeout_seconds) == (1, 86_400, 15)
    with pytest.raises(InvalidSubscriptionError, match="/delivery/timeoutSeconds: must be an integer of 1 to 60"):
        read_delivery({"timeoutSeconds": 61})


# --- what is shown -------------------------------------------------------------------------------------------------


def test_a_row_is_shown_as_described_and_without_its_secrets() -> None:
    document = shown(ROW, now_ms=1_000, last_sequence=5)
    SubscriptionDocument.model_validate(document)
    assert document["secrets"] == {"count": 1, "previousUntil": None}
    assert (document["state"]["cursor"], document["state"]["lagBatches"]) == ("3", 2)
    assert "whsec" not in str(document)
    assert document["filterCriteria"] == {"sourceIds": ["s1"]}


@pytest.mark.parametrize(("now_ms", "count"), [(99, 2), (100, 1)])
def test_two_secrets_are_counted_while_both_sign(now_ms: int, count: int) -> None:
    row = attrs.evolve(ROW, previous_secret="whsec_before", previous_secret_until_ms=100)
    secrets = shown(row, now_ms=now_ms, last_sequence=5)["secrets"]
    assert secrets["count"] == count
    assert (secrets["previousUntil"] is None) == (count == 1)


def test_streams_have_no_secrets() -> None:
    assert "secrets" not in shown(attrs.evolve(ROW, secret=None), now_ms=1, last_sequence=1)


def test_a_row_that_an_earlier_version_wrote_is_shown_as_it_is() -> None:
    row = attrs.evolve(ROW, filter_criteria={"gone": 1}, delivery={"maxEvents": 10**9})
    document = shown(row, now_ms=1, last_sequence=1)
    assert (document["filterCriteria"], document["delivery"]) == ({"gone": 1}, {"maxEvents": 10**9})


def test_the_last_failure_is_shown_once_there_is_one() -> None:
    assert shown(ROW, now_ms=1, last_sequence=1)["state"]["lastFailure"] is None
    row = attrs.evolve(ROW, last_failure_ms=1_000, last_failure_status=503, last_failure_reason="answered 503")
    assert shown(row, now_ms=1, last_sequence=1)["state"]["lastFailure"] == {
        "at": "1970-01-01T00:00:01.000Z",
        "status": 503,
        "reason": "answered 503",
    }


@pytest.mark.parametrize(("now_ms", "status"), [(999, "paused"), (1_000, "expired"), (1_001, "expired")])
def test_a_subscription_expires_on_the_millisecond(now_ms: int, status: str) -> None:
    row = attrs.evolve(ROW, subscription_status="paused", expires_at=moment_of(1_000))
    assert status_of(row, now_ms) == status


@given(st.integers(0, 253_402_300_799_999))
def test_moments_come_back_to_the_millisecond(ms: int) -> None:
    assert milliseconds(moment_of(ms)) == ms
