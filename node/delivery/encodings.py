"""Chunks as bytes on the wire: server-sent events, plain or gzip, and WebSocket frames, each computed once for all.

A gzip stream here is one header and then, for each chunk, deflate blocks that refer to nothing before them and end
on a byte: so the same bytes continue the stream of any client. It has no end, and so no checksum.
"""

import struct
import zlib
from typing import Final

from node.delivery.cursor import Cursor
from node.delivery.messages import Chunk

GZIP_HEADER: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\xff"  # RFC 1952, section 2.3: fastest, unknown system
GZIP_LEVEL: Final = 1
TEXT_FRAME: Final = 0x81  # RFC 6455, section 5.2: the whole of a text message
SHORT_BYTES_MAX: Final = 125
MEDIUM_BYTES_MAX: Final = 65_535


def event(body: bytes, cursor: Cursor | None = None) -> bytes:
    """One JSON object as a server-sent event."""
    if cursor is None:
        return b"data: %b\n\n" % body
    return b"id: %b\ndata: %b\n\n" % (str(cursor).encode(), body)


def block(text: bytes) -> bytes:
    """Deflate blocks that stand for themselves and end on a byte."""
    compressor = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return compressor.compress(text) + compressor.flush(zlib.Z_FULL_FLUSH)


def part(text: bytes) -> bytes:
    """A chunk of a chunked body (RFC 9112, section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(text), text)


def frame(text: bytes) -> bytes:
    """A text message as one WebSocket frame of a server."""
    size = len(text)
    if size <= SHORT_BYTES_MAX:
        return bytes((TEXT_FRAME, size)) + text
    if size <= MEDIUM_BYTES_MAX:
        return struct.pack("!BBH", TEXT_FRAME, 126, size) + text
    return struct.pack("!BBQ", TEXT_FRAME, 127, size) + text


def numbered(body: bytes, cursor: Cursor) -> bytes:
    """A message that contains its own cursor: WebSocket has no event ids."""
    return b'%b,"sequence":"%b"}' % (body[:-1], str(cursor).encode())


def sse(chunk: Chunk) -> bytes:
    return b"".join([event(message.body, message.cursor) for message in chunk.messages])


def sse_gzip(chunk: Chunk) -> bytes:
    return block(chunk.encoded(sse))


def sse_parts(chunk: Chunk) -> bytes:
    return part(chunk.encoded(sse))


def sse_gzip_parts(chunk: Chunk) -> bytes:
    return part(chunk.encoded(sse_gzip))


def frames(chunk: Chunk) -> bytes:
    return b"".join([frame(numbered(message.body, message.cursor)) for message in chunk.messages])
