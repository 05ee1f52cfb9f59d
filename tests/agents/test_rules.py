"""Every kind of rule beyond schema, bounds and monotonicity: what passes, what does not, the edge, the issue."""

from typing import Any

import pytest

from agents.policy import policy_document
from agents.roles import event_level
from protocols.errors import InvalidPolicyError
from protocols.identifiers import record_line
from protocols.limits import ISSUES_PER_EVENT_MAX
from tests.agents.conftest import issue, statuses

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
