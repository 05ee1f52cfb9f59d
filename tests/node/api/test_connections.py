"""How connections end: whoever is refused while still sending reads why, and whoever never stops is cut off."""

import socket
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack

import h11
import pytest
import trio

from node.api import connection, wire
from node.api.services import ApiSettings
from node.api.wire import DOCUMENT_BYTES_MAX
from tests.node.certified_batches import NETWORK
from tests.node.running import Running, running, until

HEAD = b"POST /overlay/sources HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.fixture
async def node(postgres_url: str) -> AsyncIterator[Running]:
    async with running(postgres_url) as started:
        yield started


def connected(node: Running) -> socket.socket:
    host, _, port = node.url.removeprefix("http://").partition(":")
    sock = socket.create_connection((host, int(port)), timeout=20)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def read_answer(sock: socket.socket) -> tuple[h11.Response, bytes, bool]:
    """The answer, its body, and whether the server closed after it."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="POST", target="/", headers=[("Host", "x"), ("Content-Length", "1")]))
    head, body = None, b""
    while True:
        event = client.next_event()
        if event is h11.NEED_DATA:
            client.receive_data(sock.recv(65_536))
        elif isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        else:
            assert isinstance(event, h11.EndOfMessage)
            assert head is not None
            break
    sock.settimeout(0.3)
    try:
        closed = sock.recv(1) == b""
    except TimeoutError:
        closed = False
    return head, body, closed


async def test_who_is_refused_while_sending_reads_why(node: Running) -> None:
    """A client that looks for the answer only after its whole body: an early reset would take the answer with it."""

    def send(size: int) -> tuple[h11.Response, bytes, bool]:
        with connected(node) as sock:
            sock.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % size + b"x" * size)
            return read_answer(sock)

    for _ in range(10):
        for size in (DOCUMENT_BYTES_MAX + 1, 5_000_000):
            head, body, closed = await trio.to_thread.run_sync(send, size)
            assert head.status_code == 413
            assert b"too-large" in body
            assert (b"connection", b"close") in list(head.headers), "a client must not send its next request here"
            assert closed


async def test_who_has_said_all_keeps_the_connection(node: Running) -> None:
    def send_twice() -> list[tuple[int, bool]]:
        with connected(node) as sock:
            found = []
            for _ in range(2):
                sock.settimeout(20)
                sock.sendall(HEAD + b"Content-Length: 2\r\n\r\n[]")
                head, _, closed = read_answer(sock)
                found.append((head.status_code, closed))
            return found

    assert await trio.to_thread.run_sync(send_twice) == [(400, False), (400, False)]


async def test_what_is_declared_and_not_sent_takes_no_room(postgres_url: str) -> None:
    """Fifty clients that declare 16 MiB each and send one byte, where 64 MiB may be under way."""
    settings = ApiSettings(network=NETWORK, body_bytes_max=16 * 1024 * 1024)
    head = HEAD.replace(b"/overlay/sources", b"/overlay/events/ingest") + b"Content-Length: 16777216\r\n\r\n{"
    async with running(postgres_url, settings=settings) as node:
        await node.source()
        with ExitStack() as stack:
            for _ in range(50):
                stack.enter_context(connected(node)).sendall(head)
            await until(lambda: node.ingest.admission.bytes_in_flight == 50)
            answered = await node.post({"externalId": "a", "eventType": "t", "data": {}})
            assert answered.status_code == 202
        await until(lambda: node.ingest.admission.bytes_in_flight == 0)


async def test_a_body_that_comes_too_slowly_is_cut_off(node: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "BODY_GRACE_S", 0.2)

    def send() -> int:
        with connected(node) as sock:
            sock.sendall(HEAD + b"Content-Length: 1000\r\n\r\n{")
            return read_answer(sock)[0].status_code

    assert await trio.to_thread.run_sync(send) == 408


async def test_who_never_stops_sending_is_cut_off(node: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LINGER_S", 0.3)

    def is_cut_off() -> bool:
        deadline = time.monotonic() + 15
        with connected(node) as sock:
            sock.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
            try:
                while time.monotonic() < deadline:
                    sock.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")
            except (ConnectionResetError, BrokenPipeError):
                return True
        return False

    assert await trio.to_thread.run_sync(is_cut_off)
    assert (await node.client.get("/healthz")).status_code == 200
