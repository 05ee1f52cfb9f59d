"""Callers at the door: the three forms end to end, and what an attacker may try. Nothing refused reaches a route."""

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import attrs
import httpx
import orjson
import pytest

from node.calling import SignedRequests
from node.runtime.access import Access, CallerRole, TrustedCertifier
from protocols.authentication import HttpRequest, sign_headers
from protocols.keys import ORDER, PrivateKey
from tests.authentication_client import AuthriteClient, MutualClient, b64, issue_certificate
from tests.node.certified_batches import NODE
from tests.node.running import Running, running

OPERATOR, OWNER, STRANGER, CERTIFIER = (PrivateKey.from_bytes(bytes([n]) * 32) for n in (11, 12, 13, 14))
TYPE = b64(b"membership".ljust(32, b"."))
ACCESS = Access(
    operators=frozenset({OPERATOR.identity}),
    owners=frozenset({OWNER.identity}),
    certifiers=(
        TrustedCertifier(certifier=CERTIFIER.identity, type=TYPE, role=CallerRole.OPERATOR, fields=("role",)),
    ),
    public_reads=frozenset({"events", "sources"}),
)
SOURCE = {"sourceId": "s1", "name": "One", "sourceType": "webhook"}
JSON = "application/json"
NODE_KEY = NODE.identity


@pytest.fixture
async def node(postgres_url: str) -> AsyncIterator[Running]:
    async with running(postgres_url, access=ACCESS) as started:
        yield started


async def send(node: Running, request: HttpRequest) -> httpx.Response:
    """A request as it is, nothing added but what HTTP wants."""
    built = node.client.build_request(request.method, request.target.decode(), content=request.body)
    for name, value in request.headers:
        built.headers[name.decode()] = value.decode("latin-1")
    return await node.client.send(built)


async def session(node: Running, key: PrivateKey) -> MutualClient:
    client = MutualClient(key)
    answer = await node.client.post(
        "/.well-known/auth", content=client.initial_request(), headers={"Content-Type": JSON}
    )
    client.take_initial_response(answer.content)
    return client


def create(client: MutualClient, **fields: Any) -> HttpRequest:
    body = orjson.dumps({**SOURCE, **fields})
    return client.sign("POST", "/overlay/sources", headers={"content-type": JSON}, body=body)


def signed(key: PrivateKey, method: str = "POST", target: str = "/overlay/sources", **more: Any) -> HttpRequest:
    body = more.pop("body", orjson.dumps(SOURCE))
    nonce_ns = more.pop("nonce_ns", time.time_ns())
    proof = sign_headers(key, more.pop("node", NODE_KEY), method=method, target=target, body=body, nonce_ns=nonce_ns)
    headers = tuple((name.lower().encode(), value.encode()) for name, value in proof)
    return HttpRequest(
        method=method, path=target.encode(), headers=((b"content-type", JSON.encode()), *headers), body=body
    )


async def sources(node: Running) -> list[str]:
    """What handlers did: the sources there are."""
    return [source["sourceId"] for source in (await node.client.get("/overlay/sources")).json()["sources"]]


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].removeprefix("urn:overlay:problem:")


# --- the forms ---------------------------------------------------------------------------------------------------


async def test_a_session_proves_both_sides_and_signs_errors_too(node: Running) -> None:
    client = await session(node, OPERATOR)
    for request, status in [
        (create(client), 201),
        (create(client), 409),
        (client.sign("GET", "/overlay/sources/s1"), 200),
        (client.sign("GET", "/overlay/sources/nobody"), 404),
        (client.sign("GET", "/nowhere?a=%20b"), 404),
        (client.sign("PUT", "/healthz"), 405),
        (client.sign("GET", "/overlay/events?limit=x"), 400),
    ]:
        answer = await send(node, request)
        assert answer.status_code == status
        client.check_response(request, status, list(answer.headers.items()), answer.content)


async def test_a_signed_request_proves_its_sender(node: Running) -> None:
    auth = SignedRequests(OPERATOR, NODE_KEY)
    assert (await node.client.post("/overlay/sources", json=SOURCE, auth=auth)).status_code == 201
    caller = (await node.client.get("/overlay/caller?a=%C3%A4&b=1+2", auth=auth)).json()
    assert caller == {"identityKey": OPERATOR.identity.hex(), "form": "headers", "roles": ["operator"]}


async def test_authrite_still_works(node: Running) -> None:
    client = AuthriteClient(OPERATOR, origin=node.url)
    answer = await node.client.post("/authrite/initialRequest", content=client.initial_request())
    client.take_initial_response(answer.content)
    for request, status in [
        (client.sign("GET", "/overlay/caller"), 200),
        (client.sign("GET", "/overlay/events/nobody?x=1"), 404),
    ]:
        answer = await send(node, request)
        assert answer.status_code == status
        client.check_response(request, list(answer.headers.items()), answer.content)


async def test_long_bodies_are_proven_too(node: Running) -> None:
    """Past the size that is hashed on the loop."""
    await node.client.post("/overlay/sources", json=SOURCE, auth=SignedRequests(OPERATOR, NODE_KEY))
    events = [{"externalId": str(n), "eventType": "t", "data": "x" * 1000} for n in range(200)]
    body = orjson.dumps({"sourceId": "s1", "events": events})
    assert len(body) > 128 * 1024
    client = await session(node, STRANGER)
    request = client.sign("POST", "/overlay/events/ingest", headers={"content-type": JSON}, body=body)
    answer = await send(node, request)
    assert answer.json()["counts"]["accepted"] == 200
    client.check_response(request, 202, list(answer.headers.items()), answer.content)
    again = await send(node, signed(STRANGER, target="/overlay/events/ingest", body=body))
    assert again.json()["counts"]["duplicates"] == 200
    assert node.ingest.admission.bytes_in_flight == 0


async def test_a_stream_cannot_be_signed_and_says_so(node: Running) -> None:
    client = await session(node, OPERATOR)
    assert code(await send(node, client.sign("GET", "/overlay/events/stream")))[0] == 400


async def test_pages_of_any_origin_may_call_but_not_where_everybody_is_an_operator(
    postgres_url: str, node: Running
) -> None:
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    preflight = await node.client.options("/overlay/events/ingest", headers=asked)
    assert preflight.status_code == 200
    assert preflight.headers["Access-Control-Allow-Origin"] == "*"
    assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
    assert preflight.headers["Access-Control-Allow-Headers"] == "Authorization, *"
    refused = await node.client.post("/overlay/sources", json=SOURCE)
    assert refused.headers["Access-Control-Expose-Headers"] == "*"
    async with running(postgres_url) as open_node:
        answer = await open_node.client.options("/overlay/sources", headers=asked)
        assert "Access-Control-Allow-Origin" not in answer.headers


# --- who may what -----------------------------------------------------------------------------------------------


async def test_anonymous_callers_change_nothing(node: Running) -> None:
    assert code(await node.client.post("/overlay/sources", json=SOURCE)) == (401, "identity-required")
    assert code(await node.client.get("/metrics")) == (401, "identity-required")
    assert await sources(node) == []


async def test_strangers_change_nothing_and_are_told_so_in_their_session(node: Running) -> None:
    client = await session(node, STRANGER)
    client.requested = {}
    await node.client.post("/.well-known/auth", content=client.certificate_response([]))
    request = create(client)
    answer = await send(node, request)
    assert code(answer) == (403, "not-permitted")
    client.check_response(request, 403, list(answer.headers.items()), answer.content)
    assert await sources(node) == []


async def test_owners_have_sources_of_their_own(node: Running) -> None:
    mine = SignedRequests(OWNER, NODE_KEY)
    own = {**SOURCE, "identityKey": OWNER.identity.hex()}
    assert code(await node.client.post("/overlay/sources", json=SOURCE, auth=mine)) == (403, "not-permitted")
    assert (await node.client.post("/overlay/sources", json=own, auth=mine)).status_code == 201
    change = node.client.patch
    assert (await change("/overlay/sources/s1", json={"name": "New"}, auth=mine)).status_code == 200
    for field in ({"identityKey": None}, {"trustScore": 100}):
        assert code(await change("/overlay/sources/s1", json=field, auth=mine)) == (403, "not-permitted")
    operator = SignedRequests(OPERATOR, NODE_KEY)
    await node.client.post("/overlay/sources", json={**SOURCE, "sourceId": "s2"}, auth=operator)
    assert code(await change("/overlay/sources/s2", json={"name": "Mine"}, auth=mine)) == (403, "not-permitted")
    assert (await change("/overlay/sources/s1", json={"trustScore": 9}, auth=operator)).status_code == 200


async def test_a_bound_source_takes_events_of_its_identity_alone(node: Running) -> None:
    bound = {**SOURCE, "identityKey": OWNER.identity.hex()}
    await node.client.post("/overlay/sources", json=bound, auth=SignedRequests(OWNER, NODE_KEY))
    event = {"eventType": "t", "data": 1}
    assert code(await node.post(event)) == (403, "source-bound")
    for key in (STRANGER, OPERATOR):
        assert code(await node.post(event, auth=SignedRequests(key, NODE_KEY))) == (403, "source-bound")
    taken = await node.post(event, auth=SignedRequests(OWNER, NODE_KEY))
    assert taken.status_code == 202
    assert "true" in taken.text  # the source is verified


async def test_events_of_anonymous_callers_are_refused_where_the_operator_wants_identities(postgres_url: str) -> None:
    async with running(postgres_url, access=attrs.evolve(ACCESS, identity_required=True)) as node:
        await node.client.post("/overlay/sources", json=SOURCE, auth=SignedRequests(OPERATOR, NODE_KEY))
        event = {"eventType": "t", "data": 1}
        assert code(await node.post(event)) == (401, "identity-required")
        assert (await node.post(event, auth=SignedRequests(STRANGER, NODE_KEY))).status_code == 202


async def test_a_certificate_gives_its_role_until_it_is_revoked(postgres_url: str) -> None:
    shown = issue_certificate(CERTIFIER, STRANGER, NODE_KEY, type=TYPE, fields={"role": "boss"})
    foreign = issue_certificate(OWNER, STRANGER, NODE_KEY, type=TYPE, fields={"role": "boss"})
    revoked = attrs.evolve(ACCESS, revoked_serials=frozenset({shown["serialNumber"]}))

    async def is_spent(outpoint: str) -> bool:
        return outpoint == shown["revocationOutpoint"]

    spent = attrs.evolve(ACCESS, is_spent=is_spent)
    for access, certificate, status in [
        (ACCESS, shown, 201),
        (revoked, shown, 403),
        (spent, shown, 403),
        (ACCESS, foreign, 403),
    ]:
        async with running(postgres_url, access=access) as node:
            client = await session(node, STRANGER)
            assert client.requested["certifiers"] == [CERTIFIER.identity.hex()]
            answer = await node.client.post("/.well-known/auth", content=client.certificate_response([certificate]))
            assert answer.status_code == (400 if certificate is foreign else 200)
            assert (await send(node, create(client))).status_code == status


# --- attacks ------------------------------------------------------------------------------------------------------


def with_header(request: HttpRequest, name: str, value: str | None) -> HttpRequest:
    rest = tuple(entry for entry in request.headers if entry[0] != name.encode())
    added = () if value is None else ((name.encode(), value.encode()),)
    return attrs.evolve(request, headers=(*rest, *added))


def high_s(signature: str) -> str:
    """The other signature over the same digest, which libsecp256k1 refuses."""
    raw = bytes.fromhex(signature)
    r_size = raw[3]
    r, s = raw[4 : 4 + r_size], int.from_bytes(raw[6 + r_size :], "big")
    flipped = (ORDER - s).to_bytes(33, "big")
    body = b"\2" + bytes([r_size]) + r + b"\2" + bytes([len(flipped)]) + flipped
    return (b"0" + bytes([len(body)]) + body).hex()


def header(request: HttpRequest, name: str) -> str:
    return dict(request.headers)[name.encode()].decode()


ATTACKS: dict[str, Callable[[HttpRequest], HttpRequest]] = {
    "another's identity": lambda r: with_header(r, "x-bsv-auth-identity-key", OWNER.identity.hex()),
    "another body": lambda r: attrs.evolve(r, body=r.body.replace(b"One", b"Two")),
    "another path": lambda r: attrs.evolve(r, path=b"/overlay/sources/"),
    "another query": lambda r: attrs.evolve(r, query=b"a=1"),
    "a header added": lambda r: with_header(r, "x-bsv-more", "1"),
    "another nonce": lambda r: with_header(r, "x-bsv-auth-nonce", b64(b"n" * 32)),
    "another request id": lambda r: with_header(r, "x-bsv-auth-request-id", b64(b"i" * 32)),
    "a session of nobody": lambda r: with_header(r, "x-bsv-auth-your-nonce", b64(b"s" * 32)),
    "high S": lambda r: with_header(r, "x-bsv-auth-signature", high_s(header(r, "x-bsv-auth-signature"))),
    "a truncated signature": lambda r: with_header(r, "x-bsv-auth-signature", header(r, "x-bsv-auth-signature")[:-2]),
    "hex that is none": lambda r: with_header(r, "x-bsv-auth-signature", "zz"),
    "an oversized header": lambda r: with_header(r, "x-bsv-auth-signature", "30" * 6_000),
    "a version of its own": lambda r: with_header(r, "x-bsv-auth-version", "1.0"),
    "no signature": lambda r: with_header(r, "x-bsv-auth-signature", None),
    "no nonce": lambda r: with_header(r, "x-bsv-auth-nonce", None),
    "no identity": lambda r: with_header(r, "x-bsv-auth-identity-key", None),
    "an identity that is no point": lambda r: with_header(r, "x-bsv-auth-identity-key", "02" + "ff" * 32),
    "the key of anyone": lambda r: with_header(
        r, "x-bsv-auth-identity-key", PrivateKey.from_bytes((1).to_bytes(32, "big")).identity.hex()
    ),
    "a second form": lambda r: with_header(r, "x-identity-key", OPERATOR.identity.hex()),
}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_what_is_forged_in_a_session_is_refused(node: Running, attack: str) -> None:
    client = await session(node, OPERATOR)
    answer = await send(node, ATTACKS[attack](create(client)))
    assert answer.status_code in (400, 401)
    assert answer.json()["detail"]
    assert "x-bsv-auth-signature" not in answer.headers
    assert await sources(node) == []
    assert (await send(node, create(client))).status_code == 201, "the session itself is unharmed"


async def test_a_stranger_logged_in_does_not_run_as_the_victim(node: Running) -> None:
    """The reference server hands the application the header's identity, not the session's."""
    await session(node, OPERATOR)
    stranger = await session(node, STRANGER)
    forged = with_header(create(stranger), "x-bsv-auth-identity-key", OPERATOR.identity.hex())
    assert code(await send(node, forged)) == (401, "not-authenticated")
    assert await sources(node) == []


async def test_a_request_comes_once(node: Running) -> None:
    client = await session(node, OPERATOR)
    request = create(client)
    assert (await send(node, request)).status_code == 201
    assert code(await send(node, request)) == (401, "not-authenticated")
    alone = signed(OPERATOR, target="/overlay/sources", body=orjson.dumps({**SOURCE, "sourceId": "s2"}))
    assert (await send(node, alone)).status_code == 201
    assert code(await send(node, alone)) == (401, "not-authenticated")


async def test_a_request_does_not_come_again_after_a_restart(postgres_url: str) -> None:
    async with running(postgres_url, access=ACCESS) as node:
        client = await session(node, OPERATOR)
        kept = [create(client), signed(OPERATOR, body=orjson.dumps({**SOURCE, "sourceId": "s2"}))]
        assert [(await send(node, request)).status_code for request in kept] == [201, 201]
    async with running(postgres_url, access=ACCESS) as node:
        for request in kept:
            assert code(await send(node, request)) == (401, "not-authenticated")


@pytest.mark.parametrize(
    ("shift_s", "status"), [(-301, 401), (-290, 201), (29, 201), (40, 401), (86_400, 401), (-(10**9), 401)]
)
async def test_a_signed_request_is_good_for_its_time(node: Running, shift_s: int, status: int) -> None:
    answer = await send(node, signed(OPERATOR, nonce_ns=time.time_ns() + shift_s * 10**9))
    assert answer.status_code == status


@pytest.mark.parametrize(
    "forge",
    [
        lambda: signed(OPERATOR, node=OWNER.identity),  # signed for another node
        lambda: with_header(signed(STRANGER), "x-identity-key", OPERATOR.identity.hex()),
        lambda: attrs.evolve(signed(OPERATOR), body=orjson.dumps({**SOURCE, "name": "Two"})),
        lambda: attrs.evolve(signed(OPERATOR, target="/overlay/events/ingest"), path=b"/overlay/sources"),
        lambda: attrs.evolve(signed(OPERATOR, method="PUT"), method="POST"),
        lambda: with_header(signed(OPERATOR), "x-nonce", str(time.time_ns())),
        lambda: with_header(signed(OPERATOR), "x-nonce", "now"),
        lambda: with_header(signed(OPERATOR), "x-nonce", "9" * 40),
        lambda: with_header(signed(OPERATOR), "x-signature", None),
        lambda: with_header(signed(OPERATOR), "x-signature", "00"),
        lambda: with_header(signed(OPERATOR), "x-identity-key", "04" + "ab" * 64),
        lambda: (lambda r: with_header(r, "x-signature", high_s(header(r, "x-signature"))))(signed(OPERATOR)),
    ],
)
async def test_what_is_forged_in_headers_is_refused(node: Running, forge: Callable[[], HttpRequest]) -> None:
    answer = await send(node, forge())
    assert answer.status_code in (400, 401)
    assert answer.json()["detail"]
    assert await sources(node) == []


async def test_handshakes_that_are_none_are_refused(node: Running) -> None:
    for body in (b"", b"[]", b"{", b"\xff", orjson.dumps({"version": "1.0"}), b"[" * 100_000, b"x" * 200_000):
        for path in ("/.well-known/auth", "/authrite/initialRequest"):
            answer = await node.client.post(path, content=body)
            assert answer.status_code in (400, 413)
            assert answer.json()["detail"]


async def test_handshakes_in_anothers_name_cost_him_nothing(node: Running) -> None:
    client = await session(node, OPERATOR)
    assert (await send(node, client.sign("GET", "/overlay/caller"))).status_code == 200
    for _ in range(100):
        forged = MutualClient(OPERATOR).initial_request()
        await node.client.post("/.well-known/auth", content=forged)
    assert (await send(node, client.sign("GET", "/overlay/caller"))).status_code == 200
