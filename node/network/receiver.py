"""Messages of peers: frames off streams and gossip become checked stimuli for the driver.

Every frame is checked whole by ``open_frame`` before anything else uses it. A frame at fault is dropped and its
sender struck; other peers are not affected.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import attrs
import structlog

from node.coordination.driver import Driver
from node.coordination.payloads import Payloads
from node.network.inbound_fence import InboundFence
from node.network.quotas import InboundQuotas
from node.network.transport import Gossip, InboundFrame, Transport
from node.runtime.clock import clock_ms
from protocols import certificate, envelope
from protocols.errors import MalformedError
from protocols.limits import PAYLOAD_BYTES_MAX
from protocols.messages import (
    Advertisement,
    Announcement,
    Award,
    BatchHeld,
    BatchQuery,
    BatchSealed,
    BatchStatus,
    Bid,
    Certification,
    CertifiedNotice,
    CertifyOrder,
    Claim,
    FraudProof,
    HoldBatch,
    IdentityKey,
    Manifest,
    Message,
    QuorumCertificate,
    Role,
    SealConfirmed,
    Signed,
    WorkOrder,
    WorkRefused,
    WorkResult,
    WorkStatus,
)
from protocols.stimuli import (
    AnnouncementReceived,
    AwardReceived,
    BidReceived,
    CertificateReceived,
    CertificationReceived,
    CertifyReceived,
    ConfirmationReceived,
    HoldConfirmed,
    HoldReceived,
    ProofReceived,
    QueryReceived,
    RefusalReceived,
    ResultReceived,
    StatusReceived,
    Stimulus,
    WorkReceived,
    WorkStatusReceived,
)

log = structlog.get_logger(__name__)

PAST_QUOTA: Final = "past-quota"
GOSSIPED = (Announcement, Advertisement, FraudProof, CertifiedNotice)


class Receiver:
    """Checks peers' messages and hands them to the driver, the directory and the notices."""

    def __init__(
        self,
        *,
        network: str,
        driver: Driver,
        transport: Transport,
        payloads: Payloads,
        reputations: Callable[[IdentityKey], Mapping[Role, int]],
        topics: Callable[[IdentityKey], tuple[str, ...]],
        is_known: Callable[[IdentityKey], bool],
        admits: Callable[[IdentityKey], bool],
        on_advertisement: Callable[[Signed[Advertisement]], Awaitable[None]],
        on_notice: Callable[[Signed[CertifiedNotice]], None],
        on_proof: Callable[[FraudProof, IdentityKey], Awaitable[None]],
        fence: InboundFence,
        quotas: InboundQuotas,
        on_received: Callable[[str, str, int], None] = lambda carrier, message, size: None,
    ) -> None:
        self._network = network
        self._driver = driver
        self._transport = transport
        self._payloads = payloads
        self._reputations = reputations
        self._topics = topics
        self._is_known = is_known
        self._admits = admits
        self._on_advertisement = on_advertisement
        self._on_notice = on_notice
        self._on_proof = on_proof
        self._fence = fence
        self._quotas = quotas
        self._on_received = on_received

    async def run_streams(self) -> None:
        """Serve frames that came over streams."""
        async for delivery in self._transport.inbound():
            with self._fence.contain("frame", delivery.sender, delivery.frame):
                await self._receive_frame(delivery)

    async def run_gossip(self) -> None:
        """Serve gossiped frames. Their signer counts, not the neighbour that passed them on."""
        async for gossip in self._transport.gossip():
            with self._fence.contain("gossip", gossip.sender, gossip.data):
                await self._receive_gossip(gossip)

    def to_self(self, signed: Signed[Message]) -> None:
        """Hand over a message of this node to itself: the same way as those of peers, without the network."""
        if not isinstance(signed.message, Advertisement):
            self._driver.enqueue(self._stimulus(signed))

    async def _receive_frame(self, delivery: InboundFrame) -> None:
        if not self._quotas.take_frame(delivery.sender):
            self._fence.drop(delivery.sender, PAST_QUOTA)
            return
        signed, attachment = envelope.open_frame(delivery.frame, self._network)
        kind = type(signed.message).__name__
        self._on_received("stream", kind, len(delivery.frame))
        if signed.signer != delivery.sender:
            raise MalformedError("the frame is signed by another node than its sender")
        if isinstance(signed.message, GOSSIPED):
            raise MalformedError(f"{type(signed.message).__name__} is sent by gossip alone, not by stream")
        if not self._quotas.take_kind(delivery.sender, kind):
            self._fence.drop(delivery.sender, PAST_QUOTA)
            return
        if not self._admits(signed.signer):
            return  # its advertisement may be on its way: what is still needed then is sent again
        if isinstance(signed.message, WorkOrder | HoldBatch):
            self._keep_payload(signed.signer, signed.message.manifest.message, attachment)
        elif attachment:
            raise MalformedError(f"{type(signed.message).__name__} must come without an attachment")
        if isinstance(signed.message, BatchSealed):
            certificate.verify_quorum(signed.message.certificate, network=self._network)
        if not self._is_by_members(signed.message):
            log.info("certificate.unknown_signer", peer=delivery.sender.hex(), message=kind)
            return
        stimulus = self._stimulus(signed)
        if isinstance(stimulus, WorkReceived):
            stimulus = attrs.evolve(stimulus, payload_bytes=len(attachment))
        await self._driver.submit(stimulus)

    def _is_by_members(self, message: Message) -> bool:
        """Whether the quorum that a message rests on consists of nodes of this network: keys cost nothing to make."""
        match message:
            case BatchSealed(certificate=quorum) | WorkOrder(claim=Claim(before=QuorumCertificate() as quorum)):
                return all(self._is_known(signed.signer) for signed in quorum.certifications)
            case _:
                return True

    def _keep_payload(self, sender: IdentityKey, manifest: Manifest, attachment: bytes) -> None:
        """Keep it for this sender's own orders; the worker that unpacks it compares it with the manifest."""
        if not 0 < len(attachment) <= PAYLOAD_BYTES_MAX:
            raise MalformedError(f"a payload of 1 to {PAYLOAD_BYTES_MAX} bytes must be attached")
        if manifest.coordinator != self._driver.rules.self_key:
            self._payloads.receive(manifest.batch_id, sender, attachment)

    async def _receive_gossip(self, gossip: Gossip) -> None:
        if not self._quotas.take_gossip(gossip.sender):
            self._fence.drop(gossip.sender, PAST_QUOTA)
            return
        signed, attachment = envelope.open_frame(gossip.data, self._network)
        self._on_received("gossip", type(signed.message).__name__, len(gossip.data))
        if not isinstance(signed.message, GOSSIPED):
            raise MalformedError(f"{type(signed.message).__name__} is sent by stream alone, not by gossip")
        if attachment:
            raise MalformedError("gossip must come without an attachment")
        if signed.signer == self._driver.rules.self_key:
            return
        if isinstance(signed.message, Advertisement):
            await self._on_advertisement(envelope.narrow(signed, Advertisement))
        elif not self._admits(signed.signer):
            return
        elif isinstance(signed.message, FraudProof):
            await self._on_proof(signed.message, signed.signer)
        elif isinstance(signed.message, CertifiedNotice):
            if signed.signer != gossip.sender:
                raise MalformedError("a notice must be gossiped by the node that signed it")
            self._on_notice(envelope.narrow(signed, CertifiedNotice))
        else:
            await self._driver.submit(self._stimulus(signed))

    def _stimulus(self, signed: Signed[Message]) -> Stimulus:
        now_ms = clock_ms()
        message = signed.message
        make = _STIMULI.get(type(message))
        if make is not None:
            return make(now_ms, signed)
        if isinstance(message, Bid):
            reputations = tuple(self._reputations(signed.signer).items())
            topics = self._topics(signed.signer)
            return BidReceived(
                now_ms=now_ms, bid=envelope.narrow(signed, Bid), reputations=reputations, topics=topics
            )
        raise MalformedError(f"{type(message).__name__} is not sent on its own")


_STIMULI: dict[type[Message], Callable[[int, Signed[Message]], Stimulus]] = {
    Announcement: lambda now, s: AnnouncementReceived(now_ms=now, announcement=envelope.narrow(s, Announcement)),
    Award: lambda now, s: AwardReceived(now_ms=now, award=envelope.narrow(s, Award)),
    WorkOrder: lambda now, s: WorkReceived(now_ms=now, order=envelope.narrow(s, WorkOrder)),
    WorkResult: lambda now, s: ResultReceived(now_ms=now, result=envelope.narrow(s, WorkResult)),
    WorkRefused: lambda now, s: RefusalReceived(now_ms=now, refusal=envelope.narrow(s, WorkRefused)),
    WorkStatus: lambda now, s: WorkStatusReceived(now_ms=now, status=envelope.narrow(s, WorkStatus)),
    CertifyOrder: lambda now, s: CertifyReceived(now_ms=now, order=envelope.narrow(s, CertifyOrder)),
    Certification: lambda now, s: CertificationReceived(now_ms=now, certification=envelope.narrow(s, Certification)),
    BatchSealed: lambda now, s: CertificateReceived(now_ms=now, sealed=envelope.narrow(s, BatchSealed)),
    FraudProof: lambda now, s: ProofReceived(
        now_ms=now, proof=envelope.narrow(s, FraudProof).message, heard_from=s.signer
    ),
    SealConfirmed: lambda now, s: ConfirmationReceived(now_ms=now, confirmation=envelope.narrow(s, SealConfirmed)),
    HoldBatch: lambda now, s: HoldReceived(now_ms=now, hold=envelope.narrow(s, HoldBatch)),
    BatchHeld: lambda now, s: HoldConfirmed(now_ms=now, held=envelope.narrow(s, BatchHeld)),
    BatchQuery: lambda now, s: QueryReceived(now_ms=now, query=envelope.narrow(s, BatchQuery)),
    BatchStatus: lambda now, s: StatusReceived(now_ms=now, status=envelope.narrow(s, BatchStatus)),
}
