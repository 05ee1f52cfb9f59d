"""Transports that hand requests to each other in memory: as much of a network as asking peers takes."""

from collections.abc import Awaitable, Callable

import trio

from node.network.transport import PeerUnreachableError, PeerView
from protocols.messages import IdentityKey

Answer = Callable[[IdentityKey, bytes], Awaitable[bytes]]


class MemoryNetwork:
    """All who answer, and every request that was made."""

    def __init__(self) -> None:
        self.answers: dict[IdentityKey, Answer] = {}
        self.asked: list[tuple[IdentityKey, bytes]] = []

    def join(self, identity: IdentityKey, answer: Answer | None = None) -> "MemoryTransport":
        if answer is not None:
            self.answers[identity] = answer
        return MemoryTransport(identity, self)


class MemoryTransport:
    def __init__(self, identity: IdentityKey, network: MemoryNetwork | None = None) -> None:
        self.identity = identity
        self.struck: list[tuple[IdentityKey, str]] = []
        self.disconnected: list[IdentityKey] = []
        self._network = network or MemoryNetwork()

    def peers(self) -> tuple[PeerView, ...]:
        return tuple(
            PeerView(identity=identity, addresses=(), connected=True, connected_since_ms=0, queued=0)
            for identity in self._network.answers
            if identity != self.identity
        )

    async def request(self, peer: IdentityKey, body: bytes, timeout_s: float) -> bytes:
        self._network.asked.append((peer, body))
        if peer not in self._network.answers:
            raise PeerUnreachableError("not a member")
        with trio.move_on_after(timeout_s):
            await trio.lowlevel.checkpoint()
            return await self._network.answers[peer](self.identity, body)
        raise PeerUnreachableError("no answer in time")

    def strike(self, identity: IdentityKey, reason: str) -> None:
        self.struck.append((identity, reason))

    def disconnect(self, identity: IdentityKey) -> None:
        self.disconnected.append(identity)
