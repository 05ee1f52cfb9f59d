"""Peers that flood a network: advertisements of fresh keys, batches to hold, and orders that rest on no award.

``python -m tests.e2e.flooding_peer ADDRESS...`` prepares its messages, writes a line, waits for one, floods the nodes
at these addresses, and writes a line when all is sent.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Final

import attrs
import structlog
import trio

from node.network.discovery import GOSSIP_WHO, make_tokens
from node.network.p2p import TransportConfig, open_transport
from node.network.p2p.network import PeerNetwork
from node.network.transport import PeerUnreachableError
from node.runtime.clock import clock_ms
from node.runtime.containment import Quarantine
from protocols.envelope import sign, to_frame
from protocols.errors import ClientFault
from protocols.messages import Advertisement, Award, HoldBatch, IdentityKey, Role, WorkOrder
from tests.network_of_keys import NETWORK, KeySigner, certified
from tests.node.coordination.workbench import packed
from tests.node.network.advertising import offer

KEYS: Final = 3_500
COORDINATORS: Final = 6
HOLDS: Final = 60  # of each coordinator, at each node
ORDERS: Final = 40
ORDER_BYTES: Final = 256 * 1024
TTL_MS: Final = 600_000
PAUSE_S: Final = 0.08  # between two advertisements of one peer: about 60 a second reach every node
BATCH: Final = certified(events=5)


def advertisement(signer: KeySigner, roles: Sequence[Role], topics: Sequence[str] = ()) -> bytes:
    now_ms, own = clock_ms(), offer(roles=roles, topics=topics)
    message = Advertisement(
        network=NETWORK,
        sequence=now_ms,
        issued_ms=now_ms,
        expires_ms=now_ms + TTL_MS,
        tokens=make_tokens(signer.key, own),
        addresses=("/ip4/127.0.0.1/tcp/9",),
        url=own.url,
        capacity=1,
        price=0,
        operator=signer.identity.hex(),
        region="",
        build="",
    )
    return to_frame(sign(signer, message))


def holds(coordinator: KeySigner, holder: IdentityKey) -> Iterator[bytes]:
    """Orders to hold a batch, of one coordinator that nobody heard of: each batch is another, and well-formed."""
    for number in range(HOLDS):
        manifest = attrs.evolve(
            BATCH.manifest.message, coordinator=coordinator.identity, source_sequence=number, received_ms=clock_ms()
        )
        order = HoldBatch(
            network=NETWORK,
            manifest=sign(coordinator, manifest),
            holders=(holder,),
            stateful=False,
            after="",
            context=b"{}",
        )
        yield to_frame(sign(coordinator, order), packed(BATCH))


def orders(coordinator: KeySigner, agent: IdentityKey) -> Iterator[bytes]:
    """Orders to work on a batch under an award of no announcement, with bytes attached that are no batch."""
    for number in range(ORDERS):
        award = Award(
            network=NETWORK,
            lease_id=f"lease_{number}",
            announcement_id=f"job_{number}",
            agent=agent,
            roles=(Role.VALIDATE,),
            batches=1,
            expires_ms=clock_ms() + TTL_MS,
        )
        manifest = attrs.evolve(
            BATCH.manifest.message, coordinator=coordinator.identity, source_sequence=HOLDS + number
        )
        order = WorkOrder(
            network=NETWORK, award=award, manifest=sign(coordinator, manifest), context=b"{}", attempt=1
        )
        yield to_frame(sign(coordinator, order), os.urandom(ORDER_BYTES))


async def refuse(sender: IdentityKey, body: bytes) -> bytes:
    """Nothing is to be had here: another answer would be a fault, and end the flood early."""
    raise ClientFault("not for you")


async def connect(stack: AsyncExitStack, signer: KeySigner, addresses: Sequence[str]) -> PeerNetwork:
    config = TransportConfig(
        secret=signer.key.to_bytes(), network=NETWORK, topics=(GOSSIP_WHO,), bootstrap=tuple(addresses)
    )
    transport = await stack.enter_async_context(open_transport(config, refuse, Quarantine()))
    with trio.fail_after(60):
        while sum(peer.connected for peer in transport.peers()) < len(addresses):
            await trio.sleep(0.1)
    return transport


async def flood(transport: PeerNetwork, coordinator: KeySigner, gossip: Sequence[bytes], *, has_orders: bool) -> None:
    """Send all. One with orders is cut off by then: what is attached to them is another payload than they name."""
    targets = [peer.identity for peer in transport.peers() if peer.connected]
    async with trio.open_nursery() as nursery:
        for target in targets:
            frames = [*holds(coordinator, target), *(orders(coordinator, target) if has_orders else ())]
            nursery.start_soon(send_all, transport, target, frames)
        for frame in gossip:
            await transport.publish(GOSSIP_WHO, frame)
            await trio.sleep(PAUSE_S)


async def send_all(transport: PeerNetwork, target: IdentityKey, frames: Sequence[bytes]) -> None:
    for frame in frames:
        with suppress(PeerUnreachableError):
            await transport.send(target, frame)


async def main(addresses: Sequence[str]) -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # the test reads the other stream
    coordinators = [KeySigner(f"flooding {number} of {os.getpid()}") for number in range(COORDINATORS)]
    gossip = [advertisement(KeySigner(f"fresh {number} of {os.getpid()}"), tuple(Role)) for number in range(KEYS)]
    async with AsyncExitStack() as stack:
        transports = [await connect(stack, each, addresses) for each in coordinators]
        for transport, coordinator in zip(transports, coordinators, strict=True):
            await transport.publish(GOSSIP_WHO, advertisement(coordinator, (), ("flood",)))
        sys.stdout.write("prepared\n")
        sys.stdout.flush()
        await trio.to_thread.run_sync(sys.stdin.readline)
        async with trio.open_nursery() as nursery:
            for place, transport in enumerate(transports):
                share = gossip[place::COORDINATORS]
                nursery.start_soon(partial(flood, transport, coordinators[place], share, has_orders=place == 0))
        sys.stdout.write("flooded\n")
        sys.stdout.flush()
        await trio.to_thread.run_sync(sys.stdin.readline)


if __name__ == "__main__":
    trio.run(main, sys.argv[1:])
