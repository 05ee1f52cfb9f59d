"""Frames from peers: one reader per stream, and the one bounded queue that they all fill.

A stream is read at all times, so that answers and signs of life get through while the queue is full. What may not
go into the queue yet stays in the reader's backlog, uncredited: a peer that goes on sending past its credit is at
fault and cut off.
"""

from collections import deque
from typing import Final, Protocol

import trio

from node.network.p2p.links import ASK_BYTES_MAX, Intake
from node.network.p2p.streams import Wire
from node.network.transport import InboundFrame
from protocols.errors import FrameTooLargeError, MalformedError
from protocols.framing import Frame, FrameKind, FrameReader, body_size, encode_frame, open_body
from protocols.messages import IdentityKey

INBOUND_FRAMES_MAX: Final = 512
INBOUND_BYTES_MAX: Final = 64 * 1024 * 1024
RETRY_S: Final = 0.005
INLINE_BYTES_MAX: Final = 512 * 1024  # larger bodies are decompressed in a thread
REQUESTS_PER_PEER_MAX: Final = 32
BUSY: Final = b"busy"


async def open_large(frame: Frame) -> bytes:
    """``open_body``, off the loop where it would hold it up."""
    if frame.compressed and body_size(frame) > INLINE_BYTES_MAX:
        return await trio.to_thread.run_sync(open_body, frame)
    return open_body(frame)


async def encode_large(kind: FrameKind, body: bytes, request_id: int = 0) -> bytes:
    """``encode_frame``, off the loop where it would hold it up."""
    if len(body) > INLINE_BYTES_MAX:
        return await trio.to_thread.run_sync(encode_frame, kind, body, request_id)
    return encode_frame(kind, body, request_id)


class InboundQueue:
    """Frames that wait for the node, bounded in number and in bytes."""

    def __init__(self) -> None:
        self._send, self.channel = trio.open_memory_channel[InboundFrame](INBOUND_FRAMES_MAX)
        self._sizes: deque[int] = deque()
        self._bytes = 0

    def offer(self, delivery: InboundFrame) -> bool:
        """Queue a frame, or return False if there is no room for it now."""
        if self._bytes >= INBOUND_BYTES_MAX or len(self._sizes) >= INBOUND_FRAMES_MAX:
            waiting = self.channel.statistics().current_buffer_used
            while len(self._sizes) > waiting:
                self._bytes -= self._sizes.popleft()
            if self._bytes >= INBOUND_BYTES_MAX:
                return False
        try:
            self._send.send_nowait(delivery)
        except trio.WouldBlock:
            return False
        self._sizes.append(len(delivery.frame))
        self._bytes += len(delivery.frame)
        return True


class Port(Protocol):
    """What a reader needs of the transport."""

    @property
    def queue(self) -> InboundQueue:
        """Where one-way frames go."""

    def note_alive(self, sender: IdentityKey) -> None:
        """Note a sign of life of a peer."""

    def on_answer(self, sender: IdentityKey, frame: Frame) -> None:
        """An answer or a failure has come."""

    async def answer(self, sender: IdentityKey, frame: Frame) -> None:
        """Answer a request."""

    def reply(self, sender: IdentityKey, frame: bytes) -> None:
        """Queue a short frame for a peer without waiting."""


class StreamReader:
    """Reads the stream that one peer opened to us."""

    def __init__(self, sender: IdentityKey, wire: Wire, port: Port) -> None:
        self._sender = sender
        self._wire = wire
        self._port = port
        self._frames = FrameReader()
        self._intake = Intake()
        self._backlog: deque[Frame] = deque()
        self._more = trio.Event()
        self._credit = b""
        self._requests = 0

    async def run(self) -> None:
        """Read until the stream ends, which raises an exception group.

        Raises:
            PeerFault: In the group: the peer broke the protocol.
            BaseLibp2pError: In the group: the stream ended.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._drain)
            await self._read(nursery)

    async def _read(self, nursery: trio.Nursery) -> None:
        while True:
            data = await self._wire.read()
            self._port.note_alive(self._sender)
            for frame in self._frames.feed(data):
                self._sort(frame, nursery)
            await self._send_credit()

    def _sort(self, frame: Frame, nursery: trio.Nursery) -> None:
        match frame.kind:
            case FrameKind.ONEWAY:
                if not self._intake.receive(frame):
                    raise MalformedError("the peer sent more than its credit")
                if self._backlog or body_size(frame) > INLINE_BYTES_MAX or not self._offer(frame):
                    self._backlog.append(frame)
                    self._more.set()
            case FrameKind.REQUEST:
                self._start_answer(frame, nursery)
            case FrameKind.ANSWER | FrameKind.FAILURE:
                self._port.on_answer(self._sender, frame)
            case FrameKind.CREDIT:
                raise MalformedError("credit must be for a stream that this node writes on")

    def _offer(self, frame: Frame) -> bool:
        taken = self._port.queue.offer(InboundFrame(sender=self._sender, frame=open_body(frame)))
        if taken:
            self._taken(frame)
        return taken

    async def _drain(self) -> None:
        """Move the backlog to the queue as it makes room."""
        while True:
            while self._backlog:
                frame = self._backlog[0]
                delivery = InboundFrame(sender=self._sender, frame=await open_large(frame))
                while not self._port.queue.offer(delivery):  # noqa: ASYNC110 -- its reader sets no event
                    await trio.sleep(RETRY_S)
                self._backlog.popleft()
                self._taken(frame)
                await self._send_credit()
            self._more = trio.Event()
            await self._more.wait()

    def _start_answer(self, frame: Frame, nursery: trio.Nursery) -> None:
        if body_size(frame) > ASK_BYTES_MAX:
            raise FrameTooLargeError(f"a request of {body_size(frame)} bytes")
        if self._requests >= REQUESTS_PER_PEER_MAX:
            self._port.reply(self._sender, encode_frame(FrameKind.FAILURE, BUSY, frame.request_id))
            return
        self._requests += 1
        nursery.start_soon(self._answer, frame)

    async def _answer(self, frame: Frame) -> None:
        try:
            await self._port.answer(self._sender, frame)
        finally:
            self._requests -= 1

    def _taken(self, frame: Frame) -> None:
        self._credit = self._intake.take(frame) or self._credit

    async def _send_credit(self) -> None:
        if self._credit:
            credit, self._credit = self._credit, b""
            await self._wire.write(credit)
