"""The normalize role: mapping, coercion and required fields, event by event, independent of each other."""

import functools
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import orjson

from agents.coercion import Coercer, Coercion, remember
from agents.issues import Issue, issue, json_type
from agents.paths import ABSENT, Segments, pointer, read, replaced
from agents.policy import CompiledPolicy, FieldMapping
from protocols.canonical import canonical_json
from protocols.errors import NotCanonicalizableError
from protocols.limits import ISSUES_PER_EVENT_MAX, JSON_DEPTH_MAX

Record: TypeAlias = dict[str, Any]
Step: TypeAlias = Callable[[Any, list[Issue]], Any]

OBJECT: Final = {"type": "object"}
REQUIRED: Final = {"required": True}


def normalizer(policy: CompiledPolicy) -> Callable[[Record], tuple[Any, bytes, list[Issue]]]:
    """The function from a record to its normalized data, their canonical JSON, and what was wrong with it.

    It never raises on a record, and never changes it.
    """
    map_fields = mapper(policy)
    coerce = coercer(policy.coercions)
    require = requirer(policy.required)
    encode = encoder(policy)

    def normalize(record: Record) -> tuple[Any, bytes, list[Issue]]:
        issues: list[Issue] = []
        data = require(coerce(map_fields(record, issues), issues), issues)
        try:
            encoded = encode(data)
        except NotCanonicalizableError:  # a deep value was moved to a deeper place
            issues.insert(0, issue("mapping", "", {"maxDepth": JSON_DEPTH_MAX}, data))
            data, encoded = None, b"null"
        del issues[ISSUES_PER_EVENT_MAX:]
        return data, encoded, issues

    return normalize


def normalized_line(data: bytes, issues: list[Issue]) -> bytes:
    """What the normalized root commits to: canonical ``{"data", "issues"}``."""
    said = canonical_json(issues) if issues else b"[]"
    return b'{"data":%b,"issues":%b}' % (data, said)


def encoder(policy: CompiledPolicy) -> Callable[[Any], bytes]:
    """The function from normalized data to its canonical JSON.

    Where a policy leaves a fixed set of names, they are sorted once, and the text of a number that came
    before is remembered: writing numbers as RFC 8785 asks is the dearest part. Else it is ``canonical_json``.
    """
    targets = [] if policy.mapping is None else sorted(field.target[0] for field in policy.mapping)
    if policy.keeps_unmapped or len(set(targets)) < len(targets) or not all(map(str.isascii, targets)):
        return canonical_json
    plan: list[tuple[str, bytes, dict[Any, bytes], Coercer]] = []
    for name in targets:
        prefix = orjson.dumps(name) + b":"
        plan.append((name, prefix, {}, functools.partial(member, prefix)))

    def encode(data: Any) -> bytes:
        if type(data) is not dict or len(data) != len(plan):
            return canonical_json(data)
        parts: list[bytes] = []
        for name, prefix, known, write in plan:
            value = data[name]
            if type(value) is float or type(value) is int:
                part = known.get(value)
                parts.append(remember(known, value, write) if part is None else part)
            elif type(value) is str:
                parts.append(prefix + orjson.dumps(value))
            else:
                parts.append(write(value))
        return b"{%b}" % b",".join(parts)

    return encode


def member(prefix: bytes, value: Any) -> bytes:
    return prefix + (b"null" if value is None else canonical_json(value))


def mapper(policy: CompiledPolicy) -> Step:
    """Records to mapped data: always a new object, where the data is one."""
    if policy.mapping is None:
        return lambda record, _: dict(data) if isinstance(data := record["data"], dict) else data
    fields, keeps = policy.mapping, policy.keeps_unmapped
    used = {field.source[1] for field in fields if len(field.source) > 1}
    flat = all(len(field.source) == 2 and len(field.target) == 1 for field in fields)
    fill = fill_flat(fields) if flat else fill_nested(fields)

    def map_fields(record: Record, issues: list[Issue]) -> Any:
        data = record["data"]
        if not isinstance(data, dict):
            found = {"type": json_type(data)}
            issues.append(issue("mapping", "", OBJECT, None) | {"found": found})
            return data
        kept = {name: value for name, value in data.items() if name not in used} if keeps else {}
        mapped = fill(record)
        clashes = [name for name in mapped if name in kept]
        for name in sorted(clashes):
            issues.append(issue("mapping", pointer((name,)), {"unmapped": "another name"}, kept[name]))
        return {**kept, **mapped} if kept else mapped

    return map_fields


def fill_flat(fields: tuple[FieldMapping, ...]) -> Callable[[Record], dict[str, Any]]:
    """The usual case, one name to one name, without walking paths."""
    plan = tuple((field.source[1], field.target[0], field.default) for field in fields)
    optional = tuple(field.target[0] for field in fields if field.default is ABSENT)

    def fill(record: Record) -> dict[str, Any]:
        data = record["data"]
        mapped = {target: data.get(source, default) for source, target, default in plan}
        for name in optional:
            if mapped[name] is ABSENT:
                del mapped[name]
        return mapped

    return fill


def fill_nested(fields: tuple[FieldMapping, ...]) -> Callable[[Record], dict[str, Any]]:
    def fill(record: Record) -> dict[str, Any]:
        mapped: dict[str, Any] = {}
        for field in fields:
            value = read(record, field.source)
            if value is ABSENT:
                value = field.default
            if value is not ABSENT:
                mapped = replaced(mapped, field.target, value)
        return mapped

    return fill


def coercer(coercions: tuple[Coercion, ...]) -> Step:
    """Coerce what is there: absent fields and nulls are left to ``required``."""
    flat: list[tuple[str, dict[Any, Any], Coercer, Any, str]] = [
        (entry.field[0], {}, entry.apply, entry.expected, pointer(entry.field))
        for entry in coercions
        if len(entry.field) == 1
    ]
    nested = tuple(entry for entry in coercions if len(entry.field) > 1)

    def coerce(data: Any, issues: list[Issue]) -> Any:
        if not isinstance(data, dict):
            return data
        for name, known, apply, expected, place in flat:
            value = data.get(name)
            if value is None:
                continue
            if value is True or value is False:  # one dictionary key with 1 and 0, and other JSON values
                result = apply(value)
            else:
                try:
                    result = known[value]
                except KeyError:
                    result = remember(known, value, apply)
                except TypeError:  # an array or an object
                    result = apply(value)
            if result is ABSENT:
                issues.append(issue("coercion", place, expected, value))
            else:
                data[name] = result
        for entry in nested:
            value = read(data, entry.field)
            if value is None or value is ABSENT:
                continue
            result = entry.apply(value)
            if result is ABSENT:
                issues.append(issue("coercion", pointer(entry.field), entry.expected, value))
            else:
                data = replaced(data, entry.field, result)
        return data

    return coerce


def requirer(required: tuple[Segments, ...]) -> Step:
    """Note the fields that are missing or null."""
    flat = tuple((fields[0], pointer(fields)) for fields in required if len(fields) == 1)
    nested = tuple(fields for fields in required if len(fields) > 1)

    def require(data: Any, issues: list[Issue]) -> Any:
        present = data if isinstance(data, dict) else {}
        for name, place in flat:
            if present.get(name) is None:
                issues.append(issue("required", place, REQUIRED, None))
        for fields in nested:
            value = read(data, fields)
            if value is None or value is ABSENT:
                issues.append(issue("required", pointer(fields), REQUIRED, None))
        return data

    return require
