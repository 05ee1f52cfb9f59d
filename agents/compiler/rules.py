"""Code for what decides over several values of an event: one function for each rule.

A rule that the code of expressions does not cover, or over values that are no leaves, is decided by the interpreter's
own function for it, over the normalized data as an object.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

import attrs

from agents.compiler.columns import Columns
from agents.compiler.conditions import Condition
from agents.compiler.layout import Layout
from agents.compiler.operands import NOTHING, Function
from agents.compiler.source import Environment, Lines, UncoveredError
from agents.expressions import Expression, Scope
from agents.issues import Issue
from agents.normalize import applies
from agents.paths import ABSENT, read
from agents.rules import CheckRule, RequiredRule
from agents.validate import Check, allowed_check, bounds_check, broken
from protocols.levels import LEVEL_WORDS

EVENT: Final = ("row", "event_type", "external_id", "timestamp")


@attrs.frozen(kw_only=True)
class Decision:
    """A function of values of an event that decides something about it.

    Attributes:
        columns: Those that it takes, in their order; ``last`` among them where it reads the past.
    """

    name: str
    columns: tuple[str, ...]

    @property
    def looks_back(self) -> bool:
        return "last" in self.columns

    def call(self) -> str:
        return f"{self.name}({', '.join(self.columns)})"

    def over_columns(self) -> str:
        """Code for its results over all events."""
        return f"map({', '.join((self.name, *self.columns))})" if self.columns else f"repeat({self.name}(), count)"


class Decisions:
    """Writes the functions of a policy's rules."""

    def __init__(self, layout: Layout, columns: Columns, environment: Environment, functions: Lines) -> None:
        self._layout = layout
        self._columns = columns
        self._environment = environment
        self._functions = functions

    def rules(self) -> Iterator[Decision]:
        """Those of all rules that leaves do not check themselves; each returns whether nothing is wrong."""
        policy, leaves = self._layout.policy, self._layout.leaves
        if policy.schema is not None and not self._layout.is_divided:
            yield self._general("schema", policy.schema.accepts, "row")
        for required in policy.required:
            if required.when is not None:
                yield self._required(required, required.when)
            elif required.field not in leaves:
                yield self._general("required", is_present(required), "row")
        for bound in policy.bounds:
            if bound.field not in leaves:
                yield self._general("bounds", quiet(bounds_check((bound,))), "row")
        for allowed in policy.allowed:
            if allowed.field not in leaves:
                yield self._general("allowed", quiet(allowed_check((allowed,))), "row")
        for kind, rules in (("rule", policy.checks), ("certification", policy.certification_checks)):
            for rule in rules:
                yield self._check(kind, rule)

    def levels(self) -> Iterator[tuple[int, Decision]]:
        """Those of level rules, the highest level first; each returns whether its level is asked for."""
        ranked = [(LEVEL_WORDS.index(rule.level) + 1, rule.when) for rule in self._layout.policy.levels]
        for level, when in sorted(ranked, key=lambda entry: -entry[0]):
            yield level, self._level(when)

    def _check(self, kind: str, rule: CheckRule) -> Decision:
        def write(function: Function, condition: Condition) -> str:
            if rule.when is not None:
                function.lines.comment(f"when {rule.when.text}")
                function.lines.add(f"if not {condition.truth(rule.when)}: return True")
            function.lines.comment(f"check {rule.check.text}")
            return condition.truth(rule.check)

        tables = self._layout.policy.tables

        def holds(*values: Any) -> bool:
            return broken(rule, scope_of(tables, *values), kind) is None

        return self._written(f"{kind}_holds", write, absent=True, error=False) or self._general(
            f"{kind}_holds", holds, *EVENT, *(["last"] if self._reads_last(rule) else [])
        )

    def _required(self, rule: RequiredRule, when: Expression) -> Decision:
        def write(function: Function, condition: Condition) -> str:
            operand, deeper = self._columns.data(rule.field)
            if deeper or (operand.is_literal and not operand.kinds <= NOTHING):
                raise UncoveredError("it is about a constant, or about a part of a leaf")
            function.parameter(operand)
            function.lines.add(f"if {operand.code} is not None and {operand.code} is not ABSENT: return True")
            function.lines.comment(f"when {when.text}")
            return f"not {condition.truth(when)}"

        present, tables = is_present(rule), self._layout.policy.tables

        def holds(row: Any, *others: Any) -> bool:
            return present(row) or not applies(when, scope_of(tables, row, *others))

        return self._written("required", write, absent=True, error=False) or self._general("required", holds, *EVENT)

    def _level(self, when: Expression) -> Decision:
        def write(function: Function, condition: Condition) -> str:
            function.lines.comment(f"when {when.text}")
            return condition.truth(when)

        tables = self._layout.policy.tables

        def asked(*values: Any) -> bool:
            return applies(when, scope_of(tables, *values))

        return self._written("asks_level", write, absent=False, error=True) or self._general(
            "asks_level", asked, *EVENT
        )

    def _reads_last(self, rule: CheckRule) -> bool:
        return "last" in rule.check.roots or (rule.when is not None and "last" in rule.when.roots)

    def _written(
        self, wanted: str, write: Callable[[Function, Condition], str], *, absent: bool, error: bool
    ) -> Decision | None:
        """The function that ``write`` writes, or None where it cannot be written.

        Args:
            absent, error: What it returns where a value is absent, and where types do not fit.
        """
        lines = Lines()
        function = Function(lines, self._environment)
        function.ends(absent=absent, error=error)
        try:
            result = write(function, Condition(function, self._columns))
            name = self._environment.name(wanted, object())
            self._functions.room_for(lines)
        except UncoveredError:
            return None
        with self._functions.block(f"def {name}({', '.join(function.reads)}):"):
            with self._functions.block("try:"):
                self._functions.extend(lines)
                self._functions.add(f"return {result}")
            self._functions.add(f"except AbsentValueError: return {absent}")
            self._functions.add(f"except EvaluationError: return {error}")
        return Decision(name=name, columns=tuple(function.reads))

    def _general(self, wanted: str, function: Callable[..., bool], *columns: str) -> Decision:
        self._columns.need_row()
        return Decision(name=self._environment.name(wanted, function), columns=columns)


def quiet(check: Check) -> Callable[[Any], bool]:
    """Whether a check of the interpreter finds nothing."""

    def finds_nothing(row: Any) -> bool:
        issues: list[Issue] = []
        check(row, issues)
        return not issues

    return finds_nothing


def is_present(rule: RequiredRule) -> Callable[[Any], bool]:
    def present(row: Any) -> bool:
        value = read(row, rule.field)
        return value is not None and value is not ABSENT

    return present


def scope_of(
    tables: Any, row: Any, event_type: str, external_id: str | None, timestamp: str | None, last: Any = ABSENT
) -> Scope:
    event = {"type": event_type, "externalId": external_id, "timestamp": timestamp}
    return {"data": row, "event": event, "tables": tables, "last": last}
