"""The protocol of a connection: HTTP/1.1 until its client begins HTTP/2."""

from typing import Any

from hypercorn.events import Event, RawData, Updated
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h11 import H2ProtocolAssumedError

from node.api.http1 import AnswerEarly, Http1
from node.api.http2 import Http2
from node.api.server_limits import ServerLimits


class Protocols(ProtocolWrapper):
    """Hands what happens on a connection to the protocol that it speaks."""

    def __init__(self, limits: ServerLimits, answer_early: AnswerEarly, *args: Any) -> None:
        """``args``: as hypercorn gives them to its protocols."""
        super().__init__(*args)
        self._limits = limits
        self._args = args
        self.protocol = Http1(*args, answer_early=answer_early)

    async def handle(self, event: Event) -> None:
        try:
            await self.protocol.handle(event)
        except H2ProtocolAssumedError as begun:
            self.protocol = Http2(self._limits, *self._args)
            await self.send(Updated(idle=True))  # its preface was taken for a request
            await self.protocol.initiate()
            if begun.data:
                await self.protocol.handle(RawData(data=begun.data))
