"""The whole function: formats to the byte, refusals, determinism, and the year of weather."""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.roles import BatchOutput, execute
from agents.units import writable
from protocols.canonical import canonical_json
from protocols.errors import MalformedError
from protocols.identifiers import (
    content_event_id,
    content_hash,
    event_id,
    record_hash,
    record_line,
    version_id,
)
from protocols.limits import EVENTS_PER_BATCH_MAX, JSON_DEPTH_MAX

ROOT = Path(__file__).resolve().parents[2]
YEAR_EVENTS = 26_115
YEAR_ROOTS = "f5431b3f47bff52678a94aba05f3000803eba8001b1358834eb50ed9c139e497"

# Run in a process of its own: reads lines of hex (policy, payloads), prints a digest of all that came out.
DIGEST_PROGRAM = """
import hashlib, sys, attrs
from agents.roles import execute
digest, context = hashlib.sha256(), b"{}"
policy = bytes.fromhex(sys.stdin.readline())
for line in sys.stdin:
    output = execute(network="n", source_id="s", payload=bytes.fromhex(line), policy=policy, context=context)
    context = output.context_out
    digest.update(repr(attrs.astuple(output)).encode("utf-8"))
print(digest.hexdigest())
"""


def merkle_root(lines: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, word for word."""
    if len(lines) == 1:
        return hashlib.sha256(b"\0" + lines[0]).digest()
    split = 1 << (len(lines) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + merkle_root(lines[:split]) + merkle_root(lines[split:])).digest()


def run_batches(batches: list[bytes], policy: bytes) -> list[BatchOutput]:
    outputs: list[BatchOutput] = []
    for payload in batches:
        context = outputs[-1].context_out if outputs else b"{}"
        outputs.append(execute(network="n", source_id="s", payload=payload, policy=policy, context=context))
    return outputs


def record(data: Any, external_id: str | None = "x", **others: Any) -> bytes:
    fields = {"event_type": "t", "previous": None, "timestamp": None} | others
    return record_line(data=data, external_id=external_id, **fields)


def test_every_line_is_as_the_format_says() -> None:
    policy = b'{"bounds":[{"field":"n","max":1}],"coercion":[{"field":"n","type":"number"}]}'
    lines = [
        record({"n": "2"}, 'id "ü"\n', timestamp="2013", previous="ab" * 32, event_type="t/x"),
        record({"n": "x"}, None),
    ]
    output = execute(network="n", source_id="s", payload=b"\n".join(lines), policy=policy, context=b"{}")
    bound = {"expected": {"max": 1}, "found": 2, "path": "/n", "rule": "bounds", "severity": "error"}
    wrong = {
        "expected": {"type": "number"},
        "found": "x",
        "path": "/n",
        "rule": "coercion",
        "severity": "error",
    }
    normalized = [b'{"n":2}', b'{"n":"x"}']
    assert output.normalized == b"\n".join(normalized)
    first = event_id("n", "s", 'id "ü"\n')
    second = content_event_id("n", "s", data={"n": "x"}, event_type="t", timestamp=None)
    leaves = [
        canonical_json(
            {
                "contentHash": content_hash(data),
                "eventId": event,
                "eventType": kind,
                "externalId": external,
                "issues": [found],
                "recordHash": record_hash(line),
                "status": "invalid",
                "timestamp": timestamp,
                "versionId": version_id(event, content_hash(data), previous),
            }
        )
        for line, data, event, kind, external, found, timestamp, previous in [
            (lines[0], normalized[0], first, "t/x", 'id "ü"\n', bound, "2013", "ab" * 32),
            (lines[1], normalized[1], second, "t", None, wrong, None, None),
        ]
    ]
    assert output.leaves == b"\n".join(leaves)
    assert output.input_root == merkle_root(lines)
    assert output.output_root == merkle_root(leaves)
    assert output.normalized_root == merkle_root(
        [
            canonical_json({"data": {"n": 2}, "issues": []}),
            canonical_json({"data": {"n": "x"}, "issues": [wrong]}),
        ]
    )
    assert output.issues_by_rule == (("bounds", 1), ("coercion", 1))


GOOD = record({})


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\n",
        GOOD + b"\n",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 500,
        GOOD.replace(b'"data":{}', b'"data":1e400'),
        GOOD.replace(b'"data":{}', b'"data":9007199254740992'),
        GOOD.replace(b'"data":{}', b'"data":"\\ud800"'),
        GOOD.replace(b'"data":{}', b'"data":1.0'),
        GOOD.replace(b'"data":{}', b'"data":[1.0,2]'),
        GOOD.replace(b'"data":{}', b'"data":-0'),
        GOOD.replace(b'"data":{}', b'"data":[-0.0]'),
        GOOD.replace(b'"data":{}', b'"data":1e-6'),
        GOOD.replace(b'"data":{}', b'"data":1e3'),
        GOOD.replace(b'"data":{}', b'"data":1e16'),
        GOOD.replace(b'"data":{}', b'"data":"\\u00e9"'),
        GOOD.replace(b'"data":{}', b'"data":"\\u001F"'),
        GOOD.replace(b'"data":{}', b'"data":{"b":1,"a":1}'),
        GOOD.replace(b'"data":{}', '"data":{"\ufb33":1,"\U0001f600":1}'.encode()),
        GOOD.replace(b'"data":{}', b'"data": {}'),
        GOOD.replace(b'"data":{}', b'"data":{"a":1,"a":1}'),
        GOOD.replace(b'"data":{},', b""),
        GOOD.replace(b'"data":{},', b'"data":{},"extra":1,'),
        GOOD.replace(b'"eventType":"t"', b'"eventType":1'),
        GOOD.replace(b'"eventType":"t"', b'"eventType":"%b"' % (b"t" * 129)),
        GOOD.replace(b'"externalId":"x"', b'"externalId":1'),
        GOOD.replace(b'"previous":null', b'"previous":"AB"'),
        GOOD.replace(b'"timestamp":null', b'"timestamp":1'),
        GOOD[:9] + b"\n" + GOOD[9:],
        GOOD + b"," + GOOD + b"\n" + GOOD,
        b"\n".join([GOOD] * (EVENTS_PER_BATCH_MAX + 1)),
    ],
)
def test_payloads_not_in_record_form_are_their_senders_fault(payload: bytes) -> None:
    with pytest.raises(MalformedError):
        execute(network="n", source_id="s", payload=payload, policy=b"{}", context=b"{}")


SCALARS = st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=20
) | st.floats(allow_nan=False, allow_infinity=False).filter(writable)  # fmt: skip
WORDS = st.sampled_from(["station", "at", "n", "s", "flag", "deep", "other"])
VALUES = st.recursive(
    SCALARS | st.sampled_from(["2013-01-01T00:00:00Z", "1.5", "NA", "on"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text("añ/~.", max_size=3), inner),
    max_leaves=12,
)
EVERYTHING = {
    "mapping": {"fields": [{"from": "deep.n", "to": "moved.n"}, {"from": "s", "to": "s2", "default": "d"}]},
    "coercion": [
        {"field": "n", "type": "number", "unit": {"from": "degF", "to": "K"}, "nullValues": ["NA"]},
        {"field": "at", "type": "timestamp", "formats": ["rfc3339", "unix"]},
        {"field": "moved.n", "type": "integer"},
        {"field": "flag", "type": "boolean"},
        {"field": "s2", "type": "string", "trim": True},
        {"field": "other", "type": "enum", "values": ["on"]},
    ],
    "required": ["station", "moved.n"],
    "schema": {"type": "object", "properties": {"station": {"type": "string"}, "deep": {"maxProperties": 1}}},
    "bounds": [{"field": "n", "min": 0, "max": 300}, {"field": "deep.n", "max": 5}],
    "monotonic": [{"key": ["station"], "field": "at"}, {"field": "n", "strict": False}],
}

# Only named fields are left, so the data is written from parts that were written before.
DROPPING = {
    **EVERYTHING,
    "mapping": {
        "fields": [
            {"from": "n", "to": "n"},
            {"from": "s", "to": "s", "default": True},
            {"from": "deep", "to": "deep", "default": None},
            {"from": "at", "to": "at"},
            {"from": "@eventType", "to": 'quote"d'},
        ],
        "unmapped": "drop",
    },
}


def reordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    return [reordered(item) for item in value] if isinstance(value, list) else value


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(VALUES, min_size=1, max_size=6), st.sampled_from([EVERYTHING, DROPPING]))
def test_any_event_gets_a_verdict(values: list[Any], rules: dict[str, Any]) -> None:
    """No JSON value stops a batch, key order changes nothing, and the roots are those of the lines."""
    policy = canonical_json(rules)
    lines = [record(value, None) for value in values]
    assert lines == [record(reordered(value), None) for value in values]
    output = execute(network="n", source_id="s", payload=b"\n".join(lines), policy=policy, context=b"{}")
    leaves, normalized = output.leaves.split(b"\n"), output.normalized.split(b"\n")
    verdicts = [json.loads(leaf) for leaf in leaves]
    assert [canonical_json(verdict) for verdict in verdicts] == leaves
    assert [canonical_json(json.loads(line)) for line in normalized] == normalized
    assert output.output_root == merkle_root(leaves)
    assert output.input_root == merkle_root(lines)
    statuses = Counter(verdict["status"] for verdict in verdicts)
    assert (statuses["valid"], statuses["invalid"]) == (output.valid, output.invalid)
    rules = Counter(issue["rule"] for verdict in verdicts for issue in verdict["issues"])
    assert tuple(sorted(rules.items())) == output.issues_by_rule
    again = execute(network="n", source_id="s", payload=b"\n".join(lines), policy=policy, context=b"{}")
    assert again == output


def test_deep_events_get_a_verdict() -> None:
    """As deep as JSON may be, and moved deeper still: a verdict, and the next event is not concerned."""
    value: Any = 1
    for level in range(JSON_DEPTH_MAX - 2):
        value = {"deep": value} if level % 2 else [value]
    payload = record({"a": value}) + b"\n" + record({"a": 1})
    deeper = canonical_json({"mapping": {"fields": [{"from": "a", "to": "x.y.z"}]}})
    kept = execute(network="n", source_id="s", payload=payload, policy=b"{}", context=b"{}")
    moved = execute(network="n", source_id="s", payload=payload, policy=deeper, context=b"{}")
    assert (kept.valid, moved.valid) == (2, 1)
    assert moved.normalized == b'null\n{"x":{"y":{"z":1}}}'
    first = json.loads(moved.leaves.split(b"\n")[0])
    assert first["issues"][0] == {
        "expected": {"maxDepth": JSON_DEPTH_MAX},
        "found": {"length": 1, "type": "object"},
        "path": "",
        "rule": "mapping",
        "severity": "error",
    }


def test_the_year_of_weather(weather_batches: list[bytes], weather_policy: bytes) -> None:
    outputs = run_batches(weather_batches, weather_policy)
    assert sum(output.events for output in outputs) == YEAR_EVENTS
    verdicts = [json.loads(leaf) for output in outputs for leaf in output.leaves.split(b"\n")]
    invalid = {
        verdict["externalId"]: [(issue["rule"], issue["path"]) for issue in verdict["issues"]]
        for verdict in verdicts
        if verdict["status"] == "invalid"
    }
    no_wind = [("required", "/windSpeedMps")]
    assert invalid == {
        "EWR-2013-02-12T08:00:00Z": [("bounds", "/windSpeedMps")],
        "EWR-2013-03-27T21:00:00Z": no_wind,
        "EWR-2013-08-22T13:00:00Z": [
            ("required", "/temperatureC"),
            ("required", "/dewPointC"),
            ("required", "/humidityPercent"),
        ],
        "JFK-2013-05-22T14:00:00Z": no_wind,
        "JFK-2013-07-04T10:00:00Z": no_wind,
        "JFK-2013-07-20T10:00:00Z": no_wind,
    }
    [gale] = next(v["issues"] for v in verdicts if v["externalId"] == "EWR-2013-02-12T08:00:00Z")
    assert gale == {
        "expected": {"max": 96.2, "min": 0},
        "found": 468.659113683,
        "path": "/windSpeedMps",
        "rule": "bounds",
        "severity": "error",
    }
    assert sum(output.invalid for output in outputs) == len(invalid)
    roots = b"".join(o.input_root + o.normalized_root + o.output_root for o in outputs)
    assert hashlib.sha256(roots).hexdigest() == YEAR_ROOTS


def test_posting_the_year_again_breaks_monotonicity(weather_batches: list[bytes], weather_policy: bytes) -> None:
    first, second = run_batches(weather_batches[:1] * 2, weather_policy)
    assert (first.invalid, second.invalid) == (0, 500)
    assert second.issues_by_rule == (("monotonicity", 500),)
    assert second.context_out == first.context_out


@pytest.mark.slow
def test_processes_with_other_seeds_locales_and_zones_agree(
    weather_batches: list[bytes], weather_policy: bytes
) -> None:
    hostile = [record(reordered({"station": "Ä", "at": n / 7, "n": f"{n}.5", "deep": {"n": n}})) for n in range(200)]
    inputs = {
        weather_policy: weather_batches[:4],
        canonical_json(EVERYTHING): [b"\n".join(hostile)],
    }
    settings_tried = [
        {"PYTHONHASHSEED": "0", "LC_ALL": "C", "TZ": "UTC"},
        {"PYTHONHASHSEED": "1", "LC_ALL": "C.UTF-8", "TZ": "Asia/Kolkata"},
        {
            "PYTHONHASHSEED": "4294967295",
            "LC_ALL": "tr_TR.UTF-8",
            "TZ": "America/New_York",
            "PYTHONUTF8": "0",
        },
    ]
    for policy, batches in inputs.items():
        text = "\n".join([policy.hex(), *(batch.hex() for batch in batches)])
        digests = [
            subprocess.run(
                [sys.executable, "-c", DIGEST_PROGRAM],
                input=text,
                env={**os.environ, "PYTHONPATH": str(ROOT), **tried},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for tried in settings_tried
        ]
        assert len(digests[0].strip()) == 64
        assert set(digests) == {digests[0]}
