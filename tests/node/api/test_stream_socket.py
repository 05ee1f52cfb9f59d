"""The event stream over WebSocket, with the ``websockets`` package as client: filters, credit, order, endings."""

import socket as plain_socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import orjson
import pytest
import trio
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from node.api.services import ApiSettings
from node.delivery.feed import Feed
from node.runtime.access import Access
from protocols.authentication import sign_headers
from protocols.checkpoint import verify_checkpoint
from protocols.keys import PrivateKey
from tests.node.api.test_stream import certify
from tests.node.certified_batches import NETWORK, NODE
from tests.node.running import Running, running, until

T = TypeVar("T")
PATH = "/overlay/events/stream"
BATCHES = 25
CLIENT, STAYS = PrivateKey.from_bytes(b"\7" * 32), PrivateKey.from_bytes(b"\x08" * 32)


class Socket:
    """A client whose blocking calls run in threads; heartbeats stand apart."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.heartbeats: list[dict[str, Any]] = []

    async def say(self, **message: Any) -> None:
        await in_thread(lambda: self.connection.send(orjson.dumps(message).decode()))

    async def hear(self) -> dict[str, Any]:
        while True:
            message: dict[str, Any] = orjson.loads(await in_thread(lambda: self.connection.recv(timeout=10)))
            if message["type"] != "heartbeat":
                return message
            self.heartbeats.append(message)

    async def take(self, count: int) -> list[dict[str, Any]]:
        return [await self.hear() for _ in range(count)]

    async def places(self, count: int) -> list[str]:
        return [message["sequence"] for message in await self.take(count)]

    async def closed(self) -> int:
        """The code that the server closes with, once all before that is read."""
        with pytest.raises(ConnectionClosed) as ended:
            await self.take(1_000_000)
        assert ended.value.rcvd is not None
        return int(ended.value.rcvd.code)


async def in_thread(call: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(call, abandon_on_cancel=True)  # type: ignore[call-arg]


@asynccontextmanager
async def socket(node: Running, query: str = "", **options: Any) -> AsyncIterator[Socket]:
    before = node.feed.stats.subscriptions
    url = f"{node.url.replace('http', 'ws')}{PATH}{query}"
    connection = await in_thread(partial(connect, url, open_timeout=10, close_timeout=1, legacy=True, **options))
    try:
        if "since" not in query:  # else it is subscribed once it has read what it missed
            await until(lambda: node.feed.stats.subscriptions > before)
        yield Socket(connection)
    finally:
        await in_thread(connection.close)


@pytest.fixture
async def node(postgres_url: str) -> AsyncIterator[Running]:
    async with running(postgres_url) as started:
        await started.source(overlayTopics=["t.one"])
        await started.source("s2", overlayTopics=["t.two"])
        yield started


async def test_messages_are_those_of_the_stream_with_their_sequence(node: Running) -> None:
    async with socket(node) as client:
        sealed, answer = await certify(node, 2, timestamp="2024-01-15T10:30:00Z")
        first, second = await client.take(2)
    assert first["sequence"] == f"{sealed.sequence}.1"
    assert second["sequence"] == f"{sealed.sequence}.2"
    assert first["eventId"] == answer["processedEvents"][0]["eventId"]
    assert (first["type"], first["certificationLevel"], first["data"]) == ("event", "enhanced", {"v": 1})


async def test_the_first_message_says_where_the_feed_stands_and_is_signed(node: Running) -> None:
    await certify(node, 3)
    await until(lambda: str(node.feed.handed) == "1.3")
    async with socket(node) as client:
        await certify(node)
        await client.hear()
    said = verify_checkpoint(client.heartbeats[0]["head"], network=NETWORK, identity=NODE.identity)
    assert said["place"] == "1.3"


async def test_a_client_goes_on_from_its_place(node: Running) -> None:
    for _ in range(3):
        await certify(node, 2)
    async with socket(node, "?since=2.1") as client:
        await certify(node)
        assert await client.places(4) == ["2.2", "3.1", "3.2", "4.1"]


async def test_filters_change_on_the_open_connection(node: Running) -> None:
    async with socket(node, "?sourceIds=s1") as client:
        await certify(node, source="s1")
        assert await client.places(1) == ["1.1"]
        await certify(node, source="s2")
        await client.say(type="subscribe", filter={"topics": ["t.*"], "sourceIds": ["s2"]}, id="a", since="1.1")
        changed = await client.hear()
        assert changed == {
            "type": "subscribed",
            "sequence": "1.1",
            "filter": {"topics": ["t.*"], "sourceIds": ["s2"]},
            "id": "a",
        }
        assert await client.places(1) == ["2.1"]
        await client.say(type="subscribe", filter={"sourceIds": ["s1"]})
        assert (await client.hear())["sequence"] == "2.1"
        await certify(node, source="s2")
        await certify(node, source="s1")
        assert await client.places(1) == ["4.1"]


async def test_a_filter_from_after_the_end_of_the_feed_is_refused(node: Running) -> None:
    async with socket(node) as client:
        await client.say(type="subscribe", filter={"sourceIds": ["s2"]}, since="99")
        refused = await client.hear()
        assert (refused["type"], refused["code"], refused["field"]) == ("error", "ahead-of-feed", "/since")
        await certify(node)
        assert await client.places(1) == ["1.1"], "with the filter that it had"


async def test_nothing_is_sent_past_the_credit(node: Running) -> None:
    async with socket(node) as client:
        await client.say(type="credit", events=2)
        assert (await client.hear())["type"] == "credit"
        for _ in range(3):
            await certify(node, 3)
        assert await client.places(2) == ["1.1", "1.2"]
        await client.say(type="ping", id="now")
        pong = await client.hear()
        assert (pong["type"], pong["id"], pong["sequence"]) == ("pong", "now", "1.2")
        await client.say(type="credit", events=5)
        assert (await client.hear())["sequence"] == "1.2"
        assert await client.places(5) == ["1.3", "2.1", "2.2", "2.3", "3.1"]
        await client.say(type="subscribe", filter={"sourceIds": ["s2", "s1"]})
        assert (await client.hear())["sequence"] == "3.1"
        await client.say(type="credit", events=10)
        await client.hear()
        assert await client.places(2) == ["3.2", "3.3"]


async def test_a_client_without_credit_goes_back_to_the_database(postgres_url: str) -> None:
    """It holds back by agreement: it is not cut off, and the node's memory stays bounded."""
    async with running(postgres_url, feed=Feed(buffer_bytes_max=4 * 1024)) as node:
        await node.source()
        async with socket(node) as client:
            await client.say(type="credit", events=0)
            await client.hear()
            for _ in range(30):
                await certify(node, 1, data="x" * 1000)
            await until(lambda: node.feed.stats.cut_off == 1)
            await client.say(type="credit", events=100)
            await client.hear()
            assert await client.places(30) == [f"{number}.1" for number in range(1, 31)]
            await certify(node, 1)
            assert await client.places(1) == ["31.1"]


async def test_acknowledgements_are_of_what_was_sent(node: Running) -> None:
    async with socket(node) as client:
        await certify(node, 2)
        await client.take(2)
        await client.say(type="ack", sequence="1.1")
        assert await client.hear() == {"type": "acked", "sequence": "1.1"}
        await client.say(type="ack", sequence="9.1")
        refused = await client.hear()
        assert (refused["code"], refused["field"]) == ("invalid-message", "/sequence")


@pytest.mark.parametrize(
    ("message", "code", "field"),
    [
        ("{", "invalid-json", None),
        ("[]", "invalid-message", "/type"),
        ('{"type":"dance"}', "invalid-message", "/type"),
        ('{"type":"ping","more":1}', "invalid-message", "/more"),
        ('{"type":"credit","events":-1}', "invalid-message", "/events"),
        ('{"type":"credit","events":true}', "invalid-message", "/events"),
        ('{"type":"subscribe","filter":[]}', "invalid-message", "/filter"),
        ('{"type":"subscribe","filter":{"topics":[1]}}', "invalid-filter", "/topics/0"),
        ('{"type":"subscribe","since":"x"}', "invalid-message", "/since"),
        ('{"type":"ping","id":"' + "x" * 40_000 + '"}', "invalid-message", ""),
    ],
)
async def test_what_is_not_understood_is_answered(node: Running, message: str, code: str, field: str | None) -> None:
    async with socket(node) as client:
        await in_thread(lambda: client.connection.send(message))
        answer = await client.hear()
        assert (answer["type"], answer["code"], answer.get("field")) == ("error", code, field)
        assert answer["remedy"]
        await client.say(type="ping")
        assert (await client.hear())["type"] == "pong"


async def test_repeated_nonsense_and_floods_are_closed(node: Running) -> None:
    async with socket(node) as client:
        for _ in range(5):
            await in_thread(lambda: client.connection.send(b"\0"))
        assert await client.closed() == 1008
    async with socket(node) as client:
        for _ in range(100):
            await client.say(type="ping")
        assert await client.closed() == 1008
    await until(lambda: not node.feed.stats.subscriptions)


async def test_a_slow_client_is_told_where_it_stopped(postgres_url: str) -> None:
    async with running(postgres_url, feed=Feed(buffer_bytes_max=64 * 1024)) as node:
        await node.source()
        host, port = node.url.removeprefix("http://").split(":")
        narrow = plain_socket.socket()
        narrow.setsockopt(plain_socket.SOL_SOCKET, plain_socket.SO_RCVBUF, 4096)
        narrow.connect((host, int(port)))
        async with socket(node, max_queue=1, sock=narrow) as slow, socket(node) as other:
            for number in range(1, BATCHES + 1):  # more than its buffer and the sockets' together
                await certify(node, 1, data="x" * 200_000)
                assert await other.places(1) == [f"{number}.1"]
            assert node.feed.stats.cut_off == 1
            seen = []
            while (message := await slow.hear())["type"] == "event":
                seen.append(message["sequence"])
            assert message["type"] == "dropped"
            assert message["lastEventId"] == seen[-1] == f"{len(seen)}.1"
            assert await slow.closed() == 1013
        async with socket(node, f"?since={seen[-1]}") as again:
            rest = await again.places(BATCHES - len(seen))
        assert seen + rest == [f"{number}.1" for number in range(1, BATCHES + 1)]


async def test_handshakes_are_refused_with_what_is_wrong(postgres_url: str) -> None:
    settings = ApiSettings(network=NETWORK, body_bytes_max=100_000, stream_clients_max=1)
    async with running(postgres_url, settings=settings) as node:
        for query, member in (("?topic=a", "topic"), ("?since=x", "since"), ("?filter=a+%3D", "filter")):
            with pytest.raises(InvalidStatus) as refused:
                async with socket(node, query):
                    pass
            problem = orjson.loads(refused.value.response.body or b"")
            assert (refused.value.response.status_code, problem["field"]) == (400, member)
        async with socket(node):
            with pytest.raises(InvalidStatus) as refused:
                async with socket(node):
                    pass
            assert refused.value.response.status_code == 503
            assert refused.value.response.headers["Retry-After"] == "10"
            assert (await node.client.get(PATH)).status_code == 503
        await until(lambda: not node.feed.stats.subscriptions)
        async with socket(node):
            pass


async def test_pages_of_other_origins_are_kept_out_where_everybody_is_an_operator(node: Running) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with socket(node, origin="https://app.example"):
            pass
    assert refused.value.response.status_code == 403
    async with socket(node, origin=node.url):
        pass


async def test_a_handshake_is_authenticated_like_a_request(postgres_url: str) -> None:
    access = Access(readers=frozenset({CLIENT.identity}))
    async with running(postgres_url, access=access) as node:
        with pytest.raises(InvalidStatus) as refused:
            async with socket(node):
                pass
        assert refused.value.response.status_code == 401
        headers = sign_headers(CLIENT, NODE.identity, method="GET", target=PATH, body=b"", nonce_ns=time.time_ns())
        async with socket(node, additional_headers=headers):
            pass
        with pytest.raises(InvalidStatus) as refused:  # the same nonce again
            async with socket(node, additional_headers=headers):
                pass
        assert refused.value.response.status_code == 401


async def test_who_may_read_no_longer_is_sent_away(postgres_url: str) -> None:
    """Over WebSocket and as server-sent events: with the next heartbeat, and nobody else."""
    readers: Any = {CLIENT.identity, STAYS.identity}  # as an operator's list, or revoked certificates, change
    async with running(postgres_url, access=Access(readers=readers)) as node:

        def signed(key: PrivateKey) -> tuple[tuple[str, str], ...]:
            nonce_ns = time.time_ns()
            return sign_headers(key, NODE.identity, method="GET", target=PATH, body=b"", nonce_ns=nonce_ns)

        async with (
            socket(node, additional_headers=signed(CLIENT)) as client,
            socket(node, additional_headers=signed(STAYS)) as other,
            node.client.stream("GET", PATH, headers=signed(CLIENT)) as events,
        ):
            assert events.status_code == 200
            readers.remove(CLIENT.identity)
            assert await client.closed() == 1008
            with trio.fail_after(10):
                async for _ in events.aiter_bytes():
                    pass  # to its end
            await until(lambda: node.feed.stats.subscriptions == 1)
            assert (await node.client.get(PATH, headers=signed(CLIENT))).status_code == 403
            await other.say(type="ping", id="still here")
            assert (await other.hear())["type"] == "pong"


async def test_the_end_of_the_node_is_said(node: Running) -> None:
    async with socket(node) as client, socket(node) as holding:
        await holding.say(type="credit", events=0)
        await certify(node)
        await client.hear()
        node.feed.close()
        assert await client.closed() == 1001
        assert await holding.closed() == 1001
