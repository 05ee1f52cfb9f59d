"""JSON Schema, bounds and monotonicity: accepted, rejected, boundary, and the exact issues."""

import json
import time
from typing import Any

import pytest

from agents.policy import policy_document
from agents.roles import execute
from protocols.errors import MalformedError
from protocols.identifiers import record_line
from protocols.limits import CONTEXT_BYTES_MAX, ISSUES_PER_EVENT_MAX


def issue(rule: str, path: str, expected: Any, found: Any) -> dict[str, Any]:
    return {"expected": expected, "found": found, "path": path, "rule": rule, "severity": "error"}


BOUNDS = {"bounds": [{"field": "wind_speed", "max": 200}, {"field": "t.c", "min": -89.2, "max": 56.7}]}


@pytest.mark.parametrize("data", [{}, {"wind_speed": None}, {"wind_speed": 200}, {"t": {"c": -89.2}}, {"t": 1}, 5])
def test_within_bounds(run: Any, data: Any) -> None:
    assert run(BOUNDS, data).issues == [[]]


def test_out_of_bounds(run: Any) -> None:
    ran = run(BOUNDS, {"wind_speed": 1048.36058}, {"t": {"c": -89.21}}, {"wind_speed": "fast"}, {"wind_speed": True})
    both = {"max": 56.7, "min": -89.2}
    assert ran.issues == [
        [issue("bounds", "/wind_speed", {"max": 200}, 1048.36058)],
        [issue("bounds", "/t/c", both, -89.21)],
        [issue("bounds", "/wind_speed", {"type": "number"}, "fast")],
        [issue("bounds", "/wind_speed", {"type": "number"}, True)],
    ]
    assert ran.output.issues_by_rule == (("bounds", 4),)
    assert (ran.output.events, ran.output.valid, ran.output.invalid) == (4, 0, 4)


SCHEMA = {
    "type": "object",
    "required": ["id"],
    "additionalProperties": False,
    "properties": {
        "id": {"$ref": "#/$defs/id"},
        "n": {"type": "integer", "multipleOf": 5},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
        "at": {"format": "date-time"},
        "a/b": {"type": "string"},
    },
    "$defs": {"id": {"type": "string", "pattern": "^[a-z]+$"}},
}


def test_schema_accepts(run: Any) -> None:
    data = [{"id": "x"}, {"id": "x", "n": 5, "tags": ["a", "b"], "at": "2013-01-01T00:00:00Z", "a/b": ""}]
    assert run({"schema": SCHEMA}, *data).issues == [[], []]


def test_schema_issues_are_ordered_and_exact(run: Any) -> None:
    ran = run({"schema": SCHEMA}, {"n": 2.5, "tags": ["a", "c"], "a/b": 1, "z": [1], "y": "stray", "at": "x"}, [])
    assert ran.issues == [
        [
            issue("schema", "/at", {"format": "date-time"}, "x"),
            issue("schema", "/a~1b", {"type": "string"}, 1),
            issue("schema", "/id", {"required": True}, None),
            issue("schema", "/n", {"multipleOf": 5}, 2.5),
            issue("schema", "/n", {"type": "integer"}, 2.5),
            issue("schema", "/tags/1", {"enum": ["a", "b"]}, "c"),
            issue("schema", "/y", {"additionalProperties": False}, "stray"),
            issue("schema", "/z", {"additionalProperties": False}, {"type": "array", "length": 1}),
        ],
        [issue("schema", "", {"type": "object"}, {"type": "array", "length": 0})],
    ]


def test_schema_does_not_repeat_issues_of_normalization(run: Any) -> None:
    policy = {
        "coercion": [{"field": "n", "type": "number"}],
        "required": ["id"],
        "schema": {"required": ["id"], "properties": {"n": {"type": "number"}}},
    }
    assert [entry["rule"] for entry in run(policy, {"n": "x"}).issues[0]] == ["coercion", "required"]


def test_long_expectations_point_into_the_policy(run: Any) -> None:
    ran = run({"schema": {"properties": {"a": {"enum": [f"value {n}" for n in range(100)]}}}}, {"a": 1})
    assert ran.issues == [[issue("schema", "/a", {"policy": "/schema/properties/a/enum"}, 1)]]


def test_issues_of_an_event_are_bounded(run: Any) -> None:
    ran = run({"schema": {"items": {"type": "string"}}}, list(range(5_000)))
    assert len(ran.issues[0]) == ISSUES_PER_EVENT_MAX
    ran = run({"schema": {"additionalProperties": False}}, {"k" * 10_000: "v" * 10_000})
    assert len(ran.output.leaves) < 1_200


def test_a_hostile_pattern_takes_linear_time(run: Any) -> None:
    began = time.perf_counter()
    ran = run({"schema": {"pattern": "^(a+)+$"}}, "a" * 50_000 + "b")
    assert ran.output.invalid == 1
    assert time.perf_counter() - began < 1


MONOTONIC = {"monotonic": [{"key": ["station"], "field": "at", "strict": True}]}


def readings(*pairs: tuple[Any, Any]) -> list[dict[str, Any]]:
    return [{"station": station, "at": at} for station, at in pairs]


def test_values_grow_per_key(run: Any) -> None:
    ran = run(MONOTONIC, *readings(("A", 1), ("B", 1), ("A", 2), ("A", 2), ("A", 1.5), ("A", 3), ("B", 0)))
    late = {"greaterThan": 2}
    assert ran.issues == [
        [],
        [],
        [],
        [issue("monotonicity", "/at", late, 2)],
        [issue("monotonicity", "/at", late, 1.5)],
        [],
        [issue("monotonicity", "/at", {"greaterThan": 1}, 0)],
    ]
    assert json.loads(ran.output.context_out) == {"monotonic": {'[["at"],[["station"]]]': [[["B"], 1], [["A"], 3]]}}


def test_equal_values_pass_where_not_strict(run: Any) -> None:
    policy = {"monotonic": [{"field": "at", "strict": False}]}
    ran = run(policy, {"at": 1}, {"at": 1}, {"at": 0}, {"at": None}, {})
    assert ran.issues == [[], [], [issue("monotonicity", "/at", {"atLeast": 1}, 0)], [], []]


def test_only_valid_events_move_the_past(run: Any) -> None:
    ran = run({**MONOTONIC, **BOUNDS}, {"station": "A", "at": 9, "wind_speed": 999}, {"station": "A", "at": 2})
    assert [leaf["status"] for leaf in ran.leaves] == ["invalid", "valid"]


def test_the_context_joins_batches(run: Any) -> None:
    events = readings(("A", 1), ("B", 5), ("A", 2), ("B", 4), ("A", 2))
    whole = run(MONOTONIC, *events)
    first = run(MONOTONIC, *events[:2])
    second = run(MONOTONIC, *events[2:], context=first.output.context_out)
    assert first.issues + second.issues == whole.issues
    assert second.output.context_out == whole.output.context_out


def test_times_with_fractions_are_ordered_as_times(run: Any) -> None:
    policy = {"coercion": [{"field": "at", "type": "timestamp"}], "monotonic": [{"field": "at"}]}
    times = ["00:00:00Z", "00:00:00.25Z", "00:00:00.5Z", "00:00:00.50Z", "00:00:01Z", "00:00:00.75Z"]
    ran = run(policy, *[{"at": f"2013-01-01T{time}"} for time in times])
    assert [leaf["status"] for leaf in ran.leaves] == ["valid"] * 3 + ["invalid", "valid", "invalid"]


def test_values_that_have_no_order(run: Any) -> None:
    ran = run(MONOTONIC, *readings(("A", [1]), ("A", True), ("A", "x" * 129), ("A", 1), ("A", "2")))
    assert [entry[0]["expected"] for entry in ran.issues if entry] == [
        {"type": ["number", "string"]},
        {"type": ["number", "string"]},
        {"maxLength": 128},
        {"type": "number"},
    ]


def test_keys_of_any_kind(run: Any) -> None:
    stations = [None, 1, "1", True, {"a": 1}, [1], "x" * 300]
    ran = run(MONOTONIC, {"at": 1}, *readings(*[(station, 1) for station in stations[1:]]))
    assert ran.output.valid == len(stations)
    again = run(MONOTONIC, *readings(*[(station, 1) for station in stations]), context=ran.output.context_out)
    assert again.output.invalid == len(stations)


def test_the_context_is_bounded_and_forgets_the_oldest() -> None:
    policy = policy_document(MONOTONIC)
    context = b"{}"
    for batch in range(4):
        keys = [f"{batch}-{n:04d}-" + "k" * 100 for n in range(1_000)]
        lines = [
            record_line(
                data={"station": key, "at": 1}, event_type="t", external_id=key, previous=None, timestamp=None
            )
            for key in keys
        ]
        output = execute(network="n", source_id="s", payload=b"\n".join(lines), policy=policy, context=context)
        context = output.context_out
        assert len(context) <= CONTEXT_BYTES_MAX
    entries = json.loads(context)["monotonic"]['[["at"],[["station"]]]']
    assert len(entries) > 1_500
    assert entries[-1][0][0].startswith("3-0999")
    assert [entry[0][0] for entry in entries] == sorted(entry[0][0] for entry in entries)


@pytest.mark.parametrize(
    "context",
    [
        b"",
        b"[]",
        b"{",
        b'{ "monotonic":{}}',
        b'{"other":{}}',
        b'{"monotonic":[]}',
        b'{"monotonic":{"x":[[1,2]]}}',
        b'{"monotonic":{"x":[[["A"],null]]}}',
        b'{"monotonic":{"x":[[["A"]]]}}',
        b"x" * (CONTEXT_BYTES_MAX + 1),
    ],
)
def test_a_context_of_another_form_is_its_senders_fault(run: Any, context: bytes) -> None:
    with pytest.raises(MalformedError):
        run(MONOTONIC, {}, context=context)
