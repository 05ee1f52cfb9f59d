"""The validate role: JSON Schema, bounds, and monotonicity over a source's past.

Only monotonicity looks beyond its event: the last accepted value of each key travels in the *context*, from
batch to batch, and only valid events move it.
"""

import hashlib
import math
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import orjson

from agents.issues import FOUND_CHARS_MAX, Issue, issue, json_type
from agents.paths import ABSENT, pointer, read
from agents.policy import Bound, CompiledPolicy, Monotonic
from agents.schema import SchemaRule
from protocols.canonical import canonical_json, parse_json
from protocols.errors import InvalidJsonError, MalformedError, NotCanonicalizableError
from protocols.limits import CONTEXT_BYTES_MAX, ISSUES_PER_EVENT_MAX

Check: TypeAlias = Callable[[Any, list[Issue]], None]
Last: TypeAlias = dict[bytes, tuple[list[Any], Any]]  # canonical key -> key, last accepted value; oldest first

EMPTY_CONTEXT: Final = b"{}"
NUMBER: Final = {"type": "number"}
ORDERED: Final = {"type": ["number", "string"]}


def validator(policy: CompiledPolicy) -> Callable[[Any, list[Issue], "History"], list[Issue]]:
    """The function from normalized data, its issues so far and the history to all of its issues."""
    checks: list[Check] = []
    if policy.schema is not None:
        checks.append(schema_check(policy.schema))
    if policy.bounds:
        checks.append(bounds_check(policy.bounds))

    def validate(data: Any, issues: list[Issue], history: History) -> list[Issue]:
        issues = issues.copy()
        for check in checks:
            check(data, issues)
        if history.rules:
            history.check(data, issues)
        if issues:
            del issues[ISSUES_PER_EVENT_MAX:]
        return issues

    return validate


def schema_check(rule: SchemaRule) -> Check:
    def check(data: Any, issues: list[Issue]) -> None:
        if not rule.accepts(data):
            named = [known["path"] for known in issues]  # said already, and closer to the cause
            issues += [found for found in rule.issues(data) if found["path"] not in named]

    return check


def bounds_check(bounds: tuple[Bound, ...]) -> Check:
    plan: list[tuple[str | None, Bound, float, float]] = []
    for bound in bounds:
        low = -math.inf if bound.minimum is None else bound.minimum
        high = math.inf if bound.maximum is None else bound.maximum
        plan.append((bound.field[0] if len(bound.field) == 1 else None, bound, low, high))

    def check(data: Any, issues: list[Issue]) -> None:
        flat = data if isinstance(data, dict) else {}
        for name, bound, low, high in plan:
            value: Any = flat.get(name) if name is not None else read(data, bound.field)
            kind = type(value)
            if kind is float or kind is int:
                if low <= value <= high:
                    continue
                issues.append(issue("bounds", pointer(bound.field), bound.expected, value))
            elif value is not None and value is not ABSENT:
                place = pointer(bound.field)
                if not any(known["path"] == place for known in issues):
                    issues.append(issue("bounds", place, NUMBER, value))

    return check


class History:
    """What monotonicity remembers of a source while one batch is validated."""

    def __init__(self, rules: tuple[Monotonic, ...], context: bytes) -> None:
        """Read a context.

        Raises:
            MalformedError: Not the canonical bytes of a context; whoever sent it is at fault.
        """
        self.rules = rules
        past = read_context(context)
        self._last: list[tuple[Monotonic, Last]] = [(rule, past.get(rule.name, {})) for rule in rules]

    def check(self, data: Any, issues: list[Issue]) -> None:
        """Note values that do not grow; when the event has no issue at all, remember its values."""
        moves: list[tuple[Last, bytes, list[Any], Any]] = []
        for rule, last in self._last:
            value = read(data, rule.field)
            if value is None or value is ABSENT:
                continue
            key = [key_part(read(data, part)) for part in rule.key]
            encoded = encoded_key(key)
            known = last.get(encoded)
            expected = refusal(rule, None if known is None else known[1], value)
            if expected is None:
                moves.append((last, encoded, key, value))
            elif not any(seen["path"] == pointer(rule.field) for seen in issues):
                issues.append(issue("monotonicity", pointer(rule.field), expected, value))
        if not issues:
            for last, encoded, key, value in moves:
                last.pop(encoded, None)  # to the end: the order of the entries is their age
                last[encoded] = (key, value)

    def context(self) -> bytes:
        """The context after the batch: canonical, within its bound, the oldest keys forgotten first."""
        if not self.rules:
            return EMPTY_CONTEXT
        share = CONTEXT_BYTES_MAX // len(self.rules)
        kept = {rule.name: newest(last, share - len(canonical_json(rule.name)) - 64)
                for rule, last in self._last}  # fmt: skip
        kept = {name: entries for name, entries in kept.items() if entries}
        return canonical_json({"monotonic": kept}) if kept else EMPTY_CONTEXT


def newest(last: Last, bytes_max: int) -> list[list[Any]]:
    """The newest entries that fit, oldest first."""
    entries: list[list[Any]] = []
    for encoded, (key, value) in reversed(last.items()):
        bytes_max -= len(encoded) + len(canonical_json(value)) + 4  # brackets and commas
        if bytes_max < 0:
            break
        entries.append([key, value])
    return entries[::-1]


def encoded_key(key: list[Any]) -> bytes:
    """Canonical JSON of a key; of plain strings, which most keys are, any JSON writer gives the same."""
    for part in key:
        if type(part) is not str:
            return canonical_json(key)
    return orjson.dumps(key)


def key_part(value: Any) -> Any:
    """A key's value as the context keeps it: short scalars as they are, all else by its hash."""
    if type(value) is str and len(value) <= FOUND_CHARS_MAX:
        return value
    if value is ABSENT:
        return None
    if isinstance(value, (str, list, dict)):
        return {"sha256": hashlib.sha256(canonical_json(value)).hexdigest()}
    return value


def refusal(rule: Monotonic, last: Any, value: Any) -> dict[str, Any] | None:
    """What was expected instead of ``value``; None where it may follow ``last``."""
    kind = json_type(value)
    if kind not in ("number", "string"):
        return ORDERED
    if kind == "string" and len(value) > FOUND_CHARS_MAX:
        return {"maxLength": FOUND_CHARS_MAX}
    if last is None:
        return None
    if json_type(last) != kind:
        return {"type": json_type(last)}
    before, now = last, value
    if rule.is_timestamp and kind == "string":
        # 00.5Z sorts before 00Z as text; without the Z the longer fraction is the later time.
        before, now = last.removesuffix("Z"), value.removesuffix("Z")
    if now > before or (now == before and not rule.strict):
        return None
    return {"greaterThan": last} if rule.strict else {"atLeast": last}


def read_context(context: bytes) -> dict[str, Last]:
    if context == EMPTY_CONTEXT:
        return {}
    if len(context) > CONTEXT_BYTES_MAX:
        raise MalformedError(f"a context has at most {CONTEXT_BYTES_MAX} bytes")
    try:
        value: Any = parse_json(context)
        canonical = canonical_json(value) == context
    except (InvalidJsonError, NotCanonicalizableError) as error:
        raise MalformedError(f"the context is no usable JSON: {error}") from error
    if not canonical or not isinstance(value, dict) or list(value) != ["monotonic"]:
        raise MalformedError("the context is not a canonical object with the one key 'monotonic'")
    if not isinstance(value["monotonic"], dict) or not all(map(well_formed, value["monotonic"].values())):
        raise MalformedError("the context's entries are not [key, last] pairs")
    return {
        name: {encoded_key(key): (key, last) for key, last in entries} for name, entries in value["monotonic"].items()
    }


def well_formed(entries: Any) -> bool:
    return isinstance(entries, list) and all(
        isinstance(entry, list)
        and len(entry) == 2
        and isinstance(entry[0], list)
        and json_type(entry[1]) in ("number", "string")
        for entry in entries
    )
