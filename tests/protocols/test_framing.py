"""Frames: any chunking, any garbage, every bound."""

import os
from itertools import pairwise

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import FrameTooLargeError, MalformedError, PeerFault
from protocols.framing import (
    COMPRESSED,
    PAIRED,
    REQUEST_ID_MAX,
    Frame,
    FrameKind,
    FrameReader,
    encode_frame,
    open_body,
)
from protocols.limits import FRAME_BYTES_MAX, WIRE_FRAME_BYTES_MAX

MESSAGES = st.lists(
    st.tuples(
        st.sampled_from(FrameKind),
        st.binary(max_size=300) | st.binary(min_size=1, max_size=8).map(lambda unit: unit * 600),
        st.integers(0, REQUEST_ID_MAX),
    ),
    max_size=8,
)


def chunks(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@given(MESSAGES, st.lists(st.integers(min_value=0), max_size=20))
def test_any_chunking_gives_the_same_frames(messages: list[tuple[FrameKind, bytes, int]], cuts: list[int]) -> None:
    wire = b"".join(encode_frame(*message) for message in messages)
    reader = FrameReader()
    frames = [frame for chunk in chunks(wire, cuts) for frame in reader.feed(chunk)]
    assert [(frame.kind, open_body(frame), frame.request_id) for frame in frames] == [
        (kind, body, request_id if kind in PAIRED else 0) for kind, body, request_id in messages
    ]
    assert sum(frame.wire_bytes for frame in frames) == len(wire)
    assert reader.buffered == 0


@given(st.binary(max_size=2_000), st.lists(st.integers(min_value=0), max_size=6))
def test_garbage_is_a_peers_fault_and_nothing_worse(garbage: bytes, cuts: list[int]) -> None:
    reader = FrameReader()
    try:
        for chunk in chunks(garbage, cuts):
            for frame in reader.feed(chunk):
                open_body(frame)
    except PeerFault:
        pass
    assert reader.buffered <= len(garbage)


@given(st.integers(WIRE_FRAME_BYTES_MAX + 1, 2**32 - 1))
def test_an_oversized_frame_is_refused_by_its_first_four_bytes(length: int) -> None:
    with pytest.raises(FrameTooLargeError):
        FrameReader().feed(length.to_bytes(4, "big"))


def test_the_largest_frame_passes_and_one_byte_more_does_not() -> None:
    body = os.urandom(WIRE_FRAME_BYTES_MAX - 1)
    (frame,) = FrameReader().feed(encode_frame(FrameKind.ONEWAY, body))
    assert open_body(frame) == body
    with pytest.raises(FrameTooLargeError):
        encode_frame(FrameKind.ONEWAY, body + b"!")
    assert len(encode_frame(FrameKind.ONEWAY, bytes(FRAME_BYTES_MAX))) < 10_000
    with pytest.raises(FrameTooLargeError):
        encode_frame(FrameKind.ONEWAY, bytes(FRAME_BYTES_MAX + 1))


def test_what_does_not_shrink_goes_as_it_is() -> None:
    for size in (2_000, 100_000):
        assert len(encode_frame(FrameKind.ONEWAY, os.urandom(size))) == 4 + 1 + size
    assert len(encode_frame(FrameKind.ONEWAY, b"reading " * 20_000)) < 1_000


def frame_of(body: bytes) -> Frame:
    return Frame(kind=FrameKind.ONEWAY, body=body, compressed=True)


def test_a_bomb_is_refused_by_its_header() -> None:
    bomb = zstandard.ZstdCompressor(level=1).compress(bytes(FRAME_BYTES_MAX + 1))
    with pytest.raises(FrameTooLargeError):
        open_body(frame_of(bomb))


def test_a_body_that_hides_or_belies_its_size_is_refused() -> None:
    hidden = zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 5_000)
    with pytest.raises(MalformedError):
        open_body(frame_of(hidden))
    honest = bytearray(zstandard.ZstdCompressor().compress(b"x" * 50_000))
    size_at = bytes(honest).index((50_000 - 256).to_bytes(2, "little"))
    honest[size_at : size_at + 2] = (100).to_bytes(2, "little")
    with pytest.raises(MalformedError):
        open_body(frame_of(bytes(honest)))


def test_trailing_bytes_and_no_bytes_are_refused() -> None:
    whole = zstandard.ZstdCompressor().compress(b"y" * 5_000)
    for body in (whole + b"!", whole[:-1], b""):
        with pytest.raises(MalformedError):
            open_body(frame_of(body))


@pytest.mark.parametrize(
    "wire", [b"\0\0\0\0", b"\0\0\0\x01\0", b"\0\0\0\x01\x7f", b"\0\0\0\x03\x02\0\0", bytes((0, 0, 0, 1, COMPRESSED))]
)
def test_unknown_kinds_and_stumps_are_malformed(wire: bytes) -> None:
    with pytest.raises(MalformedError):
        FrameReader().feed(wire)
