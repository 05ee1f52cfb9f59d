"""Whatever well-formed message a peer sends, the node that gets it goes on: a real node, over a real database.

``scripts/fuzz run`` sends such messages to a process; here what they do is seen from inside.
"""

from collections.abc import Iterable
from contextlib import suppress

import attrs
import orjson
import trio

from agents.policy import policy_document
from node.network.transport import Gossip, InboundFrame
from node.runtime.config import load
from node.runtime.containment import Quarantine
from node.runtime.keyring import Keyring
from node.runtime.workers import Workers
from protocols.envelope import digest, sign, to_frame
from protocols.errors import OverlayError
from protocols.messages import Advertisement, IdentityKey
from scripts.fuzzing import policies
from scripts.fuzzing.asks import Asks
from scripts.fuzzing.coherent import Batches, advertisement
from scripts.fuzzing.items import Item, Items
from scripts.fuzzing.messages import Messages
from scripts.fuzzing.values import Draw
from scripts.fuzzing.world import World, agents_of
from storage.database import Database
from tests.node.running import until
from tests.node.test_app import ENVIRONMENT, KEY, SOURCE, Lone, NoPeers, made, running

NETWORK = "test-network"
SEED = "any message"
ITEMS = 900
AGENTS = agents_of(SEED)
POLICIES = [policy_document(policies.at_basic(example.policy)) for example in policies.examples()]


class HostileTransport(NoPeers):
    """A transport that hands in what the test sends, and loses what the node sends."""

    def __init__(self, identity: IdentityKey) -> None:
        super().__init__(identity)
        self.struck: list[IdentityKey] = []
        self.frames, self._frames = trio.open_memory_channel[InboundFrame](1)
        self.heard, self._heard = trio.open_memory_channel[Gossip](1)

    def gossip(self) -> trio.MemoryReceiveChannel[Gossip]:
        return self._heard

    def inbound(self) -> trio.MemoryReceiveChannel[InboundFrame]:
        return self._frames

    def learn(self, identity: IdentityKey, addresses: Iterable[str]) -> None:
        """Nobody is dialled."""

    def strike(self, identity: IdentityKey, reason: str) -> None:
        self.struck.append(identity)


@attrs.frozen
class HostilePeers:
    """The agents, what they send, and how it is handed to a node."""

    lone: Lone
    transport: HostileTransport
    world: World
    messages: Messages
    asks: Asks

    @classmethod
    def of(cls, lone: Lone, transport: HostileTransport) -> "HostilePeers":
        world = World(
            seed=SEED,
            network=NETWORK,
            node=KEY.identity,
            agents=AGENTS,
            policies={digest(each): each for each in POLICIES},
            sources={"farm": ({"value": 1},)},
        )
        messages = Messages(world)
        return cls(lone, transport, world, messages, Asks(world, messages))

    async def advertise(self, agent: Keyring) -> None:
        values, _ = advertisement(Draw(agent.identity.hex()), agent, Batches(self.world))
        frame = to_frame(sign(agent, Advertisement(**values)))
        await self.transport.heard.send(Gossip(topic="who", sender=agent.identity, data=frame))

    async def hand_in(self, item: Item) -> None:
        agent = item.draw.pick(AGENTS)
        if item.carrier == "ask":
            with suppress(OverlayError):  # whose code the transport sends
                await self.lone.requests.answer(agent.identity, self.asks.request(item.draw, item.kind.encode()))
            return
        frame = to_frame(*self.messages.signed(item.draw, item.message_class, agent))
        if item.carrier == "gossip":
            await self.transport.heard.send(Gossip(topic="jobs", sender=agent.identity, data=frame))
        else:
            await self.transport.frames.send(InboundFrame(sender=agent.identity, frame=frame))


async def send_all(peers: HostilePeers) -> None:
    drawn = Items(SEED, tags=peers.asks.tags, operations=(), changing=(), sockets=(), groups=("messages",))
    for number in range(ITEMS):
        item = drawn.item(number)
        try:
            await peers.hand_in(item)
        except BaseException:
            print(f"at item {number}: {item}")  # what ended it is among the latest
            raise


async def test_any_well_formed_message_leaves_the_node_running(postgres_url: str) -> None:
    transport, quarantine = HostileTransport(KEY.identity), Quarantine()
    with Database(postgres_url) as database:
        async with Workers(1) as workers:
            settings = load(None, ENVIRONMENT | {"OVERLAY_NETWORK": NETWORK, "OVERLAY_SHUTDOWN_GRACE_S": "0.2"})
            lone = made(settings, database, workers, transport, quarantine)
            peers = HostilePeers.of(lone, transport)

            async def use() -> None:
                assert set(peers.asks.tags) == set(lone.requests.tags), "each kind of request is drawn"
                for agent in AGENTS:
                    await peers.advertise(agent)
                assert (await lone.call("POST", "/overlay/sources", SOURCE))[0] == 201
                for policy in POLICIES:
                    assert (await lone.call("POST", "/overlay/policies", orjson.loads(policy)))[0] == 201
                await lone.post(1, 2)
                await send_all(peers)
                await until(lambda: lone.node.state.driver.depth == 0, 60)
                await lone.post(3)
                assert (await lone.call("GET", "/readyz"))[0] == 200
                for path in ("agents", "peers", "jobs", "batches", "events", "certificates", "dead-letters"):
                    status, answer = await lone.call("GET", f"/overlay/{path}")
                    assert status < 500, (path, answer)

            await running(lone, use)
    assert transport.struck, "some of it is refused"
    assert not any(quarantine.counts.values()), quarantine.counts
