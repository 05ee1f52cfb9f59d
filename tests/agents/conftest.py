"""Runs a policy over a few events, through the package's one entry."""

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from agents.policy import policy_document
from agents.roles import BatchOutput, execute
from protocols.identifiers import record_line

ROOT = Path(__file__).resolve().parents[2]


@attrs.frozen(kw_only=True)
class Ran:
    output: BatchOutput
    data: list[Any]
    leaves: list[dict[str, Any]]

    @property
    def issues(self) -> list[list[dict[str, Any]]]:
        return [leaf["issues"] for leaf in self.leaves]


Run = Callable[..., Ran]


def run_policy(policy: Any, *events: Any, context: bytes = b"{}") -> Ran:
    """Events are given as their data; externalId is their position."""
    lines = [
        record_line(data=data, event_type="test", external_id=str(index), previous=None, timestamp=None)
        for index, data in enumerate(events)
    ]
    output = execute(
        network="test",
        source_id="source",
        payload=b"\n".join(lines),
        policy=policy_document(policy),
        context=context,
    )
    return Ran(
        output=output,
        data=[json.loads(line) for line in output.normalized.split(b"\n")],
        leaves=[json.loads(line) for line in output.leaves.split(b"\n")],
    )


def issue(rule: str, path: str, expected: Any, found: Any, severity: str = "error") -> dict[str, Any]:
    return {"expected": expected, "found": found, "path": path, "rule": rule, "severity": severity}


def statuses(ran: Any) -> list[str]:
    return [leaf["status"] for leaf in ran.leaves]


@pytest.fixture(scope="session")
def run() -> Run:
    return run_policy


@pytest.fixture(scope="session")
def weather_policy() -> bytes:
    return policy_document(json.loads((ROOT / "configs/policies/weather.json").read_bytes()))


@pytest.fixture(scope="session")
def weather_rows() -> list[dict[str, Any]]:
    """The year's rows: numbers, texts, null for NA."""

    def value(name: str, text: str) -> Any:
        if name in ("origin", "time_hour"):
            return text
        return None if text == "NA" else float(text)

    with gzip.open(ROOT / "configs/samples/nyc-weather-2013.csv.gz", "rt", encoding="utf-8") as file:
        return [{name: value(name, text) for name, text in row.items()} for row in csv.DictReader(file)]


@pytest.fixture(scope="session")
def weather_batches(weather_rows: list[dict[str, Any]]) -> list[bytes]:
    """The year as payloads of 500 records."""
    lines = [
        record_line(
            data=row,
            event_type="weather.observation",
            external_id=f"{row['origin']}-{row['time_hour']}",
            previous=None,
            timestamp=row["time_hour"],
        )
        for row in weather_rows
    ]
    return [b"\n".join(lines[start : start + 500]) for start in range(0, len(lines), 500)]
