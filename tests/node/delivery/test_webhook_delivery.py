"""Webhooks to a real receiver that verifies what it takes, fails, stalls, redirects and comes back."""

import datetime
import random
from collections.abc import AsyncIterator

import pytest
import trio
from standardwebhooks import Webhook, WebhookVerificationError

from node.delivery.signatures import make_secret
from node.delivery.webhook_manager import WebhookStats
from node.runtime.supervisor import RestartPolicy
from tests.node.delivery.webhooks import certify, shown, subscribe, until_shown
from tests.node.running import Running, running
from tests.node.webhook_receiver import (
    SECRET,
    Behaviour,
    answers,
    closes,
    endless_body,
    endless_head,
    never_answers,
    no_http,
    receiving,
    trickles,
)


async def test_history_then_live_in_order_signed_as_in_the_stream(node: Running) -> None:
    ids = await certify(node, 30) + await certify(node, 3)
    async with receiving() as receiver:
        subscription = await subscribe(node, receiver)
        await receiver.until(lambda: len(receiver.hooks) == 33)
        ids += await certify(node, 2)
        await receiver.until(lambda: len(receiver.hooks) == 35)
        after = await until_shown(node, subscription, cursor="3.2", lagBatches=0, deliveries=35)
    assert [event["eventId"] for event in receiver.events] == ids
    assert len({hook.name for hook in receiver.hooks}) == 35
    assert receiver.connections == 1, "the connection is kept"
    hook = receiver.hooks[0]
    assert (hook.path, hook.headers["content-type"]) == ("/hook?a=1", "application/json")
    async with node.client.stream("GET", "/overlay/events/stream?since=0") as stream:
        streamed = [connection async for connection, _ in _until(stream.aiter_lines(), 35)]
    assert [hook.body.decode() for hook in receiver.hooks] == streamed
    assert after["state"]["failures"] == 0
    assert after["state"]["lastSuccessAt"] is not None
    assert "secret" not in after


async def _until(lines: AsyncIterator[str], count: int) -> AsyncIterator[tuple[str, int]]:
    found = 0
    async for line in lines:
        if line.startswith('data: {"type":"event"'):
            found += 1
            yield line.removeprefix("data: "), found
            if found == count:
                return


async def test_lists_within_their_bounds(node: Running) -> None:
    big = "x" * 60_000
    ids = await certify(node, 40) + await certify(node, 10, text=big) + await certify(node, 2, text=big * 3)
    async with receiving() as receiver:
        subscription = await subscribe(node, receiver, delivery={"maxEvents": 25})
        await receiver.until(lambda: len(receiver.first_arrivals) == 52)
    assert receiver.first_arrivals == ids
    assert receiver.hooks[0].message["subscriptionId"] == subscription
    sizes = [len(hook.events) for hook in receiver.hooks]
    assert max(sizes) == 25
    assert all(len(hook.body) < 270_000 for hook in receiver.hooks if len(hook.events) > 1)
    assert sizes[-2:] == [1, 1], "two do not fit"


async def test_only_what_is_wanted_moves_the_cursor_over_the_rest(node: Running) -> None:
    await node.source("s2")
    first = await certify(node)
    async with receiving() as receiver:
        subscription = await subscribe(node, receiver, filterCriteria={"sourceIds": ["s2"]})
        await until_shown(node, subscription, cursor="1.1", lagBatches=0)
        await node.post({"externalId": "other", "eventType": "reading", "data": 1}, source="s2")
        await node.seal(node.recorder.told[-1].manifest)
        await receiver.until(lambda: len(receiver.hooks) == 1)
    assert receiver.events[0]["eventId"] not in first


@pytest.mark.parametrize("size", [1, 7])
async def test_random_failures_lose_nothing_and_change_no_order(postgres_url: str, size: int) -> None:
    pauses = RestartPolicy(delay_s_first=0.01, delay_s_max=0.05)
    async with running(postgres_url, pauses=pauses) as node:
        await node.source()
        await _through_failures(node, size)


async def _through_failures(node: Running, size: int) -> None:
    seed = random.Random(size)
    kinds: list[Behaviour] = [answers(500), answers(204), answers(204), closes, answers(302, Location="/"), no_http]
    ids: list[str] = []
    async with receiving() as receiver:
        receiver.script.extend(seed.choice(kinds) for _ in range(40))
        subscription = await subscribe(node, receiver, delivery={"maxEvents": size})
        for _ in range(12):
            ids += await certify(node, seed.randrange(1, 9))
            await trio.sleep(seed.random() / 20)
        await receiver.until(lambda: len(receiver.first_arrivals) == len(ids), 40)
        state = (await until_shown(node, subscription, cursor=f"12.{_last(node)}"))["state"]
    assert receiver.first_arrivals == ids
    bodies: dict[str, bytes] = {}
    for hook in receiver.hooks:
        assert bodies.setdefault(hook.name, hook.body) == hook.body, "one id, one body"
    assert len(receiver.hooks) > len(bodies), "there were retries"
    assert state["deliveries"] == len(bodies)
    assert state["failingSince"] is None


def _last(node: Running) -> int:
    return node.recorder.told[-1].manifest.message.events


async def test_a_restart_in_mid_delivery_loses_nothing(postgres_url: str) -> None:
    async with receiving() as receiver:
        gate = trio.Event()

        async def holds(stream: trio.abc.Stream) -> bool:
            gate.set()
            return await never_answers(stream)

        async with running(postgres_url) as node:
            await node.source()
            ids = await certify(node, 50)
            receiver.script.extend([answers(204)] * 20)
            receiver.otherwise = holds
            subscription = await subscribe(node, receiver)
            await gate.wait()
        assert len(receiver.hooks) == 21
        receiver.otherwise = answers(204)
        async with running(postgres_url) as node:
            ids += await certify(node, 5)
            await receiver.until(lambda: len(receiver.first_arrivals) == 55)
            await until_shown(node, subscription, cursor="2.5")
        assert receiver.first_arrivals == ids
        assert receiver.hooks[21].name == receiver.hooks[20].name, "what was not answered comes again under its id"
        assert len(receiver.hooks) == 56, "what was taken before the node stopped is not sent again"


async def test_410_pauses_at_once_and_active_goes_on(node: Running) -> None:
    ids = await certify(node, 5)
    async with receiving() as receiver:
        receiver.script.extend([answers(200), answers(200), answers(410)])
        subscription = await subscribe(node, receiver)
        paused = await until_shown(node, subscription, subscriptionStatus="paused")
        assert "410" in paused["state"]["pauseReason"]
        assert paused["state"]["lastFailure"]["status"] == 410
        assert (paused["state"]["cursor"], paused["state"]["lagBatches"]) == ("1.2", 0)
        ids += await certify(node, 2)
        assert len(receiver.hooks) == 3
        answer = await node.client.patch(
            f"/overlay/subscriptions/{subscription}", json={"subscriptionStatus": "active"}
        )
        assert answer.json()["state"]["pauseReason"] is None
        await receiver.until(lambda: len(receiver.first_arrivals) == 7)
    assert receiver.first_arrivals == ids


async def test_it_is_paused_when_its_time_is_over_and_the_reason_is_told(node: Running) -> None:
    ids = await certify(node, 2)
    async with receiving() as receiver:
        receiver.otherwise = answers(500)
        subscription = await subscribe(node, receiver, delivery={"retryForSeconds": 1})
        paused = await until_shown(node, subscription, subscriptionStatus="paused")
        assert paused["state"]["pauseReason"] == "no delivery was taken for 1 s; the last one: answered 500"
        assert paused["state"]["failures"] == len(receiver.hooks) > 2
        assert node.webhooks.stats == WebhookStats(active=0, failing=0, deliveries=0, failures=len(receiver.hooks))
        receiver.otherwise = answers(204)
        await node.client.patch(f"/overlay/subscriptions/{subscription}", json={"subscriptionStatus": "active"})
        await receiver.until(lambda: receiver.first_arrivals == ids)
        await until_shown(node, subscription, subscriptionStatus="active", failingSince=None, cursor="1.2")
        stats = node.webhooks.stats
        assert (stats.active, stats.failing, stats.deliveries) == (1, 0, 2)


async def test_who_refuses_at_present_is_counted(node: Running) -> None:
    await certify(node, 1)
    async with receiving() as receiver:
        receiver.otherwise = answers(500)
        await subscribe(node, receiver)
        await receiver.until(lambda: len(receiver.hooks) > 1)
        assert (node.webhooks.stats.active, node.webhooks.stats.failing) == (1, 1)
        receiver.otherwise = answers(204)
        with trio.fail_after(10):
            while node.webhooks.stats.failing:
                await trio.sleep(0.02)


async def test_pause_stops_and_active_resumes(node: Running) -> None:
    async with receiving() as receiver:
        subscription = await subscribe(node, receiver)
        ids = await certify(node)
        await receiver.until(lambda: len(receiver.hooks) == 1)
        path = f"/overlay/subscriptions/{subscription}"
        await node.client.patch(path, json={"subscriptionStatus": "paused"})
        await until_shown(node, subscription, cursor="1.1")
        ids += await certify(node, 3)
        assert (await shown(node, subscription))["state"]["lagBatches"] == 1
        assert len(receiver.hooks) == 1
        await node.client.patch(path, json={"subscriptionStatus": "active"})
        await receiver.until(lambda: receiver.first_arrivals == ids)


async def test_a_replay_begins_anew_under_the_same_ids(node: Running) -> None:
    await certify(node, 4)
    async with receiving() as receiver:
        subscription = await subscribe(node, receiver)
        await receiver.until(lambda: len(receiver.hooks) == 4)
        answer = await node.client.post(f"/overlay/subscriptions/{subscription}/replay", json={"since": "1.2"})
        assert answer.json()["state"]["cursor"] == "1.2"
        await receiver.until(lambda: len(receiver.hooks) == 6)
        await until_shown(node, subscription, cursor="1.4", deliveries=6)
        late = await node.client.post(f"/overlay/subscriptions/{subscription}/replay", json={"since": "99"})
        assert (late.status_code, late.json()["field"]) == (409, "/since")
    names = [hook.name for hook in receiver.hooks]
    assert names[4:] == names[2:4]


async def test_retry_after_is_honoured_and_active_tries_at_once(node: Running) -> None:
    ids = await certify(node)
    async with receiving() as receiver:
        receiver.script.extend([answers(429, Retry_After="3000"), answers(503, Retry_After="9999999")])
        subscription = await subscribe(node, receiver)
        for count, least_s, most_s in ((1, 2_990, 3_001), (2, 3_590, 3_601)):
            state = (await until_shown(node, subscription, failures=count))["state"]
            wait = _moment(state["nextTryAt"]) - _moment(state["lastFailure"]["at"])
            assert least_s < wait.total_seconds() < most_s
            await node.client.patch(f"/overlay/subscriptions/{subscription}", json={"subscriptionStatus": "active"})
        await receiver.until(lambda: len(receiver.hooks) == 3)
        await until_shown(node, subscription, cursor="1.1", nextTryAt=None)
    assert receiver.first_arrivals == ids


def _moment(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (never_answers, "no answer within 1 s"),
        (trickles, "no answer within 1 s"),
        (endless_head, "the head of its answer is too long"),
        (no_http, "its answer is not HTTP"),
        (closes, "it closed without an answer"),
        (answers(404), "answered 404"),
    ],
)
async def test_a_receiver_that_misbehaves_holds_up_itself_alone(
    node: Running, behaviour: Behaviour, reason: str
) -> None:
    async with receiving() as bad, receiving() as good:
        bad.otherwise = behaviour
        failing = await subscribe(node, bad, delivery={"timeoutSeconds": 1})
        await subscribe(node, good)
        ids = [identifier for _ in range(5) for identifier in await certify(node, 2)]
        await good.until(lambda: good.first_arrivals == ids)
        with trio.fail_after(20):
            while not (state := (await shown(node, failing))["state"])["failures"]:
                await trio.sleep(0.02)
        assert state["lastFailure"]["reason"] == reason
        bad.otherwise = answers(204)
        await bad.until(lambda: bad.first_arrivals == ids)


async def test_a_body_without_end_is_left_unread(node: Running) -> None:
    ids = await certify(node, 3)
    async with receiving() as receiver:
        receiver.otherwise = endless_body
        subscription = await subscribe(node, receiver)
        await receiver.until(lambda: len(receiver.hooks) == 3)
        await until_shown(node, subscription, cursor="1.3", deliveries=3, failures=0)
    assert receiver.first_arrivals == ids
    assert receiver.connections == 3


async def test_redirects_are_not_followed(node: Running) -> None:
    await certify(node)
    async with receiving() as receiver, receiving() as private:
        receiver.script.extend(
            [
                answers(302, Location=private.url),
                answers(307, Location="http://169.254.169.254/latest/meta-data"),
                answers(308, Location="https://example.org/"),
            ]
        )
        subscription = await subscribe(node, receiver)
        failure = (await until_shown(node, subscription, failures=3, cursor="1.1"))["state"]["lastFailure"]
        assert failure["status"] == 308
        assert "redirects are not followed" in failure["reason"]
        assert private.connections == 0


async def test_two_secrets_sign_while_one_replaces_the_other(node: Running) -> None:
    async with receiving() as receiver:
        subscription = await subscribe(node, receiver)
        path = f"/overlay/subscriptions/{subscription}/secret"
        rotated = (await node.client.post(path, json={"keepPreviousSeconds": 600})).json()
        assert rotated["secrets"]["count"] == 2
        await certify(node)
        await receiver.until(lambda: len(receiver.hooks) == 1)
        hook = receiver.hooks[0]
        Webhook(rotated["secret"]).verify(hook.body, hook.headers)
        Webhook(SECRET).verify(hook.body, hook.headers)
        assert len(hook.headers["webhook-signature"].split(" ")) == 2
        receiver.secret = make_secret()
        given = await node.client.post(path, json={"secret": receiver.secret, "keepPreviousSeconds": 0})
        assert given.json()["secrets"] == {"count": 1, "previousUntil": None}
        assert "secret" not in given.json(), "what was given is not shown"
        await certify(node)
        await receiver.until(lambda: len(receiver.hooks) == 2)
        hook = receiver.hooks[1]
        with pytest.raises(WebhookVerificationError):
            Webhook(rotated["secret"]).verify(hook.body, hook.headers)
        assert receiver.secret not in (await node.client.get(f"/overlay/subscriptions/{subscription}")).text


async def test_a_test_message_tells_what_came_of_it(node: Running) -> None:
    async with receiving() as receiver:
        subscription = await subscribe(node, receiver, subscriptionStatus="paused")
        path = f"/overlay/subscriptions/{subscription}/test"
        receiver.script.extend([answers(200), answers(500)])
        taken = (await node.client.post(path)).json()
        assert taken == {"delivered": True, "status": 200, "reason": None}
        assert receiver.hooks[0].message["type"] == "test"
        assert receiver.hooks[0].message["subscriptionId"] == subscription
        assert (await node.client.post(path)).json() == {"delivered": False, "status": 500, "reason": "answered 500"}
        assert (await shown(node, subscription))["state"]["deliveries"] == 0


async def test_delivery_stops_when_the_subscription_expires(node: Running) -> None:
    async with receiving() as receiver:
        soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=1)
        subscription = await subscribe(node, receiver, expiresAt=soon.isoformat())
        ids = await certify(node)
        await receiver.until(lambda: len(receiver.hooks) == 1)
        await until_shown(node, subscription, subscriptionStatus="expired", cursor="1.1")
        ids += await certify(node)
        later = (soon + datetime.timedelta(hours=1)).isoformat()
        assert len(receiver.hooks) == 1
        await node.client.patch(f"/overlay/subscriptions/{subscription}", json={"expiresAt": later})
        await receiver.until(lambda: receiver.first_arrivals == ids)


async def test_a_receiver_that_is_not_there(node: Running) -> None:
    async with receiving() as receiver:
        pass
    await certify(node)
    subscription = await subscribe(node, receiver)
    with trio.fail_after(20):
        while not (state := (await shown(node, subscription))["state"])["failures"]:
            await trio.sleep(0.02)
    assert state["lastFailure"]["status"] is None
    assert state["lastFailure"]["reason"].startswith("cannot connect")


async def test_pauses_grow(postgres_url: str) -> None:
    pauses = RestartPolicy(delay_s_first=0.2, delay_s_max=1.6, jitter=0.0)
    async with receiving() as receiver, running(postgres_url, pauses=pauses) as node:
        receiver.otherwise = answers(500)
        await node.source()
        await certify(node)
        subscription = await subscribe(node, receiver)
        state = (await until_shown(node, subscription, failures=4))["state"]
    assert (_moment(state["nextTryAt"]) - _moment(state["lastFailure"]["at"])).total_seconds() == 1.6
