"""Connections to receivers: kept while deliveries go on, closed when they end for whatever reason."""

import datetime
from collections.abc import Awaitable, Callable

import pytest
import trio

from node.delivery.callback_url import read_callback_url
from node.delivery.webhook_connection import WebhookConnection, WebhookConnector, WebhookResponse
from tests.node.delivery.webhooks import LOOPBACK, certify, subscribe, until_shown
from tests.node.running import Running, running
from tests.node.webhook_receiver import Receiver, answers, never_answers, receiving

PATH = "/overlay/subscriptions"


async def waits_for_the_end(stream: trio.abc.Stream) -> bool:
    """Never answers, and sees when the connection closes."""
    await stream.receive_some(1)
    return False


async def deliver(node: Running, receiver: Receiver) -> str:
    """Subscribe, and deliver one event over a connection that is then open."""
    subscription = await subscribe(node, receiver)
    before = len(receiver.hooks)
    await certify(node)
    await receiver.until(lambda: len(receiver.hooks) > before)
    assert receiver.open_connections == 1
    return subscription


async def deleted(node: Running, subscription: str) -> None:
    await node.client.delete(f"{PATH}/{subscription}")


async def paused(node: Running, subscription: str) -> None:
    await node.client.patch(f"{PATH}/{subscription}", json={"subscriptionStatus": "paused"})


async def expired(node: Running, subscription: str) -> None:
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=0.3)
    await node.client.patch(f"{PATH}/{subscription}", json={"expiresAt": soon.isoformat()})


@pytest.mark.parametrize("end", [deleted, paused, expired])
async def test_a_connection_closes_with_its_subscription(
    node: Running, end: Callable[[Running, str], Awaitable[None]]
) -> None:
    async with receiving() as receiver:
        await end(node, await deliver(node, receiver))
        await receiver.until(lambda: receiver.open_connections == 0)


async def test_a_connection_closes_when_the_receiver_wants_no_more(node: Running) -> None:
    async with receiving() as receiver:
        subscription = await deliver(node, receiver)
        receiver.otherwise = answers(410)
        await certify(node)
        await until_shown(node, subscription, subscriptionStatus="paused")
        await receiver.until(lambda: receiver.open_connections == 0)


async def test_a_connection_closes_when_no_delivery_is_taken_for_long(node: Running) -> None:
    async with receiving() as receiver:
        receiver.otherwise = answers(500)
        await certify(node)
        subscription = await subscribe(node, receiver, delivery={"retryForSeconds": 1})
        await until_shown(node, subscription, subscriptionStatus="paused")
        await receiver.until(lambda: receiver.open_connections == 0)


async def test_connections_close_when_the_node_stops(postgres_url: str) -> None:
    """In the middle of a delivery, too."""
    async with receiving() as idle, receiving() as silent:
        silent.otherwise = waits_for_the_end
        async with running(postgres_url) as node:
            await node.source()
            await deliver(node, idle)
            await subscribe(node, silent)
            await silent.until(lambda: silent.open_connections == 1)
        await idle.until(lambda: idle.open_connections == 0)
        await silent.until(lambda: silent.open_connections == 0)


@pytest.mark.parametrize("change", [{"delivery": {"maxEvents": 5}}, {"filterCriteria": {"sourceIds": ["s1"]}}])
async def test_a_changed_subscription_has_one_connection(node: Running, change: dict[str, object]) -> None:
    async with receiving() as receiver:
        subscription = await deliver(node, receiver)
        for count in range(2, 5):
            change = {**change, "clientId": f"client {count}", "expiresAt": f"29{count:02}-01-01T00:00:00Z"}
            await node.client.patch(f"{PATH}/{subscription}", json=change)
            await certify(node)
            await receiver.until(lambda count=count: len(receiver.hooks) == count)  # type: ignore[misc]
            await receiver.until(lambda: receiver.open_connections == 1)
        assert receiver.connections == 4, "each version of the subscription made one"


async def test_another_callback_url_closes_the_connection_to_the_first(node: Running) -> None:
    async with receiving() as first, receiving() as second:
        subscription = await deliver(node, first)
        await node.client.patch(f"{PATH}/{subscription}", json={"callbackUrl": second.url})
        await certify(node)
        await second.until(lambda: len(second.hooks) == 1)
        await first.until(lambda: first.open_connections == 0)
        assert len(first.hooks) == 1


@pytest.mark.parametrize("action", ["test", "secret", "replay"])
async def test_actions_leave_no_connection_behind(node: Running, action: str) -> None:
    async with receiving() as receiver:
        subscription = await deliver(node, receiver)
        body = {"since": "0"} if action == "replay" else {}
        receiver.secret = None
        assert (await node.client.post(f"{PATH}/{subscription}/{action}", json=body)).status_code == 200
        await certify(node)
        expected = 3 if action in ("test", "replay") else 2
        await receiver.until(lambda: len(receiver.hooks) == expected)
        await receiver.until(lambda: receiver.open_connections == 1)
        assert receiver.connections == 2


async def test_many_short_lived_subscriptions_leave_nothing_open(node: Running) -> None:
    async with receiving() as receiver:
        await certify(node)
        for count in range(1, 9):
            subscription = await subscribe(node, receiver)
            await receiver.until(lambda count=count: len(receiver.hooks) == count)  # type: ignore[misc]
            await deleted(node, subscription)
        await receiver.until(lambda: receiver.open_connections == 0)
        assert receiver.connections == 8


# --- one connection by itself ------------------------------------------------------------------------------------


def connected(receiver: Receiver) -> WebhookConnection:
    return WebhookConnection(read_callback_url(receiver.url, [LOOPBACK]), WebhookConnector([LOOPBACK]))


async def test_a_connection_is_closed_once_and_can_be_used_again() -> None:
    async with receiving(Receiver(None)) as receiver:
        connection = connected(receiver)
        await connection.aclose()
        for count in (1, 2):
            assert await connection.post([], b"{}", 5) == WebhookResponse(status=204)
            assert receiver.open_connections == 1
            await connection.aclose()
            await connection.aclose()
            await receiver.until(lambda: receiver.open_connections == 0)
            assert receiver.connections == count


@pytest.mark.parametrize("status", [200, 202, 299])
async def test_every_2xx_counts_as_delivered_and_keeps_the_connection(status: int) -> None:
    async with receiving(Receiver(None)) as receiver:
        receiver.otherwise = answers(status, "thank you")
        connection = connected(receiver)
        for _ in range(3):
            assert await connection.post([], b"{}", 5) == WebhookResponse(status=status)
        assert receiver.connections == 1
        await connection.aclose()


async def test_a_request_that_runs_out_of_time_closes_its_connection() -> None:
    async with receiving(Receiver(None)) as receiver:
        receiver.script.append(never_answers)
        connection = connected(receiver)
        assert (await connection.post([], b"{}", 0.2)).reason == "no answer within 0.2 s"
        assert await connection.post([], b"{}", 5) == WebhookResponse(status=204)
        assert receiver.connections == 2, "a late answer must not be taken for that to the next request"
        await connection.aclose()


async def test_an_answer_that_asks_to_close_is_delivered_and_closes() -> None:
    async with receiving(Receiver(None)) as receiver:
        receiver.otherwise = answers(200, Connection="close")
        connection = connected(receiver)
        for count in (1, 2):
            assert (await connection.post([], b"{}", 5)).delivered
            assert receiver.connections == count
        await receiver.until(lambda: receiver.open_connections == 0)
