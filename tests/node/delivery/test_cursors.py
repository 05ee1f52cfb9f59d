"""Cursors, chunks and what is cut off from chunks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.delivery.cursor import START, WHOLE_BATCH, Cursor, read_cursor
from node.delivery.messages import merged
from tests.node.delivery.certified_results import chunk

cursors = st.builds(Cursor, st.integers(0, 10**18 - 1), st.integers(0, 10**9 - 1))


@given(cursors)
def test_a_cursor_is_read_as_it_was_written(cursor: Cursor) -> None:
    assert read_cursor(str(cursor)) == cursor
    assert read_cursor(f"  {cursor} ") == cursor


@given(cursors, cursors)
def test_cursors_are_ordered_by_sequence_and_then_by_position(one: Cursor, other: Cursor) -> None:
    assert (one < other) == (
        one.sequence < other.sequence or (one.sequence == other.sequence and one.position < other.position)
    )


def test_a_sequence_alone_stands_after_all_of_its_batch() -> None:
    assert read_cursor("7") == Cursor(sequence=7, position=WHOLE_BATCH)
    assert str(read_cursor("7")) == "7"
    assert read_cursor("7") > read_cursor("7.999999998")
    assert read_cursor("7") < read_cursor("8.0")
    assert read_cursor("0") > START


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "1.", ".1", "-1", "+1", "1.-1", "1.2.3", "1,2", "1e3", "0x1", "one", "1 .2", "\u0661", "1.\u0662"),
        *("1" * 19, "1." + "1" * 10),
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be of the form"):
        read_cursor(text)


batch = st.lists(st.integers(1, 20), min_size=1, max_size=8, unique=True).map(sorted)


@given(batch, st.integers(0, 21))
def test_what_comes_after_a_cursor_is_all_of_it_and_nothing_else(positions: list[int], position: int) -> None:
    whole = chunk(*[(5, each) for each in positions], last=(5, 20))
    rest = whole.after(Cursor(5, position))
    assert [message.cursor.position for message in rest.messages] == [each for each in positions if each > position]
    assert rest.last == whole.last, "where the feed stands after it is the same"
    assert whole.after(Cursor(4, WHOLE_BATCH)) is whole
    assert whole.after(Cursor(6, 0)).messages == ()


@given(st.lists(batch, min_size=1, max_size=4))
def test_merged_chunks_keep_every_message_in_order(batches: list[list[int]]) -> None:
    chunks = [chunk(*[(number, each) for each in batch]) for number, batch in enumerate(batches)]
    whole = merged(chunks)
    assert whole.messages == tuple(message for each in chunks for message in each.messages)
    assert whole.last == chunks[-1].last
    assert whole.size == sum(each.size for each in chunks)


def test_an_encoding_is_computed_once() -> None:
    calls = 0

    def encoding(_: object) -> bytes:
        nonlocal calls
        calls += 1
        return b"bytes"

    made = chunk((1, 1))
    assert not made.is_encoded(encoding)
    assert [made.encoded(encoding) for _ in range(3)] == [b"bytes"] * 3
    assert made.is_encoded(encoding)
    assert calls == 1
