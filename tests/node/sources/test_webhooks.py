"""What senders push: proven by the source's secret, read as the sender says it, taken in once."""

import base64
import gzip
import hashlib
import hmac
import json
import lzma
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import orjson
import pytest
from standardwebhooks import Webhook

from node.api.services import ApiSettings
from node.ingest.admission_control import IngestLimits
from node.runtime.access import Access
from node.sources.settings import HIDDEN, InvalidConfigurationError, read
from tests.node.certified_batches import NETWORK
from tests.node.running import Running, running

CONFIGS = Path(__file__).parents[3] / "configs"
VECTORS = Path(__file__).parents[1] / "vectors"
SECRET = "It's a Secret to Everybody"
GITHUB = {"scheme": "github", "secret": SECRET}


@pytest.fixture
async def node(postgres_url: str) -> AsyncIterator[Running]:
    async with running(postgres_url) as started:
        yield started


def samples(kind: str) -> list[dict[str, Any]]:
    lines = (CONFIGS / "samples" / f"github-{kind}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def signed(body: bytes, secret: str = SECRET) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


async def github(
    node: Running, body: bytes, *, kind: str = "push", delivery: str = "d-1", secret: str = SECRET, **headers: str
) -> httpx.Response:
    """Send as GitHub does."""
    sent = {
        "Content-Type": "application/json",
        "User-Agent": "GitHub-Hookshot/044aadd",
        "X-GitHub-Delivery": delivery,
        "X-GitHub-Event": kind,
        "X-GitHub-Hook-ID": "292430182",
        "X-Hub-Signature-256": signed(body, secret),
        **headers,
    }
    return await node.client.post("/overlay/sources/s1/webhook", content=body, headers=sent)


async def event(node: Running, answer: httpx.Response, index: int = 0) -> dict[str, Any]:
    event_id = answer.json()["processedEvents"][index]["eventId"]
    found: dict[str, Any] = (await node.client.get(f"/overlay/events/{event_id}")).json()
    return found


async def state(node: Running, source_id: str = "s1") -> dict[str, Any]:
    found: dict[str, Any] = (await node.client.get(f"/overlay/sources/{source_id}")).json()["state"]
    return found


@pytest.mark.parametrize("kind", ["push", "issues", "release"])
async def test_deliveries_of_github_under_a_ready_policy(node: Running, kind: str) -> None:
    policy = json.loads((CONFIGS / "policies" / f"github-{kind}.json").read_text())
    shelved = (await node.client.post("/overlay/policies", json=policy)).json()["policyHash"]
    assert (await node.source(configuration=GITHUB, policyHash=shelved)).status_code == 201
    deliveries = samples(kind)
    for each in deliveries:
        body = json.dumps(each["data"], indent=1).encode()
        answer = await github(node, body, kind=kind, delivery=f"guid-{each['externalId']}")
        assert answer.status_code == 202, answer.text
        assert answer.json()["counts"]["accepted"] == 1
        taken = await event(node, answer)
        assert (taken["eventType"], taken["externalId"]) == (kind, f"guid-{each['externalId']}")
        assert taken["data"] == each["data"]
        manifest = node.recorder.told[-1].manifest
        assert manifest.message.policy_hash.hex() == shelved
        await node.seal(manifest)
        assert (await event(node, answer))["status"] == "certified"
        again = await github(node, body, kind=kind, delivery=f"guid-{each['externalId']}")
        assert (again.status_code, again.json()["counts"]["duplicates"]) == (202, 1)
    shown = await state(node)
    counts = [shown[name] for name in ("status", "received", "accepted", "duplicates", "rejected", "errors")]
    assert counts == ["listening", 2 * len(deliveries), len(deliveries), len(deliveries), 0, 0]
    assert shown["lastEventAt"]


async def test_everything_that_github_sent_is_taken(node: Running) -> None:
    """329 recorded deliveries of 58 kinds, signed anew: nobody has the secrets they were recorded under."""
    recorded = json.loads(lzma.decompress((VECTORS / "github-deliveries.json.xz").read_bytes()))
    await node.source(configuration=GITHUB)
    sent = [
        (kind, f"{kind}-{number}", data)
        for kind, all_of_it in recorded.items()
        for number, data in enumerate(all_of_it)
    ]
    assert len(sent) == 329
    taken = 0
    for kind, delivery, data in sent:
        answer = await github(node, json.dumps(data, ensure_ascii=False).encode(), kind=kind, delivery=delivery)
        if kind == "ping":
            assert answer.status_code == 200, answer.text
            continue
        assert answer.status_code == 202, answer.text
        found = await event(node, answer)
        assert (found["eventType"], found["externalId"], found["data"]) == (kind, delivery, data)
        taken += 1
    shown = await state(node)
    assert (taken, shown["accepted"], shown["errors"]) == (325, 325, 0)


async def test_a_delivery_that_proves_nothing_is_refused_and_shown(node: Running) -> None:
    await node.source(configuration=GITHUB)
    body = b'{"zen":1}'
    for wrong in (
        await github(node, body, secret="guessed"),
        await github(node, body, **{"X-Hub-Signature-256": "sha256=" + "0" * 64}),
        await node.client.post("/overlay/sources/s1/webhook", content=body),
    ):
        assert wrong.status_code == 401
        problem = wrong.json()
        assert problem["type"].endswith(":signature-refused")
        assert problem["detail"] == "the delivery does not prove that it comes from this source"
    shown = await state(node)
    assert (shown["errors"], shown["accepted"]) == (3, 0)
    assert shown["lastError"] == "refused: the header X-Hub-Signature-256 is missing"
    assert node.recorder.told == []


async def test_two_secrets_hold_while_one_is_changed_for_the_other(node: Running) -> None:
    made = await node.source(configuration={**GITHUB, "secrets": ["the next one", "and one more"]})
    assert made.json()["configuration"] == {"scheme": "github", "secret": HIDDEN, "secrets": [HIDDEN, HIDDEN]}
    for number, secret in enumerate((SECRET, "the next one", "and one more")):
        assert (await github(node, b"1", secret=secret, delivery=f"d-{number}")).status_code == 202
    changed = {"configuration": {"scheme": "github", "secret": "the next one"}}
    await node.client.patch("/overlay/sources/s1", json=changed)
    assert (await github(node, b"2", secret=SECRET)).status_code == 401
    assert (await github(node, b"2", secret="the next one", delivery="d-9")).status_code == 202
    assert (await state(node))["lastError"]
    await node.client.patch("/overlay/sources/s1", json={"configuration": GITHUB})
    shown = await state(node)
    assert (shown["lastError"], shown["errors"], shown["accepted"]) == (None, 1, 4), (
        "what was wrong before the change"
    )


async def test_a_form_is_read_and_a_ping_answered(node: Running) -> None:
    await node.source(configuration=GITHUB)
    form = urlencode({"payload": '{"ref": "refs/heads/main", "n": 1.0}'}).encode()
    answer = await github(node, form, **{"Content-Type": "application/x-www-form-urlencoded"})
    assert (await event(node, answer))["data"] == {"ref": "refs/heads/main", "n": 1}
    ping = await github(node, b'{"zen":"Keep it logically awesome."}', kind="ping", delivery="p-1")
    assert (ping.status_code, ping.json()) == (200, {"answer": "pong", "delivery": "p-1"})
    forged = await github(node, b"{}", kind="ping", secret="guessed")
    assert forged.status_code == 401
    assert len(node.recorder.told) == 1


async def test_the_source_s_secret_speaks_for_its_identity(node: Running) -> None:
    await node.source(identityKey="02" + "ab" * 32, trustScore=85, configuration=GITHUB)
    stranger = await node.post({"externalId": "e", "eventType": "push", "data": 1})
    assert stranger.status_code == 403
    metadata = (await github(node, b'{"a":1}')).json()["overlayMetadata"]
    assert (metadata["sourceVerified"], metadata["identityScore"]) == (True, 85)
    named = await github(node, b"2", delivery="d-2", **{"X-Identity-Key": "nobody's", "X-Nonce": "1"})
    assert named.status_code == 202, "headers of the node's own forms are the sender's here"


async def test_what_nothing_proves_does_not_speak_for_an_identity(node: Running) -> None:
    await node.source(identityKey="02" + "ab" * 32, configuration={"scheme": "none"})
    refused = await node.client.post("/overlay/sources/s1/webhook", json={})
    assert (refused.status_code, refused.json()["type"]) == (403, "urn:overlay:problem:source-bound")
    await node.source("s2", configuration={"scheme": "none"})
    taken = await node.client.post("/overlay/sources/s2/webhook", json={"a": 1})
    assert (taken.status_code, taken.json()["overlayMetadata"]["sourceVerified"]) == (202, False)
    assert taken.json()["processedEvents"][0]["externalId"] is None
    again = await node.client.post("/overlay/sources/s2/webhook", json={"a": 1})
    assert again.json()["counts"]["duplicates"] == 1, "what has no id is known by its content"


async def test_a_node_that_wants_identities_takes_proven_webhooks_alone(postgres_url: str) -> None:
    async with running(postgres_url) as node:
        await node.source(configuration={"scheme": "bearer", "secret": "t"})
        await node.source("s2", configuration={"scheme": "none"})
    async with running(postgres_url, access=Access(identity_required=True)) as node:
        bearer = {"Authorization": "Bearer t"}
        assert (await node.client.post("/overlay/sources/s1/webhook", json=1, headers=bearer)).status_code == 202
        refused = await node.client.post("/overlay/sources/s2/webhook", json=1)
        assert (refused.status_code, refused.json()["type"]) == (401, "urn:overlay:problem:identity-required")


async def test_stripe_slack_and_standard_webhooks(node: Running) -> None:
    now = int(time.time())
    await node.source("stripe", configuration={"scheme": "stripe", "secret": "whsec_x"})
    body = orjson.dumps({"id": "evt_1", "type": "charge.succeeded", "created": now, "data": {"object": {}}})
    signature = hmac.new(b"whsec_x", b"%d.%b" % (now, body), hashlib.sha256).hexdigest()
    headers = {"Stripe-Signature": f"t={now},v1={signature}"}
    stripe = await node.client.post("/overlay/sources/stripe/webhook", content=body, headers=headers)
    taken = await event(node, stripe)
    assert (taken["externalId"], taken["eventType"]) == ("evt_1", "charge.succeeded")

    await node.source("slack", configuration={"scheme": "slack", "secret": "s"})

    async def slack(said: dict[str, Any]) -> httpx.Response:
        text = orjson.dumps(said)
        mac = hmac.new(b"s", b"v0:%d:%b" % (now, text), hashlib.sha256).hexdigest()
        sent = {"X-Slack-Signature": f"v0={mac}", "X-Slack-Request-Timestamp": str(now)}
        return await node.client.post("/overlay/sources/slack/webhook", content=text, headers=sent)

    greeted = await slack({"type": "url_verification", "challenge": "3eZbrw1aB", "token": "x"})
    assert (greeted.status_code, greeted.json()) == (200, {"challenge": "3eZbrw1aB"})
    said = {"type": "event_callback", "event_id": "Ev1", "event_time": now, "event": {"type": "reaction_added"}}
    taken = await event(node, await slack(said))
    assert (taken["externalId"], taken["eventType"]) == ("Ev1", "reaction_added")

    secret = "whsec_" + base64.b64encode(b"k" * 24).decode()
    await node.source("standard", configuration={"scheme": "standard", "secret": secret, "eventsPath": "/data"})
    text = '{"type":"x","data":[{"type":"a"},{"type":"b"},7]}'
    at = datetime.fromtimestamp(now, tz=UTC)
    sent = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(now),
        "webhook-signature": Webhook(secret).sign("msg_1", at, text),
    }
    answer = await node.client.post("/overlay/sources/standard/webhook", content=text, headers=sent)
    assert [each["externalId"] for each in answer.json()["processedEvents"]] == ["msg_1/0", "msg_1/1", "msg_1/2"]
    types = [(await event(node, answer, index))["eventType"] for index in range(3)]
    assert types == ["a", "b", "webhook"]


async def test_many_events_in_one_delivery_each_as_it_was_written(node: Running) -> None:
    configuration = {
        "scheme": "hmac",
        "secret": "k",
        "header": "X-Signature",
        "template": "{timestamp}.{body}",
        "signedTimeHeader": "X-Nonce",
        "eventsPath": "/batch/items",
        "externalIdPath": "/id",
        "eventType": "reading",
        "timestampPath": "/at",
    }
    await node.source(configuration=configuration)
    body = (
        b'{"batch": {"items": [{"id": 1, "v": 1.50, "at": 1700000000}, {"id": "2", "v": 9007199254740993},'
        b' {"id": "3", "v": 1e999}, {"id": "4", "v": 1, "v": 2}, {"id": "5", "v": 5}]}}'
    )
    body = gzip.compress(body)
    now = str(int(time.time()))
    mac = hmac.new(b"k", now.encode() + b"." + body, hashlib.sha256).hexdigest()
    headers = {"X-Signature": mac, "X-Nonce": now, "Content-Encoding": "gzip"}
    answer = await node.client.post("/overlay/sources/s1/webhook", content=body, headers=headers)
    assert answer.status_code == 202, answer.text
    assert answer.json()["rejected"] == [1, 2, 3]
    first = await event(node, answer)
    assert (first["externalId"], first["eventType"], first["data"]["v"]) == ("1", "reading", 1.5)
    assert first["timestamp"].startswith("2023-11-14T22:13:20")
    kept = (await node.client.get("/overlay/sources/s1/progress")).json()
    assert len(kept["rejections"]) == 3
    assert kept["state"]["rejected"] == 3


async def test_routes_without_a_door_say_what_is_wrong(node: Running) -> None:
    await node.source()
    assert await state(node) is None
    closed = await node.client.post("/overlay/sources/s1/webhook", json={})
    assert (closed.status_code, closed.json()["type"]) == (404, "urn:overlay:problem:no-webhook")
    nobody = await node.client.post("/overlay/sources/none/webhook", json={})
    assert (nobody.status_code, nobody.json()["type"]) == (404, "urn:overlay:problem:unknown-source")
    await node.client.patch("/overlay/sources/s1", json={"configuration": GITHUB, "enabled": False})
    disabled = await github(node, b"1")
    assert (disabled.status_code, disabled.json()["type"]) == (403, "urn:overlay:problem:source-disabled")
    await node.client.patch("/overlay/sources/s1", json={"enabled": True})
    assert (await state(node))["status"] == "listening"
    empty = await github(node, b"")
    assert (empty.status_code, empty.json()["counts"]["rejected"]) == (202, 1)
    coded = await github(node, b"1", **{"Content-Encoding": "br"})
    assert coded.status_code == 415


async def test_a_delivery_that_is_too_large_or_too_many(postgres_url: str) -> None:
    settings = ApiSettings(network=NETWORK, body_bytes_max=100_000)
    limits = IngestLimits(unsettled_max=1)
    async with running(postgres_url, settings=settings, limits=limits) as node:
        await node.source(configuration=GITHUB)
        large = await github(node, b'"%b"' % (b"x" * 100_000))
        assert large.status_code == 413
        await node.client.patch("/overlay/sources/s1", json={"configuration": {**GITHUB, "eventsPath": ""}})
        many = await github(node, b"[%b]" % b",".join([b"1"] * 20_000))
        assert (many.status_code, many.json()["type"]) == (413, "urn:overlay:problem:too-many-events")
        none = await github(node, b"[]")
        assert (none.status_code, none.json()["counts"]["accepted"]) == (202, 0)
        odd = await github(node, b'{"a":1}')
        assert (odd.status_code, odd.json()["type"]) == (400, "urn:overlay:problem:invalid-request")
        assert (await github(node, b"[1]")).status_code == 202
        full = await github(node, b"[2]", delivery="d-2")
        assert full.status_code == 429
        assert int(full.headers["Retry-After"]) in range(2, 5)


@pytest.mark.parametrize(
    ("configuration", "field"),
    [
        ({"scheme": "github"}, "must have a secret"),
        ({"scheme": "none", "secret": "x"}, "must have no secret"),
        ({"secret": "x"}, "must have a scheme"),
        ({"scheme": "hmac", "secret": "x"}, "header"),
        ({"scheme": "hmac", "secret": "x", "header": "X", "template": "{timestamp}"}, "{body}"),
        ({"scheme": "hmac", "secret": "x", "header": "X", "template": "{timestamp}{body}"}, "signedTimeHeader"),
        ({"scheme": "hmac", "secret": "x", "header": "X", "signedIdHeader": "Y"}, "signedIdHeader"),
        ({"scheme": "github", "secret": "x", "template": "{body}!"}, "must not have template"),
        ({"scheme": "standard", "secret": "whsec_*"}, "base64"),
        ({"scheme": "github", "secret": ""}, "/configuration/secret"),
        ({"scheme": "github", "secrets": ["x"] * 9}, "/configuration/secrets"),
        ({"scheme": "github", "secret": "x", "format": "text", "eventsPath": ""}, "must have format json"),
        ({"scheme": "sha1"}, "/configuration/scheme"),
    ],
)
def test_settings_that_would_prove_nothing_are_refused(configuration: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidConfigurationError, match=field) as found:
        read("webhook", configuration)
    assert "whsec_*" not in str(found.value)
