"""The transport over libp2p: links to peers kept up, frames out and in, gossip."""

import itertools
import random
import time
from collections.abc import Iterable
from typing import Final

import structlog
import trio
from libp2p.abc import INetStream

from node.network.p2p.config import TransportConfig
from node.network.p2p.connector import LINK_ERRORS, Connector, identity_in, usable_address
from node.network.p2p.faults import Faults
from node.network.p2p.gossip import GossipPort
from node.network.p2p.inbound import InboundQueue, StreamReader, encode_large, open_large
from node.network.p2p.links import ALIVE, ASK_BYTES_MAX, Link
from node.network.p2p.stack import identity_of
from node.network.p2p.streams import Wire
from node.network.transport import Answer, Delivery, Gossip, PeerUnreachableError, PeerView
from protocols.errors import FrameTooLargeError, MalformedError, OverlayError, PeerFault
from protocols.framing import REQUEST_ID_MAX, Frame, FrameKind, FrameReader, encode_frame
from protocols.limits import ADDRESSES_PER_PEER_MAX
from protocols.messages import IdentityKey

log = structlog.get_logger(__name__)

PEERS_MAX: Final = 512
ROOM_WAIT_S: Final = 5.0  # how long ``send`` waits for room in a peer's queue
SWEEP_S: Final = 5.0
ALIVE_EVERY: Final = 3.0  # signs of life in one time of allowed silence
STABLE_S: Final = 5.0  # a stream that stood so long was a success
FLUSH_S: Final = 1.0
FAILURE_CHARS_MAX: Final = 200


class Pending:
    """A request under way."""

    def __init__(self, peer: IdentityKey) -> None:
        self.peer = peer
        self.done = trio.Event()
        self.frame: Frame | None = None  # stays None where the connection broke


class PeerNetwork:
    """One node's end of the network: the ``Transport`` over libp2p."""

    def __init__(
        self,
        *,
        config: TransportConfig,
        identity: IdentityKey,
        addresses: tuple[str, ...],
        answer: Answer,
        connector: Connector,
        gossip: GossipPort,
        nursery: trio.Nursery,
    ) -> None:
        self.identity = identity
        self.addresses = addresses
        self.queue = InboundQueue()
        self.faults = Faults(trio.current_time)
        self._config = config
        self._answer = answer
        self._connector = connector
        self._gossip = gossip
        self._nursery = nursery
        self._links: dict[IdentityKey, Link] = {}
        self._incoming: dict[IdentityKey, Wire] = {}
        self._pending: dict[int, Pending] = {}
        self._ids = itertools.cycle(range(1, REQUEST_ID_MAX))
        self._rng = random.Random(identity + time.time_ns().to_bytes(8, "big"))  # noqa: S311 -- jitter, no secret

    # --- what the node asks for ------------------------------------------------------------------------------

    async def publish(self, topic: str, data: bytes) -> None:
        await self._gossip.publish(topic, data)

    def gossip(self) -> trio.MemoryReceiveChannel[Gossip]:
        return self._gossip.inbox

    def inbound(self) -> trio.MemoryReceiveChannel[Delivery]:
        return self.queue.channel

    async def send(self, peer: IdentityKey, frame: bytes) -> None:
        await self._put(self._usable(peer), await encode_large(FrameKind.ONEWAY, frame))

    async def request(self, peer: IdentityKey, body: bytes, timeout_s: float) -> bytes:
        if len(body) > ASK_BYTES_MAX:
            raise FrameTooLargeError(f"a request of {len(body)} bytes", bytes=len(body), bytes_max=ASK_BYTES_MAX)
        link = self._usable(peer)
        request_id, pending = next(self._ids), Pending(peer)
        self._pending[request_id] = pending
        try:
            with trio.move_on_after(timeout_s):
                await self._put(link, await encode_large(FrameKind.REQUEST, body, request_id), urgent=True)
                await pending.done.wait()
        finally:
            del self._pending[request_id]
        if pending.frame is None:
            why = "the connection broke" if pending.done.is_set() else f"no answer within {timeout_s} s"
            raise PeerUnreachableError(why)
        try:
            answer = await open_large(pending.frame)
        except PeerFault as fault:
            self.strike(peer, fault.code)
            raise PeerUnreachableError("an answer that cannot be read") from fault
        if pending.frame.kind is FrameKind.FAILURE:
            raise PeerUnreachableError(f"the peer failed: {answer[:FAILURE_CHARS_MAX].decode('utf-8', 'replace')}")
        return answer

    def learn(self, identity: IdentityKey, addresses: Iterable[str]) -> None:
        if identity == self.identity or self.faults.ignored(identity) or not self._config.admits(identity):
            return
        usable = [address for text in addresses if (address := usable_address(text, identity)) is not None]
        link = self._link(identity) if usable else None
        if link is not None and not link.bootstrap:
            link.keep = True
            link.learn(usable, ADDRESSES_PER_PEER_MAX)

    def forget(self, identity: IdentityKey) -> None:
        link = self._links.get(identity)
        if link is not None and not link.bootstrap:
            link.keep = False
            link.addresses = ()
            self._drop_waiting(link, "forgotten")

    def peers(self) -> tuple[PeerView, ...]:
        return tuple(
            PeerView(
                identity=identity,
                addresses=link.addresses,
                connected=link.connected,
                connected_since_ms=link.connected_since_ms,
                queued=len(link.outbox),
                refusal=link.refusal,
            )
            for identity, link in sorted(self._links.items())
        )

    def strike(self, identity: IdentityKey, reason: str) -> None:
        if identity == self.identity:
            return
        log.warning("peer.struck", peer=identity.hex(), reason=reason)
        if self.faults.strike(identity):
            log.warning("peer.ignored", peer=identity.hex(), reason=reason)
            link = self._links.pop(identity, None)
            if link is not None and not link.bootstrap:
                link.scope.cancel()
            elif link is not None:
                self._links[identity] = link
            self._nursery.start_soon(self._connector.cut, identity)

    # --- frames out ------------------------------------------------------------------------------------------

    def _usable(self, peer: IdentityKey) -> Link:
        """The link to send by.

        Raises:
            PeerUnreachableError: There is none, or it failed lately.
        """
        if self.faults.ignored(peer):
            raise PeerUnreachableError("the peer is ignored for its faults")
        link = self._links.get(peer)
        if link is None or not (link.connected or link.addresses or self._connector.live(peer)):
            raise PeerUnreachableError("the peer's address is not known")
        if link.failures and not link.connected:
            raise PeerUnreachableError("the peer could not be reached just now")
        return link

    async def _put(self, link: Link, frame: bytes, *, urgent: bool = False) -> None:
        """Queue a frame, waiting for room; but for a peer that let one sender wait in vain, nobody else waits.

        Senders serve many peers in turn: one that takes nothing, or a frame now and then, must not hold them up.
        """
        link.stuck = link.stuck and not link.outbox.drained()
        if link.stuck and not urgent:
            raise PeerUnreachableError("the peer takes no more for now")
        if link.outbox.full(urgent=urgent):
            with trio.move_on_after(ROOM_WAIT_S) as waited:
                await link.outbox.room(urgent=urgent)
            if waited.cancelled_caught:
                link.stuck = link.stuck or not urgent
                raise PeerUnreachableError("the peer takes no more for now")
        link.outbox.put(frame, urgent=urgent)
        link.want()

    def reply(self, sender: IdentityKey, frame: bytes) -> None:
        link = self._links.get(sender)
        if link is not None and not link.outbox.full(urgent=True):
            link.outbox.put(frame, urgent=True)

    def _drop_waiting(self, link: Link, why: str) -> None:
        lost = link.outbox.clear()
        if lost:
            log.info("peer.frames_dropped", peer=link.identity.hex(), frames=lost, why=why)
        for pending in self._pending.values():
            if pending.peer == link.identity:
                pending.done.set()

    # --- links -----------------------------------------------------------------------------------------------

    def _link(self, identity: IdentityKey) -> Link | None:
        """A peer's link, made and served if it is new; None where there are too many."""
        link = self._links.get(identity)
        if link is None:
            if len(self._links) >= PEERS_MAX:
                log.warning("peer.too_many", peers=PEERS_MAX)
                return None
            link = self._links[identity] = Link(identity)
            self._nursery.start_soon(self._serve_link, link)
        return link

    async def _serve_link(self, link: Link) -> None:
        """Keep a link up for as long as somebody wants it."""
        with link.scope:
            while self._wanted(link):
                if self.faults.ignored(link.identity):
                    await trio.sleep(SWEEP_S)
                    continue
                await self._attempt(link)
                await link.pause(link.redial_s(self._config.redial_s_max, self._rng))
        if self._links.get(link.identity) is link:
            del self._links[link.identity]
        self._drop_waiting(link, "no longer a peer")

    def _wanted(self, link: Link) -> bool:
        return link.keep or bool(self._connector.live(link.identity)) or (link.failures == 0 and len(link.outbox) > 0)

    async def _attempt(self, link: Link) -> None:
        """Reach the peer and talk until it ends; count how that went."""
        try:
            wire = await self._connector.open(link)
        except (*LINK_ERRORS, PeerUnreachableError) as error:
            link.failures += 1
            self._note_refusal(link)
            log.debug("peer.unreached", peer=link.identity.hex(), failures=link.failures, why=str(error))
            self._drop_waiting(link, "unreachable")
            return
        link.refusal = ""
        began_s = link.heard_s = trio.current_time()
        failures, link.failures = link.failures, 0
        link.outbox.renew()
        link.connected_since_ms = time.time_ns() // 1_000_000
        log.info("peer.connected", peer=link.identity.hex())
        try:
            await self._converse(link, wire)
        finally:
            link.connected_since_ms = None
        lasted_s = trio.current_time() - began_s
        link.failures = 0 if lasted_s > STABLE_S else failures + 1
        log.info("peer.disconnected", peer=link.identity.hex(), lasted_s=round(lasted_s, 1))
        for pending in self._pending.values():
            if pending.peer == link.identity:
                pending.done.set()

    def _note_refusal(self, link: Link) -> None:
        """A peer that can be reached and takes no stream of ours is of another network, or speaks another version."""
        if link.refusal or not self._connector.live(link.identity):
            return
        link.refusal = f"it does not speak {self._connector.protocol}: another network, or another protocol version"
        log.warning(
            "peer.refused", peer=link.identity.hex(), why=link.refusal, remedy="compare OVERLAY_NETWORK and versions"
        )

    async def _converse(self, link: Link, wire: Wire) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, link, wire)
                await self._read_credit(link, wire)
        except* PeerFault as faults:
            self.strike(link.identity, str(faults.exceptions[0]))
        except* LINK_ERRORS as errors:
            log.debug("peer.stream_ended", peer=link.identity.hex(), why=str(errors.exceptions[0]))
        with trio.move_on_after(1.0):
            await wire.reset()

    async def _write(self, link: Link, wire: Wire) -> None:
        """Write what waits. What gathers while one write is under way goes with the next: no timer beats that."""
        while True:
            data = link.outbox.take()
            if not data:
                with trio.move_on_after(self._config.silence_s / ALIVE_EVERY) as waited:
                    await link.outbox.news()
                if not waited.cancelled_caught:
                    continue
                data = ALIVE
            await wire.write(data)

    async def _read_credit(self, link: Link, wire: Wire) -> None:
        reader = FrameReader()
        while True:
            for frame in reader.feed(await wire.read()):
                if frame.kind is not FrameKind.CREDIT or not link.outbox.credit(frame):
                    raise MalformedError(f"{frame.kind.name} where only true credit belongs")

    # --- frames in -------------------------------------------------------------------------------------------

    async def serve_stream(self, stream: INetStream) -> None:
        """Read a stream that a peer opened, until it ends. A newer one takes the place of an older one."""
        sender = identity_of(stream.muxed_conn.peer_id.to_bytes())
        assert sender is not None, "the handshake lets no other key in"
        wire = Wire(stream)
        older = self._incoming.get(sender)
        if self.faults.ignored(sender):
            await stream.reset()
            return
        self._incoming[sender] = wire
        if older is not None:
            await older.reset()
        self.heard(sender)
        try:
            await StreamReader(sender, wire, self).run()
        except* PeerFault as faults:
            self.strike(sender, str(faults.exceptions[0]))
        except* LINK_ERRORS as errors:
            log.debug("peer.stream_ended", peer=sender.hex(), why=str(errors.exceptions[0]))
        if self._incoming.get(sender) is wire:
            del self._incoming[sender]
        with trio.move_on_after(1.0):
            await wire.reset()

    def heard(self, sender: IdentityKey) -> None:
        link = self._links.get(sender)
        if link is not None:
            link.heard_s = trio.current_time()

    def on_answer(self, sender: IdentityKey, frame: Frame) -> None:
        pending = self._pending.get(frame.request_id)
        if pending is not None and pending.peer == sender and not pending.done.is_set():
            pending.frame = frame
            pending.done.set()

    async def answer(self, sender: IdentityKey, frame: Frame) -> None:
        kind, body = FrameKind.ANSWER, b""
        try:
            body = await self._answer(sender, await open_large(frame))
            encoded = await encode_large(kind, body, frame.request_id)
        except OverlayError as error:
            if isinstance(error, PeerFault):
                self.strike(sender, error.code)
            encoded = encode_frame(FrameKind.FAILURE, error.code.encode(), frame.request_id)
        link = self._links.get(sender)
        if link is not None:
            try:
                await self._put(link, encoded, urgent=True)
            except PeerUnreachableError as error:
                log.info("peer.answer_dropped", peer=sender.hex(), why=str(error))

    # --- keeping the network up ------------------------------------------------------------------------------

    async def watch_arrivals(self, arrivals: trio.MemoryReceiveChannel[IdentityKey]) -> None:
        """Open our own stream to everybody who connects."""
        async for identity in arrivals:
            link = None if self.faults.ignored(identity) else self._link(identity)
            if link is None:
                self._nursery.start_soon(self._connector.cut, identity)
                continue
            link.heard_s = trio.current_time()
            link.poke()

    async def sweep(self) -> None:
        """Hang up on peers that have said nothing for too long: their end may be gone without a word."""
        while True:
            await trio.sleep(min(SWEEP_S, self._config.silence_s / ALIVE_EVERY))
            silent_since_s = trio.current_time() - self._config.silence_s
            for link in tuple(self._links.values()):
                if link.heard_s < silent_since_s and self._connector.live(link.identity):
                    log.info("peer.silent", peer=link.identity.hex(), silence_s=self._config.silence_s)
                    self._nursery.start_soon(self._connector.cut, link.identity)

    async def keep_bootstrap(self, address: str) -> None:
        """Keep connected to whoever listens at a bootstrap address."""
        identity = identity_in(address)
        delay_s = 0.5
        while identity is None:
            try:
                identity = await self._connector.who_is_at(address)
            except LINK_ERRORS as error:
                log.info("bootstrap.unreached", address=address, retry_s=delay_s, why=str(error))
                await trio.sleep(delay_s * self._rng.uniform(0.5, 1.0))
                delay_s = min(2 * delay_s, self._config.redial_s_max)
        if identity == self.identity:
            return
        usable = usable_address(address, identity)
        link = self._link(identity)
        if usable is None or link is None:
            log.error("bootstrap.unusable", address=address)
            return
        link.keep = link.bootstrap = True
        link.learn([usable], ADDRESSES_PER_PEER_MAX)

    async def flush(self) -> None:
        """Give what waits a moment to leave, at the shutdown."""
        with trio.move_on_after(FLUSH_S):
            while any(link.connected and len(link.outbox) for link in self._links.values()):  # noqa: ASYNC110
                await trio.sleep(0.01)
            await trio.sleep(0.05)  # what gossip has queued
