"""Submissions and lookups over HTTP and a real database: repeats, spends, double spends, hosts, and bad input."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import httpx
import orjson
import pytest
import trio
from quart import Response, request
from quart_trio import QuartTrio

from node.api.server import serve
from node.coordination.serialization import certificate_bytes
from protocols.advertisement import build_token
from protocols.beef import make_beef, read_beef, write_beef
from protocols.keys import PrivateKey
from protocols.merkle_path import Leaf, make_merkle_path
from protocols.topics import build_certificate_token
from protocols.transactions import Input, Output, Transaction, make_transaction
from protocols.uhrp import build_uhrp_advert, uhrp_url
from storage import outputs
from tests.node.certified_batches import AGENT, NODE
from tests.node.running import Running, running

HOST = PrivateKey.from_bytes(b"\7" * 32)
URL = "https://host.example"


def token(name: str = "tm_birds", url: str = URL, key: PrivateKey = HOST) -> bytes:
    return build_token(key, "SHIP" if name.startswith("tm_") else "SLAP", url, name)


PARENT = make_transaction(
    [Input(txid=b"\1" * 32, output_index=0, unlocking_script=b"")],
    [Output(satoshis=1_000, locking_script=b"\x51")] * 4,
)


def beef_of(*transactions: Transaction) -> bytes:
    """The transactions in order, the first proven by a path."""
    first = transactions[0]
    leaves = [Leaf(offset=0, hash=first.txid, is_txid=True), Leaf(offset=1, hash=b"\2" * 32)]
    return write_beef(make_beef(transactions, [make_merkle_path(800_000, [leaves])]))


def spend(parent: Transaction, index: int, *scripts: bytes, satoshis: int = 1) -> Transaction:
    spent = Input(txid=parent.txid, output_index=index, unlocking_script=b"")
    return make_transaction([spent], [Output(satoshis=satoshis, locking_script=script) for script in scripts])


async def submit(
    node: Running, beef: bytes, *topics: str, values: bytes | None = None, headers: Mapping[str, str] | None = None
) -> httpx.Response:
    sent = {"X-Topics": orjson.dumps(topics).decode(), "Content-Type": "application/octet-stream"}
    body = beef
    if values is not None:
        sent["x-includes-off-chain-values"] = "true"
        size = len(beef)
        assert size < 65_536
        body = (bytes([size]) if size < 253 else b"\xfd" + size.to_bytes(2, "little")) + beef + values
    return await node.client.post("/submit", content=body, headers={**sent, **(headers or {})})


async def look(node: Running, service: str, query: Any) -> list[dict[str, Any]]:
    answer = await node.client.post("/lookup", json={"service": service, "query": query})
    assert answer.status_code == 200, answer.text
    return list(answer.json()["outputs"])


def subjects(found: Sequence[Mapping[str, Any]]) -> list[bytes]:
    return [read_beef(bytes(each["beef"])).subject for each in found]


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].removeprefix("urn:overlay:problem:")


async def test_what_is_admitted_is_found_and_a_repeat_is_answered_alike(postgres_url: str) -> None:
    made = spend(PARENT, 0, b"\x51", token())
    async with running(postgres_url) as node:
        first = await submit(node, beef_of(PARENT, made), "tm_ship", "tm_slap")
        assert first.json() == {
            "tm_ship": {"outputsToAdmit": [1], "coinsToRetain": [], "coinsRemoved": []},
            "tm_slap": {"outputsToAdmit": [], "coinsToRetain": [], "coinsRemoved": []},
        }
        assert first.headers["X-Overlay-Unchecked"] == "merkle-paths, scripts"
        assert (await submit(node, beef_of(PARENT, made), "tm_ship", "tm_slap")).json() == first.json()
        found = await look(node, "ls_ship", {"topics": ["tm_birds"]})
        assert subjects(found) == [made.txid]
        assert found[0]["outputIndex"] == 1
        for query in ({"identityKey": HOST.identity.hex()}, {"domain": URL}, {"findAll": True}, "findAll"):
            assert subjects(await look(node, "ls_ship", query)) == [made.txid]
        for missed in (
            {"topics": ["tm_fish"]},
            {"domain": "https://host.exam"},
            {"domain": "https://other.example"},
            {"identityKey": "02" + "aa" * 32},
        ):
            assert await look(node, "ls_ship", missed) == []
    async with running(postgres_url) as node:  # it was on disk
        assert subjects(await look(node, "ls_ship", {"topics": ["tm_birds"]})) == [made.txid]


async def test_equal_submissions_at_once_are_one(postgres_url: str) -> None:
    body = beef_of(PARENT, spend(PARENT, 0, token()))
    answers: list[Any] = []
    async with running(postgres_url) as node:

        async def one() -> None:
            answers.append((await submit(node, body, "tm_ship")).json())

        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(one)
        assert len(answers) == 12
        assert all(each["tm_ship"]["outputsToAdmit"] == [0] for each in answers)
        assert len(await look(node, "ls_ship", {"topics": ["tm_birds"]})) == 1


async def test_what_is_spent_is_gone_and_said_to_be(postgres_url: str) -> None:
    made = spend(PARENT, 0, token("tm_birds"), token("ls_birds"), satoshis=10)
    async with running(postgres_url) as node:
        await submit(node, beef_of(PARENT, made), "tm_ship", "tm_slap")
        moved = spend(made, 0, token("tm_fish"))
        steak = (await submit(node, beef_of(PARENT, made, moved), "tm_ship")).json()
        assert steak["tm_ship"] == {"outputsToAdmit": [0], "coinsToRetain": [], "coinsRemoved": [0]}
        assert await look(node, "ls_ship", {"topics": ["tm_birds"]}) == []
        assert subjects(await look(node, "ls_ship", {"topics": ["tm_fish"]})) == [moved.txid]
        ended = spend(made, 1, b"\x51")
        only_spent = (await submit(node, beef_of(PARENT, made, ended), "tm_slap")).json()
        assert only_spent["tm_slap"] == {"outputsToAdmit": [], "coinsToRetain": [], "coinsRemoved": [0]}
        assert await look(node, "ls_slap", {"service": "ls_birds"}) == []
        again = (await submit(node, beef_of(PARENT, made), "tm_ship")).json()
        assert again["tm_ship"]["outputsToAdmit"] == [0], "answered as the first time"
        assert await look(node, "ls_ship", {"topics": ["tm_birds"]}) == [], "and not risen from the dead"


async def test_a_coin_is_spent_once(postgres_url: str) -> None:
    one, other = spend(PARENT, 0, token("tm_birds")), spend(PARENT, 0, token("tm_fish"))
    async with running(postgres_url) as node:
        assert (await submit(node, beef_of(PARENT, one), "tm_ship")).status_code == 200
        answer = await submit(node, beef_of(PARENT, other), "tm_ship")
        assert code(answer) == (409, "double-spend")
        assert answer.json()["outpoint"] == f"{PARENT.txid_hex}.0"
        assert answer.json()["spender"] == one.txid_hex
        assert await look(node, "ls_ship", {"topics": ["tm_fish"]}) == []
        spent = partial(outputs.is_spent, outpoint=(PARENT.txid, 0))
        assert await node.database.run(spent)


@pytest.mark.parametrize(
    ("transactions", "why"),
    [
        ((make_transaction([], [Output(satoshis=0, locking_script=token())]),), "no-inputs"),
        ((PARENT, spend(PARENT, 0, token(), satoshis=1_001)), "inflating"),
        ((PARENT, spend(PARENT, 9, token())), "no-such-output"),
        ((PARENT, spend(spend(PARENT, 1, b""), 0, token())), "missing-parent"),
    ],
)
async def test_money_from_nowhere_is_refused(
    postgres_url: str, transactions: tuple[Transaction, ...], why: str
) -> None:
    async with running(postgres_url) as node:
        answer = await submit(node, beef_of(*transactions), "tm_ship")
        assert code(answer) == (422, "invalid-transaction")
        assert answer.json()["why"] == why
        assert await look(node, "ls_ship", {"findAll": True}) == []


async def test_bad_submissions_are_told_why(postgres_url: str) -> None:
    good = beef_of(PARENT, spend(PARENT, 0, token()))
    async with running(postgres_url) as node:
        for body in (b"", b"\1\0\xbe\xef", good[:-5], good + b"x", b"\xff" * 1000, orjson.dumps({"beef": []})):
            assert code(await submit(node, body, "tm_ship")) == (400, "invalid-beef")
        for header in ("", "tm_ship", '{"a":1}', "[1]", "[]", "[" * 3000):
            answer = await node.client.post("/submit", content=good, headers={"X-Topics": header})
            assert code(answer) == (400, "invalid-submission")
        assert code(await submit(node, good, "tm_nobody")) == (422, "unknown-topics")
        short = await submit(
            node, b"\xfe\xff\xff\xff\xff", "tm_ship", headers={"x-includes-off-chain-values": "true"}
        )
        assert code(short) == (400, "invalid-submission")
        huge = await submit(node, bytes(6 * 1024 * 1024), "tm_ship")
        assert huge.status_code == 413
        known = (await submit(node, good, "tm_nobody", "tm_ship")).json()
        assert list(known) == ["tm_ship"], "topics not managed here are left out"


@pytest.mark.parametrize(
    "question",
    [
        b"",
        b"[]",
        b'{"service":"ls_ship"}',
        b'{"service":1,"query":{}}',
        b'{"service":"ls_ship","query":{}}',
        b'{"service":"ls_ship","query":{"topics":"tm_a"}}',
        b'{"service":"ls_ship","query":{"topics":[1]}}',
        b'{"service":"ls_ship","query":{"identityKey":"zz"}}',
        b'{"service":"ls_ship","query":{"findAll":true,"limit":-1}}',
        b'{"service":"ls_ship","query":{"colour":"red"}}',
        b'{"service":"ls_slap","query":7}',
        b'{"service":"ls_uhrp","query":{"uhrpUrl":"XUnothing"}}',
        b'{"service":"ls_event_certificates","query":{"eventId":"event_1"}}',
        b'{"service":"ls_event_certificates","query":{"sourceId":"s","from":"then"}}',
        b'{"service":"ls_event_certificates","query":{"sourceId":"s","limit":true}}',
        b'{"service":"ls_ship","query":' + b"[" * 50 + b"]" * 50 + b"}",
    ],
)
async def test_bad_questions_are_told_why(postgres_url: str, question: bytes) -> None:
    async with running(postgres_url) as node:
        answer = await node.client.post("/lookup", content=question, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422), "a form that JSON has not, or the service has not"
        assert answer.json()["remedy"]


async def test_unknown_services_are_told_of_the_known_ones(postgres_url: str) -> None:
    async with running(postgres_url) as node:
        answer = await node.client.post("/lookup", json={"service": "ls_nobody", "query": {}})
        assert code(answer) == (404, "unknown-service")
        services = (await node.client.get("/listLookupServiceProviders")).json()
        managers = (await node.client.get("/listTopicManagers")).json()
        assert set(services) == {"ls_ship", "ls_slap", "ls_uhrp", "ls_event_certificates"}
        assert set(managers) == {"tm_ship", "tm_slap", "tm_uhrp", "tm_event_certificates"}
        for name in services:
            path = f"/getDocumentationForLookupServiceProvider?lookupService={name}"
            assert f"# {name}" in (await node.client.get(path)).text
        for name in managers:
            assert f"# {name}" in (await node.client.get(f"/getDocumentationForTopicManager?manager={name}")).text
        assert (await node.client.get("/getDocumentationForTopicManager?manager=x")).status_code == 404


async def test_adverts_by_gossip_are_served_first_and_once(postgres_url: str) -> None:
    gossiped = [token("tm_birds", "https://b.example"), token("ls_birds"), token("tm_birds")]
    made = spend(PARENT, 0, token("tm_birds"), token("tm_birds", "https://c.example"))
    async with running(postgres_url, adverts=gossiped) as node:
        await submit(node, beef_of(PARENT, made), "tm_ship")
        found = await look(node, "ls_ship", {"topics": ["tm_birds"]})
        scripts = [
            read_beef(bytes(each["beef"])).subject_transaction.outputs[each["outputIndex"]].locking_script
            for each in found
        ]
        assert sorted(scripts) == sorted([gossiped[0], gossiped[2], token("tm_birds", "https://c.example")])
        assert scripts[-1] == token("tm_birds", "https://c.example")
        page = await look(node, "ls_ship", {"findAll": True, "limit": 1, "skip": 1})
        assert len(page) == 1
        binary = await node.client.post(
            "/lookup",
            json={"service": "ls_ship", "query": {"topics": ["tm_birds"]}},
            headers={"X-Aggregation": "yes"},
        )
        assert binary.headers["Content-Type"] == "application/octet-stream"
        assert binary.content[0] == 3


async def test_certificates_are_found_by_event_batch_source_and_content(postgres_url: str) -> None:
    async with running(postgres_url) as node:
        await node.source()
        await node.post({"externalId": "e1", "eventType": "t", "data": {"v": 1}})
        sealed = await node.seal(node.recorder.told[0].manifest)
        batch_id = sealed.certificate.statement.batch_id
        event = (await node.client.get("/overlay/events", params={"externalId": "e1"})).json()["events"][0]
        document = (await node.client.get(f"/overlay/events/{event['eventId']}/certificate")).json()
        for query in ({"eventId": event["eventId"]}, {"contentHash": event["contentHash"]}):
            (found,) = await look(node, "ls_event_certificates", query)
            assert orjson.loads(bytes(found["context"])) == document
        for query in ({"batchId": batch_id}, {"sourceId": "s1"}, {"sourceId": "s1", "from": "2020-01-01T00:00:00Z"}):
            (found,) = await look(node, "ls_event_certificates", query)
            about = orjson.loads(bytes(found["context"]))
            assert (about["batchId"], about["events"]) == (batch_id, 1)
            digest = hashlib.sha256(certificate_bytes(sealed.certificate)).digest()
            assert about["certificate"] == uhrp_url(digest)
        for query in (
            {"eventId": "event_" + "0" * 64},
            {"batchId": "batch_" + "0" * 64},
            {"sourceId": "s1", "to": "2020-01-01T00:00:00Z"},
            {"sourceId": "s1", "skip": 1},
        ):
            assert await look(node, "ls_event_certificates", query) == []


async def test_a_certificate_of_another_node_is_submitted_and_found(postgres_url: str) -> None:
    async with running(postgres_url) as node:
        await node.source()
        await node.post({"externalId": "e1", "eventType": "t", "data": {"v": 1}})
        sealed = await node.seal(node.recorder.told[0].manifest)
        certificate = certificate_bytes(sealed.certificate)
        batch_id, digest = sealed.certificate.statement.batch_id, hashlib.sha256(certificate).digest()
        made = spend(PARENT, 0, build_certificate_token(HOST, batch_id=batch_id, digest=digest))
        steak = (await submit(node, beef_of(PARENT, made), "tm_event_certificates", values=certificate)).json()
        assert steak["tm_event_certificates"]["outputsToAdmit"] == [0]
        rows = await node.database.run(partial(outputs.find, topic="tm_event_certificates", batch_id=batch_id))
        assert [(row.identity, row.off_chain_values) for row in rows] == [(HOST.identity, certificate)]
        refused = (await submit(node, beef_of(PARENT, spend(PARENT, 1, b"\x51")), "tm_event_certificates")).json()
        assert refused["tm_event_certificates"]["outputsToAdmit"] == []
    assert {NODE.identity, AGENT.identity} == {each.signer for each in sealed.certificate.certifications}


async def test_objects_that_others_hold_are_found_until_their_advert_expires(postgres_url: str) -> None:
    digest = hashlib.sha256(b"content").digest()
    make = partial(build_uhrp_advert, HOST, digest=digest, size=7)
    fresh = make(url="https://host.example/a", expires_s=4_102_444_800)
    stale = make(url="https://host.example/b", expires_s=1_000_000_000)
    async with running(postgres_url) as node:
        made = spend(PARENT, 0, fresh, stale)
        assert (await submit(node, beef_of(PARENT, made), "tm_uhrp")).json()["tm_uhrp"]["outputsToAdmit"] == [0, 1]
        found = await look(node, "ls_uhrp", {"uhrpUrl": uhrp_url(digest)})
        assert [each["outputIndex"] for each in found] == [0]


async def test_an_identity_fills_no_topic(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "IDENTITY_OUTPUTS_MAX", 2)
    async with running(postgres_url) as node:
        made = spend(PARENT, 0, token("tm_a"), token("tm_b"))
        assert (await submit(node, beef_of(PARENT, made), "tm_ship")).status_code == 200
        more = spend(PARENT, 1, token("tm_c"))
        assert code(await submit(node, beef_of(PARENT, more), "tm_ship")) == (429, "topic-full")
        other = spend(PARENT, 2, token("tm_c", key=PrivateKey.from_bytes(b"\x08" * 32)))
        assert (await submit(node, beef_of(PARENT, other), "tm_ship")).status_code == 200
        assert (await submit(node, beef_of(PARENT, more), "tm_ship")).status_code == 429, "its coin is not spent"


class HostElsewhere:
    """A host of a topic: takes what it is sent, after refusing as often as it is told to."""

    def __init__(self, refusals: int = 0) -> None:
        self.refusals = refusals
        self.taken: list[tuple[str, bytes]] = []

    def app(self) -> QuartTrio:
        app = QuartTrio("host")

        @app.post("/submit")
        async def take() -> Response:
            body = await request.get_data(as_text=False, cache=True, parse_form_data=False)
            if self.refusals:
                self.refusals -= 1
                return Response(b"", status=503)
            self.taken.append((request.headers["X-Topics"], body))
            return Response(b"{}", content_type="application/json")

        return app


async def test_what_is_new_is_passed_on_to_the_hosts_of_its_topic(postgres_url: str) -> None:
    host = HostElsewhere(refusals=1)
    async with trio.open_nursery() as nursery:
        url: str = await nursery.start(partial(serve, host.app(), "127.0.0.1:0"))
        adverts = [token("tm_ship", url), token("tm_ship", "http://127.0.0.1:9"), token("tm_slap", url)]
        async with running(postgres_url, adverts=adverts) as node:
            body = beef_of(PARENT, spend(PARENT, 0, token("tm_birds")))
            await submit(node, body, "tm_ship")
            await submit(node, body, "tm_ship")  # a repeat goes no further
            with trio.fail_after(20):
                while not host.taken:
                    await trio.sleep(0.05)
            later = beef_of(PARENT, spend(PARENT, 1, token("tm_fish")))
            await submit(node, later, "tm_ship")
            with trio.fail_after(20):
                while len(host.taken) < 2:
                    await trio.sleep(0.05)
            assert [(topics, read_beef(sent).subject) for topics, sent in host.taken] == [
                ('["tm_ship"]', read_beef(each).subject) for each in (body, later)
            ], "each once"
        nursery.cancel_scope.cancel()
