"""Subscriptions: made, read, changed and ended by those they belong to, within limits; cursors of streams."""

import datetime
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, get_args

import httpx
import pytest
import trio
import trio.lowlevel

from node.calling import SignedRequests
from node.delivery import subscriptions
from node.delivery.cursor import WHOLE_BATCH, Cursor
from node.delivery.signatures import read_secret
from node.delivery.subscriptions import NotActiveError, UnknownSubscriptionError, follow
from node.runtime.access import ANONYMOUS, Access, Caller
from node.runtime.settings import ReadGroup
from protocols.errors import ClientFault
from storage import subscriptions as stored
from storage.subscriptions import Step
from tests.node.api.test_openapi import schema_of
from tests.node.certified_batches import AGENT, NODE, KeySigner
from tests.node.running import Running, running

PATH = "/overlay/subscriptions"
STRANGER, OPERATOR = KeySigner(9), KeySigner(7)
PUBLIC = frozenset(get_args(ReadGroup))
URL = "https://receiver.example/hook"


@pytest.fixture
async def node(postgres_url: str) -> AsyncIterator[Running]:
    """Anybody may read; one key operates."""
    access = Access(public_reads=PUBLIC, operators=frozenset({OPERATOR.identity}))
    async with running(postgres_url, access=access) as started:
        await started.client.post(
            "/overlay/sources", json={"sourceId": "s1", "name": "One", "sourceType": "webhook"}, auth=signed(OPERATOR)
        )
        yield started


def signed(signer: KeySigner) -> SignedRequests:
    return SignedRequests(signer.key, NODE.identity)


async def make(node: Running, by: KeySigner | None = AGENT, **fields: Any) -> httpx.Response:
    auth = httpx.USE_CLIENT_DEFAULT if by is None else signed(by)
    return await node.client.post(PATH, json={"subscriptionType": "sse", **fields}, auth=auth)


async def read(node: Running, subscription_id: str, by: KeySigner | None = AGENT) -> httpx.Response:
    return await node.client.get(f"{PATH}/{subscription_id}", auth=None if by is None else signed(by))


async def certify(node: Running, count: int = 1) -> None:
    sealed = node.feed.stats.events
    events = [{"externalId": f"e{sealed + n}", "eventType": "reading", "data": n} for n in range(count)]
    assert (await node.post(*events)).status_code == 202
    await node.seal(node.recorder.told[-1].manifest)


async def test_one_from_its_making_to_its_end(node: Running) -> None:
    await certify(node, 3)
    made = await make(node, subscriptionType="webhook", callbackUrl=URL, clientId="weather desk")
    assert made.status_code == 201
    document = made.json()
    schema_of("Subscription").validate(document)
    secret = document.pop("secret")
    assert len(read_secret(secret)) == 32
    assert made.headers["Location"] == f"{PATH}/{document['subscriptionId']}"
    path = made.headers["Location"]
    assert (document["subscriptionStatus"], document["clientIdentityKey"]) == ("active", AGENT.identity.hex())
    assert document["state"]["cursor"] == "1", "from now on"
    again = (await node.client.get(path, auth=signed(AGENT))).json()
    assert again == document
    changed = await node.client.patch(
        path, json={"filterCriteria": {"sourceIds": ["s1"]}, "delivery": {"maxEvents": 7}}, auth=signed(AGENT)
    )
    assert changed.status_code == 200
    assert changed.json()["filterCriteria"] == {"sourceIds": ["s1"]}
    assert changed.json()["clientId"] == "weather desk"
    replaced = await node.client.put(
        path, json={"subscriptionType": "webhook", "callbackUrl": URL, "overlayTopics": ["t.one"]}, auth=signed(AGENT)
    )
    assert (replaced.json()["filterCriteria"], replaced.json()["delivery"]) == ({}, {})
    assert replaced.json()["overlayTopics"] == ["t.one"]
    assert secret not in replaced.text
    assert (await node.client.delete(path, auth=signed(AGENT))).status_code == 204
    assert (await node.client.get(path, auth=signed(AGENT))).status_code == 404


HOOK = {"subscriptionType": "webhook", "callbackUrl": URL}


WRONG: tuple[tuple[dict[str, Any], int, str], ...] = (
    ({"subscriptionType": "carrier pigeon"}, 400, "/subscriptionType"),
    ({"subscriptionType": None}, 400, "/subscriptionType"),
    ({"surprise": 1}, 400, "/surprise"),
    ({"subscriptionId": "a b"}, 400, "/subscriptionId"),
    ({"subscriptionStatus": "expired"}, 400, "/subscriptionStatus"),
    ({"expiresAt": "tomorrow"}, 400, "/expiresAt"),
    ({"overlayTopics": "t.one"}, 400, "/overlayTopics"),
    ({"overlayTopics": ["t.one"], "filterCriteria": {"topics": ["t.two"]}}, 422, "/overlayTopics"),
    ({"filterCriteria": {"surprise": 1}}, 400, "/filterCriteria/surprise"),
    ({"since": "then"}, 400, "/since"),
    ({"since": "1.1"}, 409, "/since"),
    ({"callbackUrl": URL}, 422, "/callbackUrl"),
    ({"delivery": {"maxEvents": 2}}, 422, "/delivery"),
    ({"clientIdentityKey": "02"}, 400, "/clientIdentityKey"),
    ({"clientId": ""}, 400, "/clientId"),
    ({"subscriptionType": "webhook"}, 422, "/callbackUrl"),
    ({**HOOK, "callbackUrl": "https://10.0.0.1/"}, 422, "/callbackUrl"),
    ({**HOOK, "callbackUrl": "https://a\nb/"}, 422, "/callbackUrl"),
    ({**HOOK, "delivery": {"maxEvents": 0}}, 400, "/delivery/maxEvents"),
    ({**HOOK, "delivery": {"maxEvents": "7"}}, 400, "/delivery/maxEvents"),
    ({**HOOK, "delivery": {"surprise": 7}}, 400, "/delivery/surprise"),
    ({**HOOK, "secret": "whsec_short"}, 400, "/secret"),
    ({**HOOK, "secret": "whsec_AAAA"}, 400, "/secret"),
)


async def test_what_is_wrong_is_named(node: Running) -> None:
    for document, status, field in WRONG:
        answer = await make(node, **document)
        assert (answer.status_code, answer.json()["field"]) == (status, field), document
        assert answer.json()["remedy"]
    assert (await node.client.get(PATH, auth=signed(AGENT))).json()["subscriptions"] == []


async def test_what_is_set_once_stays(node: Running) -> None:
    path = (await make(node, subscriptionId="mine", subscriptionType="webhook", callbackUrl=URL)).headers["Location"]
    assert (await make(node, subscriptionId="mine")).status_code == 409
    for status, change in (
        (409, {"subscriptionType": "sse"}),
        (409, {"subscriptionId": "other"}),
        (409, {"clientIdentityKey": STRANGER.identity.hex()}),
        (400, {"secret": "whsec_" + "A" * 44}),
        (400, {"callbackUrl": None}),
    ):
        answer = await node.client.patch(path, json=change, auth=signed(AGENT))
        assert (answer.status_code, answer.json()["field"]) == (status, f"/{next(iter(change))}")
    replaced = await node.client.put(path, json={"clientId": "x"}, auth=signed(AGENT))
    assert (replaced.status_code, replaced.json()["field"]) == (422, "/callbackUrl")


async def test_each_has_its_own_and_operators_all(node: Running) -> None:
    mine = (await make(node)).json()["subscriptionId"]
    theirs = (await make(node, STRANGER)).json()["subscriptionId"]
    for method, path, body in (
        ("GET", "", None),
        ("PATCH", "", {"subscriptionStatus": "paused"}),
        ("PUT", "", {"subscriptionType": "sse"}),
        ("DELETE", "", None),
        ("POST", "/replay", {"since": "0"}),
        ("POST", "/test", None),
        ("POST", "/secret", {}),
    ):
        for by in (STRANGER, None):
            answer = await node.client.request(
                method, f"{PATH}/{mine}{path}", json=body, auth=None if by is None else signed(by)
            )
            assert answer.status_code == 404, "whether it exists is not told"
    listed = (await node.client.get(PATH, auth=signed(STRANGER))).json()["subscriptions"]
    assert [each["subscriptionId"] for each in listed] == [theirs]
    everything = (await node.client.get(PATH, auth=signed(OPERATOR))).json()["subscriptions"]
    assert {each["subscriptionId"] for each in everything} == {mine, theirs}
    assert (await read(node, mine, OPERATOR)).status_code == 200
    assert (await make(node, STRANGER, clientIdentityKey=AGENT.identity.hex())).status_code == 403
    given = await make(node, OPERATOR, clientIdentityKey=AGENT.identity.hex())
    assert (await read(node, given.json()["subscriptionId"])).status_code == 200


async def test_anonymous_callers_have_cursors_for_a_day_and_nothing_is_sent_on_their_word(node: Running) -> None:
    made = (await make(node, None)).json()
    left = datetime.datetime.fromisoformat(made["expiresAt"]) - datetime.datetime.fromisoformat(made["createdAt"])
    assert left < datetime.timedelta(days=1, minutes=1)
    assert (await read(node, made["subscriptionId"], None)).status_code == 200
    later = {"expiresAt": "2999-01-01T00:00:00Z"}
    changed = await node.client.patch(f"{PATH}/{made['subscriptionId']}", json=later)
    assert changed.json()["expiresAt"] < "2900"
    assert (await node.client.get(PATH)).status_code == 401
    for fields in (HOOK, {"subscriptionType": "overlay"}, {"subscriptionId": "guessable"}):
        assert (await make(node, None, **fields)).status_code == 401


async def test_where_streams_are_not_public_strangers_have_none(postgres_url: str) -> None:
    access = Access(readers=frozenset({AGENT.identity}), operators=frozenset({OPERATOR.identity}))
    async with running(postgres_url, access=access) as node:
        assert (await make(node, None)).status_code == 401
        assert (await make(node, STRANGER)).status_code == 403
        assert (await make(node, AGENT)).status_code == 201


async def test_who_is_anonymous_and_operates_may_have_webhooks(postgres_url: str) -> None:
    async with running(postgres_url, access=Access(open_admin=True)) as node:
        made = await make(node, None, **HOOK)
        assert made.status_code == 201
        assert made.json()["clientIdentityKey"] is None
        row = await node.database.run(partial(stored.get, subscription_id=made.json()["subscriptionId"]))
        assert row is not None
        find = partial(subscriptions.find, subscription_id=row.subscription_id, caller=ANONYMOUS)
        with pytest.raises(UnknownSubscriptionError):
            await node.database.run(find)


async def test_limits_and_what_has_expired_makes_room(node: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscriptions, "PER_IDENTITY_MAX", 3)
    soon = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=0.5)).isoformat()
    ids = [(await make(node, expiresAt=soon)).json()["subscriptionId"]]
    ids += [(await make(node)).json()["subscriptionId"] for _ in range(2)]
    while (await read(node, ids[0])).json()["subscriptionStatus"] != "expired":  # readable afterwards
        await trio.sleep(0.05)
    assert (await make(node)).status_code == 201
    full = await make(node)
    assert (full.status_code, full.json()["type"]) == (429, "urn:overlay:problem:too-many-subscriptions")
    assert "Retry-After" in full.headers
    assert (await read(node, ids[0])).status_code == 404
    assert (await make(node, STRANGER)).status_code == 201, "the others have theirs"
    monkeypatch.setattr(subscriptions, "SUBSCRIPTIONS_MAX", 5)
    monkeypatch.setattr(subscriptions, "OPERATORS_SHARE", 0.25)
    assert (await make(node, STRANGER)).status_code == 429, "a part is the operators'"
    assert (await make(node, OPERATOR)).status_code == 201
    assert (await make(node, OPERATOR)).status_code == 429


async def test_anonymous_callers_share_one_limit(node: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscriptions, "ANONYMOUS_MAX", 2)
    assert [(await make(node, None)).status_code for _ in range(3)] == [201, 201, 429]
    assert (await make(node)).status_code == 201


async def test_pages(node: Running) -> None:
    for number in range(5):
        await make(node, subscriptionId=f"s{number}")
    first = (await node.client.get(f"{PATH}?limit=3", auth=signed(AGENT))).json()
    assert [each["subscriptionId"] for each in first["subscriptions"]] == ["s0", "s1", "s2"]
    rest = (await node.client.get(f"{PATH}?limit=3&after={first['nextAfter']}", auth=signed(AGENT))).json()
    assert [each["subscriptionId"] for each in rest["subscriptions"]] == ["s3", "s4"]
    assert rest["nextAfter"] is None


# --- cursors of streams ------------------------------------------------------------------------------------------


async def follow_as(node: Running, caller: Caller, subscription_id: str, **more: Any) -> subscriptions.StreamStart:
    return await follow(node.database, node.cursors, subscription_id, **{"caller": caller, "kind": "sse", **more})


async def test_a_stream_begins_where_its_cursor_stands(node: Running) -> None:
    await certify(node, 3)
    await certify(node, 3)
    owner = Caller(identity=AGENT.identity)
    made = (await make(node, since="1.1", filterCriteria={"sourceIds": ["s1"]})).json()
    name = made["subscriptionId"]
    begun = await follow_as(node, owner, name)
    assert begun.cursor == Cursor(sequence=1, position=1)
    assert begun.wanted.source_ids == frozenset({"s1"})
    node.cursors.moved(name, begun.revision, Cursor(sequence=1, position=3))
    assert (await follow_as(node, owner, name)).cursor == Cursor(sequence=1, position=3)
    state = (await read(node, name)).json()["state"]
    assert (state["cursor"], state["lagBatches"]) == ("1.3", 1)
    back = await follow_as(node, owner, name, acknowledged=Cursor(sequence=1, position=2))
    assert back.cursor == Cursor(sequence=1, position=3), "a cursor goes forward only"
    on = await follow_as(node, owner, name, acknowledged=Cursor(sequence=2, position=1))
    assert on.cursor == Cursor(sequence=2, position=1)
    with pytest.raises(ClientFault, match="is after the end of the feed, 2"):
        await follow_as(node, owner, name, acknowledged=Cursor(sequence=3, position=1))
    await node.client.post(f"{PATH}/{name}/replay", json={"since": "0"}, auth=signed(AGENT))
    node.cursors.moved(name, on.revision, Cursor(sequence=2, position=3))
    assert (await follow_as(node, owner, name)).cursor == Cursor(sequence=0, position=WHOLE_BATCH), (
        "steps before it are void"
    )


async def test_who_may_not_follow(node: Running) -> None:
    owner = Caller(identity=AGENT.identity)
    name = (await make(node)).json()["subscriptionId"]
    with pytest.raises(UnknownSubscriptionError):
        await follow_as(node, Caller(identity=STRANGER.identity), name)
    with pytest.raises(UnknownSubscriptionError):
        await follow_as(node, ANONYMOUS, name)
    with pytest.raises(NotActiveError):
        await follow_as(node, owner, name, kind="websocket")
    await node.client.patch(f"{PATH}/{name}", json={"subscriptionStatus": "paused"}, auth=signed(AGENT))
    with pytest.raises(NotActiveError):
        await follow_as(node, owner, name)
    anonymous = (await make(node, None)).json()["subscriptionId"]
    assert (await follow_as(node, ANONYMOUS, anonymous)).expires_ms is not None


async def test_steps_are_written_together_and_none_is_lost(node: Running) -> None:
    names = [(await make(node, since="0")).json()["subscriptionId"] for _ in range(3)]
    for round_number in range(1, 101):
        for name in names:
            failed = round_number % 10 == 0
            node.cursors.note(
                name,
                Step(
                    revision=0,
                    cursor=(round_number, 0),
                    deliveries=not failed,
                    failures=failed,
                    last_failure_ms=round_number if failed else None,
                    last_failure_status=500 if failed else None,
                    last_failure_reason="answered 500" if failed else None,
                ),
            )
        if round_number % 7 == 0:
            await trio.lowlevel.checkpoint()
    await node.cursors.flush()
    for name in names:
        row = await node.database.run(partial(stored.get, subscription_id=name))
        assert row is not None
        assert (row.cursor_sequence, row.deliveries, row.failures) == (100, 90, 10)
        assert (row.last_failure_ms, row.last_failure_status) == (100, 500)
    node.cursors.note("nobody", Step(revision=0, deliveries=1))
    await node.cursors.flush()
