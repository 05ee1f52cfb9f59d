"""Nodes on real libp2p for tests: over loopback, in this process."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import trio
from libp2p.custom_types import TProtocol
from libp2p.peer.peerinfo import PeerInfo, info_from_p2p_addr
from multiaddr import Multiaddr

from node.network.p2p import TransportConfig, open_transport
from node.network.p2p.network import PeerNetwork
from node.network.p2p.stack import Host, build_host
from node.network.transport import PeerUnreachableError, Transport
from node.runtime.containment import Quarantine
from protocols.errors import ClientFault

SECRETS = count(1)
ROOT = Path(__file__).parents[3]
WORK = TProtocol("/test/jobs/1")


def secret() -> bytes:
    return next(SECRETS).to_bytes(32, "big")


async def answer(sender: bytes, body: bytes) -> bytes:
    if body == b"refuse":
        raise ClientFault("not for you")
    if body == b"stall":
        await trio.sleep_forever()
    return sender + body


@asynccontextmanager
async def node(*bootstrap: str, key: bytes | None = None, **settings: Any) -> AsyncIterator[PeerNetwork]:
    config = TransportConfig(
        secret=key or secret(), network="test", topics=("jobs",), bootstrap=bootstrap, redial_s_max=1.0, **settings
    )
    async with open_transport(config, answer, Quarantine()) as network:
        yield network


async def until(holds: Callable[[], bool], within_s: float = 10.0) -> None:
    with trio.fail_after(within_s):
        while not holds():
            await trio.sleep(0.02)


async def connected(network: Transport, *peers: bytes) -> None:
    await until(lambda: {view.identity for view in network.peers() if view.connected} >= set(peers))


async def asked(network: Transport, peer: bytes, within_s: float = 10.0) -> bytes:
    """Ask until there is an answer: frames may be lost, and are, when a peer dies."""
    with trio.fail_after(within_s):
        while True:
            try:
                return await network.request(peer, b"hello", 1.0)
            except PeerUnreachableError:
                await trio.sleep(0.05)


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[PeerNetwork, PeerNetwork]]:
    async with node() as first, node(first.addresses[0]) as second:
        await connected(first, second.identity)
        await connected(second, first.identity)
        yield first, second


def identity(host: Host) -> bytes:
    return host.get_id().to_bytes()[-33:]


@asynccontextmanager
async def attacker(victim: PeerNetwork) -> AsyncIterator[Host]:
    """A libp2p host that does what the test says, connected to the victim."""
    host = build_host(secret(), ())
    async with host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        await host.connect(there(victim))
        yield host


def there(victim: PeerNetwork) -> PeerInfo:
    return info_from_p2p_addr(Multiaddr(victim.addresses[0]))
