"""The policies that come with the node: every sample ends as it should, however it is sent."""

import csv
import gzip
import json
import lzma
from pathlib import Path
from random import Random
from typing import Any

import jsonschema_rs
import pytest

from agents.policy import policy_document
from agents.roles import BatchOutput, execute
from protocols.canonical import canonical_json
from protocols.identifiers import record_line

ROOT = Path(__file__).resolve().parents[2]
POLICIES = ROOT / "configs" / "policies"
SAMPLES = ROOT / "configs" / "samples"
SCHEMA = jsonschema_rs.validator_for(json.loads((ROOT / "node" / "api" / "policy.schema.json").read_bytes()))
E, W, N = "error", "warning", "info"

# by sample: by external id, the issues; those not named have none
EXPECTED: dict[str, dict[str, list[tuple[str, str, str]]]] = {
    "github-push": {
        "forced": [("rule", "/forced", W)],
        "wrong-head": [("rule", "/after", W)],
        "again": [("duplicate", "/ref", E)],
        "unmoved": [("rule", "/after", E)],
        "short-sha": [("schema", "/after", E)],
        "no-repository": [("required", "/repository", E)],
        "commits-no-list": [("mapping", "/commits", E), ("rule", "/after", W)],
    },
    "github-issues": {
        "late": [("monotonicity", "/updatedAt", E)],
        "closed-without-time": [("required", "/closedAt", E)],
        "wrong-state": [("rule", "/state", E)],
        "unknown-action": [("coercion", "/action", E)],
        "zero": [("bounds", "/number", E)],
        "state": [("allowed", "/state", E)],
    },
    "github-release": {
        "odd-tag": [("rule", "/tag", W)],
        "no-digest": [("rule", "/assets", N)],
        "draft": [("rule", "/draft", E)],
        "no-time": [("required", "/publishedAt", E)],
        "action": [("allowed", "/action", E)],
    },
    "order": {
        "many": [("rule", "/lines", W)],
        "refund-without-reason": [("required", "/reason", E)],
        "wrong-total": [("rule", "/total", E)],
        "yen": [("rule", "/total", E)],
        "currency": [("allowed", "/currency", E)],
        "no-lines": [("schema", "/lines", E), ("rule", "/total", E)],
        "sku": [("schema", "/lines/0/sku", E)],
        "skipped-hour": [("coercion", "/placedAt", E)],
        "shipped-for-nothing": [("certification", "/total", E)],
    },
    "vehicle-position": {
        "stands": [("rule", "/position", W)],
        "back": [("rule", "/odometerKm", E)],
        "jump": [("step", "/position/lat", E)],
        "late": [("monotonicity", "/at", E)],
        "too-fast": [("bounds", "/speedMps", E)],
        "nowhere": [("bounds", "/position/lat", E), ("bounds", "/position/lon", E)],
        "burst-0": [("rule", "/position", W)],
        "burst-11": [("rate", "/at", N)],
    },
    "cloudevents": {
        "short-type": [("rule", "/type", N)],
        "a-again": [("duplicate", "/source", E)],
        "version": [("allowed", "/specversion", E)],
        "no-source": [("required", "/source", E)],
        "empty-id": [("schema", "/id", E)],
        "no-time": [("coercion", "/time", E)],
        "media-type": [("schema", "/datacontenttype", E)],
    },
}
CRITICAL = {
    "github-push": ["tag"],
    "github-release": ["published"],
    "order": ["large"],
}


def policy(name: str) -> bytes:
    return policy_document(json.loads((POLICIES / f"{name}.json").read_bytes()))


def events(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (SAMPLES / f"{name}.jsonl").read_text().splitlines()]


def line(event: dict[str, Any]) -> bytes:
    return record_line(
        data=event["data"],
        event_type=event["eventType"],
        external_id=event["externalId"],
        previous=None,
        timestamp=event.get("timestamp"),
    )


def run(name: str, sent: list[dict[str, Any]], context: bytes = b"{}") -> BatchOutput:
    payload = b"\n".join(map(line, sent))
    return execute(network="n", source_id="s", payload=payload, policy=policy(name), context=context)


def test_every_policy_has_a_sample_and_fits_the_published_schema() -> None:
    names = {file.stem for file in POLICIES.glob("*.json")}
    assert names == {*EXPECTED, "weather"}
    for name in names:
        SCHEMA.validate(json.loads((POLICIES / f"{name}.json").read_bytes()))


@pytest.mark.parametrize("name", EXPECTED)
def test_every_sample_ends_as_it_should(name: str) -> None:
    sent = events(name)
    output = run(name, sent)
    found = {}
    for leaf in map(json.loads, output.leaves.split(b"\n")):
        issues = [(issue["rule"], issue["path"], issue["severity"]) for issue in leaf["issues"]]
        assert leaf["status"] == ("invalid" if any(issue[2] == E for issue in issues) else "valid")
        found[leaf["externalId"]] = issues
    assert {external: issues for external, issues in found.items() if issues} == EXPECTED[name]
    assert len(found) == len(sent)
    for event in sent:
        wanted = event["externalId"] in CRITICAL.get(name, [])
        alone = run(name, [event]).level
        assert (alone == 3) >= wanted


@pytest.mark.parametrize("kind", ["push", "issues", "release"])
def test_what_github_sent_is_valid(kind: str) -> None:
    """Each recording by itself: they are of many years, and in no order."""
    recorded = json.loads(lzma.decompress((ROOT / "tests/node/vectors/github-deliveries.json.xz").read_bytes()))
    for number, data in enumerate(recorded[kind]):
        output = run(f"github-{kind}", [{"eventType": kind, "externalId": f"{kind}-{number}", "data": data}])
        leaf = json.loads(output.leaves)
        assert (leaf["status"], [issue for issue in leaf["issues"] if issue["severity"] == E]) == ("valid", [])
        made = json.loads(output.normalized)
        assert (made["repository"], made["sender"]) == (data["repository"]["full_name"], data["sender"]["login"])


@pytest.mark.parametrize("name", EXPECTED)
def test_the_order_of_keys_and_the_ends_of_batches_are_no_matter(name: str) -> None:
    rng = Random(7)

    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            keys = list(value)
            rng.shuffle(keys)
            return {key: shuffled(value[key]) for key in keys}
        return [shuffled(item) for item in value] if isinstance(value, list) else value

    sent = events(name)
    whole = run(name, sent)
    assert run(name, [shuffled(event) for event in sent]) == whole
    for cut in range(1, len(sent)):
        first = run(name, sent[:cut])
        second = run(name, sent[cut:], first.context_out)
        assert (b"\n".join((first.leaves, second.leaves)), second.context_out) == (whole.leaves, whole.context_out)


@pytest.mark.parametrize("name", [*EXPECTED, "weather"])
def test_normalized_data_are_canonical(name: str) -> None:
    if name == "weather":
        with gzip.open(SAMPLES / "nyc-weather-2013.csv.gz", "rt", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))[:300]
        sent = [{"eventType": "t", "externalId": str(number), "data": row} for number, row in enumerate(rows)]
    else:
        sent = events(name)
    for data in run(name, sent).normalized.split(b"\n"):
        assert canonical_json(json.loads(data)) == data
