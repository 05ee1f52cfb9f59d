"""The validate role: JSON Schema, bounds, allowed sets, the operator's rules, and rules about the past.

What a rule finds is an issue of its severity. An event with an ``error`` is invalid; one with warnings or infos only
is valid and carries them. The state of rules about the past is ``agents.memory``.
"""

import math
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from agents.expressions import AbsentValueError, EvaluationError, Scope
from agents.issues import Issue, cut, issue
from agents.memory import History
from agents.normalize import applies, scope_of
from agents.paths import ABSENT, pointer, read
from agents.policy import CompiledPolicy
from agents.reading import Record
from agents.rules import AllowedRule, BoundRule, CheckRule, LevelCondition
from agents.schema import SchemaRule
from protocols.canonical import canonical_json

Check: TypeAlias = Callable[[Any, list[Issue]], None]

NUMBER: Final = {"type": "number"}


def validator(policy: CompiledPolicy) -> Callable[[Record, Any, list[Issue], History], list[Issue]]:
    """The function from a record, its normalized data, its issues so far and the history to all of its issues."""
    checks: list[Check] = []
    if policy.schema is not None:
        checks.append(schema_check(policy.schema))
    if policy.bounds:
        checks.append(bounds_check(policy.bounds))
    if policy.allowed:
        checks.append(allowed_check(policy.allowed))
    rules = [("rule", rule) for rule in policy.checks]
    rules += [("certification", rule) for rule in policy.certification_checks]

    def validate(record: Record, data: Any, issues: list[Issue], history: History) -> list[Issue]:
        issues = issues.copy()
        for check in checks:
            check(data, issues)
        if rules:
            scope = scope_of(record, data, policy) | {"last": history.last(data)}
            for kind, rule in rules:
                found = broken(rule, scope, kind)
                if found is not None:
                    issues.append(found)
        if history:
            history.check(data, issues)
        if issues:
            cut(issues)
        return issues

    return validate


def schema_check(rule: SchemaRule) -> Check:
    def check(data: Any, issues: list[Issue]) -> None:
        if not rule.accepts(data):
            named = [known["path"] for known in issues]  # reported already, closer to the cause
            issues += [found for found in rule.issues(data) if found["path"] not in named]

    return check


def bounds_check(bounds: tuple[BoundRule, ...]) -> Check:
    plan: list[tuple[str | None, BoundRule, float, float]] = []
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
                issues.append(issue("bounds", pointer(bound.field), bound.expected, value, bound.severity))
            elif value is not None and value is not ABSENT:
                place = pointer(bound.field)
                if not any(known["path"] == place for known in issues):
                    issues.append(issue("bounds", place, NUMBER, value, bound.severity))

    return check


def allowed_check(sets: tuple[AllowedRule, ...]) -> Check:
    def check(data: Any, issues: list[Issue]) -> None:
        for rule in sets:
            value = read(data, rule.field)
            if value is None or value is ABSENT:
                continue
            if canonical_json(value) not in rule.values:
                issues.append(issue("allowed", pointer(rule.field), rule.expected, value, rule.severity))

    return check


def broken(rule: CheckRule, scope: Scope, kind: str) -> Issue | None:
    """The issue of a rule that does not hold; None where it holds or does not apply."""
    try:
        if rule.when is not None and not rule.when.holds(scope):
            return None
        if rule.check.holds(scope):
            return None
    except AbsentValueError:
        return None
    except EvaluationError as error:
        found = {"error": str(error)[:100]}
        return issue(kind, rule.path, rule.expected, None, rule.severity) | {"found": found}
    value = read(scope["data"], tuple(rule.path[1:].split("/"))) if rule.path else None
    return issue(kind, rule.path, rule.expected, value, rule.severity)


def highest_level(rules: tuple[LevelCondition, ...], scope: Scope, order: tuple[str, ...]) -> str | None:
    """The highest level that an event asks for; None where it asks for none."""
    asked = [rule.level for rule in rules if applies(rule.when, scope)]
    return max(asked, key=order.index, default=None)
