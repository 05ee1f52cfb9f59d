"""Subscriptions: create, read, list, change, replace, delete; replay, a test, another secret."""

from functools import partial
from typing import Any, Final

from quart import Response, g

from node.api.models.base import JsonObject, PageQuery
from node.api.operations import Answer, Document, Operation, Resource, json_answer, links_to
from node.api.services import Services
from node.api.wire import answer
from node.delivery import subscription_documents as documents
from node.delivery import subscriptions as stored
from node.delivery.cursor import Cursor
from node.delivery.subscription_models import (
    ReplayRequest,
    SecretRotation,
    SubscriptionChange,
    SubscriptionDocument,
    SubscriptionInput,
    SubscriptionPage,
    WebhookTestResult,
)
from protocols.certificate import rfc3339

EXAMPLE: Final = {
    "subscriptionType": "webhook",
    "callbackUrl": "https://example.org/hooks/weather",
    "overlayTopics": ["gitdata.events.#"],
    "filterCriteria": {"minCertificationLevel": "enhanced", "expression": "data.value > 30"},
    "delivery": {"maxEvents": 100},
}
SAVED: Final = json_answer("The subscription.", SubscriptionDocument)
CREATED: Final = json_answer(
    "The subscription.",
    SubscriptionDocument,
    links=links_to(
        "subscriptionId",
        "/subscriptionId",
        "getSubscription",
        "changeSubscription",
        "replaceSubscription",
        "deleteSubscription",
        "replaySubscription",
        "testSubscription",
        "rotateSecret",
    ),
    Location="Its address.",
)
WHO: Final = ("identity-required", "not-permitted")
BAD: Final = (
    "fixed-member",
    "unfit-member",
    "invalid-json",
    "invalid-request",
    "invalid-filter",
    "invalid-callback",
    "unsupported-media-type",
    "body-too-large",
    *WHO,
)

subscriptions = Resource("subscriptions", lambda services: services)


@subscriptions.post(
    "/overlay/subscriptions",
    Operation(
        operation_id="createSubscription",
        tag="subscriptions",
        summary="Subscribe: a cursor for streams, or a webhook",
        description=(
            "sse and websocket: a durable place and filter for a stream. webhook: events are posted to "
            "callbackUrl, at least once and in order, signed as Standard Webhooks; a delivery is taken with "
            "2xx, sent again with pauses that grow otherwise, and ended with 410. Retries carry the same "
            "webhook-id. Anonymous callers may have streams' cursors only, for a day."
        ),
        body=Document(model=SubscriptionInput, example=EXAMPLE, read=partial(documents.read_values, creates=True)),
        answers={201: CREATED},
        problems=("subscription-exists", "too-many-subscriptions", "ahead-of-feed", *BAD),
    ),
)
async def create_subscription(services: Services, document: JsonObject) -> Response:
    webhooks = services.webhooks
    call = partial(stored.create, values=document, caller=g.caller, allowed=webhooks.allowed)
    made, secret = await services.database.run(call)
    await webhooks.reconcile()
    response = answer(_with_state(services, made, secret), 201)
    response.headers["Location"] = f"/overlay/subscriptions/{made['subscriptionId']}"
    return response


@subscriptions.get(
    "/overlay/subscriptions",
    Operation(
        operation_id="listSubscriptions",
        tag="subscriptions",
        summary="Your subscriptions by id; all of them for operators",
        query=PageQuery,
        answers={200: json_answer("A page.", SubscriptionPage)},
        problems=WHO,
    ),
)
async def list_subscriptions(services: Services, query: PageQuery) -> Response:
    await services.cursors.flush()
    call = partial(stored.page, caller=g.caller, after=query.after, limit=query.limit)
    page = await services.database.run(call)
    return answer({**page, "subscriptions": [_with_state(services, each) for each in page["subscriptions"]]})


@subscriptions.get(
    "/overlay/subscriptions/<subscription_id>",
    Operation(
        operation_id="getSubscription",
        tag="subscriptions",
        summary="A subscription, and how it is doing",
        answers={200: SAVED},
        problems=("unknown-subscription", *WHO),
    ),
)
async def get_subscription(services: Services, subscription_id: str) -> Response:
    await services.cursors.flush()
    call = partial(stored.get, subscription_id=subscription_id, caller=g.caller)
    return answer(_with_state(services, await services.database.run(call)))


@subscriptions.patch(
    "/overlay/subscriptions/<subscription_id>",
    Operation(
        operation_id="changeSubscription",
        tag="subscriptions",
        summary="Change the fields sent; status active goes on where it stood",
        body=Document(model=SubscriptionChange, example={"subscriptionStatus": "active"}, read=documents.read_values),
        answers={200: SAVED},
        problems=("unknown-subscription", "subscription-not-active", *BAD),
    ),
)
async def change_subscription(services: Services, subscription_id: str, document: JsonObject) -> Response:
    return await _changed(services, subscription_id, document)


@subscriptions.put(
    "/overlay/subscriptions/<subscription_id>",
    Operation(
        operation_id="replaceSubscription",
        tag="subscriptions",
        summary="Replace a subscription: fields not sent get their defaults; cursor and secret stay",
        body=Document(model=SubscriptionChange, example=EXAMPLE, read=documents.read_replacement),
        answers={200: SAVED},
        problems=("unknown-subscription", "subscription-not-active", *BAD),
    ),
)
async def replace_subscription(services: Services, subscription_id: str, document: JsonObject) -> Response:
    return await _changed(services, subscription_id, document)


@subscriptions.delete(
    "/overlay/subscriptions/<subscription_id>",
    Operation(
        operation_id="deleteSubscription",
        tag="subscriptions",
        summary="End a subscription",
        answers={204: Answer(description="It is gone.")},
        problems=("unknown-subscription", *WHO),
    ),
)
async def delete_subscription(services: Services, subscription_id: str) -> Response:
    await services.database.run(partial(stored.delete, subscription_id=subscription_id, caller=g.caller))
    await services.webhooks.reconcile()
    return Response(b"", status=204)


@subscriptions.post(
    "/overlay/subscriptions/<subscription_id>/replay",
    Operation(
        operation_id="replaySubscription",
        tag="subscriptions",
        summary="Go on from another place; what comes after it is delivered again, under the same ids",
        body=Document(model=ReplayRequest, example={"since": "12.5"}, read=documents.read_since),
        answers={200: SAVED},
        problems=("unknown-subscription", "ahead-of-feed", *BAD),
    ),
)
async def replay_subscription(services: Services, subscription_id: str, document: Cursor) -> Response:
    call = partial(stored.replay, subscription_id=subscription_id, since=document, caller=g.caller)
    replayed = await services.database.run(call)
    await services.webhooks.reconcile()
    return answer(_with_state(services, replayed))


@subscriptions.post(
    "/overlay/subscriptions/<subscription_id>/test",
    Operation(
        operation_id="testSubscription",
        tag="subscriptions",
        summary="Send a webhook's receiver a signed message of type test, now, once",
        answers={200: json_answer("What came of it.", WebhookTestResult)},
        problems=("unknown-subscription", "not-a-webhook", "overloaded", *WHO),
    ),
)
async def test_subscription(services: Services, subscription_id: str) -> Response:
    call = partial(stored.find_webhook, subscription_id=subscription_id, caller=g.caller)
    sent = await services.webhooks.test(await services.database.run(call))
    return answer({"delivered": sent.delivered, "status": sent.status, "reason": sent.reason or None})


@subscriptions.post(
    "/overlay/subscriptions/<subscription_id>/secret",
    Operation(
        operation_id="rotateSecret",
        tag="subscriptions",
        summary="Sign with another secret; for a while with the one before, too",
        body=Document(model=SecretRotation, example={"keepPreviousSeconds": 3600}, read=documents.read_rotation),
        answers={200: SAVED},
        problems=("unknown-subscription", "not-a-webhook", *BAD),
    ),
)
async def rotate_secret(services: Services, subscription_id: str, document: SecretRotation) -> Response:
    call = partial(
        stored.rotate,
        subscription_id=subscription_id,
        given=document.secret,
        keep_s=document.keep_previous_seconds,
        caller=g.caller,
    )
    rotated, secret = await services.database.run(call)
    await services.webhooks.reconcile()
    return answer(_with_state(services, rotated, secret))


async def _changed(services: Services, subscription_id: str, values: JsonObject) -> Response:
    webhooks = services.webhooks
    call = partial(
        stored.change,
        subscription_id=subscription_id,
        values=values,
        caller=g.caller,
        allowed=webhooks.allowed,
    )
    document = await services.database.run(call)
    if "subscription_status" in values:
        webhooks.restart(subscription_id)
    await webhooks.reconcile()
    return answer(_with_state(services, document))


def _with_state(services: Services, document: dict[str, Any], secret: str | None = None) -> dict[str, Any]:
    """With what the task that delivers knows; a secret is shown this once."""
    next_ms = services.webhooks.next_try_ms(document["subscriptionId"])
    document["state"]["nextTryAt"] = rfc3339(next_ms) if next_ms else None
    return document if secret is None else {**document, "secret": secret}
