"""Mapping, coercion and required fields: results and the exact issues."""

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.policy import policy_document
from agents.roles import execute
from agents.units import SIGNIFICANT_DIGITS, UNITS, converter
from protocols.canonical import INTEGER_MAX
from protocols.errors import InvalidPolicyError
from protocols.identifiers import content_event_id, record_line


def issue(rule: str, path: str, expected: Any, found: Any) -> dict[str, Any]:
    return {"expected": expected, "found": found, "path": path, "rule": rule, "severity": "error"}


MAPPING = {
    "fields": [
        {"from": "temp", "to": "temperature"},
        {"from": "wind.speed", "to": "wind.mps"},
        {"from": "/odd.name", "to": "odd", "default": "none"},
        {"from": "list.1", "to": "second"},
        {"from": "@timestamp", "to": "sent", "default": None},
    ]
}


def test_mapping_moves_renames_and_fills_in(run: Any) -> None:
    data = {"temp": 1, "wind": {"speed": 2, "gust": 3}, "odd.name": "x", "list": [4, 5], "rest": {"a": 6}}
    kept = {"rest": {"a": 6}}
    mapped = {"temperature": 1, "wind": {"mps": 2}, "odd": "x", "second": 5, "sent": None}
    assert run({"mapping": {**MAPPING, "unmapped": "drop"}}, data).data == [mapped]
    assert run({"mapping": {**MAPPING, "unmapped": "keep"}}, data).data == [{**mapped, **kept}]
    assert run({"mapping": MAPPING}, {"list": [0]}).data == [{"odd": "none", "sent": None}]


@pytest.mark.parametrize("data", [None, 1, "x", [1]])
def test_mapping_of_a_value_that_is_not_an_object(run: Any, data: Any) -> None:
    ran = run({"mapping": MAPPING, "required": ["odd"]}, data)
    kind = {"NoneType": "null", "int": "number", "str": "string", "list": "array"}[type(data).__name__]
    assert ran.data == [data]
    assert ran.issues == [
        [
            issue("mapping", "", {"type": "object"}, {"type": kind}),
            issue("required", "/odd", {"required": True}, None),
        ]
    ]


def test_a_mapped_field_over_a_kept_one_is_an_issue(run: Any) -> None:
    ran = run({"mapping": {"fields": [{"from": "a", "to": "b"}]}}, {"a": 1, "b": 2})
    assert ran.data == [{"b": 1}]
    assert ran.issues == [[issue("mapping", "/b", {"unmapped": "another name"}, 2)]]


ABSENT = "no such value"
COERCIONS = [
    ({"type": "number"}, 1.5, 1.5),
    ({"type": "number"}, "1.5", 1.5),
    ({"type": "number"}, " +2.50 ", 2.5),
    ({"type": "number"}, "-0", 0),
    ({"type": "number"}, "1e3", 1000),
    ({"type": "number"}, "9007199254740991", 9007199254740991),
    ({"type": "number"}, "9007199254740992", ABSENT),
    ({"type": "number"}, "9007199254740991.5", ABSENT),
    ({"type": "number"}, "1e20", ABSENT),
    ({"type": "number"}, "1e21", 1e21),
    ({"type": "number"}, "1e400", ABSENT),
    ({"type": "number", "unit": {"from": "km", "to": "mm"}}, 9e15, 9e21),
    ({"type": "number", "unit": {"from": "km", "to": "mm"}}, 9e12, ABSENT),
    ({"type": "number", "unit": {"from": "km", "to": "mm"}}, 1e305, ABSENT),
    ({"type": "number"}, "0x10", ABSENT),
    ({"type": "number"}, "1,5", ABSENT),
    ({"type": "number"}, "١", ABSENT),
    ({"type": "number"}, "NaN", ABSENT),
    ({"type": "number"}, True, ABSENT),
    ({"type": "number"}, [1], ABSENT),
    ({"type": "number", "nullValues": ["NA", "", -999]}, "NA", None),
    ({"type": "number", "nullValues": ["NA", "", -999]}, -999, None),
    ({"type": "number", "nullValues": ["NA", "", -999]}, "-999", -999),
    ({"type": "integer"}, 3, 3),
    ({"type": "integer"}, "3.0", 3),
    ({"type": "integer"}, 3.5, ABSENT),
    ({"type": "integer"}, 1e300, ABSENT),
    ({"type": "boolean"}, True, True),
    ({"type": "boolean"}, "TRUE", True),
    ({"type": "boolean"}, 0, False),
    ({"type": "boolean"}, 2, ABSENT),
    ({"type": "boolean"}, {"a": 1}, ABSENT),
    ({"type": "boolean", "trueValues": ["Y"], "falseValues": ["N"]}, "y", True),
    ({"type": "boolean", "trueValues": ["Y"], "falseValues": ["N"]}, "true", ABSENT),
    ({"type": "string"}, 1.5, "1.5"),
    ({"type": "string"}, 1e21, "1e+21"),
    ({"type": "string"}, False, "false"),
    ({"type": "string"}, {}, ABSENT),
    ({"type": "string", "trim": True, "case": "upper"}, " jfkß ", "JFKß"),
    ({"type": "string", "case": "lower"}, "ÀBC", "Àbc"),
    ({"type": "enum", "values": ["on", "off"]}, "on", "on"),
    ({"type": "enum", "values": ["on", "off"]}, "On", ABSENT),
    ({"type": "enum", "values": ["on", "off"], "ignoreCase": True}, "On", "on"),
    ({"type": "enum", "values": ["on", "off"], "aliases": {"1": "on"}}, "1", "on"),
    ({"type": "enum", "values": ["on", "off"], "aliases": {"1": "on"}}, 1, ABSENT),
    ({"type": "timestamp"}, "2013-01-01T06:00:00Z", "2013-01-01T06:00:00Z"),
    ({"type": "timestamp"}, "2013-01-01t01:00:00.2500-05:00", "2013-01-01T06:00:00.25Z"),
    ({"type": "timestamp"}, "2012-12-31T23:59:59.000000001Z", "2012-12-31T23:59:59.000000001Z"),
    ({"type": "timestamp"}, "2013-02-29T00:00:00Z", ABSENT),
    ({"type": "timestamp"}, "2013-01-01T24:00:00Z", ABSENT),
    ({"type": "timestamp"}, "2016-12-31T23:59:60Z", ABSENT),
    ({"type": "timestamp"}, "0001-01-01T00:00:00+01:00", ABSENT),
    ({"type": "timestamp"}, "2013-01-01T06:00:00", ABSENT),
    ({"type": "timestamp"}, 0, ABSENT),
    ({"type": "timestamp", "formats": ["unix"]}, 0, "1970-01-01T00:00:00Z"),
    ({"type": "timestamp", "formats": ["unix"]}, -0.5, "1969-12-31T23:59:59.5Z"),
    ({"type": "timestamp", "formats": ["unix"]}, "1357020000.25", "2013-01-01T06:00:00.25Z"),
    ({"type": "timestamp", "formats": ["unix"]}, 999999999999, ABSENT),
    ({"type": "timestamp", "formats": ["unixMs"]}, 1357020000001, "2013-01-01T06:00:00.001Z"),
    ({"type": "timestamp", "formats": ["unixMs"]}, 1.5, ABSENT),
    ({"type": "timestamp", "formats": ["rfc3339", "unix"]}, 60, "1970-01-01T00:01:00Z"),
    (
        {"type": "timestamp", "formats": ["DD.MM.YYYY HH:mm"], "timezone": "+02:00"},
        "01.03.2013 01:30",
        "2013-02-28T23:30:00Z",
    ),
    (
        {"type": "timestamp", "formats": ["YYYY-MM-DDTHH:mm:ss.SSSZ"]},
        "2013-01-01T00:00:00.5+0100",
        "2012-12-31T23:00:00.5Z",
    ),
    ({"type": "timestamp", "formats": ["YYYY-MM-DD"], "timezone": "Z"}, "2013-13-01", ABSENT),
]  # fmt: skip


@pytest.mark.parametrize(("coercion", "value", "result"), COERCIONS)
def test_coercion(run: Any, coercion: dict[str, Any], value: Any, result: Any) -> None:
    """Twice in one batch and inside an object: what is remembered or nested changes nothing."""
    flat = run({"coercion": [{"field": "v", **coercion}]}, {"v": value}, {"v": value})
    deep = run({"coercion": [{"field": "a.b", **coercion}]}, {"a": {"b": value, "c": 1}})
    if result is ABSENT:
        assert flat.data == [{"v": value}] * 2
        assert [entry["rule"] for entry in flat.issues[0]] == ["coercion"]
        assert flat.issues[0] == flat.issues[1]
        assert deep.issues[0][0]["path"] == "/a/b"
    else:
        assert flat.data == [{"v": result}] * 2
        assert [type(item["v"]) for item in flat.data] == [type(result)] * 2
        assert flat.issues == [[], []]
        assert deep.data == [{"a": {"b": result, "c": 1}}]


@pytest.mark.parametrize(("coercion", "value", "result"), COERCIONS)
def test_coercion_of_the_elements_of_an_array(run: Any, coercion: dict[str, Any], value: Any, result: Any) -> None:
    """A member of each element, and the elements themselves; an issue names the element, and costs no other."""
    inside = {"each": "order.items", "field": "v", **coercion}
    elements = [{"v": value, "c": 1}, {"c": 2}, "no object", {"v": None}]
    ran = run({"coercion": [inside]}, {"order": {"items": elements}})
    bare = run({"coercion": [{"each": "list", **coercion}]}, {"list": [None, value]})
    if result is ABSENT:
        assert ran.data == [{"order": {"items": elements}}]
        assert [entry["path"] for entry in ran.issues[0]] == ["/order/items/0/v"]
        assert [entry["path"] for entry in bare.issues[0]] == ["/list/1"]
    else:
        assert ran.data == [{"order": {"items": [{"v": result, "c": 1}, *elements[1:]]}}]
        assert bare.data == [{"list": [None, result]}]
        assert ran.issues == bare.issues == [[]]


def test_elements_are_looked_for_in_arrays_alone(run: Any) -> None:
    policy = {"coercion": [{"each": "items", "field": "v", "type": "number"}]}
    events: list[Any] = [{"items": {"v": "1"}}, {"items": "x"}, {"items": None}, {}, [1]]
    ran = run(policy, *events)
    assert ran.data == events
    assert ran.issues == [[]] * 5


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([{"type": "number"}], "the key 'field' is missing"),
        ([{"each": "a", "type": "number"}, {"each": "a", "field": "b", "type": "number"}], "is inside another field"),
        ([{"each": "a", "field": "b", "type": "number"}] * 2, "is named twice"),
    ],
)
def test_coercions_of_elements_that_are_refused(entries: list[dict[str, Any]], reason: str) -> None:
    with pytest.raises(InvalidPolicyError, match=reason):
        policy_document({"coercion": entries})


LEVEL_FORMS: list[dict[str, Any]] = [
    {"type": "number"},
    {"type": "integer"},
    {"type": "boolean", "trueValues": ["yes", 1], "falseValues": ["no", 0]},
    {"type": "decimal", "scale": 2, "rounding": "half-even"},
    {"type": "string", "trim": True, "case": "lower", "unicode": "NFC"},
    {"type": "timestamp", "formats": ["rfc3339", "unix"]},
    {"type": "enum", "values": ["kilo", "mega"], "aliases": {"k": "kilo", "M": "mega"}, "ignoreCase": True},
]
SAID = (
    st.none() | st.booleans() | st.floats(-1e6, 1e6) | st.integers(-INTEGER_MAX, INTEGER_MAX) | st.text(max_size=12)
    | st.sampled_from([" 1.50 ", "1e3", "YES", "no", "k", "MEGA", "2013-01-01T05:00:00-05:00", "1357034400"])
    | st.sampled_from(["A\u030a"])
)  # fmt: skip


@given(st.sampled_from(LEVEL_FORMS), st.sampled_from(LEVEL_FORMS), st.lists(SAID, min_size=1, max_size=3))
def test_what_is_normalized_is_a_fixed_point_where_fields_keep_their_names(
    run: Any, one: dict[str, Any], other: dict[str, Any], values: list[Any]
) -> None:
    """A policy that neither moves fields nor changes units gives the same bytes for its own output."""
    policy = {"coercion": [{"field": "a", **one}, {"each": "list", **other}]}
    first = run(policy, {"a": values[0], "list": values})
    if first.issues == [[]]:
        again = run(policy, first.data[0])
        assert again.output.normalized == first.output.normalized
        assert again.issues == [[]]


def test_true_is_not_one(run: Any) -> None:
    """They are one key of a dictionary: a remembered 1 may not answer for true, nor the other way round."""
    ran = run({"coercion": [{"field": "v", "type": "number"}]}, {"v": 1}, {"v": True}, {"v": 1})
    assert [leaf["status"] for leaf in ran.leaves] == ["valid", "invalid", "valid"]


def test_coercion_issues_say_what_was_expected_and_found(run: Any) -> None:
    policy = {
        "coercion": [
            {"field": "t", "type": "number", "unit": {"from": "degF", "to": "degC"}},
            {"field": "s", "type": "enum", "values": ["on", "off"]},
            {"field": "at", "type": "timestamp"},
            {"field": "big", "type": "integer"},
            {"field": "list", "type": "string"},
        ]
    }
    ran = run(policy, {"t": "warm", "s": "x", "at": "noon", "big": "9" * 129, "list": [1, 2]})
    assert ran.issues == [
        [
            issue("coercion", "/t", {"type": "number", "unit": "degF"}, "warm"),
            issue("coercion", "/s", {"type": "enum", "values": ["on", "off"]}, "x"),
            issue("coercion", "/at", {"type": "timestamp", "formats": ["rfc3339"]}, "noon"),
            issue("coercion", "/big", {"type": "integer"}, {"type": "string", "length": 129}),
            issue("coercion", "/list", {"type": "string"}, {"type": "array", "length": 2}),
        ]
    ]


def test_required_means_there_and_not_null(run: Any) -> None:
    policy = {"required": ["a", "b.c"], "coercion": [{"field": "a", "type": "string", "nullValues": [""]}]}
    ran = run(policy, {"a": "x", "b": {"c": 0}}, {"a": "", "b": {"c": None}}, {"b": 1}, [])
    both = [
        issue("required", "/a", {"required": True}, None),
        issue("required", "/b/c", {"required": True}, None),
    ]
    assert ran.issues == [[], both, both, both]


def test_the_raw_record_is_not_changed(run: Any) -> None:
    """Without an external id, the event's id is of the content as it came, not as it was normalized."""
    data = {"a": {"b": "1"}, "c": "2"}
    output = execute(
        network="n",
        source_id="s",
        payload=record_line(data=data, event_type="t", external_id=None, previous=None, timestamp=None),
        policy=policy_document({"coercion": [{"field": "a.b", "type": "number"}, {"field": "c", "type": "number"}]}),
        context=b"{}",
    )
    assert output.normalized == b'{"a":{"b":1},"c":2}'
    expected = content_event_id("n", "s", data=data, event_type="t", timestamp=None)
    assert f'"eventId":"{expected}"'.encode() in output.leaves


@pytest.mark.parametrize(
    ("source", "target", "value", "result"),
    [
        ("degF", "degC", 39.02, 3.9),
        ("degF", "degC", 212, 100),
        ("degF", "degC", -40, -40),
        ("degF", "K", -459.67, 0),
        ("degC", "degF", 56.7, 134.06),
        ("mph", "m/s", 1048.36058, 468.659113683),
        ("mph", "m/s", 10.357019999999999, 4.6300022208),
        ("knot", "m/s", 1, 0.514444444444),
        ("km/h", "m/s", 36, 10),
        ("inHg", "hPa", 29.92, 1013.2075888),
        ("mi", "km", 10, 16.09344),
        ("in", "mm", 0.01, 0.254),
        ("m", "mm", 0, 0),
        ("mm", "m", 5e-324, 0),
    ],
)
def test_units(source: str, target: str, value: float, result: float) -> None:
    converted = converter(source, target)(value)
    assert (converted, type(converted)) == (result, type(result))


PAIRS = [(one, two) for one in UNITS for two in UNITS if UNITS[one][0] == UNITS[two][0]]


@given(
    st.sampled_from(PAIRS),
    st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300),
)
def test_conversion_is_the_exact_result_rounded_once(pair: tuple[str, str], value: float) -> None:
    (_, factor, offset), (_, factor_to, offset_to) = UNITS[pair[0]], UNITS[pair[1]]
    exact = (Fraction(repr(value)) * factor + offset - offset_to) / factor_to
    assert converter(*pair)(value) == float(digits(exact))


def digits(exact: Fraction) -> str:
    """Round half to even to the significant digits, by integers only."""
    if exact == 0:
        return "0"
    exponent = len(str(exact.numerator).lstrip("-")) - len(str(exact.denominator)) - SIGNIFICANT_DIGITS
    scaled = exact / Fraction(10) ** exponent
    while abs(scaled) >= 10**SIGNIFICANT_DIGITS:
        exponent, scaled = exponent + 1, scaled / 10
    while abs(scaled) < 10 ** (SIGNIFICANT_DIGITS - 1):
        exponent, scaled = exponent - 1, scaled * 10
    return f"{round(scaled)}e{exponent}"
