"""What strangers send to the port: a connection or a request that reaches a bug ends, and nothing else does."""

import base64
import random
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Final

import h2.config
import h2.connection
import h2.events
import pytest
import trio
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from quart import Response

from node.api.http2 import Http2
from tests.node.running import Running, running

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HELLO: Final = PREFACE + SettingsFrame(0).serialize()
GET_HEALTHZ: Final = b"\x82\x86\x44\x08/healthz\x41\x01x"  # HPACK: GET, http, the path, :authority x
REQUEST: Final = (
    b"POST /overlay/events/ingest HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b'Content-Length: 31\r\n\r\n{"sourceId":"s1","events":[{}]}'
)
UPGRADE: Final = (
    b"GET /overlay/events/stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + base64.b64encode(bytes(16)) + b"\r\n\r\n"
)


@pytest.fixture
async def node(postgres_url: str) -> AsyncIterator[Running]:
    async with running(postgres_url) as started:
        yield started


def connected(node: Running) -> socket.socket:
    host, _, port = node.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=10)


async def talk(node: Running, *parts: bytes, quiet_s: float = 0.05) -> bytes:
    """Send each part after the server has fallen silent; all that it answered."""

    def run() -> bytes:
        found = b""
        with connected(node) as sock:
            sock.settimeout(quiet_s)
            try:
                for part in parts:
                    sock.sendall(part)
                    found += _until_silence(sock)
            except OSError:  # it closed
                pass
        return found

    return await trio.to_thread.run_sync(run)


def _until_silence(sock: socket.socket) -> bytes:
    found = b""
    try:
        while data := sock.recv(65_536):
            found += data
    except TimeoutError:
        pass
    return found


async def test_a_refused_handshake_ends_its_connection(node: Running) -> None:
    """Else it would count as busy for as long as the client likes, and be closed for nobody's sake."""

    def run() -> bytes:
        with connected(node) as sock:
            sock.sendall(UPGRADE.replace(b"Sec-WebSocket-Key", b"X-Other"))
            found = b""
            while data := sock.recv(65_536):  # ends where the server closes
                found += data
            return found

    answered = await trio.to_thread.run_sync(run)
    assert answered.startswith(b"HTTP/1.1 400")


def text_frame(text: bytes) -> bytes:
    return bytes((0x81, 0x80 | len(text))) + bytes(4) + text


CLOSE: Final = b"\x88\x82" + bytes(4) + struct.pack(">H", 1000)


MESSAGES: Final = (b'{"type":"ping"}', b"{", b'{"type":"credit","events":1}')


@pytest.mark.parametrize("message", MESSAGES)
async def test_a_client_that_closes_while_it_is_answered_is_no_failure(node: Running, message: bytes) -> None:
    """The answer is written by one task, and the end of the connection by another, at the same moment."""

    def run(count: int) -> bytes:
        with connected(node) as sock:
            sock.sendall(UPGRADE)
            found = b""
            while b"\r\n\r\n" not in found:
                found += sock.recv(65_536) or b"closed\r\n\r\n"
            sock.sendall(count * text_frame(message) + CLOSE)
            while data := sock.recv(65_536):
                found += data
        return found

    for count in (1, 2, 3) * 6:
        answered = await trio.to_thread.run_sync(run, count)
        assert answered.startswith(b"HTTP/1.1 101 ")
        assert answered.endswith(b"\x88\x02" + struct.pack(">H", 1000)), "no message follows the close frame"
    assert not any(node.quarantine.counts.values())


@pytest.mark.parametrize("message", MESSAGES)
async def test_messages_before_the_handshake_is_answered_are_refused(node: Running, message: bytes) -> None:
    for early in (text_frame(message), text_frame(message) + CLOSE, b"\0", CLOSE) * 4:
        answered = await talk(node, UPGRADE + early)
        assert answered.startswith(b"HTTP/1.1 400 ")
        assert answered.count(b"HTTP/1.1 ") == 1
    assert not any(node.quarantine.counts.values())


async def test_messages_while_a_handshake_is_refused_are_discarded(node: Running) -> None:
    """The refusal is the application's, and comes whole: nothing else is written into it."""
    refused = UPGRADE.replace(b"/overlay/events/stream", b"/overlay/events/stream?since=tomorrow")

    def talk_at_once(pause_s: float) -> bytes:
        found = b""
        with connected(node) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(refused)
            for _ in range(20):
                time.sleep(pause_s)
                with suppress(OSError):  # it has closed
                    sock.sendall(text_frame(b"{}"))
            with suppress(OSError):
                while data := sock.recv(65_536):
                    found += data
        return found

    for number in range(40):
        answered = await trio.to_thread.run_sync(talk_at_once, number * 0.0001)
        assert answered.count(b"HTTP/1.1 ") <= 1, "a reset can take it from the client"
    assert not any(node.quarantine.counts.values())


async def test_messages_over_http2_before_the_handshake_is_answered_are_refused(node: Running) -> None:
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.initiate_connection()
    head = [(":method", "CONNECT"), (":scheme", "http"), (":authority", "x"), (":path", "/overlay/events/stream")]
    client.send_headers(1, [*head, (":protocol", "websocket"), ("sec-websocket-version", "13")])
    client.send_data(1, text_frame(MESSAGES[0]) + CLOSE)
    events = client.receive_data(await talk(node, client.data_to_send()))
    assert any(isinstance(event, h2.events.StreamReset) for event in events)
    assert not any(node.quarantine.counts.values())


async def test_a_body_after_an_early_answer_over_http2_is_discarded(node: Running) -> None:
    """An upload that is refused before it came: the next request on the connection is answered."""
    headers = HeadersFrame(1, GET_HEALTHZ, flags=["END_HEADERS"]).serialize()
    data = DataFrame(1, b"x").serialize()
    following = HeadersFrame(3, GET_HEALTHZ, flags=["END_HEADERS", "END_STREAM"]).serialize()
    answered = await talk(node, HELLO + headers, data, following, quiet_s=0.5)
    client = h2.connection.H2Connection()
    client.initiate_connection()
    for _ in range(2):
        number = client.get_next_available_stream_id()
        client.send_headers(number, [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "x")])
    events = client.receive_data(answered)
    answers = {event.stream_id for event in events if isinstance(event, h2.events.ResponseReceived)}
    assert answers == {1, 3}
    assert not any(node.quarantine.counts.values())


async def test_a_malformed_request_that_is_given_up_at_once_costs_the_connection_nothing(node: Running) -> None:
    malformed = HeadersFrame(1, b"\x82\x86\x44\x02/\xff\x41\x01x", flags=["END_HEADERS", "END_STREAM"])
    good = HeadersFrame(3, GET_HEALTHZ, flags=["END_HEADERS", "END_STREAM"])
    frames = (malformed, RstStreamFrame(1, error_code=8), good)
    answered = await talk(node, HELLO + b"".join(frame.serialize() for frame in frames), quiet_s=0.5)
    assert b'{"status":"ok"}' in answered
    assert not any(node.quarantine.counts.values())


async def test_a_bug_in_a_protocol_ends_its_connection_alone(node: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(self: Http2, events: list[h2.events.Event]) -> None:
        raise KeyError(1)

    monkeypatch.setattr(Http2, "_handle_events", fail)
    async with trio.open_nursery() as others:
        others.start_soon(talk, node, REQUEST)
        assert await talk(node, HELLO) != b""
    assert (await node.client.get("/healthz")).status_code == 200
    assert node.quarantine.counts["connection"] == 1


async def _fails_at_once() -> Response:
    raise KeyError("a bug")


async def _fails_in_its_body() -> Response:
    async def body() -> AsyncIterator[bytes]:
        yield b"some"
        raise KeyError("a bug")

    return Response(body())


@pytest.mark.parametrize(("handler", "status"), [(_fails_at_once, b"500"), (_fails_in_its_body, b"200")])
async def test_a_bug_in_a_handler_ends_its_request_alone(
    node: Running, handler: Callable[[], object], status: bytes
) -> None:
    node.app.view_functions["health.healthz"] = handler  # type: ignore[assignment]
    answered = await talk(node, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", quiet_s=0.5)
    assert answered.startswith(b"HTTP/1.1 " + status)
    assert (status == b"500") == (b"urn:overlay:problem:internal" in answered)
    counts = {kind: count for kind, count in node.quarantine.counts.items() if count}
    assert counts == {"request": 1}
    assert (await node.client.get("/openapi.json")).status_code == 200


# --- whatever may come --------------------------------------------------------------------------------------------


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Some bytes changed, left out, doubled or put in."""
    found = bytearray(data)
    for _ in range(rng.randint(0, 6)):
        at, size = rng.randrange(len(found) + 1), rng.randint(0, 8)
        piece = rng.choice([rng.randbytes(size), bytes(found[at : at + size]) * 2, b"", b"\0", b"\r\n", b"\xff"])
        found[at : at + rng.choice([0, 1, size])] = piece
    return bytes(found)


def http1(rng: random.Random) -> bytes:
    head = rng.choice([b"Transfer-Encoding: chunked", b"Content-Length: 5", b"Expect: 100-continue", b"Upgrade: h2c"])
    start = rng.choice(
        [REQUEST, b"GET /%s HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n" % (rng.randbytes(4).hex().encode(), head)]
    )
    return mutated(rng, start) * rng.randint(1, 3)


def http2(rng: random.Random) -> bytes:
    return HELLO + b"".join(_frame(rng) for _ in range(rng.randint(1, 12)))


def _frame(rng: random.Random) -> bytes:
    stream = rng.choice([0, 1, 1, 1, 3, 3, 5, 2, 2**31 - 1])
    block = rng.choice([GET_HEALTHZ, GET_HEALTHZ, mutated(rng, GET_HEALTHZ)])
    flags = rng.choice([["END_HEADERS"], ["END_HEADERS", "END_STREAM"], []])
    makers: list[Callable[[], Frame]] = [
        lambda: HeadersFrame(stream or 1, block, flags=flags),
        lambda: HeadersFrame(stream or 1, block, flags=flags),
        lambda: DataFrame(stream or 1, rng.randbytes(rng.randint(0, 40)), flags=rng.choice([[], ["END_STREAM"]])),
        lambda: RstStreamFrame(stream or 1, error_code=rng.randrange(20)),
        lambda: PriorityFrame(stream or 1, depends_on=rng.choice([0, 1, 3, 7]), stream_weight=rng.randrange(256)),
        lambda: WindowUpdateFrame(stream, window_increment=rng.choice([1, 2**31 - 1])),
        lambda: PingFrame(0, opaque_data=rng.randbytes(8)),
        lambda: SettingsFrame(0, settings={rng.randint(1, 8): rng.choice([0, 1, 16_384, 2**31 - 1])}),
        lambda: ContinuationFrame(stream or 1, block),
        lambda: GoAwayFrame(0, last_stream_id=rng.randrange(9)),
    ]
    frame = rng.choice(makers)().serialize()
    return mutated(rng, frame) if rng.random() < 0.2 else frame


def websocket(rng: random.Random) -> bytes:
    frames = b""
    for _ in range(rng.randint(1, 8)):
        payload = rng.choice(
            [b"", b"\xff\xfe", b'{"type":"filter"}', b'{"type":"ack","cursor":"\\u0000"}', b"[" * 2_000]
        )
        size = rng.choice([len(payload), len(payload), 0, 126, 127])
        start = bytes([rng.choice([0x81, 0x82, 0x88, 0x89, 0x01, 0x80, 0xF1]), 0x80 | min(size, 127)])
        frames += start + (struct.pack(">H", size) if size == 126 else b"") + bytes(4) + payload
    return UPGRADE + mutated(rng, frames)


@pytest.mark.parametrize("make", [http1, http2, websocket])
async def test_a_server_outlives_whatever_comes(node: Running, make: Callable[[random.Random], bytes]) -> None:
    rng = random.Random(14)  # the same every time
    limit = trio.CapacityLimiter(16)

    async def send(data: bytes) -> None:
        async with limit:
            await talk(node, data)

    async with trio.open_nursery() as clients:
        for _ in range(300):
            clients.start_soon(send, make(rng))
    assert (await node.client.get("/healthz")).status_code == 200
