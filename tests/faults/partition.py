"""Partitions on loopback, without privileges: a relay in front of every node, which knows who dials whom.

Each node announces its door's address in place of its own. The relay finds out which node dialled by the process
that holds the other end of the connection (``/proc``), so it can hold up what goes between any two of them.
"""

import enum
import os
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final

import attrs

CHUNK: Final = 256 * 1024
CONNECT_S: Final = 1.0
ESTABLISHED: Final = "01"
LOOPBACK: Final = "0100007F"


class Barrier(enum.Enum):
    """How two nodes are kept apart."""

    CUT = 1  # connections are closed, new ones at once
    STALL = 2  # connections stand, and nothing comes through


Pair = tuple[int, int]


def pair(one: int, other: int) -> Pair:
    return (one, other) if one < other else (other, one)


def between(side: Collection[int], nodes: int) -> frozenset[Pair]:
    """The pairs that a partition of ``side`` from all the others keeps apart."""
    return frozenset(pair(inner, outer) for inner in side for outer in range(nodes) if outer not in side)


def dialler(own_port: int, door_port: int, pids: Sequence[int | None]) -> int | None:
    """Which of the processes holds the socket that dialled from ``own_port``; None if it has ended."""
    ends = [f"{LOOPBACK}:{port:04X}" for port in (own_port, door_port)]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1:3] == ends and fields[3] == ESTABLISHED:
            return next((index for index, pid in enumerate(pids) if pid and _holds(pid, fields[9])), None)
    return None


def _holds(pid: int, inode: str) -> bool:
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            return any(_target(entry.path) == f"socket:[{inode}]" for entry in entries)
    except OSError:
        return False  # it ended meanwhile


def _target(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


@attrs.define(kw_only=True, eq=False)
class Way:
    """One direction of a connection."""

    source: socket.socket
    sink: socket.socket
    waiting: bytes = b""
    ended: bool = False


@attrs.define(kw_only=True, eq=False)
class Connection:
    """Two sockets and both ways between them; no ways where the target was never called."""

    ends: Pair
    sockets: tuple[socket.socket, ...]
    ways: tuple[Way, ...] = ()


class Relay(threading.Thread):
    """``with Relay(nodes) as relay``: one door for each node, open from the start.

    Attributes:
        ports: Of the doors.
        targets: Where the nodes listen; to be set before they dial each other.
        forwarded: Bytes so far.
    """

    def __init__(self, nodes: int, pid_of: Callable[[int], int | None]) -> None:
        super().__init__(daemon=True, name="relay")
        self.targets: list[int] = [0] * nodes
        self.forwarded = 0
        self._pid_of = pid_of
        self._barriers: dict[Pair, Barrier] = {}
        self._connections: set[Connection] = set()
        self._commands: deque[Callable[[], None]] = deque()
        self._ended = False
        self._selector = selectors.DefaultSelector()
        self._bell, bell = socket.socketpair()
        self._selector.register(bell, selectors.EVENT_READ, lambda _: bell.recv(4096))
        doors = [socket.create_server(("127.0.0.1", 0), backlog=64) for _ in range(nodes)]
        self.ports: list[int] = [door.getsockname()[1] for door in doors]
        for index, door in enumerate(doors):
            door.setblocking(False)
            self._selector.register(
                door, selectors.EVENT_READ, lambda _, index=index, door=door: self._accept(index, door)
            )

    def __enter__(self) -> "Relay":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._order(self._end)
        self.join()

    # --- what the harness asks for ---------------------------------------------------------------------------

    def keep_apart(self, pairs: Iterable[Pair], barrier: Barrier) -> None:
        """Put a barrier between nodes; returns once it stands."""
        wanted = frozenset(pairs)
        self._order(lambda: self._raise(wanted, barrier))

    def heal(self, pairs: Iterable[Pair]) -> None:
        """Take barriers away; what was stalled goes on."""
        wanted = frozenset(pairs)
        self._order(lambda: self._lower(wanted))

    def connections(self) -> list[Pair]:
        """Who is connected with whom, a pair for each connection."""
        found: list[Pair] = []
        self._order(lambda: found.extend(connection.ends for connection in self._connections))
        return found

    def _order(self, command: Callable[[], None]) -> None:
        done = threading.Event()

        def run() -> None:
            command()
            done.set()

        self._commands.append(run)
        with suppress(OSError):  # the loop saw the order to end before the bell, and closed it
            self._bell.send(b"!")
        done.wait()

    # --- the loop --------------------------------------------------------------------------------------------

    def run(self) -> None:
        while not self._ended:
            for key, events in self._selector.select():
                assert isinstance(key.fileobj, socket.socket)
                if key.fileobj.fileno() >= 0:  # an earlier event of this round may have closed it
                    key.data(events)
            while self._commands:
                self._commands.popleft()()

    def _end(self) -> None:
        self._ended = True
        for connection in tuple(self._connections):
            self._close(connection)
        for key in tuple(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._bell.close()
        self._selector.close()

    def _raise(self, pairs: frozenset[Pair], barrier: Barrier) -> None:
        self._barriers.update(dict.fromkeys(pairs, barrier))
        for connection in tuple(self._connections):
            if connection.ends in pairs and barrier is Barrier.CUT:
                self._close(connection)
            elif connection.ends in pairs:
                self._watch(connection)

    def _lower(self, pairs: frozenset[Pair]) -> None:
        for each in pairs:
            self._barriers.pop(each, None)
        for connection in tuple(self._connections):
            if connection.ends in pairs and not connection.ways:
                self._close(connection)  # it came while nothing went through: its dialler calls again
            elif connection.ends in pairs:
                self._watch(connection)

    # --- connections -----------------------------------------------------------------------------------------

    def _accept(self, index: int, door: socket.socket) -> None:
        client, (_, port) = door.accept()
        caller = dialler(port, self.ports[index], [self._pid_of(node) for node in range(len(self.ports))])
        barrier = None if caller is None else self._barriers.get(pair(caller, index))
        if caller is None or barrier is Barrier.CUT:
            client.close()
            return
        if barrier is Barrier.STALL:
            self._connections.add(Connection(ends=pair(caller, index), sockets=(client,)))
            return
        try:
            server = socket.create_connection(("127.0.0.1", self.targets[index]), timeout=CONNECT_S)
        except OSError:
            client.close()
            return
        for end in (client, server):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ways = (Way(source=client, sink=server), Way(source=server, sink=client))
        connection = Connection(ends=pair(caller, index), sockets=(client, server), ways=ways)
        self._connections.add(connection)
        self._watch(connection)

    def _watch(self, connection: Connection) -> None:
        """Listen for what each socket may do now: be read where nothing waits, be written to where something does."""
        stalled = connection.ends in self._barriers
        for way, back in (connection.ways, connection.ways[::-1]):
            events = 0
            if not stalled and not way.ended and not way.waiting:
                events |= selectors.EVENT_READ
            if not stalled and back.waiting:
                events |= selectors.EVENT_WRITE
            key = self._selector.get_map().get(way.source)
            if key is not None and not events:
                self._selector.unregister(way.source)
            elif key is not None and key.events != events:
                self._selector.modify(way.source, events, key.data)
            elif key is None and events:
                self._selector.register(
                    way.source, events, lambda ready, way=way, back=back: self._move(connection, way, back, ready)
                )

    def _move(self, connection: Connection, way: Way, back: Way, ready: int) -> None:
        try:
            if ready & selectors.EVENT_WRITE:
                self._push(back)
            if ready & selectors.EVENT_READ and not way.waiting:
                way.waiting = way.source.recv(CHUNK)
                way.ended = not way.waiting
                self._push(way)
        except OSError:
            self._close(connection)
            return
        if all(each.ended and not each.waiting for each in connection.ways):
            self._close(connection)
        else:
            self._watch(connection)

    def _push(self, way: Way) -> None:
        if way.waiting:
            try:
                sent = way.sink.send(way.waiting)
            except BlockingIOError:
                return
            self.forwarded += sent
            way.waiting = way.waiting[sent:]
        if way.ended and not way.waiting:
            way.sink.shutdown(socket.SHUT_WR)

    def _close(self, connection: Connection) -> None:
        self._connections.discard(connection)
        for end in connection.sockets:
            if end in self._selector.get_map():
                self._selector.unregister(end)
            end.close()
