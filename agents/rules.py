"""The sections of a policy that check events, read and checked: one class for each kind of rule."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from agents.document import DocumentNode
from agents.expressions import Expression, compile_expression
from agents.issues import ERROR, SEVERITIES, expectation
from agents.paths import Segments
from protocols.canonical import canonical_json

RULES_MAX: Final = 256
WATCHES_MAX: Final = 8  # of each kind that looks back
KEY_FIELDS_MAX: Final = 8
KEPT_FIELDS_MAX: Final = 16
ALLOWED_MAX: Final = 4_096
TABLES_MAX: Final = 16
RATE_COUNT_MAX: Final = 1_000
WINDOW_S_MAX: Final = 31 * 86_400
DUPLICATES_MAX: Final = 10_000
NAME_CHARS_MAX: Final = 64
MESSAGE_CHARS_MAX: Final = 256
RETENTION_DAYS_MAX: Final = 36_500
NAMES: Final = ("data", "event", "last", "tables")
Calls = Mapping[str, Callable[..., Any]]  # what runs a policy's functions, by name


@attrs.frozen(kw_only=True)
class AllowedRule:
    """A field whose value must be one of a set, or a key of a table of the policy."""

    field: Segments
    values: frozenset[bytes]
    expected: Any
    severity: str


@attrs.frozen(kw_only=True)
class BoundRule:
    """Inclusive limits of a number."""

    field: Segments
    minimum: int | float | None
    maximum: int | float | None
    expected: dict[str, Any]
    severity: str = ERROR


@attrs.frozen(kw_only=True)
class LookBackRule:
    """What rules about the past share: ``name`` identifies the rule in the context, ``key`` the events compared."""

    name: str
    key: tuple[Segments, ...]
    severity: str = ERROR


@attrs.frozen(kw_only=True)
class MonotonicRule(LookBackRule):
    """A field that must grow from event to event of one key."""

    field: Segments
    strict: bool
    is_timestamp: bool


@attrs.frozen(kw_only=True)
class StepRule(LookBackRule):
    """A number that may change by at most ``maximum`` from one event to the next, or within ``per_ms``.

    Attributes:
        time: The field with the time; events older than the last one are not compared.
        per_ms: Events further apart are not compared; None compares them however far apart they are.
    """

    field: Segments
    maximum: int | float
    time: Segments | None
    per_ms: int | None
    expected: Any


@attrs.frozen(kw_only=True)
class RateRule(LookBackRule):
    """At most ``count`` events in any window of ``window_ms``, by the events' own time."""

    time: Segments
    count: int
    window_ms: int
    expected: Any


@attrs.frozen(kw_only=True)
class DuplicateRule(LookBackRule):
    """Fields that together must not repeat among the last ``events`` of the key, or within ``window_ms``."""

    fields: tuple[Segments, ...]
    events: int
    time: Segments | None
    window_ms: int
    expected: Any


@attrs.frozen(kw_only=True)
class MemoryRule(LookBackRule):
    """The fields of the event before that expressions read as ``last``."""

    keep: tuple[Segments, ...]
    time: Segments | None


@attrs.frozen(kw_only=True)
class CheckRule:
    """A rule of the operator's: where ``when`` holds, ``check`` must hold."""

    name: str
    when: Expression | None
    check: Expression
    path: str
    expected: Any
    severity: str


@attrs.frozen(kw_only=True)
class RequiredRule:
    """A field that must be present, if the condition holds where there is one."""

    field: Segments
    when: Expression | None
    severity: str


@attrs.frozen(kw_only=True)
class LevelCondition:
    """The certification level of events for which a condition holds."""

    when: Expression
    level: str


def read_severity(node: DocumentNode) -> str:
    severity = node.maybe("severity")
    return ERROR if severity is None else severity.choice(*SEVERITIES)


def read_expression(node: DocumentNode, functions: Calls, names: tuple[str, ...] = NAMES) -> Expression:
    text = node.text()
    return node.checked(lambda: compile_expression(text, names=names, functions=functions))


def maybe_expression(
    node: DocumentNode, key: str, functions: Calls, names: tuple[str, ...] = NAMES
) -> Expression | None:
    found = node.maybe(key)
    return None if found is None else read_expression(found, functions, names)


def read_required(root: DocumentNode, functions: Calls) -> tuple[RequiredRule, ...]:
    found = []
    for node in root.items("required", RULES_MAX):
        if isinstance(node.value, dict):
            node.object("field", "when", "severity")
            when = maybe_expression(node, "when", functions, ("data", "event", "tables"))
            found.append(RequiredRule(field=node.required("field").path(), when=when, severity=read_severity(node)))
        else:
            found.append(RequiredRule(field=node.path(), when=None, severity=ERROR))
    return tuple(found)


def read_bound(node: DocumentNode) -> BoundRule:
    node.object("field", "min", "max", "severity")
    limits = {key: limit.number() for key in ("max", "min") if (limit := node.maybe(key)) is not None}
    if not limits:
        node.refuse("at least one of the keys 'min' and 'max' is needed")
    if len(limits) == 2 and limits["min"] > limits["max"]:
        node.refuse("'min' must not be greater than 'max'")
    return BoundRule(
        field=node.required("field").path(),
        minimum=limits.get("min"),
        maximum=limits.get("max"),
        expected=expectation(limits, node.pointer),
        severity=read_severity(node),
    )


def read_tables(root: DocumentNode) -> dict[str, dict[str, Any]]:
    tables = root.maybe("tables")
    if tables is None:
        return {}
    if len(tables.object()) > TABLES_MAX:
        tables.refuse(f"must have at most {TABLES_MAX} tables, not {len(tables.value)}")
    return {name: tables.child(name).object() for name in sorted(tables.value)}


def read_allowed(node: DocumentNode, tables: Mapping[str, Mapping[str, Any]]) -> AllowedRule:
    node.object("field", "values", "table", "severity")
    if (node.maybe("values") is None) == (node.maybe("table") is None):
        node.refuse("exactly one of the keys 'values' and 'table' is needed")
    table = node.maybe("table")
    if table is None:
        values = [item.value for item in node.items("values", ALLOWED_MAX)]
        expected = expectation({"values": values}, node.pointer)
    else:
        values = sorted(
            tables[
                table.choice(*tables) if tables else table.refuse("refers to a table, but the policy has no 'tables'")
            ]
        )
        expected = {"table": table.value}
    if not values:
        node.refuse("must allow at least one value")
    return AllowedRule(
        field=node.required("field").path(),
        values=frozenset(map(canonical_json, values)),
        expected=expected,
        severity=read_severity(node),
    )


def read_key(node: DocumentNode) -> tuple[Segments, ...]:
    return tuple(part.path() for part in node.items("key", KEY_FIELDS_MAX))


def watch_name(*parts: Any) -> str:
    return canonical_json(list(parts)).decode()


def read_steps(root: DocumentNode) -> tuple[StepRule, ...]:
    found: dict[str, StepRule] = {}
    for node in root.items("steps", WATCHES_MAX):
        node.object("key", "field", "max", "time", "seconds", "severity")
        field, key, time = node.required("field").path(), read_key(node), maybe_path(node, "time")
        maximum = node.required("max").number()
        if maximum < 0:
            node.child("max").refuse("must not be negative")
        seconds = node.maybe("seconds")
        if seconds is not None and time is None:
            node.refuse("'seconds' needs 'time', the field with the time of the event")
        expected: dict[str, Any] = {"maxStep": maximum}
        if seconds is not None:
            expected["seconds"] = seconds.value
        name = watch_name(list(field), [list(part) for part in key], maximum, seconds and seconds.value)
        if name in found:
            node.refuse("another entry has the same field, key, 'max' and 'seconds'")
        found[name] = StepRule(
            name=name,
            key=key,
            severity=read_severity(node),
            field=field,
            maximum=maximum,
            time=time,
            per_ms=None if seconds is None else window_ms(seconds),
            expected=expected,
        )
    return tuple(found.values())


def read_rates(root: DocumentNode) -> tuple[RateRule, ...]:
    found: dict[str, RateRule] = {}
    for node in root.items("rates", WATCHES_MAX):
        node.object("key", "time", "count", "seconds", "severity")
        key, time, seconds = read_key(node), node.required("time").path(), node.required("seconds")
        count = whole(node.required("count"), RATE_COUNT_MAX)
        name = watch_name(list(time), [list(part) for part in key], count, seconds.value)
        if name in found:
            node.refuse("another entry has the same time, key, 'count' and 'seconds'")
        found[name] = RateRule(
            name=name,
            key=key,
            severity=read_severity(node),
            time=time,
            count=count,
            window_ms=window_ms(seconds),
            expected={"maxEvents": count, "seconds": seconds.value},
        )
    return tuple(found.values())


def read_duplicates(root: DocumentNode) -> tuple[DuplicateRule, ...]:
    found: dict[str, DuplicateRule] = {}
    for node in root.items("duplicates", WATCHES_MAX):
        node.object("key", "fields", "events", "time", "seconds", "severity")
        fields = tuple(part.path() for part in node.items("fields", KEY_FIELDS_MAX))
        if not fields:
            node.refuse("the key 'fields' is missing or empty; it names the fields that must not repeat together")
        time, seconds, events = maybe_path(node, "time"), node.maybe("seconds"), node.maybe("events")
        if (time is None) != (seconds is None):
            node.refuse(
                "'time' (the field with the time of the event) and 'seconds' (how far back to look) need each other"
            )
        key = read_key(node)
        paths = [list(part) for part in fields], [list(part) for part in key]
        name = watch_name(*paths, events and events.value, seconds and seconds.value)
        if name in found:
            node.refuse("another entry has the same fields, key, 'events' and 'seconds'")
        expected = {"unique": [".".join(part) for part in fields]}
        found[name] = DuplicateRule(
            name=name,
            key=key,
            severity=read_severity(node),
            fields=fields,
            events=1_000 if events is None else whole(events, DUPLICATES_MAX),
            time=time,
            window_ms=0 if seconds is None else window_ms(seconds),
            expected=expectation(expected, node.pointer),
        )
    return tuple(found.values())


def read_memory(root: DocumentNode) -> MemoryRule | None:
    node = root.maybe("memory")
    if node is None:
        return None
    node.object("key", "keep", "time")
    keep = tuple(part.path() for part in node.items("keep", KEPT_FIELDS_MAX))
    if not keep:
        node.refuse("the key 'keep' is missing or empty; it names the fields that expressions read as last.name")
    return MemoryRule(name="last", key=read_key(node), keep=keep, time=maybe_path(node, "time"))


def read_checks(root: DocumentNode, section: str, functions: Calls, *, looks_back: bool) -> tuple[CheckRule, ...]:
    names = NAMES if looks_back else tuple(name for name in NAMES if name != "last")
    found: dict[str, CheckRule] = {}
    for node in root.items(section, RULES_MAX):
        node.object("name", "when", "check", "field", "message", "severity")
        name = node.required("name").text()
        if not 1 <= len(name) <= NAME_CHARS_MAX or name in found:
            node.child("name").refuse(f"must have 1 to {NAME_CHARS_MAX} characters and differ from all other names")
        check = read_expression(node.required("check"), functions, names)
        message, field = node.maybe("message"), node.maybe("field")
        if message is not None and len(message.text()) > MESSAGE_CHARS_MAX:
            message.refuse(f"must have at most {MESSAGE_CHARS_MAX} characters, not {len(message.value)}")
        expected = {"check": check.text, "name": name} | ({} if message is None else {"message": message.value})
        found[name] = CheckRule(
            name=name,
            when=maybe_expression(node, "when", functions, names),
            check=check,
            path="" if field is None else "/" + "/".join(field.path()),
            expected=expectation(expected, node.pointer),
            severity=read_severity(node),
        )
    return tuple(found.values())


def maybe_path(node: DocumentNode, key: str) -> Segments | None:
    found = node.maybe(key)
    return None if found is None else found.path()


def whole(node: DocumentNode, most: int) -> int:
    value = node.number()
    if not isinstance(value, int) or not 1 <= value <= most:
        node.refuse(f"must be an integer from 1 to {most}")
    return value


def window_ms(node: DocumentNode) -> int:
    value = node.number()
    if not 0 < value <= WINDOW_S_MAX:
        node.refuse(f"must be more than 0 and at most {WINDOW_S_MAX} seconds")
    return round(1_000 * value)
