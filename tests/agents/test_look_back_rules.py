"""Rules about the past: steps, rates, duplicates, memory, and the context that they leave for the next batch."""

import json
import time
from typing import Any

import pytest

from protocols.errors import MalformedError
from protocols.limits import CONTEXT_BYTES_MAX
from tests.agents.conftest import issue, statuses

# --- rules that look back -----------------------------------------------------------------------------------------

HOURLY = {"key": ["s"], "field": "v", "max": 10, "time": "t", "seconds": 3_600}


def test_a_step_is_bounded_between_consecutive_events(run: Any) -> None:
    policy = {"steps": [{"key": ["s"], "field": "v", "max": 10}]}
    ran = run(
        policy,
        {"s": "a", "v": 0},
        {"s": "a", "v": 10},
        {"s": "b", "v": 99},
        {"s": "a", "v": 20.5},
        {"s": "a", "v": 21},
    )
    assert ran.issues == [[], [], [], [issue("step", "/v", {"last": 10, "maxStep": 10}, 20.5)], [
        issue("step", "/v", {"last": 10, "maxStep": 10}, 21)]]  # fmt: skip


def test_a_step_that_is_a_warning_is_what_the_next_is_compared_with(run: Any) -> None:
    policy = {"steps": [{"field": "v", "max": 10, "severity": "warning"}]}
    ran = run(policy, {"v": 0}, {"v": 50}, {"v": 55})
    assert [len(each) for each in ran.issues] == [0, 1, 0]


@pytest.mark.parametrize(
    ("at", "value", "rejected"),
    [
        ("2024-01-01T01:00:00Z", 10, False),
        ("2024-01-01T01:00:00Z", 10.1, True),
        ("2024-01-01T01:00:00.001Z", 99, False),  # too long ago to say anything
        ("2023-12-31T23:00:00Z", 99, False),  # late: the later one was compared already
    ],
)
def test_a_step_within_a_time(run: Any, at: str, value: float, rejected: bool) -> None:
    ran = run({"steps": [HOURLY]}, {"s": "a", "t": "2024-01-01T00:00:00Z", "v": 0}, {"s": "a", "t": at, "v": value})
    assert statuses(ran) == ["valid", "invalid" if rejected else "valid"]


def test_a_late_event_does_not_become_the_last(run: Any) -> None:
    ran = run(
        {"steps": [HOURLY]},
        {"s": "a", "t": "2024-01-01T01:00:00Z", "v": 0},
        {"s": "a", "t": "2024-01-01T00:30:00Z", "v": 50},
        {"s": "a", "t": "2024-01-01T01:30:00Z", "v": 9},
    )
    assert statuses(ran) == ["valid", "valid", "valid"]


def test_a_rate_counts_events_by_their_own_time(run: Any) -> None:
    policy = {"rates": [{"key": ["s"], "time": "t", "count": 2, "seconds": 10}]}
    times = ["00", "05", "09", "10", "16"]
    ran = run(policy, *({"s": "a", "t": f"2024-01-01T00:00:{second}Z"} for second in times))
    assert statuses(ran) == ["valid", "valid", "invalid", "valid", "valid"]
    assert ran.issues[2] == [issue("rate", "/t", {"maxEvents": 2, "seconds": 10}, 3)]


def test_a_late_event_counts_in_its_own_window(run: Any) -> None:
    policy = {"rates": [{"time": "t", "count": 1, "seconds": 10}]}
    ran = run(policy, {"t": "2024-01-01T00:00:20Z"}, {"t": "2024-01-01T00:00:15Z"}, {"t": "2024-01-01T00:00:05Z"})
    assert statuses(ran) == ["valid", "invalid", "valid"]


def test_duplicates_among_the_last_events(run: Any) -> None:
    policy = {"duplicates": [{"fields": ["a", "b"], "events": 2}]}
    ran = run(
        policy, {"a": 1, "b": 1}, {"a": 1, "b": 2}, {"a": 1, "b": 1}, {"a": 3, "b": 3}, {"a": 1, "b": 1}, {"a": 1}
    )
    assert statuses(ran) == ["valid", "valid", "invalid", "valid", "valid", "valid"]
    assert ran.issues[2] == [issue("duplicate", "/a", {"unique": ["a", "b"]}, 1)]


def test_duplicates_within_a_time(run: Any) -> None:
    policy = {"duplicates": [{"fields": ["id"], "time": "t", "seconds": 60}]}
    events = [(1, "00:00:00"), (1, "00:00:59"), (1, "00:01:00"), (2, "00:01:00"), (1, "00:01:30")]
    ran = run(policy, *({"id": each, "t": f"2024-01-01T{at}Z"} for each, at in events))
    assert statuses(ran) == ["valid", "invalid", "valid", "valid", "invalid"]


def test_rules_see_what_memory_keeps(run: Any) -> None:
    policy = {
        "memory": {"key": ["car"], "keep": ["odometer", "gps.sats"], "time": "t"},
        "rules": [{"name": "odometer", "check": "data.odometer >= last.odometer", "field": "odometer"}],
    }

    def seen(car: str, odometer: int, minute: int) -> dict[str, Any]:
        return {"car": car, "odometer": odometer, "t": f"2024-01-01T00:{minute:02}:00Z", "gps": {"sats": 7}}

    ran = run(
        policy,
        seen("a", 100, 1),
        seen("b", 5, 1),
        seen("a", 99, 2),
        seen("a", 101, 3),
        seen("a", 150, 0),
        seen("a", 102, 4),
    )
    assert statuses(ran) == ["valid", "valid", "invalid", "valid", "valid", "valid"]
    context = json.loads(ran.output.context_out)
    assert context["memory"]["last"][-1][1]["kept"] == {"gps": {"sats": 7}, "odometer": 102}


# --- the context --------------------------------------------------------------------------------------------------

ALL: dict[str, Any] = {
    "coercion": [{"field": "t", "type": "timestamp"}],
    "monotonic": [{"key": ["s"], "field": "n", "strict": False}],
    "steps": [{"key": ["s"], "field": "v", "max": 3, "severity": "warning"}],
    "rates": [{"key": ["s"], "time": "t", "count": 3, "seconds": 30, "severity": "info"}],
    "duplicates": [{"fields": ["s", "n"], "events": 5}],
    "memory": {"key": ["s"], "keep": ["v"]},
    "rules": [{"name": "same sign", "check": "data.v * last.v >= 0", "severity": "warning"}],
}


def events() -> list[dict[str, Any]]:
    return [
        {"s": "ab"[number % 2], "n": number // 3, "v": number * 7 % 5 - 2, "t": f"2024-01-01T00:{number:02}:00Z"}
        for number in range(40)
    ]


@pytest.mark.parametrize("cuts", [[1], [13, 14], [39], list(range(1, 40))])
def test_where_batches_end_does_not_matter(run: Any, cuts: list[int]) -> None:
    whole = run(ALL, *events())
    assert {issue["rule"] for each in whole.issues for issue in each} >= {"step", "duplicate", "rule"}
    context, leaves = b"{}", []
    for start, end in zip([0, *cuts], [*cuts, 40], strict=True):
        part = run(ALL, *events()[start:end], context=context)
        context = part.output.context_out
        leaves += [leaf["issues"] for leaf in part.leaves]
    assert (leaves, context) == (whole.issues, whole.output.context_out)


def test_a_repeated_batch_finds_its_own_events_again(run: Any) -> None:
    first = run(ALL, *events())
    again = run(ALL, *events(), context=first.output.context_out)
    repeated = run(ALL, *events(), context=first.output.context_out)
    assert again.output == repeated.output
    assert again.output.invalid > 0


def test_the_context_is_bounded_and_the_oldest_keys_go_first(run: Any) -> None:
    policy = {"steps": [{"key": ["k"], "field": "v", "max": 1}], "memory": {"key": ["k"], "keep": ["v"]}}
    context = b"{}"
    for start in range(0, 20_000, 500):
        data = [{"k": f"{'x' * 60}{number}", "v": number} for number in range(start, start + 500)]
        context = run(policy, *data, context=context).output.context_out
    assert len(context) <= CONTEXT_BYTES_MAX
    kept = json.loads(context)["memory"]["last"]
    assert kept[-1][0] == [f"{'x' * 60}19999"]
    assert len(kept) > 500


@pytest.mark.parametrize(
    "context",
    [
        b'{"steps":{"x":[[[],[1]]]}}',
        b'{"steps":{"x":[[[],["a",0]]]}}',
        b'{"rates":{"x":[[[],["a"]]]}}',
        b'{"duplicates":{"x":[[[],[["a"]]]]}}',
        b'{"memory":{"x":[[[],{"at":0}]]}}',
        b'{"memory":{"x":[[[],{"at":"0","kept":{}}]]}}',
        b'{"nonsense":{}}',
        b'{"steps":[]}',
        b'{"steps": {}}',
        b"[]",
    ],
)
def test_a_context_that_is_none_is_refused(run: Any, context: bytes) -> None:
    with pytest.raises(MalformedError):
        run(ALL, {}, context=context)


def test_hostile_events_end_in_time(run: Any) -> None:
    deep: Any = 1
    for _ in range(60):
        deep = [deep]
    policy = {
        **ALL,
        "rules": [{"name": "all", "check": "data.many.all(a, data.many.exists(b, a == b))"}],
        "schema": {"properties": {"text": {"type": "string", "pattern": "^(a|a)*$"}}},
    }
    started_s = time.monotonic()
    ran = run(policy, {"many": list(range(5_000))}, {"text": "a" * 200_000 + "!"}, {"deep": deep, "s": "x" * 500_000})
    assert time.monotonic() - started_s < 5
    assert ran.issues[0][0]["found"] == {"error": "more than 10000 steps"}
    assert ran.issues[1][0]["rule"] == "schema"
    assert ran.issues[2] == []
