"""Bytes to and from one libp2p stream, at the least cost per message.

``NetStream`` and ``YamuxStream`` add locks to every call, and ``YamuxStream.read`` answers every read with a
window update, which is a message of its own, encrypted and sent. Here the yamux connection is read directly,
through its public ``read_stream``, and the window is given back a quarter at a time.
"""

from typing import Final, cast

from libp2p.abc import INetStream
from libp2p.network.stream.net_stream import NetStream
from libp2p.stream_muxer.yamux.yamux import DEFAULT_WINDOW_SIZE, YamuxStream

from node.network.p2p.links import WRITE_BYTES

READ_WINDOW: Final = 2 * 1024 * 1024  # what the other side may have under way
GIVE_BACK_EVERY: Final = READ_WINDOW // 4


class Wire:
    """One stream's two directions."""

    def __init__(self, stream: INetStream) -> None:
        self._stream = stream
        self._yamux = cast(YamuxStream, cast(NetStream, stream).muxed_stream)
        self._owed = READ_WINDOW - DEFAULT_WINDOW_SIZE  # opens the window wide at the first chance

    async def read(self) -> bytes:
        """Whatever has arrived, at least one byte. Raises what libp2p raises at the stream's end."""
        data = await self._yamux.conn.read_stream(self._yamux.stream_id)
        self._owed += len(data)
        if self._owed >= GIVE_BACK_EVERY:
            owed, self._owed = self._owed, 0
            self._yamux.recv_window += owed
            await self._yamux.send_window_update(owed)
        return data

    async def write(self, data: bytes) -> None:
        """Write all of it, cut so that each piece is one noise message."""
        if len(data) <= WRITE_BYTES:
            await self._yamux.write(data)
            return
        for start in range(0, len(data), WRITE_BYTES):
            await self._yamux.write(data[start : start + WRITE_BYTES])

    async def reset(self) -> None:
        """End the stream at once, both ways."""
        await self._stream.reset()
