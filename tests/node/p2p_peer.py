"""A peer in a process of its own: echoes requests, sends back one-way frames, says where it listens.

Arguments: secret (hex), listen address, bootstrap addresses. Ends when its standard input does.
"""

import sys

import trio

from node.network.p2p import TransportConfig, open_transport
from node.network.p2p.network import PeerNetwork
from node.network.transport import PeerUnreachableError
from node.runtime.containment import Quarantine


async def echo(sender: bytes, body: bytes) -> bytes:
    return sender + body


async def send_back(network: PeerNetwork) -> None:
    async for delivery in network.inbound():
        try:
            await network.send(delivery.sender, b"back:" + delivery.frame)
        except PeerUnreachableError:
            print("unreachable", flush=True)


async def main() -> None:
    secret, listen, *bootstrap = sys.argv[1:]
    config = TransportConfig(
        secret=bytes.fromhex(secret),
        network="test",
        topics=("jobs",),
        listen=(listen,),
        bootstrap=tuple(bootstrap),
        redial_s_max=1.0,
    )
    async with open_transport(config, echo, Quarantine()) as network, trio.open_nursery() as nursery:
        nursery.start_soon(send_back, network)
        print(network.addresses[0], flush=True)
        await trio.lowlevel.wait_readable(sys.stdin.fileno())
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
