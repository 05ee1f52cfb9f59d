"""Subscriptions: create, read, list, change, replace, delete; replay, a test, another secret."""

from functools import partial
from typing import Any

from quart import Blueprint, Response, g, request

from node.api.services import Services
from node.api.wire import answer, only_parameters, page_size, read_document
from node.delivery import subscription_documents as documents
from node.delivery import subscriptions
from protocols.certificate import rfc3339


def routes(services: Services) -> Blueprint:
    blueprint = Blueprint("subscriptions", __name__)
    database, timeout_s = services.database, services.settings.body_timeout_s
    manager, cursors = services.webhooks, services.cursors

    def with_state(document: dict[str, Any], secret: str | None = None) -> dict[str, Any]:
        """With what the task that delivers knows; a secret is shown this once."""
        next_ms = manager.next_try_ms(document["subscriptionId"])
        document["state"]["nextTryAt"] = rfc3339(next_ms) if next_ms else None
        return document if secret is None else {**document, "secret": secret}

    @blueprint.post("/overlay/subscriptions")
    async def create_subscription() -> Response:
        values = documents.read_values(await read_document(request, timeout_s), creates=True)
        call = partial(subscriptions.create, values=values, caller=g.caller, allowed=manager.allowed)
        made, secret = await database.run(call)
        await manager.reconcile()
        response = answer(with_state(made, secret), 201)
        response.headers["Location"] = f"/overlay/subscriptions/{made['subscriptionId']}"
        return response

    @blueprint.get("/overlay/subscriptions")
    async def list_subscriptions() -> Response:
        only_parameters(request, "after", "limit")
        await cursors.flush()
        call = partial(
            subscriptions.page, caller=g.caller, after=request.args.get("after", ""), limit=page_size(request)
        )
        page = await database.run(call)
        return answer({**page, "subscriptions": [with_state(each) for each in page["subscriptions"]]})

    @blueprint.get("/overlay/subscriptions/<subscription_id>")
    async def get_subscription(subscription_id: str) -> Response:
        await cursors.flush()
        call = partial(subscriptions.get, subscription_id=subscription_id, caller=g.caller)
        return answer(with_state(await database.run(call)))

    async def changed(subscription_id: str, values: dict[str, Any]) -> Response:
        call = partial(
            subscriptions.change,
            subscription_id=subscription_id,
            values=values,
            caller=g.caller,
            allowed=manager.allowed,
        )
        document = await database.run(call)
        if "subscription_status" in values:
            manager.restart(subscription_id)
        await manager.reconcile()
        return answer(with_state(document))

    @blueprint.patch("/overlay/subscriptions/<subscription_id>")
    async def change_subscription(subscription_id: str) -> Response:
        return await changed(subscription_id, documents.read_values(await read_document(request, timeout_s)))

    @blueprint.put("/overlay/subscriptions/<subscription_id>")
    async def replace_subscription(subscription_id: str) -> Response:
        return await changed(subscription_id, documents.read_replacement(await read_document(request, timeout_s)))

    @blueprint.delete("/overlay/subscriptions/<subscription_id>")
    async def delete_subscription(subscription_id: str) -> Response:
        await database.run(partial(subscriptions.delete, subscription_id=subscription_id, caller=g.caller))
        await manager.reconcile()
        return Response(b"", status=204)

    @blueprint.post("/overlay/subscriptions/<subscription_id>/replay")
    async def replay_subscription(subscription_id: str) -> Response:
        since = documents.read_since(await read_document(request, timeout_s))
        call = partial(subscriptions.replay, subscription_id=subscription_id, since=since, caller=g.caller)
        document = await database.run(call)
        await manager.reconcile()
        return answer(with_state(document))

    @blueprint.post("/overlay/subscriptions/<subscription_id>/test")
    async def test_subscription(subscription_id: str) -> Response:
        call = partial(subscriptions.find_webhook, subscription_id=subscription_id, caller=g.caller)
        sent = await manager.test(await database.run(call))
        return answer({"delivered": sent.delivered, "status": sent.status, "reason": sent.reason or None})

    @blueprint.post("/overlay/subscriptions/<subscription_id>/secret")
    async def rotate_secret(subscription_id: str) -> Response:
        rotation = documents.read_rotation(await read_document(request, timeout_s))
        call = partial(
            subscriptions.rotate,
            subscription_id=subscription_id,
            given=rotation.secret,
            keep_s=rotation.keep_previous_seconds,
            caller=g.caller,
        )
        document, secret = await database.run(call)
        await manager.reconcile()
        return answer(with_state(document, secret))

    return blueprint
