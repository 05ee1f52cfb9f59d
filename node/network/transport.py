"""The interface between the node and its network: what the rest of the node may ask of it, and nothing of how.

Two carriers. *Gossip* reaches every node, costs each of them milliseconds a message and may lose some: it is for
what is small and rare. *Streams* reach one peer, in order, each frame at most once: a frame handed to ``send``
arrives once or not at all, and a sender that must know repeats it or asks.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol, TypeAlias

import attrs
import trio

from protocols.errors import WorldFault
from protocols.messages import IdentityKey


class PeerUnreachableError(WorldFault):
    """A peer is unknown, gone, ignored, or too slow to take more: try again later, or another peer."""

    code = "peer-unreachable"


@attrs.frozen(kw_only=True)
class InboundFrame:
    """A one-way frame, whole and decompressed."""

    sender: IdentityKey  # proven by the connection it came over
    frame: bytes


@attrs.frozen(kw_only=True)
class Gossip:
    """A gossiped message."""

    topic: str  # the short name
    sender: IdentityKey  # the origin, whose signature on the message was checked; not the neighbour
    data: bytes


@attrs.frozen(kw_only=True)
class PeerView:
    """What the transport knows of a peer, at one moment."""

    identity: IdentityKey
    addresses: tuple[str, ...]  # multiaddrs; empty for a peer that connected to us and advertised none
    connected: bool
    connected_since_ms: int | None
    queued: int  # frames waiting to be written to it
    refusal: str = ""  # why it takes no streams though it can be reached


Answer: TypeAlias = Callable[[IdentityKey, bytes], Awaitable[bytes]]
"""Answers a peer's request: its identity and the body in, the answer's body out. Raises only ``OverlayError``."""


class Transport(Protocol):
    """One node's end of the network."""

    @property
    def identity(self) -> IdentityKey:
        """This node's own."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where this node can be dialled: multiaddrs that end in ``/p2p/...``."""

    async def publish(self, topic: str, data: bytes) -> None:
        """Gossip ``data`` to the network. A node does not get its own messages back.

        Raises:
            FrameTooLargeError: More than ``GOSSIP_BYTES_MAX`` bytes.
        """

    def gossip(self) -> trio.MemoryReceiveChannel[Gossip]:
        """What others gossiped, each message once. Bounded: what comes while it is full is dropped and counted."""

    async def send(self, peer: IdentityKey, frame: bytes) -> None:
        """Queue a frame for a peer, connecting if need be. Frames of one connection arrive in order.

        Returns once the frame is queued; waits a bounded time while the queue is full.

        Raises:
            PeerUnreachableError: Unknown address, failed lately, ignored, or its queue stayed full.
            FrameTooLargeError: More than ``FRAME_BYTES_MAX`` bytes, or more than ``WIRE_FRAME_BYTES_MAX``
                after compression.
        """

    async def request(self, peer: IdentityKey, body: bytes, timeout_s: float) -> bytes:
        """Ask a peer and wait for its answer.

        Raises:
            PeerUnreachableError: As ``send``; or no answer in time, the connection broke, or the peer failed.
            FrameTooLargeError: As ``send``.
        """

    def inbound(self) -> trio.MemoryReceiveChannel[InboundFrame]:
        """One-way frames from peers. While they are not taken, the senders are held back."""

    def learn(self, identity: IdentityKey, addresses: Iterable[str]) -> None:
        """Remember where a peer listens, and keep connected to it. Unusable addresses are left out."""

    def forget(self, identity: IdentityKey) -> None:
        """Stop keeping connected to a peer; drop what is queued for it. Bootstrap peers stay."""

    def peers(self) -> tuple[PeerView, ...]:
        """Every peer known or connected, by identity."""

    def strike(self, identity: IdentityKey, reason: str) -> None:
        """Count a fault of a peer. Past a bound it is cut off and ignored for a time."""

    def follow(self, bootstrap: Sequence[str], members: frozenset[IdentityKey] | None) -> None:
        """Keep connected to the nodes at these addresses, which can be read, and let in these identities alone, where
        there are any; connections to others end.
        """

    def disconnect(self, identity: IdentityKey) -> None:
        """Close the connections to a peer. It may connect anew."""
