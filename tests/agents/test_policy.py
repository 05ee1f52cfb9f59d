"""The policy document: what is refused, where, and with which remedy."""

from typing import Any

import pytest

from agents.policy import compile_policy, policy_document, policy_hash
from protocols.errors import InvalidPolicyError

NUMBER = {"field": "a", "type": "number"}


def nested(depth: int) -> dict[str, Any]:
    """A schema whose references double the work at each of ``depth`` steps."""
    steps = {f"s{n}": {"allOf": [{"$ref": f"#/$defs/s{n + 1}"}] * 2} for n in range(depth)}
    return {"$defs": {**steps, f"s{depth}": {"type": "object"}}, "$ref": "#/$defs/s0"}


def test_the_empty_policy_keeps_everything(run: Any) -> None:
    data = [{"b": 1.5, "a": None}, [1, {"x": "y"}], "text", 4, None]
    ran = run({}, *data)
    assert ran.data == data
    assert ran.output.valid == len(data)
    assert ran.output.context_out == b"{}"


def test_hash_is_of_the_canonical_document() -> None:
    document = policy_document({"required": ["a"], "version": 1})
    assert document == b'{"required":["a"],"version":1}'
    assert policy_hash(document) == "af59a0aae2b0dccaa6b4540fe0c5e51cf8e9dec92229a6cf61f62ba2eb7263a7"
    assert compile_policy(document).hash == policy_hash(document)


def test_settings_are_read() -> None:
    policy = compile_policy(policy_document({"certification": {"level": "critical"}, "onConflict": "reject"}))
    assert (policy.level, policy.on_conflict, policy.stateful) == ("critical", "reject", False)
    policy = compile_policy(policy_document({"monotonic": [{"field": "at"}]}))
    assert (policy.level, policy.on_conflict, policy.stateful) == (None, "version", True)


REFUSED = [
    ([], "", "must be an object"),
    ({"requierd": ["a"]}, "/requierd", "unknown member; allowed members are version, mapping"),
    ({"version": 2}, "/version", "must be 1, the version"),
    ({"version": True}, "/version", "must be 1, the version"),
    ({"mapping": {"fields": [{"from": "a"}]}}, "/mapping/fields/0", "the key 'to' is missing"),
    ({"mapping": {"fields": [{"from": "a", "to": "b", "x": 1}]}}, "/mapping/fields/0/x", "unknown member"),
    ({"mapping": {"fields": [{"from": "a..b", "to": "b"}]}}, "/mapping/fields/0/from", "must not have empty names"),
    ({"mapping": {"fields": [{"from": "@time", "to": "b"}]}}, "/mapping/fields/0/from", "@timestamp"),
    (
        {"mapping": {"fields": [{"from": "a", "to": "b", "default": []}]}},
        "/mapping/fields/0/default",
        "must be",
    ),
    (
        {"mapping": {"fields": [{"from": "a", "to": "b"}, {"from": "c", "to": "b"}]}},
        "/mapping/fields/1",
        "the field /b is named twice",
    ),
    (
        {"mapping": {"fields": [{"from": "a", "to": "b"}, {"from": "c", "to": "b.c"}]}},
        "/mapping/fields/1",
        "the field /b/c is inside another field",
    ),
    ({"mapping": {"unmapped": "hide"}}, "/mapping/unmapped", "keep, drop"),
    ({"coercion": [{"field": "a"}]}, "/coercion/0", "the key 'type' is missing"),
    ({"coercion": [{"field": "a", "type": "int"}]}, "/coercion/0/type", "number, integer, boolean"),
    ({"coercion": [{**NUMBER, "trim": True}]}, "/coercion/0/trim", "unknown member"),
    ({"coercion": [NUMBER, NUMBER]}, "/coercion/1", "is named twice"),
    ({"coercion": [{**NUMBER, "unit": {"from": "degF", "to": "m/s"}}]}, "/coercion/0/unit", "temperature"),
    ({"coercion": [{**NUMBER, "unit": {"from": "furlong", "to": "m"}}]}, "/coercion/0/unit", "known are"),
    ({"coercion": [{**NUMBER, "nullValues": [["NA"]]}]}, "/coercion/0/nullValues/0", "must be a string"),
    ({"coercion": [{"field": "a", "type": "enum"}]}, "/coercion/0", "the key 'values' is missing or empty"),
    (
        {"coercion": [{"field": "a", "type": "enum", "values": ["a"], "aliases": {"b": "c"}}]},
        "/coercion/0/aliases/b",
        "must be one of a",
    ),
    (
        {"coercion": [{"field": "a", "type": "timestamp", "formats": ["YYYY-MM-DD HH:mm"]}]},
        "/coercion/0",
        "set 'timezone'",
    ),
    (
        {"coercion": [{"field": "a", "type": "timestamp", "timezone": "Europe/Berlin"}]},
        "/coercion/0",
        "named zones differ",
    ),
    ({"required": "a"}, "/required", "must be an array"),
    ({"bounds": [{"field": "a"}]}, "/bounds/0", "one of the keys 'min' and 'max' is needed"),
    ({"bounds": [{"field": "a", "min": 2, "max": 1}]}, "/bounds/0", "must not be greater than"),
    ({"bounds": [{"field": "a", "min": True}]}, "/bounds/0/min", "must be a number"),
    ({"monotonic": [{"field": "a"}, {"field": "a"}]}, "/monotonic/1", "another entry has the same field and key"),
    ({"monotonic": [{"field": "a", "strict": 1}]}, "/monotonic/0/strict", "true or false"),
    ({"certification": {"level": "high"}}, "/certification/level", "basic, enhanced, critical"),
    ({"onConflict": "ignore"}, "/onConflict", "version, reject"),
    ({"schema": {"type": "strnig"}}, "/schema", "not a valid JSON Schema"),
    ({"schema": {"pattern": "(?=a)b"}}, "/schema", "no look-around"),
    ({"schema": {"pattern": "(a{1000}){1000}"}}, "/schema", "not a valid JSON Schema"),
    ({"schema": {"$ref": "https://example.org/s"}}, "/schema/$ref", "copy other schemas in"),
    ({"schema": {"$ref": "file:///etc/passwd"}}, "/schema/$ref", "copy other schemas in"),
    ({"schema": {"$ref": "#/$defs/gone"}}, "/schema/$ref", "refers to a part that this schema does not have"),
    ({"schema": {"$ref": "#"}}, "/schema", "must not refer to itself"),
    ({"schema": {"items": {"$ref": "#"}}}, "/schema", "must not refer to itself"),
    ({"schema": {"$id": "https://example.org"}}, "/schema/$id", "not supported"),
    ({"schema": {"$schema": "http://json-schema.org/draft-07/schema#"}}, "/schema/$schema", "2020-12"),
    ({"schema": {"properties": {"a": {"format": "regex"}}}}, "/schema/properties/a/format", "date-time"),
    ({"schema": nested(30)}, "", "once its references are followed"),
]


@pytest.mark.parametrize(("document", "path", "remedy"), REFUSED)
def test_refusals_name_the_place_and_the_remedy(document: Any, path: str, remedy: str) -> None:
    with pytest.raises(InvalidPolicyError) as refusal:
        policy_document(document)
    assert remedy in str(refusal.value)
    assert str(refusal.value.fields["path"]).startswith(path)
    if path:
        assert refusal.value.fields["path"] == path


def test_references_within_bounds_are_followed(run: Any) -> None:
    ran = run({"schema": nested(5)}, {}, 1)
    assert [leaf["status"] for leaf in ran.leaves] == ["valid", "invalid"]


@pytest.mark.parametrize("raw", [b"", b"{", b'{"version": 1}', b'{"version":1.0}', b'{"a":1,"a":1}', b"\xff"])
def test_bytes_that_are_not_canonical_are_refused(raw: bytes) -> None:
    with pytest.raises(InvalidPolicyError):
        compile_policy(raw)


def test_oversized_policies_are_refused() -> None:
    with pytest.raises(InvalidPolicyError, match="262144"):
        policy_document({"schema": {"description": "x" * 262_144}})


def test_numbers_without_canonical_form_are_refused() -> None:
    with pytest.raises(InvalidPolicyError):
        policy_document({"bounds": [{"field": "a", "max": float("inf")}]})
