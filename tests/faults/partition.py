"""Partitions on one machine, without privileges: every node is reached through a relay that can stop forwarding.

A cut link is not closed: bytes are neither read nor passed on until it heals, which is what a partition looks like
from both ends. Who dials is found out by the process that owns the dialling socket.
"""

import contextlib
import selectors
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

import psutil

CHUNK = 256 * 1024
TICK_S = 0.05
BACKLOG_BYTES_MAX = 4 * 1024 * 1024


class Pipe:
    """One direction of a connection: what was read from ``source`` and waits to be written to ``sink``."""

    def __init__(self, source: socket.socket, sink: socket.socket, ends: frozenset[int]) -> None:
        self.source = source
        self.sink = sink
        self.ends = ends
        self.waiting = bytearray()


class Relays:
    """A thread that forwards between the nodes. ``ports``: relay port by node; ``targets``: where each listens."""

    def __init__(
        self, ports: Mapping[int, int], targets: Mapping[int, int], owner: Callable[[int], int | None]
    ) -> None:
        """``owner`` tells the node of a process id."""
        self._targets = targets
        self._owner = owner
        self._selector = selectors.DefaultSelector()
        self._pipes: dict[socket.socket, Pipe] = {}
        self._cut: set[frozenset[int]] = set()
        self._stop = threading.Event()
        self._listeners: dict[socket.socket, int] = {}
        for node, port in ports.items():
            listener = socket.create_server(("127.0.0.1", port), backlog=64)
            listener.setblocking(False)
            self._listeners[listener] = node
            self._selector.register(listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def isolate(self, side: set[int], others: set[int]) -> None:
        """Cut every link between ``side`` and ``others``."""
        self._cut |= {frozenset({a, b}) for a in side for b in others if a != b}

    def heal(self) -> None:
        self._cut = set()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5)
        for each in (*self._pipes, *self._listeners):
            each.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            for key, _ in self._selector.select(TICK_S):
                ready: Any = key.fileobj
                if ready in self._listeners:
                    self._accept(ready)
                elif ready in self._pipes:
                    self._read(self._pipes[ready])
            self._tend()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            near, address = listener.accept()
            dialler = self._dialler(address[1])
            try:
                far = socket.create_connection(("127.0.0.1", self._targets[self._listeners[listener]]), timeout=1)
            except OSError:
                near.close()  # the node is down: so is its address
                return
            ends = frozenset({self._listeners[listener]} | ({dialler} if dialler is not None else set()))
            for source, sink in ((near, far), (far, near)):
                source.setblocking(False)
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._pipes[source] = Pipe(source, sink, ends)
                self._selector.register(source, selectors.EVENT_READ)

    def _dialler(self, port: int) -> int | None:
        for connection in psutil.net_connections("tcp4"):
            if connection.laddr and connection.laddr.port == port and connection.pid is not None:
                return self._owner(connection.pid)
        return None

    def _read(self, pipe: Pipe) -> None:
        if pipe.ends in self._cut or len(pipe.waiting) > BACKLOG_BYTES_MAX:
            self._rest(pipe)
            return
        try:
            data = pipe.source.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(pipe)
            return
        pipe.waiting += data
        self._write(pipe)

    def _write(self, pipe: Pipe) -> None:
        if pipe.ends in self._cut:
            return
        try:
            sent = pipe.sink.send(pipe.waiting)
            del pipe.waiting[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(pipe)

    def _rest(self, pipe: Pipe) -> None:
        """Stop watching a source that must not be read now."""
        with contextlib.suppress(KeyError):
            self._selector.unregister(pipe.source)

    def _tend(self) -> None:
        """Write on what waits, and watch again what may be read again."""
        watched = self._selector.get_map()
        for pipe in tuple(self._pipes.values()):
            if pipe.ends in self._cut:
                continue
            if pipe.waiting:
                self._write(pipe)
            if pipe.source in self._pipes and pipe.source not in watched and len(pipe.waiting) < BACKLOG_BYTES_MAX:
                self._selector.register(pipe.source, selectors.EVENT_READ)

    def _drop(self, pipe: Pipe) -> None:
        for end in (pipe.source, pipe.sink):
            self._pipes.pop(end, None)
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(end)
            end.close()
