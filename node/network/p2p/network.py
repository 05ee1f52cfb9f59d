"""The transport over libp2p, as the rest of the node sees it."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import trio

from node.network.p2p.faults import Faults
from node.network.p2p.gossip import GossipPort
from node.network.p2p.inbound import InboundQueue, encode_large, open_large
from node.network.p2p.links import ASK_BYTES_MAX
from node.network.p2p.peer_links import PeerLinks, queue_frame
from node.network.p2p.requests import PendingRequests, answer_frame
from node.network.transport import Gossip, InboundFrame, PeerUnreachableError, PeerView
from protocols.errors import FrameTooLargeError, PeerFault
from protocols.framing import FrameKind
from protocols.messages import IdentityKey

FAILURE_CHARS_MAX: Final = 200


class PeerNetwork:
    """One node's end of the network: the ``Transport`` over libp2p. It documents the calls."""

    def __init__(
        self,
        *,
        identity: IdentityKey,
        addresses: tuple[str, ...],
        gossip: GossipPort,
        links: PeerLinks,
        requests: PendingRequests,
        queue: InboundQueue,
        follow: Callable[[Sequence[str], frozenset[IdentityKey] | None], None],
    ) -> None:
        """Args:
        queue: The one-way frames that came in.
        follow: As the method.
        """
        self.identity = identity
        self.addresses = addresses
        self._gossip = gossip
        self._links = links
        self._requests = requests
        self._queue = queue
        self._follow = follow

    @property
    def faults(self) -> Faults:
        """Peers' faults that still count."""
        return self._links.faults

    async def publish(self, topic: str, data: bytes) -> None:
        await self._gossip.publish(topic, data)

    def gossip(self) -> trio.MemoryReceiveChannel[Gossip]:
        return self._gossip.inbox

    def inbound(self) -> trio.MemoryReceiveChannel[InboundFrame]:
        return self._queue.channel

    async def send(self, peer: IdentityKey, frame: bytes) -> None:
        await queue_frame(self._links.usable(peer), await encode_large(FrameKind.ONEWAY, frame))

    async def request(self, peer: IdentityKey, body: bytes, timeout_s: float) -> bytes:
        if len(body) > ASK_BYTES_MAX:
            raise FrameTooLargeError(f"a request of {len(body)} bytes", bytes=len(body), bytes_max=ASK_BYTES_MAX)
        link = self._links.usable(peer)
        with self._requests.open(peer) as pending, trio.move_on_after(timeout_s):
            frame = await encode_large(FrameKind.REQUEST, body, pending.request_id)
            await queue_frame(link, frame, urgent=True)
            await pending.done.wait()
        found = answer_frame(pending, timeout_s)
        try:
            answer = await open_large(found)
        except PeerFault as fault:
            self.strike(peer, fault.code)
            raise PeerUnreachableError("an answer that cannot be read") from fault
        if found.kind is FrameKind.FAILURE:
            raise PeerUnreachableError(f"the peer failed: {answer[:FAILURE_CHARS_MAX].decode('utf-8', 'replace')}")
        return answer

    def learn(self, identity: IdentityKey, addresses: Iterable[str]) -> None:
        self._links.learn(identity, addresses)

    def forget(self, identity: IdentityKey) -> None:
        self._links.forget(identity)

    def peers(self) -> tuple[PeerView, ...]:
        return tuple(
            PeerView(
                identity=link.identity,
                addresses=link.addresses,
                connected=link.connected,
                connected_since_ms=link.connected_since_ms,
                queued=len(link.outbox),
                refusal=link.refusal,
            )
            for link in self._links.all()
        )

    def strike(self, identity: IdentityKey, reason: str) -> None:
        self._links.strike(identity, reason)

    def follow(self, bootstrap: Sequence[str], members: frozenset[IdentityKey] | None) -> None:
        self._follow(bootstrap, members)

    def disconnect(self, identity: IdentityKey) -> None:
        self._links.cut(identity)
