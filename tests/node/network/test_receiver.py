"""Every frame of a peer is checked whole: what passes becomes a stimulus, all else is dropped and counted."""

from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from node.coordination.payloads import Payloads
from node.network.fraud_proofs import REMEMBERED_MAX, FraudProofs
from node.network.inbound_fence import InboundFence
from node.network.quotas import InboundQuotas
from node.network.receiver import Receiver
from node.network.transport import Gossip, InboundFrame
from node.runtime.caches import BytesCache
from node.runtime.containment import Quarantine
from protocols.envelope import sign, to_frame
from protocols.errors import MalformedError
from protocols.limits import FRAME_BYTES_MAX, GOSSIP_BYTES_MAX, PAYLOAD_BYTES_MAX
from protocols.messages import (
    MESSAGES,
    Advertisement,
    BatchSealed,
    Bid,
    CertifiedNotice,
    Evidence,
    FraudProof,
    IdentityKey,
    Manifest,
    Message,
    Role,
    SealConfirmed,
    Signed,
    WorkOrder,
)
from protocols.proofs import proof_of
from protocols.rules import Rules
from protocols.stimuli import (
    BidReceived,
    CertificateReceived,
    HoldReceived,
    ProofReceived,
    Stimulus,
    WorkReceived,
)
from tests.network_of_keys import AGENTS, NETWORK, KeySigner, certified, witness
from tests.node.coordination.workbench import hold, order, packed
from tests.node.memory_transport import MemoryTransport
from tests.protocols.test_codec import of_class

PEER, OTHER, SELF, STRANGER = AGENTS[:4]
BATCH = certified(quorum=2)
BATCH_ID = BATCH.manifest.message.batch_id
PAYLOAD = packed(BATCH)
STATEMENT = BATCH.certificate.statement
ALONE = [cls for cls in MESSAGES if cls not in (Advertisement, CertifiedNotice, Evidence, Manifest)]
CONFIRMED = SealConfirmed(network=NETWORK, batch_id=BATCH_ID, statement_digest=STATEMENT.digest)


class Inbox:
    """Where the driver would be."""

    def __init__(self) -> None:
        self.rules = Rules(network=NETWORK, self_key=SELF.identity)
        self.submitted: list[Stimulus] = []
        self.enqueued: list[Stimulus] = []

    async def submit(self, stimulus: Stimulus) -> None:
        await trio.lowlevel.checkpoint()
        self.submitted.append(stimulus)

    def enqueue(self, stimulus: Stimulus) -> None:
        self.enqueued.append(stimulus)


class Reception:
    """A receiver with all that it hands messages to."""

    def __init__(self) -> None:
        self.inbox: Any = Inbox()
        self.transport: Any = MemoryTransport(SELF.identity)
        self.strangers = {STRANGER.identity}
        self.unknown: set[IdentityKey] = set()
        self.advertised: list[Signed[Advertisement]] = []
        self.notices: list[Signed[Any]] = []
        self.faults: list[str] = []
        self.counted: list[tuple[str, str, int]] = []
        self.quarantine = Quarantine()
        self.broken_by: set[IdentityKey] = set()  # whose advertisements reach a bug
        self.payloads = Payloads(own=BytesCache(10), find=self._find, strike=self.transport.strike)
        self.proofs = FraudProofs(
            driver=self.inbox,  # type: ignore[arg-type]
            is_known=lambda key: key not in self.unknown,
        )
        self.receiver = Receiver(
            network=NETWORK,
            driver=self.inbox,  # type: ignore[arg-type]  # as much of one as taking messages in needs
            transport=self.transport,  # type: ignore[arg-type]
            payloads=self.payloads,
            reputations=lambda identity: {Role.NORMALIZE: 70, Role.VALIDATE: 30},
            topics=lambda identity: ("weather",),
            is_known=lambda identity: identity not in self.unknown,
            admits=lambda identity: identity not in self.strangers,
            on_advertisement=self._advertise,
            on_notice=self.notices.append,
            on_proof=self.proofs.take,
            fence=InboundFence(self.quarantine, self.transport, self.faults.append),
            quotas=InboundQuotas(lambda identity: identity not in self.strangers),
            on_received=lambda *counted: self.counted.append(counted),
        )

    async def _find(self, batch_id: str) -> bytes | None:
        return None

    async def _advertise(self, signed: Signed[Advertisement]) -> None:
        if signed.signer in self.broken_by:
            raise KeyError("a bug of this node")
        self.advertised.append(signed)

    async def stream(self, *frames: bytes, sender: KeySigner = PEER) -> Sequence[Stimulus]:
        """Deliver frames by stream; returns the stimuli that came of them."""
        return await self._serve([InboundFrame(sender=sender.identity, frame=frame) for frame in frames], [])

    async def gossip(self, *frames: bytes, sender: KeySigner = PEER) -> Sequence[Stimulus]:
        return await self._serve([], [Gossip(topic="jobs", sender=sender.identity, data=frame) for frame in frames])

    async def _serve(self, deliveries: list[InboundFrame], gossip: list[Gossip]) -> Sequence[Stimulus]:
        before = len(self.inbox.submitted)
        send, receive = trio.open_memory_channel[Any](100)
        for each in (*deliveries, *gossip):
            send.send_nowait(each)
        send.close()
        self.transport.inbound = self.transport.gossip = lambda: receive
        await (self.receiver.run_streams() if deliveries else self.receiver.run_gossip())
        found: Sequence[Stimulus] = self.inbox.submitted[before:]
        return found

    def struck(self, code: str, sender: KeySigner = PEER) -> bool:
        """Whether the sender, and nobody else, was struck once, for this."""
        return self.transport.struck == [(sender.identity, code)] and self.faults == [code]


def bid(signer: KeySigner = PEER) -> Signed[Bid]:
    message = Bid(
        network=NETWORK,
        announcement_id="a",
        roles=(Role.NORMALIZE,),
        capacity=1,
        price=0,
        operator="",
        region="",
        reason="",
    )
    return sign(signer, message)


def sealed(**members: Any) -> BatchSealed:
    return BatchSealed(network=NETWORK, **{"certificate": BATCH.certificate, **members})


def proof(culprit: KeySigner = OTHER, batch_id: str = BATCH_ID) -> FraudProof:
    honest = witness(attrs.evolve(STATEMENT, batch_id=batch_id), Role.VALIDATE, culprit).message
    twisted = attrs.evolve(honest, output_digest=bytes(32))
    return proof_of(sign(culprit, honest), sign(culprit, twisted))


# --- what passes ---------------------------------------------------------------------------------------------


async def test_an_order_comes_with_its_payload() -> None:
    at = Reception()
    signed = order(BATCH, sender=PEER).order
    (stimulus,) = await at.stream(to_frame(signed, PAYLOAD))
    assert isinstance(stimulus, WorkReceived)
    assert stimulus.order == signed
    assert await at.payloads.sent_by(PEER.identity, BATCH_ID) == PAYLOAD
    assert await at.payloads.sent_by(OTHER.identity, BATCH_ID) is None
    (stimulus,) = await at.stream(to_frame(hold(BATCH, sender=OTHER), PAYLOAD), sender=OTHER)
    assert isinstance(stimulus, HoldReceived)
    assert at.faults == []


async def test_a_payload_of_this_node_s_own_batch_is_not_kept() -> None:
    own = attrs.evolve(BATCH, manifest=sign(SELF, attrs.evolve(BATCH.manifest.message, coordinator=SELF.identity)))
    at = Reception()
    assert len(await at.stream(to_frame(order(own, sender=PEER).order, PAYLOAD))) == 1
    assert at.payloads.received_bytes == 0


async def test_a_bid_carries_what_is_known_of_the_bidder() -> None:
    (stimulus,) = await Reception().stream(to_frame(bid()))
    assert isinstance(stimulus, BidReceived)
    assert dict(stimulus.reputations) == {Role.NORMALIZE: 70, Role.VALIDATE: 30}
    assert stimulus.topics == ("weather",)


async def test_a_certificate_of_known_nodes_is_handed_on() -> None:
    (stimulus,) = await Reception().stream(to_frame(sign(PEER, sealed())))
    assert isinstance(stimulus, CertificateReceived)
    assert stimulus.sealed.signer == PEER.identity


@given(st.sampled_from(ALONE).flatmap(of_class))
async def test_messages_of_this_node_to_itself_take_the_same_way(message: Message) -> None:
    at = Reception()
    signed = Signed(message=message, signer=SELF.identity, signature=b"")
    at.receiver.to_self(signed)
    (stimulus,) = at.inbox.enqueued
    carried = attrs.asdict(stimulus, recurse=False).values()
    assert signed in carried or message in carried, "the very message that was signed"


async def test_this_node_s_own_advertisement_is_no_stimulus() -> None:
    at = Reception()
    at.receiver.to_self(sign(SELF, advertisement()))
    assert at.inbox.enqueued == []


def advertisement() -> Advertisement:
    return Advertisement(
        network=NETWORK,
        sequence=1,
        issued_ms=1,
        expires_ms=2,
        tokens=(),
        addresses=(),
        url="",
        capacity=1,
        price=0,
        operator="",
        region="",
        build="",
    )


ADVERTISED = to_frame(sign(OTHER, advertisement()))

# --- streams: what does not ----------------------------------------------------------------------------------

GOOD = to_frame(sign(PEER, CONFIRMED))


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"", "malformed"),
        (b"\0\0\0", "malformed"),
        (GOOD[:-1], "malformed"),
        (b"\xff" * 64, "malformed"),
        (bytes(FRAME_BYTES_MAX + 1), "malformed"),
        (to_frame(sign(PEER, attrs.evolve(CONFIRMED, network="elsewhere"))), "wrong-network"),
        (to_frame(attrs.evolve(sign(PEER, CONFIRMED), signature=bytes(70))), "bad-signature"),
        (to_frame(attrs.evolve(sign(OTHER, CONFIRMED), signer=PEER.identity)), "bad-signature"),
        (to_frame(sign(OTHER, CONFIRMED)), "malformed"),
        (GOOD + b"attached", "malformed"),
        (to_frame(order(BATCH, sender=PEER).order), "malformed"),
        (to_frame(hold(BATCH, sender=PEER)), "malformed"),
        (to_frame(sign(PEER, advertisement())), "malformed"),
        (to_frame(sign(PEER, proof())), "malformed"),
        (to_frame(witness(STATEMENT, Role.VALIDATE, PEER)), "malformed"),
        (to_frame(sign(PEER, BATCH.manifest.message)), "malformed"),
        (to_frame(sign(PEER, attrs.evolve(bid().message, operator="\0"))), "malformed"),
        (to_frame(sign(PEER, attrs.evolve(CONFIRMED, batch_id="batch_\0"))), "malformed"),
    ],
    ids=[
        "nothing",
        "less than a length",
        "cut short",
        "garbage",
        "past the largest frame",
        "of another network",
        "a false signature",
        "another signer's signature",
        "not signed by its sender",
        "an attachment where none belongs",
        "an order without its payload",
        "a hold without its payload",
        "an advertisement by stream",
        "a proof by stream",
        "evidence on its own",
        "a manifest on its own",
        "a text with U+0000",
        "an id with U+0000",
    ],
)
async def test_a_frame_at_fault_is_dropped_and_its_sender_struck(frame: bytes, code: str) -> None:
    at = Reception()
    assert await at.stream(frame) == []
    assert at.struck(code), (at.transport.struck, at.faults)
    (after,) = await at.stream(GOOD)
    assert after.now_ms > 0, "the next frame is served"


async def test_a_payload_past_its_bound_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.network.receiver.PAYLOAD_BYTES_MAX", len(PAYLOAD) - 1)
    assert len(PAYLOAD) < PAYLOAD_BYTES_MAX
    at = Reception()
    assert await at.stream(to_frame(order(BATCH, sender=PEER).order, PAYLOAD)) == []
    assert at.struck("malformed")
    assert at.payloads.received_bytes == 0


async def test_an_order_whose_manifest_is_not_signed_by_its_signer_is_refused() -> None:
    manifest = attrs.evolve(BATCH.manifest, signature=BATCH.manifest.signature[:-1] + b"\0")
    work: WorkOrder = attrs.evolve(order(BATCH).order.message, manifest=manifest)
    at = Reception()
    assert await at.stream(to_frame(sign(PEER, work), PAYLOAD)) == []
    assert at.struck("bad-signature")
    assert at.payloads.received_bytes == 0


async def test_messages_of_strangers_are_dropped_without_a_strike() -> None:
    """Its advertisement may be on its way."""
    at = Reception()
    frame = to_frame(sign(STRANGER, CONFIRMED))
    assert await at.stream(frame, sender=STRANGER) == []
    payload = to_frame(order(BATCH, sender=STRANGER).order, PAYLOAD)
    assert await at.stream(payload, sender=STRANGER) == []
    assert at.payloads.received_bytes == 0
    assert at.transport.struck == []
    at.strangers.clear()
    assert len(await at.stream(frame, sender=STRANGER)) == 1


async def test_a_certificate_without_its_quorum_is_a_fault() -> None:
    short = attrs.evolve(BATCH.certificate, certifications=BATCH.certificate.certifications[:1])
    at = Reception()
    assert await at.stream(to_frame(sign(PEER, sealed(certificate=short)))) == []
    assert len(at.transport.struck) == 1


@pytest.mark.parametrize("unknown", [PEER, OTHER])
async def test_a_certificate_of_keys_that_are_no_nodes_is_dropped(unknown: KeySigner) -> None:
    at = Reception()
    frame = to_frame(sign(PEER, sealed()))
    at.unknown.add(unknown.identity)
    assert await at.stream(frame) == []
    assert at.transport.struck == [], "its signers may advertise later"
    at.unknown.clear()
    assert len(await at.stream(frame)) == 1


# --- gossip --------------------------------------------------------------------------------------------------


async def test_advertisements_go_to_the_directory_even_of_strangers() -> None:
    at = Reception()
    await at.gossip(to_frame(sign(STRANGER, advertisement())), sender=STRANGER)
    assert [each.signer for each in at.advertised] == [STRANGER.identity]


async def test_what_this_node_gossiped_itself_is_left_out() -> None:
    at = Reception()
    assert await at.gossip(to_frame(sign(SELF, proof()))) == []
    await at.gossip(to_frame(sign(SELF, advertisement())))
    assert (at.advertised, at.transport.struck) == ([], [])


@pytest.mark.parametrize(
    "frame",
    [
        GOOD,
        to_frame(sign(PEER, advertisement()), b"attached"),
        to_frame(sign(PEER, attrs.evolve(advertisement(), addresses=("/ip4/127.0.0.1/tcp/1\0",)))),
        GOOD[:-2],
        bytes(GOSSIP_BYTES_MAX),
    ],
)
async def test_gossip_at_fault_counts_against_its_origin(frame: bytes) -> None:
    at = Reception()
    assert await at.gossip(frame) == []
    assert at.struck("malformed")
    assert at.advertised == []


async def test_a_proof_is_handed_on_once_whoever_sends_it() -> None:
    at = Reception()
    (stimulus,) = await at.gossip(to_frame(sign(PEER, proof())))
    assert isinstance(stimulus, ProofReceived)
    assert (stimulus.proof, stimulus.heard_from) == (proof(), PEER.identity)
    assert await at.gossip(to_frame(sign(OTHER, proof())), sender=OTHER) == []
    assert at.transport.struck == []


async def test_a_proof_against_this_node_is_handed_on_too() -> None:
    (stimulus,) = await Reception().gossip(to_frame(sign(PEER, proof(culprit=SELF))))
    assert isinstance(stimulus, ProofReceived)


async def test_a_proof_that_proves_nothing_counts_against_its_sender() -> None:
    once = witness(STATEMENT, Role.VALIDATE, OTHER)
    at = Reception()
    assert await at.gossip(to_frame(sign(PEER, FraudProof(network=NETWORK, first=once, second=once)))) == []
    assert at.struck("malformed")


async def test_a_proof_against_a_key_that_is_no_node_is_dropped() -> None:
    at = Reception()
    at.unknown.add(OTHER.identity)
    assert await at.gossip(to_frame(sign(PEER, proof()))) == []
    at.unknown.clear()
    assert len(await at.gossip(to_frame(sign(PEER, proof())))) == 1, "it is not remembered as taken"


async def test_proofs_are_remembered_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.network.fraud_proofs.REMEMBERED_MAX", 2)
    assert REMEMBERED_MAX > 2
    at = Reception()
    for batch_id in ("batch_1", "batch_2", "batch_3"):
        await at.proofs.take(proof(batch_id=batch_id), PEER.identity)
    await at.proofs.take(proof(batch_id="batch_3"), PEER.identity)
    assert len(at.inbox.submitted) == 3
    await at.proofs.take(proof(batch_id="batch_1"), PEER.identity)
    assert len(at.inbox.submitted) == 4, "the oldest was forgotten"
    with pytest.raises(MalformedError):
        await at.proofs.take(FraudProof(network=NETWORK, first=proof().first, second=proof().first), PEER.identity)


async def test_every_frame_that_opens_is_counted_by_its_carrier() -> None:
    at = Reception()
    await at.stream(GOOD, to_frame(bid()), b"garbage")
    await at.gossip(to_frame(sign(PEER, advertisement())))
    assert [(carrier, name) for carrier, name, _ in at.counted] == [
        ("stream", "SealConfirmed"),
        ("stream", "Bid"),
        ("gossip", "Advertisement"),
    ]
    assert at.counted[0][2] == len(GOOD)
