"""Every kind of rule beyond schema, bounds and monotonicity: what passes, what does not, the edge, the issue."""

import json
import time
from typing import Any

import pytest

from agents.functions import Function, MissingFunctionError
from agents.policy import policy_document
from agents.roles import event_level, execute
from protocols.errors import InvalidPolicyError, MalformedError
from protocols.identifiers import record_line
from protocols.limits import CONTEXT_BYTES_MAX, ISSUES_PER_EVENT_MAX


def issue(rule: str, path: str, expected: Any, found: Any, severity: str = "error") -> dict[str, Any]:
    return {"expected": expected, "found": found, "path": path, "rule": rule, "severity": severity}


def statuses(ran: Any) -> list[str]:
    return [leaf["status"] for leaf in ran.leaves]


# --- severities ---------------------------------------------------------------------------------------------------


def test_warnings_and_infos_leave_an_event_valid(run: Any) -> None:
    policy = {
        "bounds": [
            {"field": "a", "max": 10, "severity": "warning"},
            {"field": "a", "max": 20, "severity": "info"},
            {"field": "a", "max": 30},
        ]
    }
    ran = run(policy, {"a": 5}, {"a": 15}, {"a": 25}, {"a": 35})
    assert statuses(ran) == ["valid", "valid", "valid", "invalid"]
    assert [[found["severity"] for found in each] for each in ran.issues] == [
        [],
        ["warning"],
        ["warning", "info"],
        ["warning", "info", "error"],
    ]
    assert (ran.output.valid, ran.output.invalid) == (3, 1)


def test_no_error_is_lost_among_many_warnings(run: Any) -> None:
    many = [{"field": "a", "max": limit, "severity": "info"} for limit in range(ISSUES_PER_EVENT_MAX + 20)]
    ran = run({"bounds": [*many, {"field": "a", "max": 0}]}, {"a": 1_000})
    assert statuses(ran) == ["invalid"]
    assert len(ran.issues[0]) == ISSUES_PER_EVENT_MAX
    assert ran.issues[0][-1]["severity"] == "error"


def test_an_event_with_warnings_moves_what_is_remembered(run: Any) -> None:
    policy = {"bounds": [{"field": "v", "max": 1, "severity": "warning"}], "monotonic": [{"field": "t"}]}
    ran = run(policy, {"t": 1, "v": 5}, {"t": 1, "v": 0})
    assert statuses(ran) == ["valid", "invalid"]


# --- required, allowed, tables ------------------------------------------------------------------------------------


def test_a_field_can_be_required_under_a_condition(run: Any) -> None:
    policy = {"required": ["a", {"field": "reason", "when": "data.status == 'refunded'"}]}
    ran = run(policy, {"a": 1}, {"a": 1, "status": "refunded"}, {"a": 1, "status": "refunded", "reason": "x"}, {})
    assert ran.issues == [
        [],
        [issue("required", "/reason", {"required": True}, None)],
        [],
        [issue("required", "/a", {"required": True}, None)],
    ]


def test_a_condition_that_cannot_be_evaluated_is_taken_for_true(run: Any) -> None:
    ran = run({"required": [{"field": "b", "when": "data.a > 1"}]}, {"a": "x"}, {"a": 1}, {"a": 2}, {})
    assert statuses(ran) == ["invalid", "valid", "invalid", "valid"]


def test_allowed_sets(run: Any) -> None:
    policy = {
        "tables": {"stations": {"EWR": {}, "JFK": {}}},
        "allowed": [{"field": "s", "table": "stations"}, {"field": "n", "values": [1, 2.5, "x", None, [1]]}],
    }
    ran = run(policy, {"s": "EWR", "n": 1.0}, {"s": "LGA"}, {"n": 3}, {"n": [1]}, {"s": None}, {"n": True})
    assert ran.issues == [
        [],
        [issue("allowed", "/s", {"table": "stations"}, "LGA")],
        [issue("allowed", "/n", {"values": [1, 2.5, "x", None, [1]]}, 3)],
        [],
        [],
        [issue("allowed", "/n", {"values": [1, 2.5, "x", None, [1]]}, True)],
    ]


# --- the operator's own rules -------------------------------------------------------------------------------------


def test_rules_read_the_event_and_the_tables(run: Any) -> None:
    policy = {
        "tables": {"limits": {"truck": {"max": 90}}},
        "rules": [
            {
                "name": "speed",
                "when": "data.kind in tables.limits",
                "check": "data.speed <= tables.limits[data.kind].max",
                "field": "speed",
                "message": "trucks drive 90 at most",
            },
            {"name": "type", "check": "event.type == 'test'", "severity": "warning"},
        ],
    }
    ran = run(
        policy, {"kind": "truck", "speed": 90}, {"kind": "truck", "speed": 91}, {"kind": "car", "speed": 200}, {}
    )
    expected = {
        "check": "data.speed <= tables.limits[data.kind].max",
        "message": "trucks drive 90 at most",
        "name": "speed",
    }
    assert ran.issues == [[], [issue("rule", "/speed", expected, 91)], [], []]


def test_a_rule_that_cannot_be_evaluated_is_an_issue_and_says_why(run: Any) -> None:
    policy = {"rules": [{"name": "half", "check": "data.a / data.b > 0.5"}]}
    ran = run(policy, {"a": 1, "b": 0}, {"a": 1, "b": "x"}, {"a": 1}, {"a": 1, "b": 1})
    expected = {"check": "data.a / data.b > 0.5", "name": "half"}
    assert ran.issues == [
        [issue("rule", "", expected, {"error": "division by zero"})],
        [issue("rule", "", expected, {"error": "a string where a number belongs"})],
        [],
        [],
    ]


def test_certification_rules_reject_what_is_not_to_be_certified(run: Any) -> None:
    policy = {"certification": {"rules": [{"name": "calibrated", "check": "data.calibrated"}]}}
    ran = run(policy, {"calibrated": True}, {"calibrated": False}, {})
    assert ran.issues == [
        [],
        [issue("certification", "", {"check": "data.calibrated", "name": "calibrated"}, None)],
        [],
    ]


def test_levels_hang_on_the_event() -> None:
    policy = policy_document(
        {
            "coercion": [{"field": "value", "type": "number"}],
            "certification": {
                "levels": [
                    {"when": "data.value > 100", "level": "critical"},
                    {"when": "data.value > 10", "level": "enhanced"},
                ]
            },
        }
    )

    def level(value: Any) -> str | None:
        data = {"value": value}
        line = record_line(data=data, event_type="t", external_id="1", previous=None, timestamp=None)
        return event_level(policy, line)

    assert [level(value) for value in (10, 11, "100", "100.5", None)] == [
        None,
        "enhanced",
        "enhanced",
        "critical",
        None,
    ]
    assert level("no number") == "critical", "what cannot be evaluated gets the stricter choice"


def test_a_batch_says_the_level_it_needs(run: Any) -> None:
    policy = {"certification": {"levels": [{"when": "data.v > 5", "level": "critical"}]}}
    assert run(policy, {"v": 1}, {"v": 6}).output.level == 3
    assert run(policy, {"v": 1}).output.level == 0


# --- rules that look back -----------------------------------------------------------------------------------------

HOURLY = {"key": ["s"], "field": "v", "max": 10, "time": "t", "seconds": 3_600}


def test_a_step_is_bounded_between_neighbours(run: Any) -> None:
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
def test_where_batches_end_is_no_matter(run: Any, cuts: list[int]) -> None:
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


# --- mapping and coercion -----------------------------------------------------------------------------------------


def test_constants_and_arrays_to_records(run: Any) -> None:
    policy = {
        "mapping": {
            "fields": [
                {"to": "unit", "value": "celsius"},
                {"from": "readings", "to": "values", "columns": ["at", "t"], "each": [
                    {"from": "at", "to": "time"}, {"from": "t", "to": "temperature.value", "default": None},
                    {"to": "kind", "value": 1}]},
            ],
            "unmapped": "drop",
        }
    }  # fmt: skip
    ran = run(policy, {"readings": [["08:00", 3], {"at": "09:00"}], "x": 1}, {"readings": 5}, {"readings": [1]}, {})
    assert ran.data == [
        {
            "unit": "celsius",
            "values": [
                {"kind": 1, "temperature": {"value": 3}, "time": "08:00"},
                {"kind": 1, "temperature": {"value": None}, "time": "09:00"},
            ],
        },
        {"unit": "celsius", "values": 5},
        {"unit": "celsius", "values": [1]},
        {"unit": "celsius"},
    ]
    assert ran.issues == [
        [],
        [issue("mapping", "/values", {"maxItems": 10_000, "type": "array"}, 5)],
        [issue("mapping", "/values/0", {"type": "object"}, 1)],
        [],
    ]


@pytest.mark.parametrize(
    ("rounding", "values", "expected"),
    [
        ("exact", [1, "1.50", 1.5, "-0", "1e2"], ["1.00", "1.50", "1.50", "0.00", "100.00"]),
        ("half-even", ["0.125", "0.135", 2.675], ["0.12", "0.14", "2.68"]),
        ("half-up", ["0.125", "-0.125", "0.004"], ["0.13", "-0.13", "0.00"]),
    ],
)
def test_decimals_without_surprises(run: Any, rounding: str, values: list[Any], expected: list[str]) -> None:
    policy = {"coercion": [{"field": "v", "type": "decimal", "scale": 2, "rounding": rounding}]}
    ran = run(policy, *({"v": value} for value in values))
    assert [data["v"] for data in ran.data] == expected
    assert ran.issues == [[]] * len(values)


def test_what_is_no_decimal_of_that_scale_is_an_issue(run: Any) -> None:
    policy = {"coercion": [{"field": "v", "type": "decimal", "scale": 2}]}
    ran = run(policy, {"v": "1.005"}, {"v": 0.1 + 0.2}, {"v": "1e400"}, {"v": "x"}, {"v": True})
    assert [each[0]["expected"] for each in ran.issues] == [{"scale": 2, "type": "decimal"}] * 5


def test_normal_forms(run: Any) -> None:
    policy = {"coercion": [{"field": "v", "type": "string", "unicode": "NFC"}]}
    assert run(policy, {"v": "e\u0301"}).data == [{"v": "\u00e9"}]
    policy = {"coercion": [{"field": "v", "type": "string", "unicode": "NFKC"}]}
    assert run(policy, {"v": "\ufb01\u2460"}).data == [{"v": "fi1"}]


NEW_YORK = "EST5EDT,M3.2.0,M11.1.0"
SYDNEY = "AEST-10AEDT,M10.1.0,M4.1.0/3"


@pytest.mark.parametrize(
    ("zone", "civil", "utc"),
    [
        (NEW_YORK, "2013-01-15 12:00:00", "2013-01-15T17:00:00Z"),
        (NEW_YORK, "2013-07-15 12:00:00", "2013-07-15T16:00:00Z"),
        (NEW_YORK, "2013-03-10 01:59:59", "2013-03-10T06:59:59Z"),
        (NEW_YORK, "2013-03-10 02:30:00", None),  # the clocks skip it
        (NEW_YORK, "2013-03-10 03:00:00", "2013-03-10T07:00:00Z"),
        (NEW_YORK, "2013-11-03 01:30:00", "2013-11-03T05:30:00Z"),  # comes twice: the first is meant
        (NEW_YORK, "2013-11-03 02:00:00", "2013-11-03T07:00:00Z"),
        (SYDNEY, "2024-01-15 12:00:00", "2024-01-15T01:00:00Z"),
        (SYDNEY, "2024-07-15 12:00:00", "2024-07-15T02:00:00Z"),
        ("<+0330>-3:30", "2024-01-01 00:00:00", None),  # no rule and no offset: refused when read
    ],
)
def test_clocks_that_change_by_a_rule(run: Any, zone: str, civil: str, utc: str | None) -> None:
    entry = {"field": "t", "type": "timestamp", "formats": ["YYYY-MM-DD HH:mm:ss"], "timezone": zone}
    if zone.startswith("<"):
        with pytest.raises(InvalidPolicyError, match="named zones differ"):
            run({"coercion": [entry]}, {"t": civil})
        return
    ran = run({"coercion": [entry]}, {"t": civil})
    assert ran.data == [{"t": civil if utc is None else utc}]
    assert len(ran.issues[0]) == (utc is None)


# --- functions of packages ----------------------------------------------------------------------------------------


def half(value: float) -> float:
    return value / 2


HALF = Function(name="acme.half", version="1.0", hash="ab" * 32, call=half)
NAMED = {"functions": [{"name": "acme.half", "version": "1.0", "hash": "ab" * 32}]}


def test_a_policy_runs_with_the_very_functions_it_names() -> None:
    policy = policy_document(NAMED | {"rules": [{"name": "r", "check": "acme.half(data.v) < 5"}]}, (HALF,))
    payload = b"\n".join(
        record_line(data={"v": value}, event_type="t", external_id=str(value), previous=None, timestamp=None)
        for value in (9, 10)
    )
    output = execute(network="n", source_id="s", payload=payload, policy=policy, context=b"{}", functions=(HALF,))
    assert (output.valid, output.invalid) == (1, 1)
    with pytest.raises(MissingFunctionError, match=r"acme\.half"):
        execute(network="n", source_id="s", payload=payload, policy=policy, context=b"{}")


@pytest.mark.parametrize("changes", [{"version": "1.1"}, {"hash": "cd" * 32}, {"name": "acme.third"}])
def test_another_version_or_other_code_is_another_function(changes: dict[str, str]) -> None:
    wanted = {"functions": [{**NAMED["functions"][0], **changes}]}
    with pytest.raises(MissingFunctionError):
        policy_document(wanted, (HALF,))


# --- documents ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "path"),
    [
        ({"rules": [{"name": "a", "check": "data.x >"}]}, "/rules/0/check"),
        ({"rules": [{"name": "a"}]}, "/rules/0"),
        ({"rules": [{"name": "a", "check": "true"}, {"name": "a", "check": "true"}]}, "/rules/1/name"),
        ({"rules": [{"name": "a", "check": "last.x > 1"}]}, "/rules/0/check"),
        ({"rules": [{"name": "a", "check": "true", "severity": "fatal"}]}, "/rules/0/severity"),
        ({"certification": {"levels": [{"when": "last.x", "level": "basic"}]}}, "/certification/levels/0/when"),
        ({"certification": {"levels": [{"when": "true", "level": "top"}]}}, "/certification/levels/0/level"),
        ({"certification": {"retention": {"days": 0}}}, "/certification/retention/days"),
        ({"required": [{"field": "a", "if": "true"}]}, "/required/0/if"),
        ({"allowed": [{"field": "a"}]}, "/allowed/0"),
        ({"allowed": [{"field": "a", "values": [1], "table": "t"}]}, "/allowed/0"),
        ({"allowed": [{"field": "a", "table": "t"}]}, "/allowed/0/table"),
        ({"allowed": [{"field": "a", "values": []}]}, "/allowed/0"),
        ({"tables": {"t": []}}, "/tables/t"),
        ({"steps": [{"field": "a", "max": -1}]}, "/steps/0/max"),
        ({"steps": [{"field": "a", "max": 1, "seconds": 5}]}, "/steps/0"),
        ({"steps": [{"field": "a", "max": 1}, {"field": "a", "max": 1}]}, "/steps/1"),
        ({"rates": [{"time": "t", "count": 1.5, "seconds": 1}]}, "/rates/0/count"),
        ({"rates": [{"time": "t", "count": 1, "seconds": 0}]}, "/rates/0/seconds"),
        ({"duplicates": [{"fields": []}]}, "/duplicates/0"),
        ({"duplicates": [{"fields": ["a"], "time": "t"}]}, "/duplicates/0"),
        ({"memory": {"keep": []}}, "/memory"),
        ({"functions": [{"name": "a"}]}, "/functions/0"),
        ({"volatility": "medium"}, "/volatility"),
        ({"mapping": {"fields": [{"from": "a", "to": "b", "value": 1}]}}, "/mapping/fields/0"),
        ({"mapping": {"fields": [{"from": "a", "to": "b", "columns": ["x"]}]}}, "/mapping/fields/0/columns"),
        ({"mapping": {"fields": [{"from": "a", "to": "b", "each": []}]}}, "/mapping/fields/0/each"),
        ({"coercion": [{"field": "a", "type": "decimal"}]}, "/coercion/0"),
        ({"coercion": [{"field": "a", "type": "decimal", "scale": 99}]}, "/coercion/0/scale"),
    ],
)
def test_a_wrong_rule_is_refused_at_its_place(policy: Any, path: str) -> None:
    with pytest.raises(InvalidPolicyError) as refused:
        policy_document(policy)
    assert refused.value.fields["path"] == path


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
