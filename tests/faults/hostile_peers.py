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
from hypothesis import HealthCheck, Phase, given, seed, settings

from node.delivery.announcer import GOSSIP_CERTIFIED
from node.network.discovery import GOSSIP_WHO
from node.network.p2p import TransportConfig, open_transport
from node.network.p2p.network import PeerNetwork
from node.network.sender import GOSSIP_WORK
from node.network.transport import PeerUnreachableError
from node.runtime.containment import Quarantine
from protocols.errors import OverlayError
from protocols.messages import IdentityKey
from tests.faults.strangers import Order, Report, obey
from tests.network_of_keys import NETWORK, KeySigner
from tests.node.network.hostile_messages import HostilePeers, Sent
from tests.node.network.test_any_message import advertised

MESSAGES: Final = 60  # of a key
FLOOD: Final = 300
REQUESTS: Final = 20
CONNECT_S: Final = 3.0
REQUEST_S: Final = 0.5
TOPICS: Final = (GOSSIP_WORK, GOSSIP_WHO, GOSSIP_CERTIFIED)


class Stranger:
    """One key's stay."""

    def __init__(self, network: PeerNetwork, signer: KeySigner, victim: IdentityKey, chance: random.Random) -> None:
        self.sent: Counter[str] = Counter()
        self._network = network
        self._signer = signer
        self._victim = victim
        self._chance = chance

    async def stay(self) -> None:
        with trio.move_on_after(CONNECT_S):
            while not any(peer.connected for peer in self._network.peers()):
                await trio.sleep(0.02)
        await self._send(advertised(self._signer))
        await trio.to_thread.run_sync(self._say_all, abandon_on_cancel=True)  # type: ignore[call-arg]  # older stubs
        await self._ask()
        await self._flood()

    def _say_all(self) -> None:
        """What hypothesis draws, which wants a thread of its own."""

        @seed(self._chance.getrandbits(32))
        @settings(
            max_examples=MESSAGES,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(HostilePeers(self._victim, (self._signer,)).sent())
        def say(sent: Sent) -> None:
            trio.from_thread.run(self._send, sent)

        say()

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
            await self._send(advertised(KeySigner(str(self._chance.random()))))
            self.sent["flood"] += 1


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

    async def answer(sender: IdentityKey, body: bytes) -> bytes:
        total["answers"] += 1
        return rubbish(chance)

    with trio.move_on_after(seconds):
        while True:
            signer = KeySigner(f"stranger {seed_} {total['keys']}")
            total["keys"] += 1
            config = TransportConfig(
                secret=signer.key.to_bytes(), network=NETWORK, topics=TOPICS, bootstrap=(address,), redial_s_max=1.0
            )
            async with open_transport(config, answer, Quarantine()) as network:
                stranger = Stranger(network, signer, victim, chance)
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
