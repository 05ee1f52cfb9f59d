"""The documents of the subscription API as typed models, which the interface's description is derived from."""

import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, StringConstraints, WithJsonSchema

from agents.timestamps import epoch_ms
from node.delivery.criteria import FilterCriteria
from node.delivery.cursor import read_cursor
from node.delivery.signatures import read_secret
from node.runtime.document_models import IS_PRINTABLE, DocumentModel, SchemaMembers, optional_member
from protocols.limits import TOPIC_CHARS_MAX, TOPICS_PER_BATCH_MAX

DAY_S: Final = 86_400
MAX_EVENTS: Final = 1_000
RETRY_FOR_S_MAX: Final = 30 * DAY_S
TIMEOUT_S_MAX: Final = 60
KEEP_SECRET_S_MAX: Final = 30 * DAY_S
CLIENT_ID_CHARS_MAX: Final = 128
URL_CHARS_MAX: Final = 2_048
EPOCH: Final = datetime.datetime(1970, 1, 1)
SET_ONCE: Final = ("subscription_id", "subscription_type", "client_identity_key")
"""Attributes of a subscription that only its creation sets."""

SubscriptionType = Literal["sse", "websocket", "webhook", "overlay"]


def _moment(text: str) -> str:
    if epoch_ms(text) is None:
        raise ValueError("must be a time as in RFC 3339, such as 2026-01-31T12:00:00Z")
    return text


def _secret(text: str) -> str:
    try:
        read_secret(text)
    except ValueError:
        raise ValueError("must be whsec_ and the base64 of 24 to 64 bytes") from None
    return text


def _cursor(text: str) -> str:
    try:
        read_cursor(text)
    except ValueError:
        raise ValueError("must be a cursor of the feed such as 12.5, or 0 for everything") from None
    return text


ClientId = Annotated[str, StringConstraints(min_length=1, max_length=CLIENT_ID_CHARS_MAX), IS_PRINTABLE]
Topic = Annotated[str, StringConstraints(min_length=1, max_length=TOPIC_CHARS_MAX), IS_PRINTABLE]
CallbackUrl = Annotated[  # ``callback_url`` checks the rest
    str,
    StringConstraints(min_length=1, max_length=URL_CHARS_MAX),
    SchemaMembers(format="uri", pattern=r"^https?://[^\s/?#@]+(?:[/?][^\s#]*)?$"),
]
SubscriptionId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:-]{1,100}$")]
IdentityKeyText = Annotated[str, StringConstraints(pattern="^0[23][0-9a-f]{64}$")]
Moment = Annotated[str, AfterValidator(_moment), WithJsonSchema({"type": "string", "format": "date-time"})]
QUAD: Final = "(?:[A-Za-z0-9+/]{4})"
ENDS: Final = ("[A-Za-z0-9+/][AQgw]==", "[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=")  # of one byte, and of two
SECRET_BASE64: Final = f"(?:{QUAD}{{8,20}}(?:{ENDS[0]}|{ENDS[1]})?|{QUAD}{{21}}(?:{ENDS[0]})?)"  # 24 to 64 bytes
WebhookSecret = Annotated[
    str, AfterValidator(_secret), WithJsonSchema({"type": "string", "pattern": f"^whsec_{SECRET_BASE64}$"})
]
FeedCursor = Annotated[
    str, AfterValidator(_cursor), WithJsonSchema({"type": "string", "pattern": r"^[0-9]{1,18}(\.[0-9]{1,9})?$"})
]


class WebhookDeliveryOptions(DocumentModel):
    """How a webhook subscription is delivered."""

    max_events: int = Field(
        1,
        ge=1,
        le=MAX_EVENTS,
        description="1: each event is a body of its own, as in the stream. More: bodies of the form "
        '{"type":"events","subscriptionId":..,"events":[..]} with up to so many.',
    )
    retry_for_seconds: int = Field(
        DAY_S,
        ge=0,
        le=RETRY_FOR_S_MAX,
        description="How long deliveries may fail before the subscription is paused.",
    )
    timeout_seconds: int = Field(
        15,
        ge=1,
        le=TIMEOUT_S_MAX,
        description="For connecting, sending and the head of the answer, all together.",
    )


class SubscriptionChange(DocumentModel):
    """What PATCH changes and PUT replaces of a subscription."""

    subscription_id: SubscriptionId = optional_member(
        description="Set at creation, generated where it is left out; a change may only repeat it."
    )
    subscription_type: SubscriptionType = optional_member(
        description="Set at creation; a change may only repeat it. sse and websocket: a durable cursor and filter of "
        "a stream. webhook: events are posted to callbackUrl. overlay: other nodes are notified."
    )
    client_identity_key: IdentityKeyText = optional_member(
        description="Whose it is: the caller's, unless an operator sets another's. Set at creation."
    )
    client_id: ClientId = optional_member(description="A name for people.")
    filter_criteria: FilterCriteria = Field(default_factory=lambda: FilterCriteria.model_validate({}))
    overlay_topics: list[Topic] = Field(
        default_factory=list, max_length=TOPICS_PER_BATCH_MAX, description="Topics or patterns of them; none: all."
    )
    callback_url: CallbackUrl = optional_member(
        description="Of webhooks: an https URL, or an http URL in a network that the operator allows."
    )
    subscription_status: Literal["active", "paused"] = Field(
        "active", description="active: goes on from where it stands."
    )
    expires_at: Moment | None = Field(None, description="When it ends (RFC 3339); null: never.")
    delivery: WebhookDeliveryOptions = Field(default_factory=lambda: WebhookDeliveryOptions.model_validate({}))

    def columns(self) -> dict[str, Any]:
        """The columns that the document sets, by name; JSON members as they were sent."""
        return {name: _column(name, getattr(self, name)) for name in self.model_fields_set}


class SubscriptionInput(SubscriptionChange):
    """A new subscription."""

    subscription_type: SubscriptionType = Field(
        description="sse and websocket: a durable cursor and filter of a stream. webhook: events are posted to "
        "callbackUrl. overlay: other nodes are notified."
    )
    secret: WebhookSecret = optional_member(
        description="Of webhooks: whsec_ and the base64 of 24 to 64 bytes; made by the node where it is left out."
    )
    since: FeedCursor = optional_member(
        description="Where it begins: a cursor of the feed such as 12.5, or 0 for everything. Default: from now on."
    )


def _column(name: str, value: Any) -> Any:
    match name:
        case "filter_criteria" | "delivery":
            return value.model_dump(by_alias=True, exclude_unset=True)
        case "expires_at" if value is not None:
            return EPOCH + datetime.timedelta(milliseconds=epoch_ms(value) or 0)
        case "since":
            return read_cursor(value)
        case _:
            return value


class ReplayRequest(DocumentModel):
    """From where a subscription goes on; what comes after it is delivered again, under the same ids."""

    since: FeedCursor = Field(description="A cursor of the feed such as 12.5, or 0 for everything.")


class SecretRotation(DocumentModel):
    """Another secret to sign deliveries with."""

    secret: WebhookSecret | None = Field(
        None, description="whsec_ and the base64 of 24 to 64 bytes; made by the node where it is left out."
    )
    keep_previous_seconds: int = Field(
        DAY_S, ge=0, le=KEEP_SECRET_S_MAX, description="How long the secret before signs too."
    )


class WebhookFailure(DocumentModel):
    """The last delivery that the receiver did not take."""

    at: str | None = Field(description="RFC 3339.")
    status: int | None = Field(description="The HTTP status; null where there was no answer in HTTP.")
    reason: str | None


class SubscriptionState(DocumentModel):
    """How a subscription is doing."""

    cursor: str = Field(description="Everything up to here was taken, or not wanted.")
    lag_batches: int = Field(description="Batches sealed since.")
    deliveries: int = Field(description="Deliveries that the receiver took.")
    failures: int = Field(description="Deliveries that it did not take, each attempt.")
    last_success_at: str | None
    last_failure: WebhookFailure | None
    failing_since: str | None = Field(description="The first failure since the last success.")
    next_try_at: str | None = Field(description="When a delivery that was not taken is sent again.")
    pause_reason: str | None = Field(description="Why the node paused it.")


class SubscriptionSecrets(DocumentModel):
    """The secrets of a webhook subscription, without the secrets."""

    count: int = Field(description="2: deliveries carry both signatures.")
    previous_until: str | None = Field(description="How long the secret before signs too.")


class SubscriptionDocument(DocumentModel):
    """A subscription as it is shown."""

    subscription_id: str
    client_id: str
    subscription_type: SubscriptionType
    filter_criteria: FilterCriteria
    overlay_topics: list[str]
    callback_url: str | None
    client_identity_key: str | None
    subscription_status: Literal["active", "paused", "expired"]
    last_activity_at: str | None
    expires_at: str | None
    created_at: str | None
    updated_at: str | None
    delivery: WebhookDeliveryOptions
    state: SubscriptionState
    secrets: SubscriptionSecrets = optional_member(description="Of webhooks.")
    secret: str = optional_member(description="Shown once, where the node made it.")


class SubscriptionPage(DocumentModel):
    """Subscriptions in the order of their ids."""

    subscriptions: list[SubscriptionDocument]
    next_after: str | None = Field(description="Send it as after to get the next page; null on the last.")


class WebhookTestResult(DocumentModel):
    """The outcome of a test delivery."""

    delivered: bool
    status: int | None = Field(description="The HTTP status; null where there was no answer in HTTP.")
    reason: str | None = Field(description="Why it was not taken.")
