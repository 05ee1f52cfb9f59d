"""Decompression of bodies, whole or as they arrive: bounded in one step, and in all by what was sent. Pure; no I/O.

A few kilobytes can expand to gigabytes, and an empty member or frame costs more to begin than its bytes do. So what
comes out is at most ``EXPANSION_MAX`` times what went in, and a member or frame has ``MEMBER_BYTES_MIN`` bytes on
average, beyond what is free at the beginning.
"""

import zlib
from collections.abc import Iterator
from typing import Any, Final, Literal, Protocol

import zstandard

from node.worker.parsing.admission import InvalidRequestError
from protocols.errors import ClientFault

Coding = Literal["identity", "gzip", "zstd"]

STEP_BYTES: Final = 64 * 1024
GZIP_FEED_BYTES: Final = 4 * 1024  # what follows a member is copied: feeding a body whole would be quadratic
ZSTD_FEED_BYTES: Final = 64
"""A block of zstd has at least 4 bytes and expands to at most 128 KiB (RFC 8878, 3.1.1.2): a step to 2 MiB."""
WINDOW_MAX: Final = 2**23  # of zstd: what decompressing takes in memory (RFC 9659)
EXPANSION_MAX: Final = 100
EXPANSION_FREE_BYTES: Final = 1024 * 1024
MEMBER_BYTES_MIN: Final = 32
MEMBERS_FREE: Final = 1_024
EXPANSION_USUAL: Final = 10  # of JSON


class BodyTooLargeError(ClientFault):
    """A body that is larger than allowed once it is decompressed."""

    code = "body-too-large"


class Unpacker(Protocol):
    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decompress bytes into parts of bounded size.

        Raises:
            InvalidRequestError: They are not valid in the coding. BodyTooLargeError: They expand too much.
        """

    def close(self) -> None:
        """End the body. Raises InvalidRequestError where it is not complete."""


def unpacker(coding: Coding) -> Unpacker:
    """The decompressor for a coding."""
    if coding == "gzip":
        return _Gzip()
    return _Zstd() if coding == "zstd" else _Plain()


def usual_size(body: bytes, coding: Coding) -> int:
    """About how many bytes a body has once it is decompressed."""
    return len(body) if coding == "identity" else EXPANSION_USUAL * len(body)


def decompressed(body: bytes, coding: Coding, bytes_max: int) -> bytes:
    """Decompress a whole body.

    Raises:
        InvalidRequestError: It is not valid in its coding. BodyTooLargeError: It has more than ``bytes_max``, or
            expands too much.
    """
    if coding != "identity":
        body = _expanded(body, coding, bytes_max)
    if len(body) > bytes_max:
        raise BodyTooLargeError(f"the decompressed body has more than {bytes_max} bytes")
    return body


def _expanded(body: bytes, coding: Coding, bytes_max: int) -> bytes:
    unpacking = unpacker(coding)
    parts: list[bytes] = []
    size = 0
    for part in unpacking.feed(body):
        parts.append(part)
        size += len(part)
        if size > bytes_max:
            break
    else:
        unpacking.close()
    return b"".join(parts)


class _Plain:
    def feed(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), STEP_BYTES):
            yield data[start : start + STEP_BYTES]

    def close(self) -> None:
        return


class _Expansion:
    """How much came in and out."""

    def __init__(self) -> None:
        self._bytes_in = 0
        self._bytes_out = 0
        self._members = 0

    def take(self, count: int) -> None:
        self._bytes_in += count

    def begin_member(self) -> None:
        self._members += 1
        if self._members > MEMBERS_FREE + self._bytes_in // MEMBER_BYTES_MIN:
            raise BodyTooLargeError(
                f"the body consists of members of less than {MEMBER_BYTES_MIN} bytes each",
                remedy="compress it as a whole",
            )

    def give(self, part: bytes) -> bytes:
        self._bytes_out += len(part)
        if self._bytes_out > EXPANSION_FREE_BYTES + EXPANSION_MAX * self._bytes_in:
            raise BodyTooLargeError(
                f"the body decompresses to more than {EXPANSION_MAX} times its size", remedy="send it uncompressed"
            )
        return part


class _Gzip:
    """Any number of concatenated members (RFC 1952, 2.2)."""

    def __init__(self) -> None:
        self._expansion = _Expansion()
        self._member: Any = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        try:
            for start in range(0, len(data), GZIP_FEED_BYTES):
                yield from self._feed(data[start : start + GZIP_FEED_BYTES])
        except zlib.error as error:
            raise _invalid("gzip") from error

    def _feed(self, data: bytes) -> Iterator[bytes]:
        self._expansion.take(len(data))
        is_full = False
        while data or is_full:
            if self._member is None:
                self._expansion.begin_member()
                self._member = zlib.decompressobj(wbits=31)
            part = self._member.decompress(data, STEP_BYTES)
            is_full = len(part) == STEP_BYTES and not self._member.eof  # more may be ready without more data
            yield self._expansion.give(part)
            if self._member.eof:
                data, self._member = self._member.unused_data, None
            else:
                data = self._member.unconsumed_tail

    def close(self) -> None:
        if self._member is not None:
            raise _invalid("gzip")


class _Zstd:
    """Any number of concatenated frames (RFC 8878, 3)."""

    def __init__(self) -> None:
        self._expansion = _Expansion()
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW_MAX)
        self._frame: Any = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        try:
            for start in range(0, len(data), ZSTD_FEED_BYTES):
                yield from self._feed(data[start : start + ZSTD_FEED_BYTES])
        except zstandard.ZstdError as error:
            raise _invalid("zstd") from error

    def _feed(self, data: bytes) -> Iterator[bytes]:
        self._expansion.take(len(data))
        while data:
            if self._frame is None:
                self._expansion.begin_member()
                self._frame = self._decompressor.decompressobj()
            yield self._expansion.give(self._frame.decompress(data))
            data = b""
            if self._frame.eof:
                data, self._frame = self._frame.unused_data, None

    def close(self) -> None:
        if self._frame is not None:
            raise _invalid("zstd")


def _invalid(coding: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"the body is not valid {coding}, or is cut short", field="", remedy="compress it again"
    )
