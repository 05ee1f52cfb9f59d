"""Whoever is connected hears the gossip: what the library gives up or forgets is renewed."""

from collections.abc import Sequence

import pytest
import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.host.exceptions import StreamFailure
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11

from node.network.p2p import gossip
from node.network.p2p.network import PeerNetwork
from tests.node.network.p2p_nodes import connected, node, until


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gossip, "RENEW_S", 0.2)


async def hears(listener: PeerNetwork, speaker: PeerNetwork, data: bytes) -> None:
    with trio.fail_after(20):
        while True:
            await speaker.publish("jobs", data)
            with trio.move_on_after(0.5):
                while (await listener.gossip().receive()).data != data:
                    pass
                return


async def test_a_gossip_stream_that_could_not_be_negotiated_is_opened_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy peer lets the time for it pass. The library tries again after errors of connections alone."""
    failures: list[ID] = []
    real = BasicHost.new_stream

    async def new_stream(host: BasicHost, peer_id: ID, protocols: Sequence[TProtocol]) -> INetStream:
        if PROTOCOL_ID_V11 in protocols and failures.count(peer_id) < 2:
            failures.append(peer_id)
            raise StreamFailure("response timed out after 8s")
        return await real(host, peer_id, protocols)

    monkeypatch.setattr(BasicHost, "new_stream", new_stream)
    async with node() as first, node(first.addresses[0]) as second:
        await connected(first, second.identity)
        await connected(second, first.identity)
        await until(lambda: len(failures) >= 4)
        await hears(first, second, b"from the second")
        await hears(second, first, b"from the first")


async def test_topics_that_were_told_are_told_again() -> None:
    """When a stream breaks the library forgets what the neighbour subscribed to over another one, which stands."""
    async with node() as first, node(first.addresses[0]) as second:
        await connected(first, second.identity)
        await hears(second, first, b"before")
        streams = first._gossip.pubsub.peers
        (broken,) = streams.values()
        await broken.reset()
        await first.publish("jobs", b"lost with the stream")
        await until(lambda: list(streams.values()) not in ([broken], []))
        await hears(second, first, b"after")
