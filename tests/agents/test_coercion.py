"""Mapping of arrays, decimals, normal forms of text, and clocks that change by a rule."""

from typing import Any

import pytest

from protocols.errors import InvalidPolicyError
from tests.agents.conftest import issue


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


def test_a_value_that_does_not_fit_the_scale_is_an_issue(run: Any) -> None:
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
