"""JSON in JSONB columns: it comes back as it went in, or is refused before a statement is sent."""

import math
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from protocols.canonical import canonical_json, parse_json
from protocols.errors import InvalidJsonError
from storage.connections import connect
from storage.errors import StorageRefusedError

NUMBERS = (0, -0.0, 1.0, 1e20, 1e21, -1e21, 6.02214076e23, 1e30, 123456789012345680000.0, 2.0**63, 2.0**64, 1.5e300)
EDGES = (5e-324, -5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 1e-7, 0.1, 1 / 3, 2.0**53, 2.0**53 + 2)
INTEGERS = (2**53 - 1, 1 - 2**53, 2**63 - 1, -(2**63), 2**64 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(1 - 2**53, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture
def session(postgres_url: str) -> Iterator[psycopg.Connection]:
    with connect(postgres_url) as connection:
        yield connection


def stored(connection: psycopg.Connection, value: Any) -> Any:
    row = connection.execute("SELECT %s, %s::text::jsonb", (Jsonb(value), canonical_text(value))).fetchone()
    assert row is not None
    assert canonical_text(row[0]) == canonical_text(row[1])
    return row[0]


def canonical_text(value: Any) -> str:
    """The RFC 8785 form, of integers as the doubles that they are to JSON."""
    return canonical_json(_as_doubles(value)).decode()


def _as_doubles(value: Any) -> Any:
    if type(value) is int:
        return float(value)
    if isinstance(value, list):
        return [_as_doubles(each) for each in value]
    return {key: _as_doubles(each) for key, each in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize("number", NUMBERS + EDGES)
def test_a_number_comes_back_as_it_went_in(session: psycopg.Connection, number: float) -> None:
    assert canonical_text(stored(session, [number])) == canonical_text([number])


@pytest.mark.parametrize("number", INTEGERS)
def test_an_integer_of_64_bits_stays_exact(session: psycopg.Connection, number: int) -> None:
    row = session.execute("SELECT %s", (Jsonb({"offset": number}),)).fetchone()
    assert row == ({"offset": number},)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values)
@example({"a": [6.02214076e23, {"b": -1e21}]})
def test_any_json_comes_back_as_it_went_in(session: psycopg.Connection, value: Any) -> None:
    assert canonical_text(stored(session, value)) == canonical_text(value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(allow_nan=False, allow_infinity=False))
@example(1e21)
@example(2.0**53)
@example(9.999999999999999e20)
def test_what_an_event_may_hold_has_the_canonical_form_that_was_hashed(
    session: psycopg.Connection, number: float
) -> None:
    line = canonical_json({"v": number})
    if 2**53 <= abs(number) < 1e21:
        with pytest.raises(InvalidJsonError, match=r"beyond 2\^53"):
            parse_json(line)  # as admission does, so no event holds such a number
        return
    row = session.execute("SELECT %s::jsonb", (line.decode(),)).fetchone()
    assert row is not None
    assert canonical_json(row[0]) == line


@pytest.mark.parametrize(
    "value",
    [
        "\x00",
        "a\x00b",
        "\\\x00",
        "\ud800",
        math.nan,
        math.inf,
        -math.inf,
        2**64,
        -(2**63) - 1,
        10**30,
        object(),
        {1, 2},
    ],
)
@pytest.mark.parametrize("place", ["value", "key", "deep"])
def test_what_jsonb_cannot_hold_is_refused(session: psycopg.Connection, value: Any, place: str) -> None:
    if place == "key" and not isinstance(value, str):
        return
    document = {"value": value} if place == "value" else {value: 1} if place == "key" else [None, {"a": [value]}]
    with pytest.raises(StorageRefusedError, match="cannot be stored as JSON"):
        session.execute("SELECT %s", (Jsonb(document),))
    assert session.execute("SELECT 1").fetchone() == (1,), "nothing was sent: the transaction goes on"


def test_text_that_only_looks_like_u_0000_is_kept(session: psycopg.Connection) -> None:
    for text in ("\\u0000", "\\\\u0000", "u0000", "null"):
        assert stored(session, {text: text}) == {text: text}
