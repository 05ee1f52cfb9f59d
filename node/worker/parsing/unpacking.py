"""Decompression of a body as it arrives, with a bound on the output of one step. Pure; no I/O."""

import zlib
from collections.abc import Iterator
from typing import Any, Final, Protocol

import zstandard

from node.worker.parsing.admission import InvalidRequestError
from node.worker.parsing.bodies import WINDOW_MAX, Coding

STEP_BYTES: Final = 64 * 1024
ZSTD_FEED_BYTES: Final = 64
"""A block of zstd has at least 4 bytes and expands to at most 128 KiB (RFC 8878, 3.1.1.2): a step to 2 MiB."""


class Unpacker(Protocol):
    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decompress bytes into parts of bounded size.

        Raises:
            InvalidRequestError: They are not valid in the coding.
        """

    def close(self) -> None:
        """End the body. Raises InvalidRequestError where it is not complete."""


def unpacker(coding: Coding) -> Unpacker:
    """The decompressor for a coding."""
    if coding == "gzip":
        return _Gzip()
    return _Zstd() if coding == "zstd" else _Plain()


class _Plain:
    def feed(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), STEP_BYTES):
            yield data[start : start + STEP_BYTES]

    def close(self) -> None:
        return


class _Gzip:
    """Any number of concatenated members (RFC 1952, 2.2)."""

    def __init__(self) -> None:
        self._member: Any = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        is_full = False
        try:
            while data or is_full:
                if self._member is None:
                    self._member = zlib.decompressobj(wbits=31)
                part = self._member.decompress(data, STEP_BYTES)
                is_full = len(part) == STEP_BYTES and not self._member.eof  # more may be ready without more data
                yield part
                if self._member.eof:
                    data, self._member = self._member.unused_data, None
                else:
                    data = self._member.unconsumed_tail
        except zlib.error as error:
            raise _invalid("gzip") from error

    def close(self) -> None:
        if self._member is not None:
            raise _invalid("gzip")


class _Zstd:
    """Any number of concatenated frames (RFC 8878, 3)."""

    def __init__(self) -> None:
        self._frame: Any = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        try:
            for start in range(0, len(data), ZSTD_FEED_BYTES):
                rest = data[start : start + ZSTD_FEED_BYTES]
                while rest:
                    if self._frame is None:
                        self._frame = zstandard.ZstdDecompressor(max_window_size=WINDOW_MAX).decompressobj()
                    yield self._frame.decompress(rest)
                    rest = b""
                    if self._frame.eof:
                        rest, self._frame = self._frame.unused_data, None
        except zstandard.ZstdError as error:
            raise _invalid("zstd") from error

    def close(self) -> None:
        if self._frame is not None:
            raise _invalid("zstd")


def _invalid(coding: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"the body is not valid {coding}, or is cut short", field="", remedy="compress it again"
    )
