"""What reaches a bug in the transport ends with its request or its connection: the node and other peers go on."""

from contextlib import suppress

import pytest
import trio
from libp2p.pubsub.pubsub import Pubsub

from node.network.p2p import TransportConfig, open_transport
from node.network.p2p.connector import LINK_ERRORS
from node.network.p2p.stack import BoundedYamux
from node.network.transport import PeerUnreachableError
from node.runtime.containment import Quarantine
from storage.errors import SchemaError, StatementError
from tests.node.network.p2p_nodes import WORK, asked, attacker, connected, identity, node, secret, there, until


async def break_down(*arguments: object) -> None:
    raise KeyError("a bug of this node")


async def test_a_request_that_reaches_a_bug_is_answered_with_a_failure() -> None:
    async def answer(sender: bytes, body: bytes) -> bytes:
        if body == b"bad":
            raise KeyError("a bug of this node")
        return body

    quarantine = Quarantine()
    config = TransportConfig(secret=secret(), network="test", topics=("jobs",))
    async with open_transport(config, answer, quarantine) as network, node(network.addresses[0]) as peer:
        await connected(peer, network.identity)
        await asked(peer, network.identity)
        with pytest.raises(PeerUnreachableError, match="internal"):
            await peer.request(network.identity, b"bad", 5.0)
        assert quarantine.counts["request"] == 1
        assert network.faults.count(peer.identity) == 1
        assert await peer.request(network.identity, b"good", 5.0) == b"good"


async def test_nobody_is_struck_for_what_this_node_broke_itself() -> None:
    async def answer(sender: bytes, body: bytes) -> bytes:
        raise StatementError("a statement is wrong") if body == b"statement" else SchemaError("a table is missing")

    quarantine = Quarantine()
    config = TransportConfig(secret=secret(), network="test", topics=("jobs",))
    async with open_transport(config, answer, quarantine) as network, node(network.addresses[0]) as peer:
        await connected(peer, network.identity)
        for body in (b"statement", b"schema", b"statement"):
            with pytest.raises(PeerUnreachableError, match="internal"):
                await peer.request(network.identity, body, 5.0)
        assert quarantine.counts["request"] == 3
        assert network.faults.count(peer.identity) == 0


async def test_a_stream_that_reaches_a_bug_ends_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    quarantine = Quarantine()
    config = TransportConfig(secret=secret(), network="test", topics=("jobs",))
    async with open_transport(config, break_down, quarantine) as network:  # type: ignore[arg-type]
        with monkeypatch.context() as broken:
            broken.setattr("node.network.p2p.incoming.StreamReader.run", break_down)
            async with attacker(network) as host:
                with suppress(*LINK_ERRORS):
                    await host.new_stream(there(network).peer_id, [WORK])
                await until(lambda: quarantine.counts["connection"] > 0)
                assert network.faults.count(identity(host)) > 0
        async with attacker(network) as host:
            await host.new_stream(there(network).peer_id, [WORK])


@pytest.mark.parametrize(
    ("owner", "method"),
    [(BoundedYamux, "handle_incoming"), (Pubsub, "handle_sending_messages"), (Pubsub, "continuously_read_stream")],
)
async def test_a_task_of_the_library_that_reaches_a_bug_ends_alone(
    monkeypatch: pytest.MonkeyPatch, owner: type, method: str
) -> None:
    """libp2p runs its tasks in nurseries that end with the first one that raises."""
    quarantine = Quarantine()
    config = TransportConfig(secret=secret(), network="test", topics=("jobs",), redial_s_max=0.2)
    async with open_transport(config, break_down, quarantine) as network:  # type: ignore[arg-type]
        with monkeypatch.context() as broken:
            broken.setattr(owner, method, break_down)
            async with node() as peer:
                peer.learn(network.identity, network.addresses)
                await until(lambda: quarantine.counts["connection"] > 0)
        async with node(network.addresses[0]) as other:
            await connected(other, network.identity)
            await connected(network, other.identity)
        await trio.lowlevel.checkpoint()
