"""However bytes come, in whatever coding, the same lines are made of them, within the same bounds."""

import gzip
import itertools
import random
from collections.abc import Callable, Sequence

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from node.worker.parsing.admission import InvalidRequestError
from node.worker.parsing.lines import BLANKS, LineGatherer, Piece
from node.worker.parsing.unpacking import (
    EXPANSION_FREE_BYTES,
    EXPANSION_MAX,
    BodyTooLargeError,
    Coding,
    unpacker,
)

LINE_BYTES, PIECE_BYTES, PIECE_LINES = 8, 20, 3
BODIES = st.lists(st.sampled_from([b"\n", b"a", b"bb", b" ", b"\r", b"x" * 9, b"1234567"]), max_size=40).map(b"".join)


def split(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


def gathered(parts: Sequence[bytes]) -> tuple[list[Piece], LineGatherer]:
    gatherer = LineGatherer(line_bytes_max=LINE_BYTES, piece_bytes_max=PIECE_BYTES, piece_lines_max=PIECE_LINES)
    pieces: list[Piece] = []
    for part in parts:
        pieces += gatherer.feed(part)
        assert gatherer.held <= PIECE_BYTES + LINE_BYTES + 1
    return [*pieces, *gatherer.finish()], gatherer


@given(BODIES, st.lists(st.integers(0, 1_000), max_size=8))
def test_pieces_are_the_lines_in_their_order(body: bytes, cuts: list[int]) -> None:
    pieces, gatherer = gathered(split(body, cuts))
    lines = body.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    assert gatherer.number == len(lines)
    kept = [each for piece in pieces for each in zip(piece.numbers, piece.lines, strict=True)]
    numbered = list(enumerate(lines, 1))
    assert kept == [(number, line) for number, line in numbered if len(line) <= LINE_BYTES and line.strip(BLANKS)]
    too_long = [number for piece in pieces for number in piece.too_long]
    assert too_long == [number for number, line in numbered if len(line) > LINE_BYTES]
    expected = 1
    for piece in pieces:
        assert piece.first == expected
        expected = piece.last + 1
        assert len(piece.body) <= PIECE_BYTES
        assert 1 <= len(piece.lines) + len(piece.too_long) <= PIECE_LINES
        assert all(piece.first <= number <= piece.last for number in (*piece.numbers, *piece.too_long))


@pytest.mark.parametrize("coding", ["identity", "gzip", "zstd"])
@given(st.lists(st.binary(max_size=300), max_size=5), st.lists(st.integers(0, 10_000), max_size=8))
def test_a_coding_is_undone_however_its_bytes_come(coding: Coding, members: list[bytes], cuts: list[int]) -> None:
    compressors: dict[str, Callable[[bytes], bytes]] = {
        "identity": bytes,
        "gzip": gzip.compress,
        "zstd": zstandard.compress,
    }
    compress = compressors[coding]
    packed = b"".join(compress(member) for member in members)
    undo = unpacker(coding)
    assert b"".join(text for part in split(packed, cuts) for text in undo.feed(part)) == b"".join(members)
    undo.close()


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
@given(st.binary(min_size=1, max_size=300), st.integers(1, 8))
def test_what_ends_early_is_found_out(coding: Coding, body: bytes, missing: int) -> None:
    packed = (gzip.compress if coding == "gzip" else zstandard.compress)(body)[:-missing]
    with pytest.raises(InvalidRequestError):
        undone(packed, coding)


def undone(packed: bytes, coding: Coding) -> bytes:
    undo = unpacker(coding)
    text = b"".join(undo.feed(packed))
    undo.close()
    return text


COMPRESSORS: dict[Coding, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstandard.compress}
each_coding = pytest.mark.parametrize("coding", list(COMPRESSORS))


@each_coding
@pytest.mark.parametrize("pattern", [b"\0", b"[1.25e-7,-2.5e-7]," * 40_000], ids=["zeros", "repeated array"])
def test_a_body_expands_by_no_more_than_its_size_allows(coding: Coding, pattern: bytes) -> None:
    packed = COMPRESSORS[coding]((pattern * (20_000_000 // len(pattern)))[:20_000_000])
    assert len(packed) * EXPANSION_MAX < 20_000_000, "an input of this test"
    sizes: list[int] = []
    with pytest.raises(BodyTooLargeError, match="times its size"):
        sizes.extend(map(len, unpacker(coding).feed(packed)))
    assert max(sizes, default=0) <= 2 * 1024 * 1024, "one step"
    assert sum(sizes) <= EXPANSION_FREE_BYTES + EXPANSION_MAX * len(packed)


@each_coding
def test_a_body_that_expands_as_far_as_it_may_is_read_in_small_steps(coding: Coding) -> None:
    body = random.Random(7).randbytes(400_000) + bytes(20_000_000)  # an incompressible beginning
    sizes = [len(text) for text in unpacker(coding).feed(COMPRESSORS[coding](body))]
    assert (sum(sizes), max(sizes) <= 2 * 1024 * 1024) == (len(body), True)


@each_coding
def test_members_are_bounded_by_the_bytes_that_they_take(coding: Coding) -> None:
    empty, line = COMPRESSORS[coding](b""), COMPRESSORS[coding](b'{"eventType":"reading","data":{"value":23.5}}\n')
    assert undone(line * 20_000, coding).count(b"\n") == 20_000
    with pytest.raises(BodyTooLargeError, match="members of less than"):
        undone(empty * 20_000, coding)


@given(
    st.lists(st.sampled_from([b"\n", b" \n", b"\t\r\n", b"a\n", b" a\n", b" " * 9, b"\r"]), max_size=60).map(b"".join)
)
def test_blank_lines_are_counted_as_if_each_were_read(body: bytes) -> None:
    """They are counted many at once: a few bytes may decompress to millions of them."""
    together, gatherer = gathered([body])
    one_by_one, slow = gathered([body[place : place + 1] for place in range(len(body))])
    assert (together, gatherer.number) == (one_by_one, slow.number)
