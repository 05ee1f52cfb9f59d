"""What a peer sends that reaches a bug, or is more than its share, is dropped: the next message is served."""

import pytest
import trio

from node.network.quotas import FRAMES, FRAMES_OF_A_KIND, STRANGER_FRAMES, STRANGER_GOSSIP, InboundQuotas
from protocols.advertisement import InvalidTopicError
from protocols.envelope import sign, to_frame
from protocols.errors import OverlayError, WorldFault
from protocols.messages import Advertisement, Signed
from storage.errors import DatabaseUnavailableError
from tests.network_of_keys import KeySigner
from tests.node.network.test_receiver import (
    ADVERTISED,
    CONFIRMED,
    GOOD,
    OTHER,
    PEER,
    STRANGER,
    Reception,
    advertisement,
    sealed,
)

# --- the fence -----------------------------------------------------------------------------------------------


async def test_a_message_that_reaches_a_bug_is_dropped_and_its_sender_struck() -> None:
    at = Reception()
    at.broken_by = {PEER.identity}
    bad, good = to_frame(sign(PEER, advertisement())), to_frame(sign(OTHER, advertisement()))
    await at.gossip(bad)
    await at.gossip(good, sender=OTHER)
    assert [each.signer for each in at.advertised] == [OTHER.identity], "the next message is served"
    assert at.struck("quarantined")
    assert at.quarantine.counts["gossip"] == 1
    assert at.transport.disconnected == []
    await at.gossip(bad)
    assert at.transport.disconnected == [PEER.identity], "two in a row"


async def test_a_frame_that_reaches_a_bug_is_dropped_and_its_sender_struck(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(*arguments: object, **members: object) -> None:
        raise ValueError("a bug of this node")

    at = Reception()
    monkeypatch.setattr("protocols.certificate.verify_quorum", break_down)
    frame = to_frame(sign(PEER, sealed()))
    assert await at.stream(frame, frame) == []
    assert len(await at.stream(GOOD)) == 1, "the next frame is served"
    assert at.quarantine.counts["frame"] == 2
    assert at.faults == ["quarantined", "quarantined"]
    assert at.transport.disconnected == [PEER.identity]


@pytest.mark.parametrize("error", [DatabaseUnavailableError("away"), InvalidTopicError("of a client")])
async def test_what_the_surroundings_broke_restarts_the_component(error: OverlayError) -> None:
    """Only the sender of what is at fault is struck: a database that is away is not its fault."""

    async def fail(signed: Signed[Advertisement]) -> None:
        raise error

    at = Reception()
    at.receiver._on_advertisement = fail  # where the directory would be
    frame = to_frame(sign(PEER, advertisement()))
    if isinstance(error, WorldFault):
        with pytest.raises(DatabaseUnavailableError):
            await at.gossip(frame)
        assert at.transport.struck == []
    else:
        await at.gossip(frame)
        assert at.struck(error.code), "whatever its kind, a fault in a peer's message is the peer's"


# --- quotas --------------------------------------------------------------------------------------------------


async def test_strangers_share_one_quota_of_gossip_and_known_nodes_go_on(autojump_clock: object) -> None:
    """A key costs nothing to make: a bucket for each would bound nothing."""
    at = Reception()
    taken = 0
    for number in range(int(STRANGER_GOSSIP.burst) + 50):
        stranger = KeySigner(f"stranger {number}")
        at.strangers.add(stranger.identity)
        before = len(at.advertised)
        await at.gossip(ADVERTISED, sender=stranger)
        taken += len(at.advertised) - before
    assert taken == STRANGER_GOSSIP.burst
    assert at.faults == ["past-quota"] * 50
    assert at.transport.struck == [], "it may be a node among many that join"
    await at.gossip(ADVERTISED, sender=OTHER)
    assert len(at.advertised) == taken + 1
    await trio.sleep(1)
    await at.gossip(ADVERTISED, sender=STRANGER)
    assert len(at.advertised) == taken + 2, "there is room again"


async def test_a_peer_s_frames_are_bounded_by_kind_and_in_all(autojump_clock: object) -> None:
    at = Reception()
    quotas = InboundQuotas(lambda identity: identity != STRANGER.identity)
    for _ in range(int(FRAMES_OF_A_KIND.burst)):
        assert quotas.take_kind(PEER.identity, "Bid")
    assert not quotas.take_kind(PEER.identity, "Bid")
    assert quotas.take_kind(PEER.identity, "Award")
    assert quotas.take_kind(OTHER.identity, "Bid")
    assert sum(quotas.take_frame(PEER.identity) for _ in range(int(2 * FRAMES.burst))) == FRAMES.burst
    assert sum(quotas.take_frame(STRANGER.identity) for _ in range(10_000)) == STRANGER_FRAMES.burst
    assert await at.stream(*[to_frame(sign(STRANGER, CONFIRMED))] * 100, sender=STRANGER) == []
    assert at.faults == []


async def test_an_honest_load_stays_within_the_quotas(autojump_clock: object) -> None:
    """20 batches a second with ten messages of each of five kinds, and a backlog of 1,000 batches at the start."""
    quotas = InboundQuotas(lambda identity: True)
    kinds = ("WorkOrder", "CertifyOrder", "HoldBatch", "BatchSealed", "BatchQuery")
    for batches in (1_000, *[20] * 60):
        for kind in kinds * 2:
            assert all(
                quotas.take_frame(PEER.identity) and quotas.take_kind(PEER.identity, kind) for _ in range(batches)
            )
        await trio.sleep(1)
