"""The Range header against what RFC 9110 says of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.api.ranges import read_range

SIZES = st.integers(1, 10_000)
PLACES = st.integers(0, 12_000)


@given(size=SIZES, first=PLACES, last=PLACES)
def test_first_and_last_are_those_bytes(size: int, first: int, last: int) -> None:
    found = read_range(f"bytes={first}-{last}", size)
    expected = [place for place in range(size) if first <= place <= last]
    assert (found is None) == (last < first)
    assert list(found or ()) == expected


@given(size=SIZES, first=PLACES)
def test_an_open_range_goes_to_the_end(size: int, first: int) -> None:
    found = read_range(f"bytes={first}-", size)
    assert found is not None
    assert list(found) == list(range(size))[first:]


@given(size=SIZES, count=PLACES)
def test_a_suffix_is_the_last_bytes(size: int, count: int) -> None:
    found = read_range(f"bytes=-{count}", size)
    assert found is not None
    assert list(found) == list(range(size))[size - min(count, size) :]


@given(header=st.text(max_size=40), size=SIZES)
def test_no_header_is_an_error_and_no_range_leaves_the_object(header: str, size: int) -> None:
    found = read_range(header, size)
    assert found is None or 0 <= found.start <= found.stop <= size or len(found) == 0


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=1",
        "bytes=5-2",
        "bytes=0-1,3-4",
        "bytes=-1-2",
        "bytes=+1-2",
        "bytes=1.0-2",
        "items=0-1",
        "bytes 0-1",
        "bytes=0-" + "9" * 30,
        "bytes=\u0661-",
        "bytes=0-1\n",
    ],
)
def test_what_is_no_single_range_of_bytes_is_not_heeded(header: str | None) -> None:
    assert read_range(header, 100) is None


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_a_range_without_a_byte_cannot_be_satisfied(header: str) -> None:
    found = read_range(header, 100)
    assert found is not None
    assert len(found) == 0


@pytest.mark.parametrize("header", ["BYTES=0-1", "bytes= 0-1\t"])
def test_units_have_no_case_and_lists_may_have_blanks(header: str) -> None:
    assert read_range(header, 100) == range(2)
