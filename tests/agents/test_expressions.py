"""Expressions: what each part means, what is refused when read, what cannot be evaluated, and that it ends."""

import contextlib
import math
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.expressions import (
    DEPTH_MAX,
    EXPRESSION_CHARS_MAX,
    NODES_MAX,
    STEPS_MAX,
    AbsentValueError,
    EvaluationError,
    compile_expression,
)
from agents.paths import ABSENT

DATA = {
    "value": 23.5,
    "station": "EWR",
    "humidity": 40,
    "tags": ["a", "b"],
    "wind": {"speed": 3.2, "a b": 1},
    "none": None,
    "ok": True,
}
TABLES = {"stations": {"EWR": {"elevation": 3}}}


def value(text: str, **more: Any) -> Any:
    scope = {"data": DATA, "tables": TABLES, "last": ABSENT, "event": {"type": "t", "externalId": None}} | more
    return compile_expression(text, names=("data", "tables", "last", "event")).value(scope)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("7 / 2", 3.5),
        ("4 / 2", 2),
        ("-7 % 3", -1),
        ("- -3", 3),
        ("10 - 2 - 3", 5),
        ("data.humidity * 1.5", 60),
        ("0.1 + 0.2", 0.30000000000000004),
        ("1 == 1.0", True),
        ("1 == true", False),
        ("data.none == null", True),
        ("data.missing == null", True),
        ("data.wind != null", True),
        ("[1, 'a'] == [1.0, \"a\"]", True),
        ("data.value > 10 && data.station.startsWith('E')", True),
        ("data.value > 100 || data.ok", True),
        ("false && 1 / 0 == 1", False),
        ("true || 1 / 0 == 1", True),
        ("!data.ok", False),
        ("data.value > 10 ? 'high' : 'low'", "high"),
        ("data.value > 10 ? 1 : data.value > 5 ? 2 : 3", 1),
        ("data.station in ['EWR', 'JFK']", True),
        ("1 in [1.0]", True),
        ("true in [1]", False),
        ("data.station in tables.stations", True),
        ("tables.stations[data.station].elevation", 3),
        ("data['wind']['a b']", 1),
        ("data.tags[1]", "b"),
        ("has(data.value)", True),
        ("has(data.wind.gust)", False),
        ("has(data.none)", True),
        ("has(last.value)", False),
        ("size(data.tags) + data.tags.size() + size('\u017elu\u0165')", 8),
        ("abs(-2) + floor(2.7) + ceil(2.1)", 7),
        ("round(2.5) + round(3.5)", 6),
        ("round(2.675, 2)", 2.67),
        ("min(3, 1, 2) + max([3, 1, 2])", 4),
        ("sum([1, 2.5]) + sum([])", 3.5),
        ("sum([0.1, 0.2, 0.3])", 0.6000000000000001),
        ("millis('2024-01-01T00:00:00Z')", 1_704_067_200_000),
        ("millis('2024-01-01T01:00:00.250+01:00') % 1000", 250),
        ("'a' + 'b' < 'b'", True),
        ("' aB '.trim().lower() + 'x'.upper()", "abX"),
        ("data.station.endsWith('R') && data.station.contains('W')", True),
        ("'abc'.matches('^a.c$')", True),
        ("'xabc'.matches('^abc')", False),
        ("data.tags.exists(t, t == 'b')", True),
        ("data.tags.all(t, t == 'b')", False),
        ("[].all(x, false)", True),
        ("[1, 2, 3].filter(x, x > 1).map(x, x * 10)", [20, 30]),
        ("[[1], [2, 3]].map(l, l.map(x, x + 1))", [[2], [3, 4]]),
        ("event.type", "t"),
        ("'a\\n\\'\\\\'", "a\n'\\"),
    ],
)
def test_what_it_means(text: str, expected: Any) -> None:
    found = value(text)
    assert (found, type(found)) == (expected, type(expected))


NOTHING = [
    "data.missing > 1", "data.none > 1", "!data.missing", "data.none + 'a'", "size(data.none)", "min([])",
    "data.missing.startsWith('a')", "1 in data.none", "data.tags[7] > 'a'", "data.none ? 1 : 2", "last.x > 1",
]  # fmt: skip


@pytest.mark.parametrize("text", NOTHING)
def test_what_is_absent_or_null_says_nothing(text: str) -> None:
    with pytest.raises(AbsentValueError):
        value(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1 / 0", "division by zero"),
        ("1 % 0", "division by zero"),
        ("1e308 * 10", "JSON cannot hold"),
        ("9007199254740991 * 2", "JSON cannot hold"),
        ("'a' < 1", "no order"),
        ("1 < 2 < 3", "no order"),
        ("true && 1", "where true or false belongs"),
        ("1 + 'a'", "where a number belongs"),
        ("data.value.startsWith('a')", "where a string belongs"),
        ("1 in 'abc'", "nothing is 'in'"),
        ("data.value['a']", "no member"),
        ("size(1)", "no size"),
        ("size(1, 2)", "does not take"),
        ("round(1.5, 99)", "0 to 15 decimals"),
        ("sum(1)", "wants an array"),
        ("sum([1, 'a'])", "where a number belongs"),
        ("millis('yesterday')", "RFC 3339"),
        ("data.value.exists(x, true)", "wants an array"),
        ("data.tags.exists(t, t)", "where true or false belongs"),
    ],
)
def test_what_cannot_be_evaluated_says_why(text: str, why: str) -> None:
    with pytest.raises(EvaluationError, match=why):
        value(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "expected a value, found the end"),
        ("data.", "expected a name, found the end"),
        ("1 +", "expected a value"),
        ("(1", "expected '\\)'"),
        ("1 2", "an operator or the end"),
        ("foo.bar", "'foo' is not known here; known are data"),
        ("data.a & data.b", "at character 7: unexpected '& data.b'"),
        ("data.a = 1", "unexpected '= 1'"),
        ("data.a.nonsense()", "the method 'nonsense' is not known"),
        ("data.a.matches(data.b)", "a pattern as a literal string"),
        ("data.a.matches('(')", "the pattern"),
        ("data.a.matches('(?=a)')", "no look-around"),
        ("data.tags.exists(data, true)", "is taken; use another"),
        ("has(1)", "a path like"),
        ("has(data)", "'.' and a name"),
        ("'a\\qb'", "unknown escape"),
        ("01", "an operator or the end"),
        ("1e999", "too large"),
        ("data.a ? 1", "':'"),
        ("min(1,2,3,4,5,6,7,8,9)", "more than 8"),
        ("a" * (EXPRESSION_CHARS_MAX + 1), "at most"),
        ("(" * (DEPTH_MAX + 1) + "1" + ")" * (DEPTH_MAX + 1), "nested deeper"),
        ("!" * (DEPTH_MAX + 2) + "data.ok", "nested deeper"),
        ("+".join(["1"] * NODES_MAX), "more than 512 parts"),
        ("__import__('os')", "not known here"),
        ("data.__class__", ""),
    ],
)
def test_what_is_refused_says_where(text: str, why: str) -> None:
    if text == "data.__class__":
        assert value(text) is ABSENT  # a member of the data like any other, and there is none
        return
    with pytest.raises(ValueError, match=why):
        compile_expression(text, names=("data",))


def test_the_past_is_read_by_name_alone() -> None:
    expression = compile_expression("data.a > last.a && has(last.b)", names=("data", "last"))
    assert expression.roots == {"data", "last"}
    with pytest.raises(ValueError, match="'last' is not known here"):
        compile_expression("last.a", names=("data",))


def test_installed_functions_are_called_by_their_full_name() -> None:
    functions: dict[str, Callable[..., Any]] = {
        "acme.double": lambda number: 2 * number,
        "acme.fail": lambda: math.sqrt(-1),
    }
    scope = {"data": {"a": 4}}
    assert compile_expression("acme.double(data.a) + 1", names=("data",), functions=functions).value(scope) == 9
    with pytest.raises(EvaluationError, match=r"^acme\.fail\(\) raised ValueError$"):
        compile_expression("acme.fail()", names=("data",), functions=functions).value(scope)
    with pytest.raises(EvaluationError, match=r"^acme\.double\(\) raised TypeError$"):
        compile_expression("acme.double()", names=("data",), functions=functions).value(scope)
    with pytest.raises(ValueError, match="'acme' is not known"):
        compile_expression("acme.triple(1)", names=("data",), functions=functions)


def test_steps_are_counted_over_all_lists() -> None:
    data = {"many": list(range(200))}
    nested = "data.many.all(a, data.many.all(b, data.many.all(c, true)))"
    expression = compile_expression(nested, names=("data",))
    started_s = time.monotonic()
    with pytest.raises(EvaluationError, match=f"more than {STEPS_MAX} steps"):
        expression.value({"data": data})
    assert time.monotonic() - started_s < 2, "the bound is what ends it"
    flat = compile_expression("data.many.all(a, a >= 0)", names=("data",))
    assert all(flat.value({"data": data}) for _ in range(100)), "each evaluation has its own"


def test_hostile_patterns_and_texts_end() -> None:
    data = {"text": "a" * 100_000 + "!", "deep": "x" * 60_000}
    started_s = time.monotonic()
    assert not compile_expression("data.text.matches('^(a+)+$')", names=("data",)).holds({"data": data})
    with pytest.raises(EvaluationError, match="65536 characters"):
        compile_expression("data.deep + data.deep", names=("data",)).value({"data": data})
    assert time.monotonic() - started_s < 2
    with pytest.raises(ValueError, match="the pattern"):
        compile_expression("data.text.matches('(a{1000}){1000}')", names=("data",))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=5)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
TEXTS = [
    "data.a + data.b * data.c", "data.a < data.b", "data.a == data.b || data.c", "data.a.exists(x, x > data.b)",
    "data[data.a]", "data.a.b.c > 1", "size(data.a) > 1 && data.a[0] == data.b", "round(data.a, 2) / data.b",
    "data.a.startsWith(data.b)", "data.a in data.b", "max(data.a)", "millis(data.a) > 0", "data.a.map(x, x + 1)",
]  # fmt: skip


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.sampled_from(TEXTS), st.dictionaries(st.sampled_from(["a", "b", "c"]), JSON))
def test_any_data_gives_a_value_or_a_reason(text: str, data: Any) -> None:
    expression = compile_expression(text, names=("data",))
    outcomes = []
    for _ in range(2):
        try:
            outcomes.append(repr(expression.value({"data": data})))
        except EvaluationError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]


@given(st.text(alphabet="data.ab ()[]+-*/<>=!&|?:,'\"0123456789e\\", max_size=40))
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    try:
        expression = compile_expression(text, names=("data",))
    except ValueError:
        return
    with contextlib.suppress(EvaluationError):
        expression.value({"data": {"a": 1, "b": [1, 2]}})
