"""Where the handshake of a WebSocket stands, in hypercorn's terms."""

from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import WSStream
from wsproto.connection import ConnectionState


def is_waiting(stream: HTTPStream | WSStream | None) -> bool:
    """Whether the client of a WebSocket has to wait for the answer to its handshake."""
    return isinstance(stream, WSStream) and not stream.closed and not stream.handshake.accepted


def is_open(stream: HTTPStream | WSStream | None) -> bool:
    """Whether it is a WebSocket whose handshake was accepted, and which is not closed."""
    return isinstance(stream, WSStream) and not stream.closed and stream.handshake.accepted


def is_closing(stream: HTTPStream | WSStream | None) -> bool:
    """Whether it was an open WebSocket, and its close frame is sent or received: no message may follow."""
    if not isinstance(stream, WSStream) or not hasattr(stream, "connection"):  # which it has once it is accepted
        return False
    return stream.connection.state is not ConnectionState.OPEN
