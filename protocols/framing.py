"""Frames on a byte stream between two peers: length, kind, body. Sans-I/O: bytes in, frames out.

On the wire::

    length   4 bytes, big endian: of all that follows
    flags    1 byte: the kind in the low 7 bits; the high bit says that the body is zstd
    id       4 bytes, only for REQUEST, ANSWER and FAILURE: pairs an answer with its request
    body     the rest

A length past the bound is refused when its four bytes are there, before anything is buffered for it. A
compressed body names its size in its own header, and that is checked before it is decompressed.
"""

from enum import IntEnum
from typing import Final

import attrs
import zstandard

from protocols.errors import FrameTooLargeError, MalformedError
from protocols.limits import FRAME_BYTES_MAX, LENGTH_BYTES, WIRE_FRAME_BYTES_MAX

COMPRESSED: Final = 0x80
FLAG_BYTES: Final = 1
ID_BYTES: Final = 4
REQUEST_ID_MAX: Final = 2 ** (8 * ID_BYTES) - 1
COMPRESS_BYTES_MIN: Final = 1_024  # less is not worth the call
SAMPLE_BYTES: Final = 4_096
SAMPLED_BYTES_MIN: Final = 8 * SAMPLE_BYTES  # past this a sample decides whether to try
COMPRESS_LEVEL: Final = 1


class FrameKind(IntEnum):
    """What a frame is for."""

    ONEWAY = 1
    REQUEST = 2
    ANSWER = 3
    FAILURE = 4  # in place of an answer; the body is a short text
    CREDIT = 5  # how much the receiver has taken off this stream since it opened, 8 bytes, big endian
    ALIVE = 6  # nothing; shows that the sender lives


PAIRED: Final = frozenset({FrameKind.REQUEST, FrameKind.ANSWER, FrameKind.FAILURE})
KINDS: Final = {int(kind): kind for kind in FrameKind}


@attrs.frozen(kw_only=True)
class Frame:
    """A frame as it came off the wire."""

    kind: FrameKind
    body: bytes  # still compressed if ``compressed``
    compressed: bool = False
    request_id: int = 0  # 0 for kinds that pair with nothing
    wire_bytes: int = 0


def encode_frame(kind: FrameKind, body: bytes, request_id: int = 0) -> bytes:
    """Frame a body, compressed where that makes it smaller.

    Args:
        kind: What the frame is for.
        body: At most ``FRAME_BYTES_MAX`` bytes.
        request_id: 0 to ``REQUEST_ID_MAX``; written only for kinds that pair.

    Raises:
        FrameTooLargeError: The body is too large, or is still past ``WIRE_FRAME_BYTES_MAX`` compressed.
    """
    if len(body) > FRAME_BYTES_MAX:
        raise FrameTooLargeError(
            f"a frame must have at most {FRAME_BYTES_MAX} bytes, not {len(body)}",
            bytes=len(body),
            bytes_max=FRAME_BYTES_MAX,
        )
    flags = int(kind)
    if _worth_compressing(body):
        smaller = zstandard.ZstdCompressor(level=COMPRESS_LEVEL).compress(body)
        if len(smaller) < len(body):
            flags |= COMPRESSED
            body = smaller
    head = bytes((flags,)) + (request_id.to_bytes(ID_BYTES, "big") if kind in PAIRED else b"")
    length = len(head) + len(body)
    if length > WIRE_FRAME_BYTES_MAX:
        raise FrameTooLargeError(
            f"a frame of {length} bytes on the wire", bytes=length, bytes_max=WIRE_FRAME_BYTES_MAX
        )
    return b"".join((length.to_bytes(LENGTH_BYTES, "big"), head, body))


def _worth_compressing(body: bytes) -> bool:
    if len(body) < COMPRESS_BYTES_MIN:
        return False
    if len(body) < SAMPLED_BYTES_MIN:
        return True
    middle = (len(body) - SAMPLE_BYTES) // 2  # past the head, which is often unlike the rest
    sample = zstandard.ZstdCompressor(level=COMPRESS_LEVEL).compress(body[middle : middle + SAMPLE_BYTES])
    return len(sample) < SAMPLE_BYTES * 9 // 10


def body_size(frame: Frame) -> int:
    """How many bytes ``open_body`` would give, by the frame's own word, which ``open_body`` holds it to.

    Raises:
        MalformedError: The body is not a zstd frame, or one that does not name its size.
        FrameTooLargeError: It would grow past ``FRAME_BYTES_MAX``.
    """
    if not frame.compressed:
        return len(frame.body)
    try:
        size = zstandard.get_frame_parameters(frame.body).content_size
    except zstandard.ZstdError as error:
        raise MalformedError("the body of a compressed frame must be one zstd frame") from error
    if size == zstandard.CONTENTSIZE_UNKNOWN:
        raise MalformedError("a compressed frame must name its uncompressed size")
    if size > FRAME_BYTES_MAX:
        raise FrameTooLargeError(
            f"a frame must decompress to at most {FRAME_BYTES_MAX} bytes, not {size}",
            bytes=size,
            bytes_max=FRAME_BYTES_MAX,
        )
    return size


def open_body(frame: Frame) -> bytes:
    """A frame's body, decompressed.

    Raises:
        MalformedError: The body is not one whole zstd frame that names its size.
        FrameTooLargeError: It would grow past ``FRAME_BYTES_MAX``; nothing is allocated for it.
    """
    if not frame.compressed:
        return frame.body
    size = body_size(frame)
    try:
        return zstandard.ZstdDecompressor().decompress(frame.body, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise MalformedError("the body of a compressed frame must be one zstd frame") from error


class FrameReader:
    """Cuts a stream of bytes into frames, whatever the chunks. Useless after it raised."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def buffered(self) -> int:
        """Bytes kept for a frame that is not whole yet; never more than one frame and one chunk."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Frame]:
        """Take the next bytes, give the frames they complete.

        Raises:
            FrameTooLargeError: A frame announces more than ``WIRE_FRAME_BYTES_MAX``.
            MalformedError: A frame of an unknown kind, or too short for its kind.
        """
        buffer = self._buffer
        buffer += data
        frames: list[Frame] = []
        start = 0
        while len(buffer) - start >= LENGTH_BYTES:
            body_start = start + LENGTH_BYTES
            length = int.from_bytes(buffer[start:body_start], "big")
            if length > WIRE_FRAME_BYTES_MAX:
                raise FrameTooLargeError(
                    f"a frame on the wire must have at most {WIRE_FRAME_BYTES_MAX} bytes, not {length}",
                    bytes=length,
                    bytes_max=WIRE_FRAME_BYTES_MAX,
                )
            if len(buffer) - body_start < length:
                break
            start = body_start + length
            frames.append(_parse(bytes(buffer[body_start:start])))
        if start:
            del buffer[:start]
        return frames


def _parse(frame: bytes) -> Frame:
    kind = KINDS.get(frame[0] & ~COMPRESSED) if frame else None
    if kind is None:
        raise MalformedError("the kind of a frame is unknown")
    start, request_id = FLAG_BYTES, 0
    if kind in PAIRED:
        start += ID_BYTES
        if len(frame) < start:
            raise MalformedError("a frame is too short for its kind")
        request_id = int.from_bytes(frame[FLAG_BYTES:start], "big")
    return Frame(
        kind=kind,
        body=frame[start:],
        compressed=bool(frame[0] & COMPRESSED),
        request_id=request_id,
        wire_bytes=LENGTH_BYTES + len(frame),
    )
