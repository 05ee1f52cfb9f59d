"""Subscriptions as clients send and see them."""

import datetime
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from agents.timestamps import epoch_ms
from node.delivery.chunks import Place, read_place
from node.delivery.criteria import read_criteria
from node.delivery.filters import Filter
from node.delivery.history import timestamp
from node.delivery.signatures import read_secret
from node.delivery.webhook import Options
from protocols.certificate import rfc3339
from protocols.errors import ClientFault
from protocols.limits import TOPIC_CHARS_MAX, TOPICS_PER_BATCH_MAX
from storage.subscriptions import Subscription

Document = dict[str, Any]

TYPES: Final = ("sse", "websocket", "webhook", "overlay")
STREAMS: Final = ("sse", "websocket")
STATUSES: Final = ("active", "paused", "expired")
SUBSCRIPTION_ID: Final = re.compile("[A-Za-z0-9._:-]{1,100}")
IDENTITY_KEY: Final = re.compile("0[23][0-9a-f]{64}")
CLIENT_ID_CHARS_MAX: Final = 128
CRITERIA_MEMBERS_MAX: Final = 32
URL_CHARS_MAX: Final = 2_048
DAY_S: Final = 86_400
MAX_EVENTS: Final = 1_000
RETRY_FOR_S_MAX: Final = 30 * DAY_S
TIMEOUT_S_MAX: Final = 60
KEEP_SECRET_S: Final = DAY_S
KEEP_SECRET_S_MAX: Final = 30 * DAY_S
EPOCH: Final = datetime.datetime(1970, 1, 1)


class InvalidSubscriptionError(ClientFault):
    """Field ``field``: a JSON pointer into the document."""

    code = "invalid-request"


class DeliverySettings(BaseModel):
    """The member ``delivery`` of a webhook subscription; see ``node.delivery.webhook.Options``."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, hide_input_in_errors=True, alias_generator=to_camel
    )

    max_events: int = Field(1, ge=1, le=MAX_EVENTS)
    retry_for_seconds: int = Field(DAY_S, ge=0, le=RETRY_FOR_S_MAX)
    timeout_seconds: int = Field(15, ge=1, le=TIMEOUT_S_MAX)


def wrong(field: str, why: str, remedy: str) -> InvalidSubscriptionError:
    pointer = f"/{field[:80]}"
    return InvalidSubscriptionError(f"{pointer}: {why}", field=pointer, remedy=remedy)


def _is_text(chars_max: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and 0 < len(value.strip()) <= chars_max and value.isprintable()


def _matches(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_criteria(value: Any) -> bool:
    return isinstance(value, dict) and len(value) <= CRITERIA_MEMBERS_MAX


def _is_topics(value: Any) -> bool:
    is_topic = _is_text(TOPIC_CHARS_MAX)
    return isinstance(value, list) and len(value) <= TOPICS_PER_BATCH_MAX and all(map(is_topic, value))


def _is_moment(value: Any) -> bool:
    return value is None or (isinstance(value, str) and epoch_ms(value) is not None)


def _is_secret(value: Any) -> bool:
    try:
        return isinstance(value, str) and len(read_secret(value)) > 0
    except ValueError:
        return False


def _is_place(value: Any) -> bool:
    try:
        return isinstance(value, str) and read_place(value).sequence >= 0
    except ValueError:
        return False


@attrs.frozen(kw_only=True)
class Member:
    """Of a document: where it goes, what it must be.

    Attributes:
        set_once: Only at creation; a later document may repeat it.
    """

    column: str
    check: Callable[[Any], bool]
    wanted: str
    set_once: bool = False


SECRET_FORM: Final = "whsec_ and the base64 of 24 to 64 bytes"  # noqa: S105  # a form
PLACE_FORM: Final = "a place in the feed such as 12.5, or 0 for everything"
MEMBERS: Final[dict[str, Member]] = {
    "subscriptionId": Member(
        column="subscription_id",
        check=_matches(SUBSCRIPTION_ID),
        wanted="1 to 100 letters, digits and any of . _ : -",
        set_once=True,
    ),
    "subscriptionType": Member(
        column="subscription_type",
        check=lambda value: value in TYPES,
        wanted=f"one of {', '.join(TYPES)}",
        set_once=True,
    ),
    "clientIdentityKey": Member(
        column="client_identity_key",
        check=_matches(IDENTITY_KEY),
        wanted="a compressed public key in hexadecimal",
        set_once=True,
    ),
    "clientId": Member(
        column="client_id",
        check=_is_text(CLIENT_ID_CHARS_MAX),
        wanted=f"1 to {CLIENT_ID_CHARS_MAX} printable characters",
    ),
    "filterCriteria": Member(column="filter_criteria", check=_is_criteria, wanted="an object"),
    "overlayTopics": Member(
        column="overlay_topics", check=_is_topics, wanted=f"at most {TOPICS_PER_BATCH_MAX} topics or patterns"
    ),
    "callbackUrl": Member(
        column="callback_url",
        check=_is_text(URL_CHARS_MAX),
        wanted=f"a URL of at most {URL_CHARS_MAX} printable characters",
    ),
    "subscriptionStatus": Member(
        column="subscription_status", check=lambda value: value in ("active", "paused"), wanted="active or paused"
    ),
    "expiresAt": Member(column="expires_at", check=_is_moment, wanted="a time (RFC 3339), or null"),
    "delivery": Member(column="delivery", check=lambda value: isinstance(value, dict), wanted="an object"),
}
ONLY_AT_CREATION: Final = {
    "secret": Member(column="secret", check=_is_secret, wanted=SECRET_FORM),
    "since": Member(column="since", check=_is_place, wanted=PLACE_FORM),
}
DEFAULTS: Final[Document] = {
    "filter_criteria": {},
    "overlay_topics": [],
    "callback_url": None,
    "subscription_status": "active",
    "expires_at": None,
    "delivery": {},
}


def read_values(document: Mapping[str, Any], *, creates: bool = False) -> Document:
    """The columns that a document sets.

    Raises:
        InvalidSubscriptionError: A member is unknown, or not what it should be.
    """
    known = MEMBERS | ONLY_AT_CREATION if creates else MEMBERS
    values = {}
    for name, value in document.items():
        member = known.get(name)
        if member is None:
            raise wrong(name, "unknown member", f"known here are {', '.join(known)}")
        if not member.check(value):
            raise wrong(name, f"is not {member.wanted}", f"send {member.wanted}")
        values[member.column] = _column(member.column, value)
    return values


def _column(column: str, value: Any) -> Any:
    if column == "expires_at" and value is not None:
        return EPOCH + datetime.timedelta(milliseconds=epoch_ms(value) or 0)
    return read_place(value) if column == "since" else value


def read_since(document: Mapping[str, Any]) -> Place:
    """``{"since": "12.5"}``."""
    if set(document) != {"since"} or not _is_place(document["since"]):
        raise wrong("since", f"is not {PLACE_FORM}", f"send {PLACE_FORM}, and nothing else")
    return read_place(document["since"])


def read_rotation(document: Mapping[str, Any]) -> tuple[str | None, int]:
    """``{"secret": .., "keepPreviousSeconds": ..}``, either of which may be left out."""
    secret, keep_s = document.get("secret"), document.get("keepPreviousSeconds", KEEP_SECRET_S)
    for name in set(document) - {"secret", "keepPreviousSeconds"}:
        raise wrong(name, "unknown member", "known here are secret, keepPreviousSeconds")
    if secret is not None and not _is_secret(secret):
        raise wrong("secret", f"is not {SECRET_FORM}", f"send {SECRET_FORM}, or leave it out to have one made")
    if type(keep_s) is not int or not 0 <= keep_s <= KEEP_SECRET_S_MAX:
        raise wrong("keepPreviousSeconds", "is no time", f"send seconds, 0 to {KEEP_SECRET_S_MAX}")
    return secret, keep_s


def whole(document: Mapping[str, Any]) -> Document:
    """The columns of a document that replaces another: what it leaves out gets its default."""
    return {**DEFAULTS, **read_values(document)}


def refuse_moves(known: Subscription, values: Document) -> Document:
    """The columns without those that are set once.

    Raises:
        InvalidSubscriptionError: One of those would change.
    """
    for name, member in MEMBERS.items():
        if member.set_once and values.get(member.column, getattr(known, member.column)) != getattr(
            known, member.column
        ):
            raise wrong(name, "is set once", "leave it out, or make another subscription")
    fixed = {member.column for member in MEMBERS.values() if member.set_once}
    return {column: value for column, value in values.items() if column not in fixed}


def read_filter(criteria: Mapping[str, Any], topics: list[str]) -> Filter:
    """What a subscription wants: its criteria, and its topics where it names any.

    Raises:
        ClientFault: With ``field``, a JSON pointer into the subscription.
    """
    if topics and "topics" in criteria:
        raise wrong("overlayTopics", "stands beside filterCriteria.topics", "send one of the two")
    try:
        return read_criteria({**criteria, "topics": topics} if topics else criteria)
    except ClientFault as error:
        inside = str(error.fields.get("field", ""))
        error.fields["field"] = (
            f"/overlayTopics{inside[7:]}" if topics and inside[:7] == "/topics" else (f"/filterCriteria{inside}")
        )
        raise


def read_delivery(delivery: Mapping[str, Any]) -> Options:
    """How a webhook is delivered.

    Raises:
        InvalidSubscriptionError: Naming the member that is wrong.
    """
    try:
        read = DeliverySettings.model_validate(dict(delivery))
    except ValidationError as error:
        detail = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = "/".join(["delivery", *map(str, detail["loc"])])
        raise wrong(field, detail["msg"][:200], "see /openapi.json for the form") from None
    return Options(max_events=read.max_events, retry_for_s=read.retry_for_seconds, timeout_s=read.timeout_seconds)


def place_of(row: Subscription) -> Place:
    return Place(sequence=row.cursor_sequence, position=row.cursor_position)


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
    """A subscription as JSON values; of secrets no more than how many there are."""
    document = {
        "subscriptionId": row.subscription_id,
        "clientId": row.client_id,
        "subscriptionType": row.subscription_type,
        "filterCriteria": row.filter_criteria,
        "overlayTopics": row.overlay_topics,
        "callbackUrl": row.callback_url,
        "clientIdentityKey": row.client_identity_key,
        "subscriptionStatus": status_of(row, now_ms),
        "lastActivityAt": timestamp(row.last_activity_at),
        "expiresAt": timestamp(row.expires_at),
        "createdAt": timestamp(row.created_at),
        "updatedAt": timestamp(row.updated_at),
        "delivery": row.delivery,
        "state": _state(row, last_sequence),
    }
    if row.secret is not None:
        both = row.previous_secret is not None and now_ms < row.previous_secret_until_ms
        document["secrets"] = {
            "count": 2 if both else 1,
            "previousUntil": rfc3339(row.previous_secret_until_ms) if both else None,
        }
    return document


def _state(row: Subscription, last_sequence: int) -> Document:
    def moment(ms: int | None) -> str | None:
        return rfc3339(ms) if ms else None

    failure = {
        "at": moment(row.last_failure_ms),
        "status": row.last_failure_status,
        "reason": row.last_failure_reason,
    }
    return {
        "cursor": str(place_of(row)),
        "lagBatches": max(0, last_sequence - row.cursor_sequence),
        "deliveries": row.deliveries,
        "failures": row.failures,
        "lastSuccessAt": moment(row.last_success_ms),
        "lastFailure": failure if row.last_failure_ms else None,
        "failingSince": moment(row.failing_since_ms),
        "nextTryAt": None,  # known to the task that will try
        "pauseReason": row.pause_reason,
    }
