"""A thousand clients in one process: raw sockets and a parser that only counts, so that they are not the bottleneck.

Every message names its place; of what a read brings only the last whole place is looked for, and the number of
places. Compressed bytes are the same for all clients: the decoded text of a part is kept by its bytes.
"""

import base64
import resource
import select
import socket
import threading
import time
import zlib
from multiprocessing.connection import Connection
from typing import Any

import attrs

READ_BYTES = 256 * 1024
CARRY_BYTES = 64
CONNECT_PAUSE_S = 0.002
SSE_MARK, SOCKET_MARK = b"\nid: ", b'"sequence":"'
BEAT = b'"type":"heartbeat"'
PATH = "/overlay/events/stream"


@attrs.define
class Client:
    """One stream. ``mark`` stands before each place; ``kind`` is sse, gzip or ws."""

    kind: str
    sock: socket.socket
    mark: bytes
    carry: bytes = b""
    messages: int = 0
    last: tuple[int, int] = (0, 0)
    closed: bool = False


def request(kind: str, host: str, query: str = "") -> bytes:
    head = f"GET {PATH}{query} HTTP/1.1\r\nHost: {host}\r\n"
    if kind == "ws":
        key = base64.b64encode(bytes(16)).decode()
        head += (
            f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
        )
    elif kind == "gzip":
        head += "Accept-Encoding: gzip\r\n"
    return (head + "\r\n").encode()


def place(text: bytes) -> tuple[int, int]:
    sequence, _, position = text.partition(b".")
    return int(sequence), int(position)


class Load:
    """All clients and their epoll loop, which runs in a thread of its own until closed."""

    def __init__(self, address: tuple[str, int], counts: dict[str, int]) -> None:
        self._poll = select.epoll()
        self._clients: dict[int, Client] = {}
        self._known: dict[bytes, tuple[int, tuple[int, int]]] = {}
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._stopped = False
        self.arrivals: list[tuple[int, tuple[int, int], tuple[int, int], int]] = []  # kept from ``begin`` on
        for kind, count in counts.items():
            for _ in range(count):
                self._connect(kind, address)

    def _connect(self, kind: str, address: tuple[str, int]) -> None:
        sock = socket.create_connection(address)
        sock.sendall(request(kind, f"{address[0]}:{address[1]}"))
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(1)
        assert head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 101")), head
        sock.setblocking(False)
        self._clients[sock.fileno()] = Client(kind=kind, sock=sock, mark=SOCKET_MARK if kind == "ws" else SSE_MARK)
        self._poll.register(sock, select.EPOLLIN)
        time.sleep(CONNECT_PAUSE_S)

    def begin(self) -> None:
        self.arrivals = []
        for client in self._clients.values():
            client.messages = 0

    def run(self) -> None:
        while not self._stopped:
            for number, _ in self._poll.poll(0.1):
                self._read(self._clients[number])

    def stop(self) -> None:
        self._stopped = True

    def state(self) -> dict[str, Any]:
        clients = self._clients.values()
        return {
            "messages": [client.messages for client in clients],
            "last": [client.last for client in clients],
            "closed": sum(client.closed for client in clients),
        }

    def _read(self, client: Client) -> None:
        try:
            count = client.sock.recv_into(self._buffer)
        except BlockingIOError:
            return
        except OSError:
            count = 0
        now_ns = time.monotonic_ns()
        if not count:
            client.closed = True
            self._poll.unregister(client.sock)
            return
        if client.kind == "gzip":
            self._inflate(client, bytes(self._buffer[:count]), now_ns)
            return
        data = client.carry + bytes(self._buffer[:count])
        self._note(client, *self._marks(client, data), now_ns)

    def _marks(self, client: Client, data: bytes) -> tuple[int, tuple[int, int]]:
        """How many places the data holds, and the last whole one. What may be half a place is carried on."""
        mark = client.mark
        end = data.rfind(b"\n" if client.kind != "ws" else b'"}')
        at = data.rfind(mark, 0, end + 1) if end >= 0 else -1
        if at < 0:
            client.carry = data[-CARRY_BYTES:]
            return 0, client.last
        stop = data.find(b"\n" if client.kind != "ws" else b'"', at + len(mark))
        if stop < 0:  # the end was before the place's own
            client.carry = data
            return 0, client.last
        client.carry = data[stop:]
        return data.count(mark, 0, stop), place(data[at + len(mark) : stop])

    def _inflate(self, client: Client, data: bytes, now_ns: int) -> None:
        data = client.carry + data
        at = 0
        while True:
            line = data.find(b"\r\n", at)
            size = int(data[at:line], 16) if line > at else -1
            if size < 0 or len(data) < line + 4 + size:
                break
            self._note(client, *self._said(data[line + 2 : line + 2 + size]), now_ns)
            at = line + 4 + size
        client.carry = data[at:]

    def _said(self, part: bytes) -> tuple[int, tuple[int, int]]:
        found = self._known.get(part)
        if found is None:
            text = b"\n" + zlib.decompressobj(-15).decompress(part[10:] if part[:2] == b"\x1f\x8b" else part)
            at = text.rfind(SSE_MARK)
            found = text.count(SSE_MARK), place(text[at + 5 : text.find(b"\n", at + 1)]) if at >= 0 else (0, 0)
            self._known[part] = found
        return found

    def _note(self, client: Client, count: int, last: tuple[int, int], now_ns: int) -> None:
        if count and last > client.last:
            self.arrivals.append((now_ns, client.last, last, count))
            client.messages += count
            client.last = last


def latencies(
    arrivals: list[tuple[int, tuple[int, int], tuple[int, int], int]], seals: dict[int, tuple[int, int]]
) -> list[tuple[float, int]]:
    """Milliseconds from seal to client with the number of deliveries.

    Args:
        seals: Events and monotonic nanoseconds by sequence.
    """
    found = []
    for now_ns, (before, position), (last, upto), _ in arrivals:
        for sequence in range(before, last + 1):
            if sequence not in seals:
                continue
            events, sealed_ns = seals[sequence]
            first = position if sequence == before else 0
            count = (upto if sequence == last else events) - first
            if count > 0:
                found.append(((now_ns - sealed_ns) / 1e6, count))
    return found


def weighted(values: list[tuple[float, int]], shares: tuple[float, ...]) -> list[float]:
    values = sorted(values)
    total, at, found = sum(count for _, count in values), 0, []
    remaining = list(shares)
    for value, count in values:
        at += count
        while remaining and at >= remaining[0] * total:
            found.append(value)
            remaining.pop(0)
    return found + [float("nan")] * len(remaining)


def run(pipe: Connection, address: tuple[str, int], counts: dict[str, int]) -> None:
    """The load process: carries out the commands that come through the pipe."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    load = Load(address, counts)
    thread = threading.Thread(target=load.run, daemon=True)
    thread.start()
    pipe.send(len(load.state()["messages"]))
    while (command := pipe.recv()) != "stop":
        if command == "begin":
            load.begin()
            pipe.send(None)
        elif command == "state":
            pipe.send(load.state())
        else:
            found = latencies(load.arrivals, command)
            pipe.send((weighted(found, (0.5, 0.95, 0.99, 1.0)), sum(count for _, count in found)))
    load.stop()
    thread.join()
