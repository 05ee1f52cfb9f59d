"""The relay passes bytes on unchanged, knows who dials, and keeps apart those it is told to."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from tests.faults.partition import Barrier, Relay, between, pair

STRANGER = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=5) as call:
    call.sendall(b"hello")
    print(call.recv(5).decode() or "closed")
"""


def echo(listener: socket.socket) -> None:
    while True:
        try:
            call, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=answer, args=(call,), daemon=True).start()


def answer(call: socket.socket) -> None:
    with call:
        while data := call.recv(65_536):
            call.sendall(data)


@pytest.fixture
def relay() -> Iterator[Relay]:
    """Node 0 is this process; node 1 and 2 stand for two that only listen."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=echo, args=(listener,), daemon=True).start()
        with Relay(3, lambda node: os.getpid() if node == 0 else None) as running:
            running.targets[1] = running.targets[2] = listener.getsockname()[1]
            yield running


def call(relay: Relay, node: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", relay.ports[node]), timeout=5)


def echoed(line: socket.socket, data: bytes) -> bytes:
    line.sendall(data)
    received = b""
    while len(received) < len(data):
        part = line.recv(65_536)
        if not part:
            break
        received += part
    return received


def closed(line: socket.socket) -> bool:
    """Whether the other end hangs up, in whatever way."""
    try:
        return line.recv(1) == b""
    except ConnectionError:
        return True


def test_bytes_come_back_as_they_were(relay: Relay) -> None:
    """More than all buffers hold, so that the relay has to wait for the slower side."""
    data = os.urandom(16 * 1024 * 1024)
    with call(relay, 1) as line:
        line.settimeout(20)
        writer = threading.Thread(target=line.sendall, args=(data,))
        writer.start()
        received = bytearray()
        while len(received) < len(data):
            received += line.recv(65_536)
        writer.join()
        assert bytes(received) == data
        assert relay.connections() == [pair(0, 1)]
        line.shutdown(socket.SHUT_WR)
        assert line.recv(1) == b"", "the end of a stream is passed on"


def test_a_cut_closes_what_stands_and_what_comes_until_it_heals(relay: Relay) -> None:
    with call(relay, 1) as line, call(relay, 2) as other:
        assert echoed(line, b"one") == echoed(other, b"one") == b"one"
        relay.keep_apart(between({1}, 3), Barrier.CUT)
        assert closed(line)
        with call(relay, 1) as later:
            assert closed(later)
        assert echoed(other, b"two") == b"two"
    relay.heal(between({1}, 3))
    with call(relay, 1) as line:
        assert echoed(line, b"three") == b"three"


def test_a_stall_holds_everything_up_and_loses_nothing(relay: Relay) -> None:
    with call(relay, 1) as line:
        assert echoed(line, b"one") == b"one"
        relay.keep_apart([pair(0, 1)], Barrier.STALL)
        line.sendall(b"two")
        line.settimeout(0.3)
        with pytest.raises(TimeoutError):
            line.recv(3)
        with call(relay, 1) as later:
            later.settimeout(0.3)
            later.sendall(b"two")
            with pytest.raises(TimeoutError):
                later.recv(3)
            relay.heal([pair(0, 1)])
            later.settimeout(5)
            assert closed(later)
        line.settimeout(5)
        assert line.recv(3) == b"two"


def test_who_is_no_node_is_turned_away(relay: Relay) -> None:
    command = [sys.executable, "-c", STRANGER, str(relay.ports[1])]
    result = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert "hello" not in result.stdout


def test_a_node_that_does_not_listen_refuses(relay: Relay) -> None:
    relay.targets[1] = 1
    with call(relay, 1) as line:
        assert closed(line)
