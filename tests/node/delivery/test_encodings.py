"""Chunks on the wire, read back by other implementations of the same formats."""

import zlib

import h11
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State

from node.delivery import encodings
from node.delivery.cursor import Cursor
from node.delivery.messages import Chunk, Encoding, EventMessage
from tests.node.delivery.certified_results import chunk

names = st.text('abc\n\u2028"\u00e9', max_size=4)
bodies = st.lists(st.dictionaries(names, st.integers(-9, 10**6), min_size=1, max_size=3), min_size=1, max_size=5)


def chunk_of(documents: list[dict[str, int]]) -> Chunk:
    messages = tuple(
        EventMessage(cursor=Cursor(3, index + 1), body=orjson.dumps(document))
        for index, document in enumerate(documents)
    )
    return Chunk(last=messages[-1].cursor, messages=messages)


def frames_in(data: bytes) -> list[bytes]:
    """The text messages that a client reads."""
    client = Protocol(Side.CLIENT, state=State.OPEN, max_size=None)
    client.receive_data(data)
    found = [frame for frame in client.events_received() if isinstance(frame, Frame)]
    assert all(frame.opcode is Opcode.TEXT and frame.fin for frame in found)
    return [bytes(frame.data) for frame in found]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 200_000])
def test_frames_of_every_length_are_read_by_a_client(size: int) -> None:
    assert frames_in(encodings.frame(b"x" * size)) == [b"x" * size]


@given(bodies)
def test_every_message_is_a_frame_that_contains_its_cursor(documents: list[dict[str, int]]) -> None:
    got = [orjson.loads(text) for text in frames_in(encodings.frames(chunk_of(documents)))]
    assert [each.pop("sequence") for each in got] == [f"3.{index + 1}" for index in range(len(documents))]
    assert got == [{name: value for name, value in each.items() if name != "sequence"} for each in documents]


@given(bodies)
def test_every_message_is_a_server_sent_event_under_its_cursor(documents: list[dict[str, int]]) -> None:
    text = encodings.sse(chunk_of(documents)).decode()
    events = [event.split("\n") for event in text.removesuffix("\n\n").split("\n\n")]
    assert [lines[0] for lines in events] == [f"id: 3.{index + 1}" for index in range(len(documents))]
    assert [orjson.loads(lines[1].removeprefix("data: ")) for lines in events] == documents


@given(st.lists(bodies, min_size=1, max_size=4))
def test_gzip_blocks_continue_any_stream(parts: list[list[dict[str, int]]]) -> None:
    """Two clients that got different chunks before read the same bytes alike."""
    chunks = [chunk_of(part) for part in parts]
    blocks = [encodings.sse_gzip(each) for each in chunks]
    for order in (range(len(chunks)), reversed(range(len(chunks)))):
        reader = zlib.decompressobj(wbits=31)
        got = reader.decompress(encodings.GZIP_HEADER)
        for index in order:
            got = reader.decompress(blocks[index])
            assert got == encodings.sse(chunks[index]), "a block is readable as soon as it has come"
        assert not reader.eof, "the stream has no end"


@pytest.mark.parametrize("encoding", [encodings.sse_parts, encodings.sse_gzip_parts])
def test_parts_are_chunks_of_a_chunked_body(encoding: Encoding) -> None:
    whole = chunk((1, 1), (1, 2), size=5_000)
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + encoding(whole) + b"0\r\n\r\n")
    body = b""
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Data):
            body += bytes(event.data)
    plain = encodings.sse if encoding is encodings.sse_parts else encodings.sse_gzip
    assert body == plain(whole)


def test_an_event_without_a_cursor_has_no_id() -> None:
    assert encodings.event(b"{}") == b"data: {}\n\n"
    assert encodings.event(b"{}", Cursor(1, 2)) == b"id: 1.2\ndata: {}\n\n"
