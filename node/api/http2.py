"""HTTP/2 as hypercorn speaks it, and what its clients may send that it does not expect.

A request that was answered before its body came is closed for hypercorn, but not for its client, which goes on
sending until it reads the answer (RFC 9113, section 8.1). That is no error: the data is counted and discarded.
"""

import h2.events
from h2.errors import ErrorCodes
from hypercorn.events import Event, RawData
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H2CProtocolRequiredError, H2ProtocolAssumedError


class Http2(H2Protocol):
    """One connection of HTTP/2."""

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            if isinstance(event, h2.events.DataReceived) and event.stream_id not in self.streams:
                self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.RequestReceived) and not _is_well_formed(event):
                self.connection.reset_stream(event.stream_id, ErrorCodes.PROTOCOL_ERROR)
            else:
                await super()._handle_events([event])
        await self._flush()


def _is_well_formed(request: h2.events.RequestReceived) -> bool:
    """Whether method and path are there, and are ASCII as a URI is: else the request is malformed (section 8.1.1)."""
    given = {name: value for name, value in request.headers if name in (b":method", b":path")}
    return len(given) == 2 and all(value.isascii() for value in given.values())


class Protocols(ProtocolWrapper):
    """The protocol of a connection: HTTP/1.1 until its client asks for HTTP/2."""

    async def handle(self, event: Event) -> None:
        try:
            await self.protocol.handle(event)
        except H2ProtocolAssumedError as asked:
            self.protocol = self._http2()
            await self.protocol.initiate()
            await self._pass_on(asked.data)
        except H2CProtocolRequiredError as asked:
            self.protocol = self._http2()
            await self.protocol.initiate(asked.headers, asked.settings)
            await self._pass_on(asked.data)

    def _http2(self) -> Http2:
        return Http2(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.state,
            self.ssl,
            self.client,
            self.server,
            self.send,
        )

    async def _pass_on(self, data: bytes) -> None:
        if data:
            await self.protocol.handle(RawData(data=data))
