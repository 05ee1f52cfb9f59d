"""Peers that mean harm, over real libp2p: a process that attacks nodes as ``tests.faults.strangers`` orders.

They join the network through one node, with one fresh key after the other. Each advertises, sends well-formed
messages of all kinds with hostile values to that node and by gossip to all, floods, and answers requests with
rubbish.
"""

import random
from collections import Counter
from contextlib import suppress
from typing import Final

import trio

from node.delivery.announcer import GOSSIP_CERTIFIED
from node.network.discovery import GOSSIP_WHO
from node.network.p2p import TransportConfig, open_transport
from node.network.p2p.network import PeerNetwork
from node.network.sender import GOSSIP_WORK
from node.network.transport import PeerUnreachableError
from node.runtime.containment import Quarantine
from node.runtime.keyring import Keyring
from protocols.envelope import digest
from protocols.errors import OverlayError
from protocols.messages import IdentityKey
from scripts.fuzzing.messages import Messages
from scripts.fuzzing.values import Draw
from scripts.fuzzing.world import World, agents_of, key_of
from tests.faults.strangers import Order, Report, obey
from tests.network_of_keys import NETWORK
from tests.node.network.hostile_transport import Sent
from tests.node.network.test_any_message import POLICIES, advertised, drawn

MESSAGES: Final = 60  # of a key
FLOOD: Final = 300
REQUESTS: Final = 20
CONNECT_S: Final = 3.0
REQUEST_S: Final = 0.5
TOPICS: Final = (GOSSIP_WORK, GOSSIP_WHO, GOSSIP_CERTIFIED)


class Stranger:
    """One key's stay."""

    def __init__(self, network: PeerNetwork, signer: Keyring, world: World, chance: random.Random) -> None:
        self.sent: Counter[str] = Counter()
        self._network = network
        self._signer = signer
        self._world = world
        self._victim = world.node
        self._chance = chance

    async def stay(self) -> None:
        with trio.move_on_after(CONNECT_S):
            while not any(peer.connected for peer in self._network.peers()):
                await trio.sleep(0.02)
        await self._send(advertised(self._signer))
        await self._say_all()
        await self._ask()
        await self._flood()

    async def _say_all(self) -> None:
        """Messages of all kinds in turn, each with hostile values and a signature that holds."""
        messages, first = Messages(self._world), self._chance.getrandbits(32)
        for number in range(first, first + MESSAGES):
            draw = Draw(f"{self._world.seed} {number}")
            await self._send(drawn(messages, draw, self._world, number, self._signer))

    async def _send(self, sent: Sent) -> None:
        with suppress(PeerUnreachableError, OverlayError):
            if sent.by_gossip:
                await self._network.publish(self._chance.choice(TOPICS), sent.frame)
            else:
                await self._network.send(self._victim, sent.frame)
            self.sent["messages"] += 1

    async def _ask(self) -> None:
        for _ in range(REQUESTS):
            with suppress(PeerUnreachableError):
                await self._network.request(self._victim, rubbish(self._chance), REQUEST_S)
            self.sent["requests"] += 1

    async def _flood(self) -> None:
        """Advertisements of keys that nobody has, each well-formed."""
        for _ in range(FLOOD):
            await self._send(advertised(key_of(str(self._chance.random()))))
            self.sent["flood"] += 1


def made_world(victim: IdentityKey, seed_: int) -> World:
    """What messages name: agents that nobody has heard of, and no source of the node's."""
    return World(
        seed=f"stranger {seed_}",
        network=NETWORK,
        node=victim,
        agents=agents_of(f"stranger {seed_}"),
        policies={digest(each): each for each in POLICIES},
        sources={"farm": ({"value": 1}, {"value": "x", "other": [1, 2]})},
    )


def rubbish(chance: random.Random) -> bytes:
    """What is no request and no answer; often nearly one."""
    return chance.choice(
        [
            b"",
            b"\0",
            b"\xa0",
            b"\x80",
            b"\x9f",
            b"\xbf\x00",
            b"\x81" * 400,
            b"\x1b" + b"\xff" * 8,
            chance.randbytes(300),
        ]
    )


async def run(address: str, victim: IdentityKey, seed_: int, seconds: float) -> Counter[str]:
    chance = random.Random(seed_)
    total: Counter[str] = Counter()
    world = made_world(victim, seed_)

    async def answer(sender: IdentityKey, body: bytes) -> bytes:
        total["answers"] += 1
        return rubbish(chance)

    with trio.move_on_after(seconds):
        while True:
            signer = key_of(f"stranger {seed_} {total['keys']}")
            total["keys"] += 1
            config = TransportConfig(
                secret=signer.key.to_bytes(), network=NETWORK, topics=TOPICS, bootstrap=(address,), redial_s_max=1.0
            )
            async with open_transport(config, answer, Quarantine()) as network:
                stranger = Stranger(network, signer, world, chance)
                try:
                    await stranger.stay()
                finally:
                    total += stranger.sent
    return total


def attack_for(order: Order) -> Report:
    sent = trio.run(run, order["address"], bytes.fromhex(order["identity"]), order["seed"], order["seconds"])
    return {"attacks": {f"peers' {kind}": count for kind, count in sent.items()}, "statuses": {}, "wrong": []}


if __name__ == "__main__":
    obey(attack_for)
