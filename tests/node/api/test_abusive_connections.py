"""Connections that cost a client little and the server much: bounded in number, in time, and in what they may ask."""

import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from typing import Final

import orjson
import pytest
import trio
from hyperframe.frame import GoAwayFrame, HeadersFrame, PingFrame, PriorityFrame, RstStreamFrame, SettingsFrame

from node.api.problems import PROBLEMS
from node.api.server_limits import ServerLimits
from tests.node.api.test_hostile_connections import GET_HEALTHZ, HELLO, REQUEST, connected, talk
from tests.node.running import Running, running


@pytest.fixture
async def node(postgres_url: str) -> AsyncIterator[Running]:
    async with running(postgres_url) as started:
        yield started


AMBIGUOUS: Final = {
    "both": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both, the other way": b"transfer-encoding: chunked\r\ncontent-length: 0\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "two lengths in one": b"Content-Length: 5, 6\r\n\r\nhello!",
    "no length": b"Content-Length: +5\r\n\r\nhello",
    "a version without": b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a space before the colon": b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", AMBIGUOUS)
async def test_a_request_with_two_ends_is_refused(node: Running, name: str) -> None:
    """What comes after it on the connection may be another client's and is not answered."""
    version = b"1.0" if name == "a version without" else b"1.1"
    head = b"POST /lookup HTTP/%s\r\nHost: x\r\n" % version
    following = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    answered = await talk(node, head + AMBIGUOUS[name] + following, quiet_s=0.5)
    assert answered.startswith(b"HTTP/1.1 400 ")
    assert b"connection: close" in answered.lower()
    assert answered.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("host", [b"a..b", b"a" * 64, b"\xc3\xa9", b"x/y", b"[::1"])
async def test_a_host_that_is_none_is_refused_before_any_route(node: Running, host: bytes) -> None:
    answered = await talk(node, b"GET /healthz HTTP/1.1\r\nHost: " + host + b"\r\n\r\n", quiet_s=0.5)
    assert answered.startswith(b"HTTP/1.1 400 ")


async def test_an_unknown_coding_is_refused(node: Running) -> None:
    coded = b"POST /lookup HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"
    assert (await talk(node, coded, quiet_s=0.5)).startswith(b"HTTP/1.1 501 ")


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"GET / HTTP/1.1\r\nHost: a..b\r\n\r\n", "bad-request"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 200_000 + b"\r\n\r\n", "headers-too-large"),
        (b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", "headers-too-large"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: br\r\n\r\n", "transfer-coding-unknown"),
        (b"GET\r\n\r\n", "bad-request"),
    ],
)
async def test_what_the_server_refuses_by_itself_is_a_problem_document(
    node: Running, request_: bytes, code: str
) -> None:
    head, _, body = (await talk(node, request_, quiet_s=0.5)).partition(b"\r\n\r\n")
    assert f"HTTP/1.1 {PROBLEMS[code][0]} ".encode() in head
    assert b"content-type: application/problem+json" in head.lower()
    assert orjson.loads(body)["type"] == f"urn:overlay:problem:{code}"


async def is_closed(sock: socket.socket) -> bool:
    """Whether the server closes a connection that says nothing more."""

    def wait() -> bool:
        sock.settimeout(15)
        try:
            while sock.recv(65_536):
                pass
        except TimeoutError:
            return False
        except ConnectionResetError:
            pass
        return True

    return await trio.to_thread.run_sync(wait)


ENDLESS: Final = b"\x82\x86\x44\x16/overlay/events/stream\x41\x01x"  # HPACK: GET, http, the path, :authority x
GIVEN_UP: Final = (
    HeadersFrame(1, ENDLESS, flags=["END_HEADERS", "END_STREAM"]).serialize()
    + RstStreamFrame(1, error_code=8).serialize()
)


@pytest.mark.parametrize("start", [b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n", HELLO, HELLO + GIVEN_UP])
async def test_a_connection_without_a_request_is_closed(postgres_url: str, start: bytes) -> None:
    limits = ServerLimits(header_s=0.2, keep_alive_s=0.5)
    async with running(postgres_url, server=limits) as node:
        with connected(node) as sock:
            sock.sendall(start)
            assert await is_closed(sock)
        assert (await node.client.get("/healthz")).status_code == 200


async def test_headers_that_come_a_byte_at_a_time_are_due_in_all(postgres_url: str) -> None:
    async with running(postgres_url, server=ServerLimits(header_s=0.5, keep_alive_s=60)) as node:
        with connected(node) as sock:

            def drip() -> None:
                for _ in range(1_000):
                    sock.sendall(b"X")
                    time.sleep(0.02)

            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                await trio.to_thread.run_sync(drip)


async def test_a_request_may_take_longer_than_its_headers(postgres_url: str) -> None:
    limits = ServerLimits(header_s=0.1, keep_alive_s=0.3)
    async with running(postgres_url, server=limits) as node:
        with connected(node) as sock:
            sock.sendall(REQUEST[:-1])
            await trio.sleep(1.0)
            sock.sendall(REQUEST[-1:])
            assert (await trio.to_thread.run_sync(sock.recv, 12)).startswith(b"HTTP/1.1 4")


async def test_idle_connections_make_room_and_streams_do_not(postgres_url: str) -> None:
    async with running(postgres_url, server=ServerLimits(connections_max=8)) as node:
        with ExitStack() as stack:
            stream = stack.enter_context(connected(node))
            stream.sendall(b"GET /overlay/events/stream HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 200 " in await trio.to_thread.run_sync(stream.recv, 1_000)
            idle = [stack.enter_context(connected(node)) for _ in range(20)]
            assert await is_closed(idle[0])
            assert (await node.client.get("/healthz")).status_code == 200
            assert await trio.to_thread.run_sync(stream.recv, 1_000), "a heartbeat"


async def ask(node: Running, path: str) -> bytes:
    return await answered_up_to(node, b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode())


async def answered_up_to(node: Running, asked: bytes, end: bytes | None = None) -> bytes:
    """What is answered, up to ``end`` or until the server closes."""
    answered = b""
    with connected(node) as sock:
        sock.sendall(asked)
        while data := await trio.to_thread.run_sync(sock.recv, 65_536):
            answered += data
            if end is not None and end in answered:
                break
    return answered


async def test_a_node_that_is_full_still_says_how_it_is(postgres_url: str) -> None:
    async with running(postgres_url, server=ServerLimits(connections_max=4, reserved_max=3)) as node:
        with ExitStack() as stack:
            streams = [stack.enter_context(connected(node)) for _ in range(4)]
            for stream in streams:
                stream.sendall(b"GET /overlay/events/stream HTTP/1.1\r\nHost: x\r\n\r\n")
                assert b" 200 " in await trio.to_thread.run_sync(stream.recv, 1_000)
            squatters = [stack.enter_context(connected(node)) for _ in range(10)]
            for path in ("/healthz", "/livez", "/readyz?x=1"):
                answered = await ask(node, path)
                assert answered.startswith(b"HTTP/1.1 200 ")
                assert b"connection: close" in answered.lower()
            for path in ("/overlay/node", "/healthz/more", "/overlay/events/stream"):
                answered = await ask(node, path)
                assert answered.startswith(b"HTTP/1.1 503 ")
                assert b"retry-after" in answered.lower()
            squatters[0].settimeout(15)
            assert (await trio.to_thread.run_sync(squatters[0].recv, 100)).startswith(b"HTTP/1.1 503 ")
            asked = HELLO + HeadersFrame(1, GET_HEALTHZ, flags=["END_HEADERS", "END_STREAM"]).serialize()
            assert b'{"status":"ok"}' in await answered_up_to(node, asked, b'"ok"}')
            assert await trio.to_thread.run_sync(streams[0].recv, 1_000), "a heartbeat"


async def test_questions_about_the_node_s_health_do_not_last(postgres_url: str) -> None:
    async with running(postgres_url, server=ServerLimits(connections_max=1, reserved_s=0.3)) as node:
        with connected(node) as stream:
            stream.sendall(b"GET /overlay/events/stream HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 200 " in await trio.to_thread.run_sync(stream.recv, 1_000)
            with connected(node) as idle, connected(node) as asking:
                asking.sendall(b"GET /healthz HTTP/1.1\r\n")
                assert await is_closed(asking)
                assert await is_closed(idle)


def flood(frame: bytes) -> Callable[[int], bytes]:
    return lambda number: frame


@pytest.mark.parametrize(
    "frames",
    [
        flood(PingFrame(0, opaque_data=bytes(8)).serialize()),
        flood(SettingsFrame(0, settings={4: 65_535}).serialize()),
        flood(PriorityFrame(1, depends_on=0, stream_weight=1).serialize()),
        lambda number: (
            HeadersFrame(2 * number + 1, GET_HEALTHZ, flags=["END_HEADERS", "END_STREAM"]).serialize()
            + RstStreamFrame(2 * number + 1, error_code=8).serialize()
        ),
    ],
    ids=["ping", "settings", "priority", "rapid reset"],
)
async def test_frames_that_only_cost_the_server_end_their_connection(
    node: Running, frames: Callable[[int], bytes]
) -> None:
    answered = await talk(node, HELLO + b"".join(frames(number) for number in range(2_000)), quiet_s=15)
    calm = GoAwayFrame(0, error_code=11).serialize()
    assert b"\x00\x00\x00\x0b" in answered[-len(calm) - 64 :], "ENHANCE_YOUR_CALM"
    assert (await node.client.get("/healthz")).status_code == 200
    assert not any(node.quarantine.counts.values())
