"""Whose fault a failure over a peer's item is, and what follows for the peer."""

import pytest

from node.network.inbound_fence import QUARANTINED, InboundFence
from node.runtime.containment import Quarantine
from protocols.errors import MalformedError, OwnFault, WorldFault
from storage.errors import SchemaError, StatementError, StorageRefusedError
from tests.network_of_keys import AGENTS
from tests.node.memory_transport import MemoryTransport

PEER = AGENTS[1].identity


class Fenced:
    def __init__(self) -> None:
        self.transport = MemoryTransport(AGENTS[0].identity)
        self.quarantine = Quarantine()
        self.fence = InboundFence(self.quarantine, self.transport)

    def handle(self, failure: Exception) -> None:
        with self.fence.contain("frame", PEER, b"bytes"):
            raise failure


@pytest.mark.parametrize("failure", [SchemaError("no table"), StatementError("no such operator"), OwnFault("ours")])
def test_nobody_is_struck_for_what_this_node_broke_itself(failure: OwnFault) -> None:
    """Fails where every fault counts against the sender: a node with a bug cut itself off from all honest peers."""
    fenced = Fenced()
    for _ in range(3):
        fenced.handle(failure)
    assert fenced.quarantine.counts["frame"] == 3
    assert (fenced.transport.struck, fenced.transport.disconnected) == ([], [])


@pytest.mark.parametrize("failure", [MalformedError("no frame"), StorageRefusedError("U+0000")])
def test_the_sender_of_what_cannot_be_is_struck(failure: Exception) -> None:
    fenced = Fenced()
    fenced.handle(failure)
    assert [peer for peer, _ in fenced.transport.struck] == [PEER]
    assert not any(fenced.quarantine.counts.values())


def test_two_bugs_in_a_row_close_the_sender_s_connections() -> None:
    fenced = Fenced()
    fenced.handle(KeyError("a bug"))
    assert fenced.transport.disconnected == []
    fenced.handle(IndexError("a bug"))
    assert fenced.transport.struck == [(PEER, QUARANTINED)] * 2
    assert fenced.transport.disconnected == [PEER]


def test_the_world_s_faults_are_left_to_the_caller() -> None:
    fenced = Fenced()
    with pytest.raises(WorldFault):
        fenced.handle(WorldFault("the database is away"))
    assert fenced.transport.struck == []
