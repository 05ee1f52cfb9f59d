"""The part of the description about subscriptions: cursors of streams, webhooks, and their schemas."""

from typing import Any, Final, get_args

from node.api.describing import in_path, in_query, json_answer, json_body, operation, problem_answers
from node.api.schemas import LEVEL, Schema, array, integer, nullable, record, ref, text
from node.delivery.subscription_models import (
    CLIENT_ID_CHARS_MAX,
    DAY_S,
    KEEP_SECRET_S_MAX,
    MAX_EVENTS,
    RETRY_FOR_S_MAX,
    TIMEOUT_S_MAX,
    SubscriptionType,
)
from protocols.limits import TOPICS_PER_BATCH_MAX

EXAMPLE: Final = {
    "subscriptionType": "webhook",
    "callbackUrl": "https://example.org/hooks/weather",
    "overlayTopics": ["gitdata.events.#"],
    "filterCriteria": {"minCertificationLevel": "enhanced", "expression": "data.value > 30"},
    "delivery": {"maxEvents": 100},
}
FLAG: Final[Schema] = {"type": "boolean"}
CRITERIA: Final = record(
    {
        "topics": array(text(), "Patterns: * stands for one part, # for any number. Not beside overlayTopics."),
        "sourceIds": array(text()),
        "eventTypes": array(text(), "Patterns."),
        "minCertificationLevel": LEVEL,
        "status": text(enum=["valid", "invalid", "all"]),
        "expression": text("A condition of the policy language."),
        "includeProcessingEvidence": FLAG,
        "includeCertificate": FLAG,
    },
    "topics",
    "sourceIds",
    "eventTypes",
    "minCertificationLevel",
    "status",
    "expression",
    "includeProcessingEvidence",
    "includeCertificate",
    closed=True,
)
DELIVERY: Final = record(
    {
        "maxEvents": integer(
            "1, the default: each event is a body of its own, as in the stream. More: bodies of the form "
            '{"type":"events","subscriptionId":..,"events":[..]} with up to so many.',
            minimum=1,
            maximum=MAX_EVENTS,
        ),
        "retryForSeconds": integer(
            f"How long deliveries may fail before the subscription is paused; default {DAY_S}.",
            minimum=0,
            maximum=RETRY_FOR_S_MAX,
        ),
        "timeoutSeconds": integer("To the answer's head; default 15.", minimum=1, maximum=TIMEOUT_S_MAX),
    },
    "maxEvents",
    "retryForSeconds",
    "timeoutSeconds",
    closed=True,
)
SETTABLE: Final[dict[str, Schema]] = {
    "clientId": text("A name to know it by.", maxLength=CLIENT_ID_CHARS_MAX),
    "filterCriteria": CRITERIA,
    "overlayTopics": array(text(), "Topics or patterns; none: all.", maxItems=TOPICS_PER_BATCH_MAX),
    "callbackUrl": text("Of webhooks: https, or http to networks that the operator allows."),
    "subscriptionStatus": text(enum=["active", "paused"]),
    "expiresAt": nullable(text("RFC 3339.")),
    "delivery": DELIVERY,
}
SET_ONCE: Final[dict[str, Schema]] = {
    "subscriptionId": text("Made up where it is left out.", pattern="^[A-Za-z0-9._:-]{1,100}$"),
    "subscriptionType": text(enum=list(get_args(SubscriptionType))),
    "clientIdentityKey": text("Whose it is: the caller's, unless an operator says otherwise."),
}
CREATION: Final[dict[str, Schema]] = {
    "secret": text("Of webhooks: whsec_ and the base64 of 24 to 64 bytes; made by the node where it is left out."),
    "since": text("Where it begins: a place in the feed such as 12.5, or 0 for everything. Default: from now on."),
}
STATE: Final = record(
    {
        "cursor": text("All up to here was taken, or not wanted."),
        "lagBatches": integer("Batches sealed since."),
        "deliveries": integer("Taken by the receiver."),
        "failures": integer("Not taken."),
        "lastSuccessAt": nullable(text()),
        "lastFailure": nullable(
            record({"at": text(), "status": nullable(integer("Null: no answer in HTTP.")), "reason": text()})
        ),
        "failingSince": nullable(text()),
        "nextTryAt": nullable(text()),
        "pauseReason": nullable(text("Why the node paused it.")),
    }
)
SUBSCRIPTION: Final = record(
    {
        **SET_ONCE,
        **SETTABLE,
        "subscriptionStatus": text(enum=["active", "paused", "expired"]),
        "callbackUrl": nullable(text()),
        "clientIdentityKey": nullable(text()),
        "lastActivityAt": nullable(text()),
        "createdAt": text(),
        "updatedAt": text(),
        "state": STATE,
        "secrets": record(
            {"count": integer("2: deliveries carry both signatures."), "previousUntil": nullable(text())}
        ),
        "secret": text("Shown once, where the node made it."),
    },
    "secrets",
    "secret",
)
SUBSCRIPTION_SCHEMAS: Final[dict[str, Schema]] = {
    "Subscription": SUBSCRIPTION,
    "SubscriptionInput": record(
        {**SET_ONCE, **SETTABLE, **CREATION},
        *(name for name in (*SET_ONCE, *SETTABLE, *CREATION) if name != "subscriptionType"),
        closed=True,
    ),
    "SubscriptionChange": record(SETTABLE | SET_ONCE, *SETTABLE, *SET_ONCE, closed=True),
}
BAD: Final = ("invalid-json", "invalid-request", "invalid-filter", "invalid-callback", "unsupported-media-type")
WHO: Final = ("identity-required", "not-permitted")


def subscription_paths() -> dict[str, Any]:
    one = [in_path("subscriptionId")]
    saved = json_answer("The subscription.", ref("Subscription"))
    known = problem_answers("unknown-subscription", *WHO)
    changed = {"200": saved, **problem_answers("unknown-subscription", *BAD, *WHO, "body-too-large")}
    page = record({"subscriptions": array(ref("Subscription")), "nextAfter": {"type": ["string", "null"]}})
    paging = [
        in_query("limit", integer(minimum=1, maximum=1000), "Page size; default 100."),
        in_query("after", text(), "The nextAfter of the page before."),
    ]
    return {
        "/overlay/subscriptions": {
            "post": operation(
                "createSubscription",
                "subscriptions",
                "Subscribe: a cursor for streams, or a webhook",
                {
                    "201": saved,
                    **problem_answers("subscription-exists", "too-many-subscriptions", "body-too-large", *BAD, *WHO),
                },
                description=(
                    "sse and websocket: a durable place and filter for a stream. webhook: events are posted to "
                    "callbackUrl, at least once and in order, signed as Standard Webhooks; a delivery is taken with "
                    "2xx, sent again with pauses that grow otherwise, and ended with 410. Retries carry the same "
                    "webhook-id. Anonymous callers may have streams' cursors only, for a day."
                ),
                requestBody=json_body(ref("SubscriptionInput"), EXAMPLE),
            ),
            "get": operation(
                "listSubscriptions",
                "subscriptions",
                "Your subscriptions by id; all of them for operators",
                {"200": json_answer("A page.", page), **problem_answers("invalid-parameter", *WHO)},
                parameters=paging,
            ),
        },
        "/overlay/subscriptions/{subscriptionId}": {
            "get": operation(
                "getSubscription",
                "subscriptions",
                "A subscription, and how it is doing",
                {"200": saved, **known},
                parameters=one,
            ),
            "patch": operation(
                "changeSubscription",
                "subscriptions",
                "Change the fields sent; status active goes on where it stood",
                changed,
                requestBody=json_body(ref("SubscriptionChange"), {"subscriptionStatus": "active"}),
                parameters=one,
            ),
            "put": operation(
                "replaceSubscription",
                "subscriptions",
                "Replace a subscription: fields not sent get their defaults; cursor and secret stay",
                changed,
                requestBody=json_body(ref("SubscriptionChange"), EXAMPLE),
                parameters=one,
            ),
            "delete": operation(
                "deleteSubscription",
                "subscriptions",
                "End a subscription",
                {"204": {"description": "It is gone."}, **known},
                parameters=one,
            ),
        },
        **_action_paths(one, changed),
    }


def _action_paths(one: list[dict[str, Any]], changed: dict[str, Any]) -> dict[str, Any]:
    tried = record(
        {"delivered": FLAG, "status": nullable(integer()), "reason": nullable(text("Why it was not taken."))}
    )
    rotation = record(
        {
            "secret": CREATION["secret"],
            "keepPreviousSeconds": integer(
                f"How long the one before signs too; default {DAY_S}.", minimum=0, maximum=KEEP_SECRET_S_MAX
            ),
        },
        "secret",
        "keepPreviousSeconds",
        closed=True,
    )
    return {
        "/overlay/subscriptions/{subscriptionId}/replay": {
            "post": operation(
                "replaySubscription",
                "subscriptions",
                "Go on from another place; what comes after it is delivered again, under the same ids",
                changed,
                requestBody=json_body(record({"since": CREATION["since"]}, closed=True), {"since": "12.5"}),
                parameters=one,
            )
        },
        "/overlay/subscriptions/{subscriptionId}/test": {
            "post": operation(
                "testSubscription",
                "subscriptions",
                "Send a webhook's receiver a signed message of type test, now, once",
                {
                    "200": json_answer("What came of it.", tried),
                    **problem_answers("unknown-subscription", "invalid-request", "overloaded", *WHO),
                },
                parameters=one,
            )
        },
        "/overlay/subscriptions/{subscriptionId}/secret": {
            "post": operation(
                "rotateSecret",
                "subscriptions",
                "Sign with another secret; for a while with the one before, too",
                changed,
                requestBody=json_body(rotation, {"keepPreviousSeconds": 3600}),
                parameters=one,
            )
        },
    }
