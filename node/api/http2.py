"""HTTP/2 as hypercorn speaks it, and what its clients may send that it does not expect.

A request that was answered before its body came is closed for hypercorn, but not for its client, which goes on
sending until it reads the answer (RFC 9113, section 8.1). That is no error: the data is counted and discarded.

Frames that cost the client nothing and the server work are counted: past a rate the connection is closed with
ENHANCE_YOUR_CALM (section 10.5). What comes is parsed in small pieces, between which others get their turn.
"""

from contextlib import suppress
from typing import Any, Final

import h2.events
import trio
from h2.errors import ErrorCodes
from h2.exceptions import StreamClosedError
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h2 import H2Protocol

from node.api.handshakes import is_waiting
from node.api.host_names import is_host
from node.api.server_limits import ServerLimits
from node.runtime.token_bucket import TokenBucket

PIECE_BYTES: Final = 4 * 1024
CONTROL: Final = (
    h2.events.PingReceived,
    h2.events.PriorityUpdated,
    h2.events.RemoteSettingsChanged,
    h2.events.UnknownFrameReceived,
)


class Http2(H2Protocol):
    """One connection of HTTP/2."""

    def __init__(self, limits: ServerLimits, *args: Any) -> None:
        """``args``: as hypercorn gives them to its protocols."""
        super().__init__(*args)
        self._resets = TokenBucket(limits.resets, trio.current_time)
        self._control = TokenBucket(limits.control_frames, trio.current_time)

    async def handle(self, event: Event) -> None:
        if not isinstance(event, RawData) or len(event.data) <= PIECE_BYTES:
            await super().handle(event)
            return
        for start in range(0, len(event.data), PIECE_BYTES):
            if self.closed:
                return
            await super().handle(RawData(data=event.data[start : start + PIECE_BYTES]))
            await trio.lowlevel.checkpoint()

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            if not self._is_within_limits(event):
                self.connection.close_connection(ErrorCodes.ENHANCE_YOUR_CALM)
                await self._flush()
                await self.send(Closed())
                return
            if isinstance(event, h2.events.DataReceived) and event.stream_id not in self.streams:
                self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.RequestReceived) and not _is_well_formed(event):
                self._reset(event.stream_id)
            elif isinstance(event, h2.events.DataReceived) and is_waiting(self.streams[event.stream_id]):
                await self._close_stream(event.stream_id)  # as in HTTP/1.1
                self._reset(event.stream_id)
            else:
                await super()._handle_events([event])
            if isinstance(event, h2.events.StreamReset) and self.idle:
                await self.send(Updated(idle=True))  # hypercorn says so only of streams that were answered
        await self._flush()

    def _reset(self, stream_id: int) -> None:
        with suppress(StreamClosedError):  # its client gave it up in the same breath
            self.connection.reset_stream(stream_id, ErrorCodes.PROTOCOL_ERROR)

    def _is_within_limits(self, event: h2.events.Event) -> bool:
        if isinstance(event, h2.events.StreamReset):  # also where the client made us do it (CVE-2025-8671)
            # an upload that was answered early is reset by an honest client (RFC 9113, section 8.1)
            return (self._resets if event.stream_id in self.streams else self._control).take()
        if isinstance(event, h2.events.RequestReceived) and not _is_well_formed(event):
            return self._resets.take()
        is_empty = isinstance(event, h2.events.DataReceived) and not event.data and event.stream_ended is None
        return self._control.take() if is_empty or isinstance(event, CONTROL) else True


def _is_well_formed(request: h2.events.RequestReceived) -> bool:
    """Whether method and path are there, and are ASCII as a URI is: else the request is malformed (section 8.1.1)."""
    given = {name: value for name, value in request.headers if name in (b":method", b":path")}
    hosts = [value for name, value in request.headers if name in (b":authority", b"host")]
    return len(given) == 2 and all(value.isascii() for value in given.values()) and all(map(is_host, hosts))
