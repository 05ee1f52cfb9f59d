"""Carries out ``Send`` and ``Publish``: sign, frame, attach, hand to the transport, in the order of the commits.

A message that does not arrive is not an error here: the coordination sends again at its alarm.
"""

from collections.abc import Awaitable, Callable

import structlog
import trio

from node.coordination.dispatcher import Handlers
from node.network.transport import PeerUnreachableError, Transport
from protocols.effects import Publish, Send
from protocols.envelope import Signer, sign, to_frame
from protocols.errors import InvalidKeyError
from protocols.messages import Message, Signed

log = structlog.get_logger(__name__)

QUEUE_MAX = 8_192
GOSSIP_WORK = "jobs"


class Sender:
    """Sends messages. Those to this node itself skip the network, signed like all others."""

    def __init__(
        self,
        signer: Signer,
        transport: Transport,
        payload: Callable[[str], Awaitable[bytes | None]],
        to_self: Callable[[Signed[Message]], None],
        on_sent: Callable[[str, str, int], None] = lambda carrier, message, size: None,
    ) -> None:
        self._signer = signer
        self._transport = transport
        self._payload = payload
        self._to_self = to_self
        self._on_sent = on_sent
        self._send, self._receive = trio.open_memory_channel[Send | Publish](QUEUE_MAX)

    @property
    def handlers(self) -> Handlers:
        """The effects that leave the node."""
        return {Send: self._enqueue, Publish: self._enqueue}

    async def _enqueue(self, effect: Send | Publish) -> None:
        """Queue an effect; waits while the queue is full, and with it the driver."""
        await self._send.send(effect)

    async def run(self) -> None:
        async for effect in self._receive:
            try:
                if isinstance(effect, Publish):
                    await self._publish(effect)
                else:
                    await self._deliver(effect)
            except InvalidKeyError as error:  # a peer chose the id that a message to it would be signed under
                log.warning("sender.unsignable", message=type(effect.message).__name__, why=str(error))

    async def _publish(self, effect: Publish) -> None:
        signed = sign(self._signer, effect.message)
        self._to_self(signed)
        frame = to_frame(signed)
        await self._transport.publish(GOSSIP_WORK, frame)
        self._on_sent("gossip", type(effect.message).__name__, len(frame))

    async def _deliver(self, effect: Send) -> None:
        signed = sign(self._signer, effect.message)
        if effect.to == self._signer.identity:
            self._to_self(signed)
            return
        attachment = b""
        if effect.payload_of:
            attachment = await self._payload(effect.payload_of) or b""
        try:
            frame = to_frame(signed, attachment)
            await self._transport.send(effect.to, frame)
        except PeerUnreachableError as error:
            log.info(
                "sender.unreachable", peer=effect.to.hex(), message=type(effect.message).__name__, why=str(error)
            )
        else:
            self._on_sent("stream", type(effect.message).__name__, len(frame))
