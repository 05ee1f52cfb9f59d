"""Every route while the database does not answer: frozen, as on a host that hangs, locked, or gone."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import orjson
import psycopg
import pytest
import trio

from node.api.authentication import UNPROVEN
from node.api.operations import Route
from node.api.resources import RESOURCES
from node.calling import SignedRequests
from node.runtime.access import Access
from protocols.beef import write_beef
from protocols.certificate import agent_id
from protocols.keys import PrivateKey
from storage.embedded import EmbeddedPostgres
from storage.patience import GIVEN_UP_S
from tests.authentication_client import MutualClient
from tests.made_transactions import chain
from tests.node.api.test_stream_socket import socket
from tests.node.certified_batches import AGENT, NODE
from tests.node.running import Running, running
from tests.outage import frozen, out_of_order

MARGIN_S = 5.0  # for a busy machine: without a bound these take 75 s
CALLER = PrivateKey.from_bytes(bytes([11]) * 32)
ROUTES = [route for resource in RESOURCES for route in resource.routes]
JSON = "application/json"
STREAM = "stream.stream_events"
APART = (STREAM, "health.readyz")  # it does not end; and what the monitor says has tests of its own
WITHOUT_DATABASE = frozenset(
    {
        "authentication.authrite_handshake",
        "authentication.handshake",
        "docs.openapi",
        "docs.page",
        "docs.page_part",
        "health.healthz",
        "health.livez",
        "health.metrics",
        "network.get_caller",
        "network.get_node",
        "network.list_agents",
        "network.list_peers",
        "overlay.document_lookup_service",
        "overlay.document_topic_manager",
        "overlay.list_lookup_services",
        "overlay.list_topic_managers",
        "policies.get_schema",
        "market.list_templates",
    }
)
PARTS = {
    "event_id": "event_" + "0" * 64,
    "batch_id": "batch_" + "0" * 64,
    "subscription_id": "sub_1",
    "source_id": "s1",
    "policy_hash": "0" * 64,
    "agent_id": agent_id(AGENT.identity),
    "job_id": "0" * 64,
    "template_hash": "0" * 64,
    "name": "0" * 64,
}
QUERIES = {
    "overlay.document_topic_manager": {"manager": "tm_ship"},
    "overlay.document_lookup_service": {"lookupService": "ls_ship"},
}


@pytest.fixture
async def node(postgres_url: str) -> AsyncIterator[Running]:
    async with running(
        postgres_url, access=Access(operators=frozenset({CALLER.identity}), open_admin=True)
    ) as started:
        yield started


def request_for(node: Running, route: Route) -> httpx.Request:
    """A request that has nothing wrong with it, so that its answer rests on the database."""
    path = re.sub(r"<(?:[^<>]*:)?(\w+)>", lambda part: PARTS[part[1]], route.path)
    content, headers = b"", {}
    body = route.operation.body
    if route.endpoint == "overlay.submit":
        content = write_beef(chain(3))
        headers = {"Content-Type": "application/octet-stream", "X-Topics": '["tm_ship"]'}
    elif body is not None:
        document = body.examples[JSON]
        if route.endpoint == "sources.replace_source":
            document = {name: value for name, value in document.items() if name != "sourceId"}
        content, headers = orjson.dumps(document), {"Content-Type": JSON}
    return node.client.build_request(
        route.method, path, params=QUERIES.get(route.endpoint), content=content, headers=headers
    )


async def answers(ask: Callable[[Route], Awaitable[httpx.Response]]) -> dict[str, httpx.Response]:
    """The answer of each route, all asked at once; fails where one takes longer than it may."""
    found: dict[str, httpx.Response] = {}

    async def once(route: Route) -> None:
        found[route.endpoint] = await ask(route)

    with trio.fail_after(GIVEN_UP_S + MARGIN_S):
        async with trio.open_nursery() as nursery:
            for route in ROUTES:
                if route.endpoint not in APART:
                    nursery.start_soon(once, route)
    return found


def assert_unavailable(endpoint: str, answer: httpx.Response) -> None:
    assert answer.status_code == 503, (endpoint, answer.text)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:overlay:problem:database-unavailable", (endpoint, answer.text)
    assert int(answer.headers["Retry-After"]) >= 1


async def test_every_route_answers_anybody(node: Running, postgres: EmbeddedPostgres) -> None:
    with frozen(postgres):
        found = await answers(lambda route: node.client.send(request_for(node, route)))
    for endpoint, answer in found.items():
        if endpoint in WITHOUT_DATABASE:
            assert answer.status_code < 500, (endpoint, answer.text)
        else:
            assert_unavailable(endpoint, answer)
    with trio.fail_after(30):
        await node.client.get("/overlay/sources")
    assert (await node.client.get("/overlay/sources")).status_code == 200, "it goes on once the database does"


async def test_every_route_answers_requests_that_are_signed(node: Running, postgres: EmbeddedPostgres) -> None:
    """A signature's nonce has to be on disk before its request goes on."""
    auth = SignedRequests(CALLER, NODE.identity)
    with frozen(postgres):
        found = await answers(lambda route: node.client.send(request_for(node, route), auth=auth))
    for endpoint, answer in found.items():
        if endpoint in UNPROVEN - {"webhooks.take_delivery"}:
            assert answer.status_code == 200
        else:
            assert_unavailable(endpoint, answer)


async def test_every_route_answers_requests_of_a_session(node: Running, postgres: EmbeddedPostgres) -> None:
    session = MutualClient(CALLER)
    begun = await node.client.post(
        "/.well-known/auth", content=session.initial_request(), headers={"Content-Type": JSON}
    )
    session.take_initial_response(begun.content)

    async def ask(route: Route) -> httpx.Response:
        asked = request_for(node, route)
        named = {name: asked.headers[name] for name in ("content-type",) if name in asked.headers}
        signed = session.sign(route.method, asked.url.raw_path.decode(), headers=named, body=asked.content)
        asked.headers.update([(name.decode(), value.decode()) for name, value in signed.headers])
        answer = await node.client.send(asked)
        if "x-bsv-auth-signature" in answer.headers:
            session.check_response(signed, answer.status_code, list(answer.headers.items()), answer.content)
        return answer

    with frozen(postgres):
        found = await answers(ask)
    for endpoint, answer in found.items():
        if endpoint in WITHOUT_DATABASE:
            assert answer.status_code < 500, (endpoint, answer.text)
        else:
            assert_unavailable(endpoint, answer)


async def test_a_signed_request_that_was_refused_can_be_sent_again(node: Running, postgres: EmbeddedPostgres) -> None:
    """Its nonce may be written when the database goes on: whoever was refused has not used it."""
    asked = node.client.build_request("GET", "/overlay/sources")
    signed = next(SignedRequests(CALLER, NODE.identity).auth_flow(asked))
    with frozen(postgres), trio.fail_after(GIVEN_UP_S + MARGIN_S):
        assert (await node.client.send(signed)).status_code == 503
    with trio.fail_after(30):
        answer = await node.client.send(signed)
    assert answer.status_code == 200, answer.text
    assert (await node.client.send(signed)).status_code == 401, "once it was taken, it is spent"


async def test_a_table_that_is_locked_holds_nobody_up(node: Running, postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as other, trio.fail_after(GIVEN_UP_S + MARGIN_S):
        other.execute("LOCK TABLE overlay_event_sources")
        answer = await node.client.get("/overlay/sources")
        other.rollback()
    assert (answer.status_code, answer.json()["cause"]) == (503, "locked")


async def test_a_database_that_is_gone_holds_nobody_up(node: Running, postgres_url: str) -> None:
    with out_of_order(postgres_url), trio.fail_after(GIVEN_UP_S + MARGIN_S):
        answer = await node.client.get("/overlay/sources")
    assert answer.status_code == 503
    assert answer.json()["cause"] in ("unavailable", "unreachable"), answer.text


async def test_streams_that_read_nothing_go_on_and_one_that_reads_ends(
    node: Running, postgres: EmbeddedPostgres
) -> None:
    async with node.client.stream("GET", "/overlay/events/stream") as live, socket(node) as client:
        lines = live.aiter_lines()
        with frozen(postgres), trio.fail_after(2 * (GIVEN_UP_S + MARGIN_S)):
            began_s = trio.current_time()
            while trio.current_time() < began_s + GIVEN_UP_S + 1:
                assert await anext(lines) is not None, "heartbeats come"
            refused = await node.client.get("/overlay/events/stream?since=0")
            assert_unavailable(STREAM, refused)
            await client.say(type="subscribe", filter={}, since="0")
            assert (await client.hear())["code"] == "database-unavailable"
            assert await client.closed() == 1011
