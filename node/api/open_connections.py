"""Which connections are open, and which of them is closed when there are too many: the one idle for longest."""

import resource
from collections import Counter
from collections.abc import Iterator
from typing import Final, Protocol

from node.api.server_limits import ServerLimits

DESCRIPTORS_KEPT: Final = 256  # for the database, peers, workers and files


class Droppable(Protocol):
    """A connection, as far as its place among the others goes."""

    @property
    def client(self) -> str: ...

    @property
    def is_shared(self) -> bool:
        """Whether many clients call through it: from this machine, or from a proxy."""

    @property
    def has_request(self) -> bool:
        """Whether one is being received or answered."""

    def drop(self) -> None:
        """Close it now."""


class OpenConnections:
    """All connections of a server. One without a request is idle; a connection begins so."""

    def __init__(self, limits: ServerLimits) -> None:
        self._limits = limits
        self._open: dict[Droppable, None] = {}
        self._by_client: Counter[str] = Counter()
        self._idle: dict[str, dict[Droppable, None]] = {}  # by client, the longest idle first
        self._idle_order: dict[Droppable, None] = {}  # of all clients, the longest idle first
        self._reserved: dict[Droppable, None] = {}  # beside the others, the oldest first

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Droppable]:
        return iter(tuple(self._open))

    @property
    def idle(self) -> tuple[Droppable, ...]:
        """Those without a request, the longest idle first; those in reserve, with one or without, after them."""
        return (*self._idle_order, *self._reserved)

    def admit(self, connection: Droppable) -> bool:
        """Take a new connection in, in place of an idle one where there are too many. False: it does not fit."""
        client = connection.client
        if not connection.is_shared and self._by_client[client] >= self._limits.connections_per_client_max:
            if client not in self._idle:
                return False
            self._drop(next(iter(self._idle[client])))
        if len(self._open) >= self._bound():
            if not self._idle_order:
                return False
            self._drop(next(iter(self._idle_order)))
        self._open[connection] = None
        self._by_client[client] += 1
        self.become_idle(connection)
        return True

    def reserve(self, connection: Droppable) -> None:
        """Take in one for which there is no place, for a moment. The oldest of these makes room for it, one without a
        request before others.
        """
        if len(self._reserved) >= self._limits.reserved_max:
            self._drop(min(self._reserved, key=lambda each: each.has_request))
        self._reserved[connection] = None

    def become_idle(self, connection: Droppable) -> None:
        """A connection waits for its next request."""
        if connection not in self._open:
            return
        self.become_busy(connection)
        idle = self._idle.setdefault(connection.client, {})
        idle[connection] = None
        self._idle_order[connection] = None
        if len(idle) > self._limits.idle_per_client_max and not connection.is_shared:
            self._drop(next(iter(idle)))

    def become_busy(self, connection: Droppable) -> None:
        """A connection has a request."""
        if connection not in self._idle_order:
            return
        del self._idle_order[connection]
        idle = self._idle[connection.client]
        del idle[connection]
        if not idle:
            del self._idle[connection.client]

    def forget(self, connection: Droppable) -> None:
        """A connection is closed, or closing."""
        self.become_busy(connection)
        self._reserved.pop(connection, None)
        if connection in self._open:
            del self._open[connection]
            self._by_client[connection.client] -= 1
            if not self._by_client[connection.client]:
                del self._by_client[connection.client]

    def _drop(self, connection: Droppable) -> None:
        self.forget(connection)
        connection.drop()

    def _bound(self) -> int:
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return min(self._limits.connections_max, max(1, descriptors - DESCRIPTORS_KEPT))
