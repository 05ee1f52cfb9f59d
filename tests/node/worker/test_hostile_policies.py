"""Policies and events made to hurt: refused when read, or cut off with a clear issue, and in time."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from agents.policy import policy_document
from node.worker.policy_files import read_policy
from node.worker.policy_trials import try_policy
from protocols.errors import InvalidPolicyError
from protocols.limits import POLICY_BYTES_MAX

QUICKLY_S = 5.0


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    """Bounds hold by far, or not at all: no measure of speed."""
    started_s = time.monotonic()
    yield
    assert time.monotonic() - started_s < QUICKLY_S


def nested(depth: int, opening: str, closing: str, inner: str = "1") -> bytes:
    return (opening * depth + inner + closing * depth).encode()


@pytest.mark.parametrize("yaml", [True, False])
@pytest.mark.parametrize(
    "text",
    [
        nested(10_000, "[", "]"),
        nested(10_000, '{"a":', "}"),
        b'{"schema":' + nested(10_000, '{"not":', "}", "{}") + b"}",
        b'"' + b"x" * POLICY_BYTES_MAX + b'"',
        b'{"bounds":[{"field":"a","max":1e999999999}]}',
    ],
)
def test_documents_that_are_too_deep_or_too_large(text: bytes, yaml: bool) -> None:
    with pytest.raises(InvalidPolicyError):
        policy_document(read_policy(text, yaml=yaml))


def test_yaml_that_multiplies_is_not_read() -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{','.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)
    )
    with pytest.raises(InvalidPolicyError, match="anchors, aliases and tags"):
        read_policy(bomb.encode(), yaml=True)


@pytest.mark.parametrize(
    "policy",
    [
        {"schema": {"pattern": "(a{1000}){1000}"}},
        {"schema": {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}},
        {"schema": {"$ref": "https://example.com/schema.json"}},
        {"schema": {"allOf": [{"anyOf": [{"type": "string"}] * 60}] * 60}},
        {"rules": [{"name": "a", "check": "data.a.matches('((a{500}){500}){500}')"}]},
        {"rules": [{"name": "a", "check": "(" * 500 + "true" + ")" * 500}]},
        {"rules": [{"name": "a", "check": " && ".join(["true"] * 700)}]},
        {"rules": [{"name": f"r{n}", "check": "true"} for n in range(300)]},
        {"mapping": {"fields": [{"from": ".".join("a" * 9), "to": "b"}]}},
    ],
)
def test_rules_without_a_bound_are_refused(policy: Any) -> None:
    with pytest.raises(InvalidPolicyError):
        policy_document(policy)


def event(data: Any) -> dict[str, Any]:
    return {"externalId": "e", "eventType": "t", "data": data}


def test_events_that_are_too_deep_too_large_or_no_numbers_are_refused_one_by_one() -> None:
    deep: Any = 1
    for _ in range(500):
        deep = {"a": deep}
    policy = policy_document({"coercion": [{"field": "v", "type": "number"}]})
    good = event({"v": "1"})
    bad = [event(deep), event({"v": "x" * 2_000_000}), event({"v": 2**70})]
    tried, _ = try_policy(policy, [good, *bad, good | {"externalId": "f"}])
    assert [each.status for each in tried] == ["valid", "rejected", "rejected", "rejected", "valid"]
    assert all(each.issues[0]["expected"] for each in tried if each.status == "rejected"), "each says the remedy"


@pytest.mark.parametrize("value", ["1e400", "-1e400", "1e-400", "0x10", "١", "1_000", "NaN", "Infinity", "1" * 1_000])
def test_numbers_at_the_edge_have_one_meaning_or_none(value: str) -> None:
    policy = policy_document({"coercion": [{"field": "v", "type": "number"}]})
    (tried,), _ = try_policy(policy, [event({"v": value})])
    if value == "1e-400":
        assert (tried.status, tried.after) == ("valid", {"v": 0})
    else:
        assert (tried.status, tried.after) == ("invalid", {"v": value})
        assert tried.issues[0]["rule"] == "coercion"


@pytest.mark.parametrize(
    "check",
    [
        "data.items.all(a, data.items.all(b, data.items.all(c, data.items.all(d, true))))",
        "size(data.items.map(a, data.items.map(b, data.items))) > 0",
        "data.text.matches('^(([a-z])+.)+[A-Z]([a-z])+$')",
        "data.text.matches('(a*)*b')",
        "(data.text + data.text + data.text + data.text).contains('b')",
    ],
)
def test_rules_that_would_run_for_ever_are_cut_off(check: str) -> None:
    policy = policy_document({"rules": [{"name": "long", "check": check}]})
    data = {"items": list(range(1_000)), "text": "a" * 50_000}
    (hostile, calm), _ = try_policy(policy, [event(data), event({"items": [], "text": "b"}) | {"externalId": "f"}])
    assert hostile.status == "invalid"
    assert calm.issues == () or calm.issues[0]["rule"] == "rule"
    found = hostile.issues[0]["found"]
    assert found is None or "steps" in found["error"] or "characters" in found["error"]


def test_issues_are_bounded_whatever_an_event_holds() -> None:
    schema = {"additionalProperties": False, "properties": {}}
    policy = policy_document({"schema": schema})
    data = {f"{'k' * 200}{number}": "v" * 500 for number in range(500)}
    (tried,), _ = try_policy(policy, [event(data)])
    assert len(tried.issues) <= 32 or len(json.dumps(tried.issues)) < 200_000
