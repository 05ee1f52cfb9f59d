"""Streams that peers open: read until they end, with requests answered on the link back."""

from typing import Final

import structlog
import trio
from libp2p.abc import INetStream

from node.network.p2p.connector import LINK_ERRORS
from node.network.p2p.fence import PeerFence
from node.network.p2p.identities import identity_of
from node.network.p2p.inbound import InboundQueue, StreamReader, encode_large, open_large
from node.network.p2p.peer_links import PeerLinks, queue_frame
from node.network.p2p.requests import PendingRequests
from node.network.p2p.streams import Wire
from node.network.transport import Answer, PeerUnreachableError
from protocols.errors import OverlayError, OwnFault, PeerFault
from protocols.framing import Frame, FrameKind, encode_frame
from protocols.messages import IdentityKey

log = structlog.get_logger(__name__)

RESET_S: Final = 1.0
INTERNAL: Final = b"internal"


class IncomingStreams:
    """Serves one stream of each peer; what a ``StreamReader`` needs of the transport."""

    def __init__(self, links: PeerLinks, requests: PendingRequests, answer: Answer, fence: PeerFence) -> None:
        self.queue = InboundQueue()
        self._links = links
        self._requests = requests
        self._answer = answer
        self._fence = fence
        self._streams: dict[IdentityKey, Wire] = {}

    async def serve(self, stream: INetStream) -> None:
        """Read a stream that a peer opened, until it ends. A newer one takes the place of an older one."""
        sender = identity_of(stream.muxed_conn.peer_id.to_bytes())
        assert sender is not None, "the handshake lets no other key in"
        wire = Wire(stream)
        older = self._streams.get(sender)
        if self._links.faults.ignored(sender):
            await stream.reset()
            return
        self._streams[sender] = wire
        if older is not None:
            await older.reset()
        self.note_alive(sender)
        try:
            await StreamReader(sender, wire, self).run()
        except* PeerFault as faults:
            self._links.strike(sender, str(faults.exceptions[0]))
        except* LINK_ERRORS as errors:
            log.debug("peer.stream_ended", peer=sender.hex(), why=str(errors.exceptions[0]))
        finally:
            if self._streams.get(sender) is wire:
                del self._streams[sender]
        with trio.move_on_after(RESET_S):
            await wire.reset()

    def note_alive(self, sender: IdentityKey) -> None:
        """Note a sign of life."""
        link = self._links.find(sender)
        if link is not None:
            link.heard_s = trio.current_time()

    def on_answer(self, sender: IdentityKey, frame: Frame) -> None:
        """Hand an answer, or a failure, to the request that waits for it."""
        self._requests.answer(sender, frame)

    async def answer(self, sender: IdentityKey, frame: Frame) -> None:
        """Answer a request; a failure is answered by its code."""
        encoded = encode_frame(FrameKind.FAILURE, INTERNAL, frame.request_id)
        with self._fence.contain("request", sender, frame.body):
            encoded = await self._encode_answer(sender, frame)
        link = self._links.find(sender)
        if link is not None:
            try:
                await queue_frame(link, encoded, urgent=True)
            except PeerUnreachableError as error:
                log.info("peer.answer_dropped", peer=sender.hex(), why=str(error))

    async def _encode_answer(self, sender: IdentityKey, frame: Frame) -> bytes:
        try:
            body = await self._answer(sender, await open_large(frame))
            return await encode_large(FrameKind.ANSWER, body, frame.request_id)
        except OwnFault:
            raise
        except OverlayError as error:
            if isinstance(error, PeerFault):
                self._links.strike(sender, error.code)
            return encode_frame(FrameKind.FAILURE, error.code.encode(), frame.request_id)

    def reply(self, sender: IdentityKey, frame: bytes) -> None:
        """Queue a short frame for a peer without waiting."""
        link = self._links.find(sender)
        if link is not None and not link.outbox.full(urgent=True):
            link.outbox.put(frame, urgent=True)
