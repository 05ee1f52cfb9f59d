"""Subscription documents: read into columns, and shown from rows."""

import datetime
from collections.abc import Mapping
from typing import Any, Final

import attrs

from node.delivery.criteria import read_criteria
from node.delivery.cursor import Cursor, read_cursor
from node.delivery.filters import Filter
from node.delivery.history import timestamp
from node.delivery.subscription_models import (
    EPOCH,
    SET_ONCE,
    ReplayRequest,
    SecretRotation,
    SubscriptionChange,
    SubscriptionDocument,
    SubscriptionInput,
    SubscriptionSecrets,
    SubscriptionState,
    WebhookDeliveryOptions,
    WebhookFailure,
)
from node.runtime.document_models import FieldProblem, FixedMemberError, read_document
from node.runtime.topic_patterns import Patterns
from protocols.certificate import rfc3339
from protocols.errors import ClientFault
from storage.subscriptions import Subscription

Document = dict[str, Any]

STREAMS: Final = ("sse", "websocket")
DEFAULTS: Final[Document] = {
    "filter_criteria": {},
    "overlay_topics": [],
    "callback_url": None,
    "subscription_status": "active",
    "expires_at": None,
    "delivery": {},
}


class InvalidSubscriptionError(ClientFault):
    """Field ``field``: a JSON pointer into the document."""

    code = "invalid-request"


class UnfitMemberError(ClientFault):
    """A member does not fit the others, or the subscription. Field ``field``: a JSON pointer into the document."""

    code = "unfit-member"


def unfit_member(member: str, reason: str, remedy: str) -> UnfitMemberError:
    """An error about a member of the document, named as clients write it."""
    return UnfitMemberError(f"/{member}: {reason}", field=f"/{member}", remedy=remedy)


def _invalid(problem: FieldProblem) -> InvalidSubscriptionError:
    return InvalidSubscriptionError(str(problem), field=problem.pointer, remedy=problem.remedy)


def read_values(document: Mapping[str, Any], *, creates: bool = False) -> Document:
    """The columns that a document sets.

    Raises:
        InvalidCriteriaError: Its ``filterCriteria`` are wrong.
        InvalidSubscriptionError: Another member is unknown or wrong.
    """
    if isinstance(criteria := document.get("filterCriteria"), dict):
        read_criteria(criteria, pointer="/filterCriteria")
    model = SubscriptionInput if creates else SubscriptionChange
    return read_document(model, document, _invalid).columns()


def read_replacement(document: Mapping[str, Any]) -> Document:
    """The columns of a document that replaces another: what it leaves out gets its default."""
    return {**DEFAULTS, **read_values(document)}


def read_since(document: Mapping[str, Any]) -> Cursor:
    """``{"since": "12.5"}``."""
    return read_cursor(read_document(ReplayRequest, document, _invalid).since)


def read_rotation(document: Mapping[str, Any]) -> SecretRotation:
    return read_document(SecretRotation, document, _invalid)


def without_set_once(known: Subscription, values: Document) -> Document:
    """The columns without those that only the creation sets.

    Raises:
        FixedMemberError: One of those would change.
    """
    for column in SET_ONCE:
        if values.get(column, getattr(known, column)) != getattr(known, column):
            member = SubscriptionChange.model_fields[column].alias or column
            raise FixedMemberError(
                f"/{member}: cannot be changed",
                field=f"/{member}",
                remedy="leave it out, or create another subscription",
            )
    return {column: value for column, value in values.items() if column not in SET_ONCE}


def read_filter(criteria: Mapping[str, Any], topics: list[str]) -> Filter:
    """What a subscription wants: its criteria, and its topics where it names any.

    Raises:
        ClientFault: With ``field``, a JSON pointer into the subscription.
    """
    if topics and "topics" in criteria:
        raise unfit_member("overlayTopics", "excludes filterCriteria.topics", "send one of the two")
    wanted = read_criteria(criteria, pointer="/filterCriteria")
    return attrs.evolve(wanted, topics=Patterns(frozenset(topics))) if topics else wanted


def read_delivery(delivery: Mapping[str, Any]) -> WebhookDeliveryOptions:
    """How a webhook is delivered.

    Raises:
        InvalidSubscriptionError: Naming the member that is wrong.
    """
    return read_document(WebhookDeliveryOptions, delivery, _invalid, pointer="/delivery")


def cursor_of(row: Subscription) -> Cursor:
    return Cursor(sequence=row.cursor_sequence, position=row.cursor_position)


def milliseconds(moment: datetime.datetime | None) -> int | None:
    """Postgres' UTC in milliseconds since 1970."""
    return None if moment is None else (moment - EPOCH) // datetime.timedelta(milliseconds=1)


def moment_of(ms: int) -> datetime.datetime:
    return EPOCH + datetime.timedelta(milliseconds=ms)


def status_of(row: Subscription, now_ms: int) -> str:
    """The status as of now: one that has expired is so before its row says it."""
    expires_ms = milliseconds(row.expires_at)
    return "expired" if expires_ms is not None and expires_ms <= now_ms else row.subscription_status


def shown(row: Subscription, *, now_ms: int, last_sequence: int) -> Document:
    """A subscription as JSON values; of secrets only how many there are.

    Rows are not checked again: one that an earlier version wrote is shown as it is.
    """
    document = SubscriptionDocument.model_construct(
        subscription_id=row.subscription_id,
        client_id=row.client_id,
        subscription_type=row.subscription_type,
        filter_criteria=row.filter_criteria,
        overlay_topics=row.overlay_topics,
        callback_url=row.callback_url,
        client_identity_key=row.client_identity_key,
        subscription_status=status_of(row, now_ms),
        last_activity_at=timestamp(row.last_activity_at),
        expires_at=timestamp(row.expires_at),
        created_at=timestamp(row.created_at),
        updated_at=timestamp(row.updated_at),
        delivery=row.delivery,
        state=_state(row, last_sequence),
    )
    if row.secret is not None:
        document = document.model_copy(update={"secrets": _secrets(row, now_ms)})
    return document.model_dump(by_alias=True, exclude_unset=True, warnings=False)


def _secrets(row: Subscription, now_ms: int) -> SubscriptionSecrets:
    both = row.previous_secret is not None and now_ms < row.previous_secret_until_ms
    return SubscriptionSecrets.model_construct(
        count=2 if both else 1, previous_until=rfc3339(row.previous_secret_until_ms) if both else None
    )


def _state(row: Subscription, last_sequence: int) -> SubscriptionState:
    failure = WebhookFailure.model_construct(
        at=_moment(row.last_failure_ms), status=row.last_failure_status, reason=row.last_failure_reason
    )
    return SubscriptionState.model_construct(
        cursor=str(cursor_of(row)),
        lag_batches=max(0, last_sequence - row.cursor_sequence),
        deliveries=row.deliveries,
        failures=row.failures,
        last_success_at=_moment(row.last_success_ms),
        last_failure=failure if row.last_failure_ms else None,
        failing_since=_moment(row.failing_since_ms),
        next_try_at=None,  # known to the task that will try
        pause_reason=row.pause_reason,
    )


def _moment(ms: int | None) -> str | None:
    return rfc3339(ms) if ms else None
