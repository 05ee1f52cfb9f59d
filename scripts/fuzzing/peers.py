"""Peers that mean harm: over the product's own transport, each with a key of its own that it uses for a while."""

import contextlib
from collections import Counter
from collections.abc import Callable
from typing import Final

import attrs
import trio

from node.delivery.announcer import GOSSIP_CERTIFIED
from node.network.discovery import GOSSIP_WHO
from node.network.p2p import TransportConfig, open_transport
from node.network.p2p.network import PeerNetwork
from node.network.sender import GOSSIP_WORK
from node.network.transport import PeerUnreachableError
from node.runtime.containment import Quarantine
from node.runtime.keyring import Keyring
from protocols.envelope import open_frame, sign, to_frame
from protocols.errors import FrameTooLargeError, OverlayError
from protocols.messages import Advertisement, BatchQuery, CertifiedNotice
from scripts.fuzzing.asks import Asks
from scripts.fuzzing.coherent import Batches, advertisement
from scripts.fuzzing.items import Item
from scripts.fuzzing.messages import Messages, remember
from scripts.fuzzing.values import Draw
from scripts.fuzzing.world import World, key_of

TOPICS: Final = (GOSSIP_WORK, GOSSIP_WHO, GOSSIP_CERTIFIED)
TOPIC_OF: Final = {Advertisement: GOSSIP_WHO, CertifiedNotice: GOSSIP_CERTIFIED}
CONNECT_S: Final = 30.0
HEARD_S: Final = 5.0
ASK_S: Final = 20.0
ASKS_AT_ONCE: Final = 8
ITEMS_PER_KEY: Final = 4_000
ADVERTISE_EVERY: Final = 500  # items
PACED_EVERY: Final = 40  # items
TURN_S: Final = 20.0
LOOK_S: Final = 0.1
FRESH: Final = 0.25  # of gossip, the part that a key signs which was never seen
SAMPLE_BYTES: Final = 64


@attrs.define(kw_only=True)
class Tally:
    """What peers sent, and what came of it."""

    refused: Counter[str] = attrs.field(factory=Counter)
    answered: int = 0
    absent: int = 0
    keys: int = 0
    opening_s: float = 0.0
    heard: Counter[str] = attrs.field(factory=Counter)


class Peers:
    """Sends items that come through a channel, over connections that are made anew with other keys as they go on."""

    def __init__(
        self,
        world: World,
        address: str,
        *,
        on_sent: Callable[[Item, bytes], None],
    ) -> None:
        """Args:
        address: Multiaddr of the node.
        on_sent: Called with each item and the bytes that it is.
        """
        self._world = world
        self._address = address
        self._on_sent = on_sent
        self.messages = Messages(world)
        self.asks = Asks(world, self.messages)
        self._batches = Batches(world)
        self.tally = Tally()
        self._turns: dict[str, trio.Event] = {}

    async def run_lane(self, lane: int, items: trio.MemoryReceiveChannel[Item]) -> None:
        """Send items until the channel is closed and empty."""
        left: list[Item] = []
        generation = 0
        while True:
            key = key_of(f"{self._world.seed} peer {lane} {generation}")
            generation += 1
            if await self._serve(key, items, left):
                return

    async def _serve(self, key: Keyring, items: trio.MemoryReceiveChannel[Item], left: list[Item]) -> bool:
        """Send under one key; whether the channel is at its end. ``left``: an item that could not be sent."""
        answers = Draw(f"{self._world.seed} answers {key.identity.hex()}")

        async def answer(sender: bytes, body: bytes) -> bytes:
            return self.asks.answer(answers, body)

        config = TransportConfig(
            secret=key.key.to_bytes(),
            network=self._world.network,
            topics=TOPICS,
            bootstrap=(self._address,),
            redial_s_max=1.0,
        )
        self.tally.keys += 1
        began_s = trio.current_time()
        async with open_transport(config, answer, Quarantine()) as network, trio.open_nursery() as nursery:
            nursery.start_soon(self._hear, network)
            heard = trio.Event()
            nursery.start_soon(self._overhear, network, heard)
            await self._connect(network)
            with trio.move_on_after(HEARD_S):  # the node advertises to a newcomer: then it takes what that gossips
                await heard.wait()
            self.tally.opening_s += trio.current_time() - began_s
            ended = await self._send_all(network, key, items, left)
            nursery.cancel_scope.cancel()
        return ended

    async def _connect(self, network: PeerNetwork) -> None:
        with trio.fail_after(CONNECT_S):
            while not self._is_connected(network):
                await trio.sleep(0.02)

    def _is_connected(self, network: PeerNetwork) -> bool:
        return any(peer.identity == self._world.node and peer.connected for peer in network.peers())

    async def _send_all(
        self, network: PeerNetwork, key: Keyring, items: trio.MemoryReceiveChannel[Item], left: list[Item]
    ) -> bool:
        limit = trio.CapacityLimiter(ASKS_AT_ONCE)
        async with trio.open_nursery() as nursery:
            for count in range(ITEMS_PER_KEY):
                try:
                    if count % ADVERTISE_EVERY == 0:
                        await self._advertise(network, key)
                    if count % PACED_EVERY == PACED_EVERY - 1:
                        await self._wait_for_turn(network, key, count)
                    item = left.pop() if left else await items.receive()
                except trio.EndOfChannel:
                    with contextlib.suppress(PeerUnreachableError):
                        await self._wait_for_turn(network, key, count)  # else the last items end with the connection
                    return True
                except PeerUnreachableError as error:
                    self.tally.refused[str(error)[:60]] += 1
                    return False
                try:
                    await self._send(network, key, item, nursery, limit)
                except PeerUnreachableError as error:
                    self.tally.refused[str(error)[:60]] += 1
                    left.append(item)
                    return False
        return False

    async def _wait_for_turn(self, network: PeerNetwork, key: Keyring, count: int) -> None:
        """Wait until the node has handled what was sent: it answers a query after that, and does not queue for ever.

        Raises:
            PeerUnreachableError: It does not answer: it listens no more to this key.
        """
        query = BatchQuery(network=self._world.network, batch_id=f"turn {key.identity.hex()} {count}")
        answered = self._turns[query.batch_id] = trio.Event()
        try:
            with trio.move_on_after(TURN_S):
                await network.send(self._world.node, to_frame(sign(key, query)))
                while self._is_connected(network):
                    with trio.move_on_after(LOOK_S):
                        await answered.wait()
                        return
        finally:
            del self._turns[query.batch_id]
        raise PeerUnreachableError("no turn came")

    async def _advertise(self, network: PeerNetwork, key: Keyring) -> None:
        """Advertise this key, and now and then those that sign certificates, so that they are known."""
        draw = Draw(f"{key.identity.hex()} advertises")
        for each in (key, *self._world.agents):
            values, _ = advertisement(draw, each, self._batches)
            await network.publish(GOSSIP_WHO, to_frame(sign(each, Advertisement(**values))))

    async def _send(
        self, network: PeerNetwork, key: Keyring, item: Item, nursery: trio.Nursery, limit: trio.CapacityLimiter
    ) -> None:
        if item.carrier == "ask":
            body = self.asks.request(item.draw, item.kind.encode())
            self._on_sent(item, body)
            await limit.acquire_on_behalf_of(item)
            nursery.start_soon(self._ask, network, item, body, limit)
            return
        signer, cls = key, item.message_class
        if item.carrier == "gossip" and cls is not CertifiedNotice and item.draw.chance(FRESH):
            signer = key_of(f"{self._world.seed} fresh {item.number}")
        signed, attachment = self.messages.signed(item.draw, cls, signer)
        frame = to_frame(signed, attachment)
        self._on_sent(item, frame)
        if item.carrier == "gossip":
            with contextlib.suppress(FrameTooLargeError):  # it is the sender's own transport that refuses it
                await network.publish(TOPIC_OF.get(cls, GOSSIP_WORK), frame)
        else:
            await network.send(self._world.node, frame)

    async def _ask(self, network: PeerNetwork, item: Item, body: bytes, limit: trio.CapacityLimiter) -> None:
        try:
            found = await network.request(self._world.node, body, ASK_S)
            self.tally.answered += 1
            self.tally.absent += found[:1] != b"\1"
        except PeerUnreachableError as error:
            self.tally.refused[f"ask: {error}"[:60]] += 1
        finally:
            limit.release_on_behalf_of(item)

    async def _hear(self, network: PeerNetwork) -> None:
        async for delivery in network.inbound():
            self._note(delivery.frame)

    async def _overhear(self, network: PeerNetwork, heard: trio.Event) -> None:
        async for gossip in network.gossip():
            if gossip.sender == self._world.node:
                heard.set()
                self._note(gossip.data)

    def _note(self, frame: bytes) -> None:
        """Keep what the node said, for items to name."""
        try:
            signed, _ = open_frame(frame, self._world.network)
        except OverlayError:
            return
        message = signed.message
        self.tally.heard[type(message).__name__] += 1
        batch = getattr(message, "batch_id", None)
        if batch in self._turns:
            self._turns[batch].set()
        else:
            remember(self._world.live, message)
