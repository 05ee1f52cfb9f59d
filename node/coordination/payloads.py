"""Packed payloads of batches under way: in memory within a bound, else from the database.

A payload that a peer sent is kept under that peer's identity. It is used for the peer's own orders alone, and a
worker compares it with the manifest's input root before anything rests on it: no peer can replace what another sent,
or what this node stored.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from node.runtime.caches import BytesCache
from protocols.messages import IdentityKey

RECEIVED_BYTES_MAX: Final = 24 * 1024 * 1024
FORGED: Final = "forged-payload"


class Payloads:
    """This node's own payloads by batch, received ones by batch and sender."""

    def __init__(
        self,
        *,
        own: BytesCache[str, bytes],
        find: Callable[[str], Awaitable[bytes | None]],
        strike: Callable[[IdentityKey, str], None],
        received_bytes_max: int = RECEIVED_BYTES_MAX,
    ) -> None:
        """Args:
        own: Payloads that this node packed itself, by batch id.
        find: Reads the payload of a batch that this node coordinates or holds from the database.
        strike: Counts a fault of a peer.
        received_bytes_max: The payloads received longest ago are dropped past it.
        """
        self._own = own
        self._find = find
        self._strike = strike
        self._received_bytes_max = received_bytes_max
        self._received: OrderedDict[tuple[str, IdentityKey], bytes] = OrderedDict()
        self._senders: dict[str, set[IdentityKey]] = {}
        self.received_bytes = 0

    def receive(self, batch_id: str, sender: IdentityKey, packed: bytes) -> None:
        """Keep the payload that came with a peer's order."""
        self._drop(batch_id, sender)
        self._received[batch_id, sender] = packed
        self._senders.setdefault(batch_id, set()).add(sender)
        self.received_bytes += len(packed)
        while self.received_bytes > self._received_bytes_max and len(self._received) > 1:
            self._drop(*next(iter(self._received)))

    async def own(self, batch_id: str) -> bytes | None:
        """The payload of a batch that this node coordinates or holds."""
        packed = self._own.get(batch_id)
        if packed is None:
            packed = await self._find(batch_id)
            if packed is not None:
                self._own.put(batch_id, packed)
        return packed

    async def sent_by(self, sender: IdentityKey, batch_id: str) -> bytes | None:
        """The payload that a peer sent, not compared with anything yet; else the one stored here."""
        packed = self._received.get((batch_id, sender))
        return await self.own(batch_id) if packed is None else packed

    def reject(self, batch_id: str, sender: IdentityKey) -> None:
        """Drop a payload that is not the one its manifest names, and count that against the peer that sent it."""
        if self._drop(batch_id, sender):
            self._strike(sender, FORGED)

    def forget(self, batch_id: str) -> None:
        """Drop the payloads of a batch that has its end."""
        self._own.drop(batch_id)
        for sender in tuple(self._senders.get(batch_id, ())):
            self._drop(batch_id, sender)

    def _drop(self, batch_id: str, sender: IdentityKey) -> bool:
        packed = self._received.pop((batch_id, sender), None)
        if packed is None:
            return False
        self.received_bytes -= len(packed)
        senders = self._senders[batch_id]
        senders.discard(sender)
        if not senders:
            del self._senders[batch_id]
        return True
