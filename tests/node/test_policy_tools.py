"""``overlay-node policy``: check, test and diff, as an operator calls them."""

import json
from pathlib import Path
from typing import Any

import pytest

from agents.policy import policy_document, policy_hash
from node.cli import main

ROOT = Path(__file__).resolve().parents[2]
WEATHER = ROOT / "configs" / "policies" / "weather.json"
YEAR = ROOT / "configs" / "samples" / "nyc-weather-2013.csv.gz"


def write(path: Path, value: Any) -> str:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return str(path)


def changed(path: Path, **changes: Any) -> str:
    return write(path, {**json.loads(WEATHER.read_text()), **changes})


def test_check_prints_the_hash(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "check", str(WEATHER)]) == 0
    printed = capsys.readouterr().out
    assert policy_hash(policy_document(json.loads(WEATHER.read_text()))) in printed
    assert "valid" in printed
    assert main(["policy", "check", str(WEATHER), "--canonical"]) == 0
    assert capsys.readouterr().out.strip().encode() == policy_document(json.loads(WEATHER.read_text()))


@pytest.mark.parametrize(
    ("name", "text", "code", "why"),
    [
        ("a.json", "{", 1, "an object has no end"),
        (
            "a.json",
            '{"bounds": [{"field": "x"}]}',
            1,
            "(/bounds/0): /bounds/0: at least one of the keys 'min' and 'max' is needed",
        ),
        ("a.yaml", "rules: [{name: a, check: data.x >}]", 1, "/rules/0/check"),
        ("a.yml", "a: &b c", 1, "line 1: anchors"),
        ("a.json", '{"functions": [{"name": "f", "version": "1", "hash": "x"}]}', 1, "is not installed"),
        ("", "", 2, "No such file"),
    ],
)
def test_check_reports_what_is_wrong_and_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, code: int, why: str
) -> None:
    file = write(tmp_path / name, text) if name else str(tmp_path / "missing.json")
    assert main(["policy", "check", file]) == code
    assert why in capsys.readouterr().err


def test_the_weather_year_by_rule(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "test", str(WEATHER), "--events", str(YEAR)]) == 0
    printed = capsys.readouterr().out
    assert "26115 events: 26109 valid, 6 invalid" in printed
    assert "bounds at /windSpeedMps: found 468.659113683" in printed
    assert main(["policy", "test", str(WEATHER), "--events", str(YEAR), "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert len(results) == 26_115
    invalid = [each for each in results if each["status"] == "invalid"]
    assert sorted(issue["rule"] for each in invalid for issue in each["issues"]) == ["bounds"] + ["required"] * 6 + [
        "required"
    ]


def test_one_bound_changes_the_events_beyond_it_and_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Counted apart from the policy language: by the year's own figures."""
    bounds = [
        {**bound, "max": 18} if bound["field"] == "windSpeedMps" else bound
        for bound in json.loads(WEATHER.read_text())["bounds"]
    ]
    other = changed(tmp_path / "other.json", bounds=bounds)
    assert main(["policy", "diff", str(WEATHER), other, "--events", str(YEAR), "--limit", "1000"]) == 1
    printed = capsys.readouterr().out
    assert main(["policy", "test", str(WEATHER), "--events", str(YEAR), "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    beyond = [
        each["externalId"]
        for each in results
        if each["data"]["wind_speed"] != "NA" and 18 < float(each["data"]["wind_speed"]) * 0.44704 <= 96.2
    ]
    assert len(beyond) > 3
    assert [line.split("  ")[0] for line in printed.splitlines() if "->" in line and line.startswith("row")] == beyond
    assert f"{len(beyond)} of 26115 events differ; {len(beyond)} valid -> invalid" in printed


def test_no_difference_is_reported_and_exits_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    same = changed(tmp_path / "same.json", onConflict="reject")
    assert main(["policy", "diff", str(WEATHER), same, "--events", str(YEAR)]) == 0
    assert "0 of 26115 events differ" in capsys.readouterr().out


def test_diff_shows_values_levels_and_issues(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = write(tmp_path / "a.yaml", "bounds: [{field: v, max: 10, severity: warning}]")
    after = write(
        tmp_path / "b.yaml",
        "coercion: [{field: v, type: number}]\ncertification: {levels: [{when: data.v > 20, level: critical}]}",
    )
    sample = write(tmp_path / "e.jsonl", '{"v": "5"}\n{"v": 15}\n{"v": 25}')
    assert main(["policy", "diff", before, after, "--events", sample]) == 1
    printed = capsys.readouterr().out
    assert '/v: "5" -> 5' in printed
    assert "level: as the source -> critical" in printed
    assert "- bounds at /v: found 15" in printed


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("e.json", "[]", "has no events"),
        ("e.json", "{", "line 1 is not JSON: "),
        ("e.jsonl", "{}\n[", "line 2 is not JSON: "),
        ("e.csv", "a,b", "has no events"),
    ],
)
def test_samples_that_are_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, why: str
) -> None:
    assert main(["policy", "test", str(WEATHER), "--events", write(tmp_path / name, text)]) == 2
    assert why in capsys.readouterr().err


def test_events_come_in_several_forms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = write(tmp_path / "p.json", {"required": ["a"]})
    event = {"externalId": "x", "eventType": "t", "data": {"a": 1}}
    for name, text in {
        "one.json": json.dumps([event]),
        "two.json": json.dumps({"sourceId": "s", "events": [event]}),
        "three.jsonl": json.dumps(event),
        "four.csv": "a,b\n1,2",
    }.items():
        assert main(["policy", "test", policy, "--events", write(tmp_path / name, text), "--all"]) == 0
        assert "1 events: 1 valid" in capsys.readouterr().out
