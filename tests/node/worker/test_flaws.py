"""The lenient reading of a request: which events are at fault, where, and that no other event is affected."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.worker.parsing.flaws import DATA_DEPTH_MAX, POINTER_CHARS_MAX, Flaw, first_flaw, read_with_flaws
from protocols.errors import InvalidJsonError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def flaw_of(event: str) -> Flaw | None:
    request, flaws = read_with_flaws(b'{"sourceId":"s","events":[1,%b,2]}' % event.encode())
    assert (request["events"][0], request["events"][2]) == (1, 2)
    assert set(flaws) <= {1}
    return flaws.get(1)


@pytest.mark.parametrize(
    ("event", "field", "reason"),
    [
        ("NaN", "", "NaN is not JSON"),
        ('{"data": -Infinity}', "/data", "-Infinity is not JSON"),
        ('{"data": [1, 1e999]}', "/data/1", "1e999 is beyond the range of a double"),
        ('{"data": {"v": 9007199254740992}}', "/data/v", "9007199254740992 is beyond 2^53 - 1"),
        ('{"data": -9007199254740992}', "/data", "-9007199254740992 is beyond 2^53 - 1"),
        ('{"data": ' + "7" * 5_000 + "}", "/data", "7777777777777777777777777777777777777777 is beyond 2^53"),
        ('{"data": {"k": 1, "k": 2}}', "/data", "the key 'k' occurs twice"),
        ('{"data": {"a": 1, "b": 2, "b": 3, "a": 4}}', "/data", "the key 'b' occurs twice"),
        ('{"data": "\\ud800"}', "/data", "contains half of a surrogate pair"),
        ('{"data": {"\\udfff": 1}}', "/data", "a key contains half of a surrogate pair"),
        ('{"data": {"a/b": {"c~d": NaN}}}', "/data/a~1b/c~0d", "NaN is not JSON"),
        ('{"data": [NaN, Infinity]}', "/data/0", "NaN is not JSON"),
    ],
)
def test_a_flaw_has_its_place_and_reason(event: str, field: str, reason: str) -> None:
    flaw = flaw_of(event)
    assert flaw is not None
    assert flaw.field == field
    assert flaw.reason.startswith(reason)
    assert flaw.remedy


@pytest.mark.parametrize(
    "event",
    [
        "9007199254740991",
        '{"data": -9007199254740991}',
        '{"data": 1e308}',
        '{"data": "\\ud83c\\udf21"}',
        '{"data": "NaN"}',
        "[" * DATA_DEPTH_MAX + "]" * DATA_DEPTH_MAX,
    ],
)
def test_what_is_just_within_the_bounds_has_no_flaw(event: str) -> None:
    assert flaw_of(event) is None


def test_depth_is_counted_in_containers() -> None:
    deepest = "[" * DATA_DEPTH_MAX + "]" * DATA_DEPTH_MAX
    assert flaw_of(f'{{"data": {deepest}}}') is None
    flaw = flaw_of(f'{{"data": [{deepest}]}}')
    assert flaw is not None
    assert f"deeper than {DATA_DEPTH_MAX + 1} levels" in flaw.reason
    assert flaw.field == "/data" + "/0" * DATA_DEPTH_MAX


def test_a_pointer_is_cut() -> None:
    key = "k" * 300
    flaw = flaw_of(f'{{"data": {{"{key}": {{"{key}": NaN}}}}}}')
    assert flaw is not None
    assert len(flaw.field) == POINTER_CHARS_MAX


@pytest.mark.parametrize(
    ("body", "field", "why"),
    [
        (b'{"sourceId": NaN, "events": []}', "/sourceId", "NaN is not JSON"),
        (b'{"events": NaN}', "", "NaN is not JSON"),
        (b'[{"a": 1e999}]', "/0/a", "beyond the range"),
        (b"NaN", "", "NaN is not JSON"),
        (b'{"a": 1, "a": 2}', "", "the key 'a' occurs twice"),
        (b'{"processingOptions": {"x": "\\ud800"}, "events": [1]}', "/processingOptions/x", "surrogate"),
    ],
)
def test_a_flaw_outside_the_events_refuses_the_request(body: bytes, field: str, why: str) -> None:
    with pytest.raises(InvalidJsonError, match=why) as refused:
        read_with_flaws(body)
    assert refused.value.fields["field"] == field
    assert refused.value.fields["remedy"]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "the body is not JSON: a value must stand here"),
        (b'{"events": [1,]}', "line 1, column"),
        (b'{\n"events"\n}', "line 3, column 1"),
        (b'{"events": ["\xff"]}', "not UTF-8: byte 13 belongs to no character"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_not_json_at_all_is_refused(body: bytes, why: str) -> None:
    with pytest.raises(InvalidJsonError, match=why):
        read_with_flaws(body)


@given(st.lists(JSON, max_size=5))
def test_values_that_records_can_hold_are_read_as_any_parser_reads_them(events: list[Any]) -> None:
    body = json.dumps({"events": events}).encode()
    request, flaws = read_with_flaws(body)
    assert request == json.loads(body)
    integral = [event for event in events if _has_large_integral(event)]
    assert len(flaws) <= len(integral)


def _has_large_integral(value: Any) -> bool:
    """Whether a float is written as an integer beyond 2^53; Python writes none so below 1e16."""
    if isinstance(value, dict):
        return any(map(_has_large_integral, value.values()))
    if isinstance(value, list):
        return any(map(_has_large_integral, value))
    return isinstance(value, float) and abs(value) >= 2**53


@given(st.lists(JSON.filter(lambda value: not _has_large_integral(value)), min_size=1, max_size=5), st.data())
def test_one_flawed_event_is_found_among_others(events: list[Any], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(events) - 1))
    bad = data.draw(st.sampled_from(["NaN", "1e400", '{"a": 1, "a": 1}', '"\\ud801"', "12345678901234567890"]))
    texts = [json.dumps(event) for event in events]
    texts[index] = bad
    _, flaws = read_with_flaws(f'{{"events": [{",".join(texts)}]}}'.encode())
    assert set(flaws) == {index}


def test_the_first_flaw_in_document_order_is_reported() -> None:
    value = {"a": ["fine", {"b": "\ud800"}], "c": "\udfff"}
    flaw = first_flaw(value, 10)
    assert flaw is not None
    assert flaw.field == "/a/1/b"
    assert first_flaw({"a": [1, {"b": None}]}, 3) is None
    shallow = first_flaw({"a": [1, {"b": None}]}, 2)
    assert shallow is not None
    assert shallow.field == "/a/1"
