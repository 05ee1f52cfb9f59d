"""The writing end of a WebSocket: straight to the connection where HTTP/1.1 allows it, else through the server."""

from quart import Websocket

from node.api.connection import Connection
from node.delivery import encodings
from node.delivery.messages import Chunk, encoded


class SocketOutput:
    """Writes whole messages, in order."""

    def __init__(self, socket: Websocket, connection: Connection | None) -> None:
        self._socket = socket
        self._connection = connection

    @property
    def is_direct(self) -> bool:
        """Whether ``try_write`` may be used."""
        return self._connection is not None

    @property
    def is_behind(self) -> bool:
        """Whether bytes of ``try_write`` still wait to be written."""
        return self._connection is not None and self._connection.has_rest

    def try_write(self, frames: bytes) -> bool:
        """Write frames without waiting. False: something else is being written, and nothing was taken."""
        assert self._connection is not None, "it is direct"
        return self._connection.take(frames)

    async def flush(self) -> None:
        """Wait until everything that was taken is written."""
        if self._connection is not None:
            await self._connection.flush()

    async def send_chunk(self, chunk: Chunk) -> None:
        if self._connection is not None:
            await self._connection.send(await encoded(chunk, encodings.frames))
            return
        for message in chunk.messages:
            await self._socket.send(encodings.numbered(message.body, message.cursor).decode())

    async def send(self, message: bytes) -> None:
        if self._connection is not None:
            await self._connection.send(encodings.frame(message))
        else:
            await self._socket.send(message.decode())

    async def close(self, code: int, reason: str) -> None:
        await self._socket.close(code, reason)
