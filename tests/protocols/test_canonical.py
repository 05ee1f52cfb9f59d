"""RFC 8785 against the reference package, and a parser that takes only what has one meaning."""

import math
import random
import struct
from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.canonical import INTEGER_MAX, canonical_json, parse_json
from protocols.errors import InvalidJsonError, NotCanonicalizableError

DOUBLES = 100_000

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-INTEGER_MAX, INTEGER_MAX)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(blacklist_categories=["Cs"]), max_size=20)
)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(st.characters(blacklist_categories=["Cs"]), max_size=8), inner, max_size=5)
    ),
    max_leaves=20,
)


def test_numbers_are_written_as_the_reference_writes_them() -> None:
    """Random bit patterns, and random decimals of the size that sensors send."""
    numbers = random.Random(8785)
    for _ in range(DOUBLES):
        value = struct.unpack("<d", numbers.randbytes(8))[0]
        if math.isfinite(value):
            assert canonical_json(value) == rfc8785.dumps(value), repr(value)
    for _ in range(DOUBLES):
        value = round(numbers.uniform(-1, 1) * 10 ** numbers.randint(-8, 23), numbers.randint(0, 12))
        assert canonical_json({"a": [value]}) == rfc8785.dumps({"a": [value]}), repr(value)


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        ("0000000000000000", "0"),
        ("8000000000000000", "0"),
        ("0000000000000001", "5e-324"),
        ("8000000000000001", "-5e-324"),
        ("7fefffffffffffff", "1.7976931348623157e+308"),
        ("4340000000000000", "9007199254740992"),
        ("4430000000000000", "295147905179352830000"),
        ("44b52d02c7e14af5", "9.999999999999997e+22"),
        ("44b52d02c7e14af6", "1e+23"),
        ("44b52d02c7e14af7", "1.0000000000000001e+23"),
        ("444b1ae4d6e2ef4e", "999999999999999700000"),
        ("444b1ae4d6e2ef4f", "999999999999999900000"),
        ("444b1ae4d6e2ef50", "1e+21"),
        ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
        ("3eb0c6f7a0b5ed8d", "0.000001"),
        ("41b3de4355555553", "333333333.3333332"),
        ("41b3de4355555557", "333333333.33333343"),
        ("becbf647612f3696", "-0.0000033333333333333333"),
        ("43143ff3c1cb0959", "1424953923781206.2"),
    ],
)
def test_the_samples_of_the_standard(bits: str, text: str) -> None:
    """RFC 8785, appendix B."""
    assert canonical_json(struct.unpack(">d", bytes.fromhex(bits))[0]).decode() == text


@settings(max_examples=500, deadline=None)
@given(JSON)
def test_any_json_is_written_as_the_reference_writes_it(value: Any) -> None:
    assert canonical_json(value) == rfc8785.dumps(value)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=4), st.floats(0, 9)))
def test_the_order_of_keys_in_hand_does_not_matter(value: dict[str, float]) -> None:
    turned = dict(reversed(value.items()))
    assert canonical_json(turned) == canonical_json(value)


@settings(max_examples=300, deadline=None)
@given(JSON)
def test_what_is_written_can_be_read_and_written_again(value: Any) -> None:
    written = canonical_json(value)
    try:
        read = parse_json(written)
    except InvalidJsonError:
        return  # integral numbers beyond 2^53 have a form, and are refused at the door
    assert canonical_json(read) == written


def test_keys_sort_by_utf_16_units() -> None:
    """RFC 8785, 3.2.3: U+1F600 is a pair of surrogates, so it comes before U+FB33."""
    value = {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\u0080": 6, "\u00f6": 7}
    assert list(parse_json(canonical_json(value)).values()) == [2, 4, 6, 7, 1, 5, 3]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        INTEGER_MAX + 1,
        -INTEGER_MAX - 1,
        "\ud800",
        {"\udfff": 1},
        {1: 2},
        b"bytes",
        {"a": {"b": [math.nan]}},
        {1, 2},
    ],
    ids=repr,
)
def test_what_has_no_canonical_form_is_refused(value: Any) -> None:
    with pytest.raises(NotCanonicalizableError):
        canonical_json(value)


def test_the_place_of_what_is_refused_is_named() -> None:
    with pytest.raises(NotCanonicalizableError) as caught:
        canonical_json({"a": {"b": [1, math.nan]}})
    assert caught.value.fields["path"] == "/a/b/1"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"NaN",
        b"[Infinity]",
        b"[1e400]",
        b"[-1e999]",
        b'{"a":1,"a":2}',
        b'{"a":{"b":1,"b":1}}',
        b"[9007199254740993]",
        b"[123456789012345678901234567890]",
        b'["\\ud800"]',
        b'["\xff"]',
        b'["\xed\xa0\x80"]',
        b"[1] [2]",
        b"[01]",
        b"[1,]",
        b"\xef\xbb\xbf[]",
        b"[" * 100 + b"]" * 100,
        b"[" * 100_000,
        b'{"a":' * 70 + b"1" + b"}" * 70,
    ],
    ids=lambda text: text[:24],
)
def test_text_without_one_meaning_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidJsonError):
        parse_json(text)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_crash_the_parser(data: bytes) -> None:
    try:
        value = parse_json(data)
    except InvalidJsonError:
        return
    canonical_json(value)
