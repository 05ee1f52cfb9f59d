"""Gossip: gossipsub with strict signing, a budget per neighbour, and no message that can stop the service.

In py-libp2p an exception in the handling of one message ends the whole pubsub service, and some malformed
messages raise. Everything from a peer is therefore looked at here first.
"""

import math
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import structlog
import trio
from google.protobuf.message import DecodeError
from libp2p.abc import IHost, INetStream, ISubscriptionAPI
from libp2p.exceptions import BaseLibp2pError
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub

from node.network.p2p.config import TransportConfig
from node.network.p2p.fence import FencedTasks, PeerFence
from node.network.p2p.identities import identity_of, peer_id_of
from node.network.transport import Gossip
from node.runtime.token_bucket import Rate, TokenBuckets
from protocols.errors import FrameTooLargeError
from protocols.limits import GOSSIP_BYTES_MAX
from protocols.messages import IdentityKey

log = structlog.get_logger(__name__)

NEIGHBOUR_RATE: Final = Rate(per_s=100.0, burst=400.0)  # messages a neighbour may pass on
NEIGHBOURS_MAX: Final = 1_024  # remembered; past it the quietest is forgotten
OUTBOX_MAX: Final = 256
RENEW_S: Final = 5.0
STREAM_S: Final = 20.0  # for the streams that are opened in one round
PUBLISH_S: Final = 20.0  # beyond the library's own patience with a neighbour
INBOX_MAX: Final = 1_024
DEGREE: Final = 6
DEGREE_LOW: Final = 4
DEGREE_HIGH: Final = 12
RPC_BYTES_MAX: Final = 1024 * 1024
SUBSCRIPTIONS_MAX: Final = 32
KEY_HEAD_BYTES: Final = 2  # a peer id is these bytes, then the key as protobuf


class GuardedPubsub(Pubsub):
    """Pubsub that looks at what peers send before the library does, and fences each task of it."""

    fence: PeerFence

    @property
    def manager(self) -> Any:
        """What runs the tasks of this service: one for each message, and those that write to a neighbour."""
        return FencedTasks(super().manager, self.fence)

    def report_to(self, on_fault: Callable[[IdentityKey, str], None]) -> None:
        """Set the callback for faults of peers. Called once, before the service reads anything."""
        self._on_fault = on_fault
        self._budget = TokenBuckets[bytes](NEIGHBOUR_RATE, time.monotonic, NEIGHBOURS_MAX)

    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        """Take a message from a neighbour, or from this node itself."""
        fault = None if msg_forwarder == self.my_id else self._fault(msg_forwarder, msg)
        if fault is None:
            with self.fence.contain("gossip", identity_of(msg_forwarder.to_bytes()), msg.data):
                try:
                    await super().push_msg(msg_forwarder, msg)
                except (ValueError, DecodeError, BaseLibp2pError) as error:
                    fault = f"gossip: {error}"
        if fault is not None:
            self._blame(msg_forwarder, fault)

    def _fault(self, neighbour: ID, message: rpc_pb2.Message) -> str | None:
        if not self._budget.take(neighbour.to_bytes()):
            return "gossip: too many messages"
        if len(message.data) > GOSSIP_BYTES_MAX:
            return f"gossip: a message of {len(message.data)} bytes"
        if len(message.topicIDs) != 1 or message.topicIDs[0] not in self.topic_ids:
            return "gossip: exactly one topic of this network must be named"
        if len(message.seqno) != 8 or identity_of(message.from_id) is None:
            return "gossip: the origin must be an identity key, with a sequence number of 8 bytes"
        if message.key not in (b"", message.from_id[KEY_HEAD_BYTES:]):
            return "gossip: the key must be the origin's"
        return None

    async def stream_handler(self, stream: INetStream) -> None:
        """Read a neighbour's stream until it ends; malformed protobuf ends only that stream."""
        neighbour = stream.muxed_conn.peer_id
        try:
            await super().stream_handler(stream)
        except (ValueError, DecodeError, BaseLibp2pError) as error:
            self._blame(neighbour, f"gossip: {error}")
            await stream.reset()

    def _blame(self, neighbour: ID, fault: str) -> None:
        identity = identity_of(neighbour.to_bytes())
        if identity is not None:
            self._on_fault(identity, fault)


class GossipPort:
    """Publishes and receives gossip on the network's topics."""

    def __init__(self, host: IHost, config: TransportConfig, fence: PeerFence) -> None:
        self.router = GossipSub(
            protocols=[PROTOCOL_ID_V11],
            degree=DEGREE,
            degree_low=DEGREE_LOW,
            degree_high=DEGREE_HIGH,
            heartbeat_interval=1,
            adaptive_gossip_enabled=False,
            spam_protection_enabled=False,  # the budget above stands in its place, and counts
            eclipse_protection_enabled=config.eclipse_protection,
            prune_back_off=10,
        )
        self.pubsub = GuardedPubsub(
            host,
            self.router,
            max_inbound_rpc_size=RPC_BYTES_MAX,
            max_subscriptions_per_rpc=SUBSCRIPTIONS_MAX,
            max_subscriptions_per_peer=SUBSCRIPTIONS_MAX,
        )
        self.pubsub.fence = self._fence = fence
        # the library counts from the second it started in: after a restart its numbers would be ones that
        # peers have seen, and they would take its messages for repeats
        self.pubsub.counter = time.time_ns()
        self._admits = config.admits
        self._self = host.get_id().to_bytes()
        self._network = config.network
        self._send, self.inbox = trio.open_memory_channel[Gossip](INBOX_MAX)
        self._out, self._waiting = trio.open_memory_channel[tuple[str, bytes]](OUTBOX_MAX)
        self._dropped = 0

    def topic(self, name: str) -> str:
        """A topic's full name."""
        return f"/{self._network}/{name}/1"

    async def join(self, name: str) -> ISubscriptionAPI:
        """Subscribe to a topic."""
        return await self.pubsub.subscribe(self.topic(name))

    async def run(self, name: str, subscription: ISubscriptionAPI) -> None:
        """Hand the messages of a topic to the inbox, until cancelled."""
        while True:
            message = await subscription.get()
            sender = identity_of(message.from_id)
            if sender is None or message.from_id == self._self or not self._admits(sender):
                continue
            try:
                self._send.send_nowait(Gossip(topic=name, sender=sender, data=message.data))
            except trio.WouldBlock:
                self._count_dropped()

    async def keep_neighbours(self, connected: Callable[[], Iterable[IdentityKey]]) -> None:
        """Keep a stream to every connected peer, and each told which topics this node reads, until cancelled.

        The library tries again where a connection failed, but not where a stream could not be negotiated in time;
        and when its stream to a neighbour breaks, it forgets the neighbour's topics, which that one told once.
        Either leaves a node connected and deaf for good: it hears of no agent and certifies nothing.
        """
        while True:
            await trio.sleep(RENEW_S)
            async with trio.open_nursery() as opening:
                for peer in map(peer_id_of, connected()):
                    if peer not in self.pubsub.peers:
                        opening.start_soon(self.pubsub.ensure_peer_stream, peer, STREAM_S)
            topics = [rpc_pb2.RPC.SubOpts(subscribe=True, topicid=topic) for topic in self.pubsub.topic_ids]
            await self.pubsub.message_all_peers(rpc_pb2.RPC(subscriptions=topics).SerializeToString())

    async def publish(self, name: str, data: bytes) -> None:
        """Queue a message for the publishing task: a neighbour that takes nothing delays gossip alone."""
        if len(data) > GOSSIP_BYTES_MAX:
            raise FrameTooLargeError(
                f"a message of {len(data)} bytes to gossip", bytes=len(data), bytes_max=GOSSIP_BYTES_MAX
            )
        try:
            self._out.send_nowait((self.topic(name), data))
        except trio.WouldBlock:
            self._count_dropped()
        await trio.lowlevel.checkpoint()

    async def run_publisher(self) -> None:
        """Publish what was queued, one after the other, until cancelled."""
        async for topic, data in self._waiting:
            with trio.move_on_after(PUBLISH_S) as waited, self._fence.contain("gossip", None, data, origin="self"):
                try:
                    await self.pubsub.publish(topic, data)
                except (BaseLibp2pError, OSError) as error:
                    log.info("gossip.unsent", topic=topic, why=str(error))
            if waited.cancelled_caught:
                log.warning("gossip.held_up", topic=topic, seconds=PUBLISH_S)

    def _count_dropped(self) -> None:
        self._dropped += 1
        if math.log2(self._dropped).is_integer():  # 1, 2, 4, ...: noticed, and not a flood of its own
            log.warning("gossip.dropped", dropped=self._dropped)
