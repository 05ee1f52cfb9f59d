"""The normalize role: mapping, coercion and required fields, event by event, independent of each other."""

import functools
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import orjson

from agents.coercion import Coercer, Coercion, remember
from agents.expressions import AbsentValueError, EvaluationError, Expression, Scope
from agents.issues import Issue, cut, issue, json_type
from agents.mapping import FieldMapping
from agents.paths import ABSENT, pointer, read, replaced
from agents.policy import CompiledPolicy
from agents.reading import Record
from protocols.canonical import canonical_json
from protocols.errors import NotCanonicalizableError
from protocols.limits import JSON_DEPTH_MAX

Step: TypeAlias = Callable[[Any, list[Issue]], Any]

ELEMENTS_MAX: Final = 10_000
OBJECT: Final = {"type": "object"}
REQUIRED: Final = {"required": True}


def normalizer(policy: CompiledPolicy) -> Callable[[Record], tuple[Any, bytes, list[Issue]]]:
    """The function from a record to its normalized data, their canonical JSON, and the issues.

    The function never raises on a record and never changes it.
    """
    map_fields = mapper(policy)
    coerce = coercer(policy.coercions)
    require = requirer(policy)
    encode = encoder(policy)

    def normalize(record: Record) -> tuple[Any, bytes, list[Issue]]:
        issues: list[Issue] = []
        data = require(record, coerce(map_fields(record, issues), issues), issues)
        try:
            encoded = encode(data)
        except NotCanonicalizableError:  # the mapping moved a deep value to a deeper place
            issues.insert(0, issue("mapping", "", {"maxDepth": JSON_DEPTH_MAX}, data))
            data, encoded = None, b"null"
        cut(issues)
        return data, encoded, issues

    return normalize


def normalized_line(data: bytes, issues: list[Issue]) -> bytes:
    """What the normalized root commits to: canonical ``{"data", "issues"}``."""
    encoded = canonical_json(issues) if issues else b"[]"
    return b'{"data":%b,"issues":%b}' % (data, encoded)


def encoder(policy: CompiledPolicy) -> Callable[[Any], bytes]:
    """The function from normalized data to its canonical JSON.

    Where a policy leaves a fixed set of names, they are sorted once, and the text of repeated numbers is cached:
    writing numbers as RFC 8785 requires is the most expensive part. Otherwise it is ``canonical_json``.
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
    """The step from records to mapped data: always a new object, where the data is an object."""
    if policy.mapping is None:
        return lambda record, _: dict(data) if isinstance(data := record["data"], dict) else data
    fields, keeps = policy.mapping, policy.keeps_unmapped
    used = {field.source[1] for field in fields if len(field.source) > 1}
    flat = all(len(field.source) == 2 and len(field.target) == 1 and field.each is None for field in fields)
    fill = fill_flat(fields) if flat else fill_nested(fields)

    def map_fields(record: Record, issues: list[Issue]) -> Any:
        data = record["data"]
        if not isinstance(data, dict):
            found = {"type": json_type(data)}
            issues.append(issue("mapping", "", OBJECT, None) | {"found": found})
            return data
        kept = {name: value for name, value in data.items() if name not in used} if keeps else {}
        mapped = fill(record, issues)
        clashes = [name for name in mapped if name in kept]
        for name in sorted(clashes):
            issues.append(issue("mapping", pointer((name,)), {"unmapped": "another name"}, kept[name]))
        return {**kept, **mapped} if kept else mapped

    return map_fields


def fill_flat(fields: tuple[FieldMapping, ...]) -> Callable[[Record, list[Issue]], dict[str, Any]]:
    """The common case, top-level names to top-level names, without walking paths."""
    plan = tuple((field.source[1], field.target[0], field.default) for field in fields)
    optional = tuple(field.target[0] for field in fields if field.default is ABSENT)

    def fill(record: Record, _: list[Issue]) -> dict[str, Any]:
        data = record["data"]
        mapped = {target: data.get(source, default) for source, target, default in plan}
        for name in optional:
            if mapped[name] is ABSENT:
                del mapped[name]
        return mapped

    return fill


def fill_nested(fields: tuple[FieldMapping, ...]) -> Callable[[Record, list[Issue]], dict[str, Any]]:
    def fill(record: Record, issues: list[Issue]) -> dict[str, Any]:
        mapped: dict[str, Any] = {}
        for field in fields:
            value = read(record, field.source) if field.source else ABSENT
            if value is ABSENT:
                value = field.default
            if value is not ABSENT:
                if field.each is not None:
                    value = map_each(field, value, issues)
                mapped = replaced(mapped, field.target, value)
        return mapped

    return fill


def map_each(field: FieldMapping, value: Any, issues: list[Issue]) -> Any:
    """Map the elements of an array. A value that is not an array of such elements is kept, with an issue."""
    assert field.each is not None
    place = pointer(field.target)
    if not isinstance(value, list) or len(value) > ELEMENTS_MAX:
        expected = {"type": "array", "maxItems": ELEMENTS_MAX}
        issues.append(issue("mapping", place, expected, value))
        return value
    records = []
    for index, element in enumerate(value):
        if field.columns and isinstance(element, list) and len(element) <= len(field.columns):
            element = dict(zip(field.columns, element, strict=False))
        if not isinstance(element, dict):
            issues.append(issue("mapping", f"{place}/{index}", OBJECT, element))
            return value
        mapped: dict[str, Any] = {}
        for part in field.each:
            found = read(element, part.source) if part.source else ABSENT
            found = part.default if found is ABSENT else found
            if found is not ABSENT:
                mapped = replaced(mapped, part.target, found)
        records.append(mapped)
    return records


def coercer(coercions: tuple[Coercion, ...]) -> Step:
    """The step that coerces the values that are present: absent fields and nulls are left to ``required``."""
    flat: list[tuple[str, dict[Any, Any], Coercer, Any, str]] = [
        (entry.field[0], {}, entry.apply, entry.expected, pointer(entry.field))
        for entry in coercions
        if len(entry.field) == 1 and not entry.each
    ]
    nested = tuple(entry for entry in coercions if len(entry.field) > 1 and not entry.each)
    within = tuple(entry for entry in coercions if entry.each)

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
        for entry in within:
            elements = read(data, entry.each)
            if isinstance(elements, list):
                data = replaced(data, entry.each, coerced_elements(entry, elements, issues))
        return data

    return coerce


def coerced_elements(entry: Coercion, elements: list[Any], issues: list[Issue]) -> list[Any]:
    """Apply one coercion in each element of an array; an issue for each element that cannot be coerced."""
    coerced = list(elements)
    for index, element in enumerate(elements):
        value = read(element, entry.field)
        if value is None or value is ABSENT:
            continue
        result = entry.apply(value)
        if result is ABSENT:
            issues.append(issue("coercion", pointer((*entry.each, index, *entry.field)), entry.expected, value))
        else:
            coerced[index] = replaced(element, entry.field, result)
    return coerced


def requirer(policy: CompiledPolicy) -> Callable[[Record, Any, list[Issue]], Any]:
    """The step that reports required fields that are missing or null."""
    plan = [(rule, rule.field[0] if len(rule.field) == 1 else None, pointer(rule.field)) for rule in policy.required]
    conditional = any(rule.when is not None for rule in policy.required)

    def require(record: Record, data: Any, issues: list[Issue]) -> Any:
        present = data if isinstance(data, dict) else {}
        scope = scope_of(record, data, policy) if conditional else {}
        for rule, name, place in plan:
            value = present.get(name) if name is not None else read(data, rule.field)
            if (value is None or value is ABSENT) and (rule.when is None or applies(rule.when, scope)):
                issues.append(issue("required", place, REQUIRED, None, rule.severity))
        return data

    return require


def scope_of(record: Record, data: Any, policy: CompiledPolicy) -> Scope:
    """What expressions read, without the past."""
    event = {"type": record["eventType"], "externalId": record["externalId"], "timestamp": record["timestamp"]}
    return {"data": data, "event": event, "tables": policy.tables, "last": ABSENT}


def applies(when: Expression, scope: Scope) -> bool:
    """Whether a condition holds. One that cannot be evaluated counts as true, the stricter choice."""
    try:
        return when.holds(scope)
    except AbsentValueError:
        return False
    except EvaluationError:
        return True
