"""Packed payloads of batches under way: in memory within a bound, else from the database.

A payload that a peer sent is kept under that peer's identity. It is used for the peer's own orders alone, and a
worker compares it with the manifest's input root before anything rests on it: no peer can replace what another sent,
or what this node stored.
"""

import heapq
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
        received_bytes_max: Past it, payloads of the sender that has the most bytes here are dropped, oldest first.
        """
        self._own = own
        self._find = find
        self._strike = strike
        self._received_bytes_max = received_bytes_max
        self._received: dict[IdentityKey, OrderedDict[str, bytes]] = {}
        self._bytes: dict[IdentityKey, int] = {}
        self._senders: dict[str, set[IdentityKey]] = {}
        self.received_bytes = 0

    def receive(self, batch_id: str, sender: IdentityKey, packed: bytes) -> None:
        """Keep the payload that came with a peer's order."""
        self._drop(batch_id, sender)
        self._received.setdefault(sender, OrderedDict())[batch_id] = packed
        self._senders.setdefault(batch_id, set()).add(sender)
        self._bytes[sender] = self._bytes.get(sender, 0) + len(packed)
        self.received_bytes += len(packed)
        while self.received_bytes > self._received_bytes_max:
            gone = self._first_to_go((batch_id, sender))
            if gone is None:
                return
            self._drop(*gone)

    def _first_to_go(self, latest: tuple[str, IdentityKey]) -> tuple[str, IdentityKey] | None:
        """The oldest payload of the sender that has the most bytes here; never the latest one of all."""
        for sender in heapq.nlargest(2, self._bytes, key=self._bytes.__getitem__):
            oldest = next(iter(self._received[sender])), sender
            if oldest != latest:
                return oldest
        return None

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
        received = self._received.get(sender)
        packed = None if received is None else received.get(batch_id)
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

    def forget_from(self, batch_id: str, sender: IdentityKey) -> None:
        """Drop the payload that one peer sent, whose order is not followed."""
        self._drop(batch_id, sender)

    def _drop(self, batch_id: str, sender: IdentityKey) -> bool:
        received = self._received.get(sender)
        if received is None or batch_id not in received:
            return False
        packed = received.pop(batch_id)
        self.received_bytes -= len(packed)
        self._bytes[sender] -= len(packed)
        if not received:
            del self._received[sender], self._bytes[sender]
        senders = self._senders[batch_id]
        senders.discard(sender)
        if not senders:
            del self._senders[batch_id]
        return True
