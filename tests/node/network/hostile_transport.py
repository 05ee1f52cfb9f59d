"""A transport that hands in what a test sends, whatever that is."""

from collections.abc import Callable, Iterable

import attrs
import trio

from node.network.transport import Gossip, InboundFrame
from protocols.messages import IdentityKey, Message
from tests.node.test_app import NoPeers


@attrs.frozen
class Sent:
    """A frame, and how it comes."""

    sender: IdentityKey
    frame: bytes
    by_gossip: bool
    message: Message = attrs.field(repr=False)


class HostileTransport(NoPeers):
    """Hands in what the test sends, and loses what the node sends."""

    def __init__(self, identity: IdentityKey, overhear: Callable[[bytes], None] = lambda frame: None) -> None:
        """``overhear``: Called with each frame that the node sends."""
        super().__init__(identity)
        self._overhear = overhear
        self.struck: list[IdentityKey] = []
        self.frames, self._frames = trio.open_memory_channel[InboundFrame](1)
        self.heard, self._heard = trio.open_memory_channel[Gossip](1)

    async def publish(self, topic: str, data: bytes) -> None:
        self._overhear(data)

    async def send(self, peer: IdentityKey, frame: bytes) -> None:
        self._overhear(frame)
        await super().send(peer, frame)

    def gossip(self) -> trio.MemoryReceiveChannel[Gossip]:
        return self._heard

    def inbound(self) -> trio.MemoryReceiveChannel[InboundFrame]:
        return self._frames

    def learn(self, identity: IdentityKey, addresses: Iterable[str]) -> None:
        """Nobody is dialled."""

    def strike(self, identity: IdentityKey, reason: str) -> None:
        self.struck.append(identity)

    async def hand_in(self, sent: Sent) -> None:
        if sent.by_gossip:
            await self.heard.send(Gossip(topic="jobs", sender=sent.sender, data=sent.frame))
        else:
            await self.frames.send(InboundFrame(sender=sent.sender, frame=sent.frame))
