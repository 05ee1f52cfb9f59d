"""Code for expressions: the functions that decide rules over the values of one event.

The code follows ``agents.evaluation`` step by step, in the same order: what is absent or null, what does not fit, and
what the steps that are left forbid end a function with the same outcome. Only the text of errors is left to the
interpreter, which looks again at every event that has one.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from agents import syntax
from agents.compiler.columns import Columns
from agents.compiler.operands import (
    ANY,
    ARRAY,
    BOOLEAN,
    MISSING,
    NULL,
    NUMBER,
    OBJECT,
    STRING,
    Function,
    Operand,
    kind_of,
)
from agents.compiler.source import UncoveredError, literal
from agents.expressions import STEPS_MAX, Expression
from agents.operations import ARITHMETIC, COMPARISONS, add, checked, contains, member_of
from agents.paths import ABSENT
from agents.syntax import Tree
from agents.values import BUILT_IN, METHODS, same

PARTS_MAX: Final = 128  # of one expression
LOOPS_MAX: Final = 4  # within each other
BOOLEANS: Final = frozenset({BOOLEAN})
NUMBERS: Final = frozenset({NUMBER})
STRINGS: Final = frozenset({STRING})
ARRAYS: Final = frozenset({ARRAY})
EQUAL_ALIKE: Final = frozenset({NUMBER, STRING, NULL})  # Python's equality of these is that of JSON
NUMERIC: Final = frozenset({int, float})
WORDS: Final = {"<": "less", "<=": "at_most", ">": "more", ">=": "at_least"}
WORK: Final = {"-": "subtract", "*": "multiply", "/": "divide", "%": "remainder"}
RESULTS: Final = {
    **dict.fromkeys(("size", "abs", "floor", "ceil", "round", "min", "max", "sum", "millis"), NUMBERS),
    **dict.fromkeys(("startsWith", "endsWith", "contains"), BOOLEANS),
    **dict.fromkeys(("lower", "upper", "trim"), STRINGS),
}
CALLS: Final = {
    (name, is_method): checked(name, function)
    for is_method, functions in ((False, BUILT_IN), (True, METHODS))
    for name, function in functions.items()
}
# Where the arguments have these types, the call is this much code.
INLINE: Final[dict[str, tuple[tuple[frozenset[str], ...], str]]] = {
    "abs": ((NUMBERS,), "abs({0})"),
    "size": ((frozenset({STRING, ARRAY, OBJECT}),), "len({0})"),
    "startsWith": ((STRINGS, STRINGS), "{0}.startswith({1})"),
    "endsWith": ((STRINGS, STRINGS), "{0}.endswith({1})"),
    "contains": ((STRINGS, STRINGS), "{1} in {0}"),
}


class Condition:
    """Writes the code of expressions into a function."""

    def __init__(self, function: Function, columns: Columns) -> None:
        self._function = function
        self._columns = columns
        self._bound: dict[str, Operand] = {}
        self._matchers: Mapping[str, Any] = {}

    def truth(self, expression: Expression) -> str:
        """Write code that decides an expression; the name of its result, which is true or false."""
        parts = list(syntax.parts(expression.tree))
        if len(parts) > PARTS_MAX:
            raise UncoveredError(f"the expression has more than {PARTS_MAX} parts")
        if any(isinstance(part, syntax.Comprehension) for part in parts):
            self._function.lines.add(f"steps = {STEPS_MAX}")
        self._matchers = expression.matchers
        return self._function.of(BOOLEANS, self._emit(expression.tree)).code

    def _emit(self, tree: Tree) -> Operand:
        match tree:
            case syntax.Constant(value):
                return Operand(literal(value), frozenset({kind_of(value)}))
            case syntax.Reference(path):
                return self._reference(path)
            case syntax.Presence(path):
                operand = self._reference(path)
                is_there = operand.kinds != {MISSING} if operand.is_literal else f"{operand.code} is not ABSENT"
                return self._function.assign(str(is_there), BOOLEANS)
            case syntax.Member(subject, key):
                name = syntax.member_of_data(tree)  # the data of a usual event are an object
                return self._member(subject, key) if name is None else self._reference(("data", name))
            case syntax.ArrayOf(items):
                values = [self._function.present(self._emit(item))[0].code for item in items]
                return self._function.assign(f"[{', '.join(values)}]", ARRAYS)
            case syntax.Conditional(test, yes, no):
                return self._choice(test, yes, no)
            case syntax.Unary("!", operand):
                return self._function.assign(f"not {self._function.of(BOOLEANS, self._emit(operand)).code}", BOOLEANS)
            case syntax.Unary(_, operand):
                return self._function.assign(f"-{self._function.of(NUMBERS, self._emit(operand)).code}", NUMBERS)
            case syntax.Binary(sign, left, right):
                return self._binary(sign, left, right)
            case syntax.BuiltInCall(name, arguments, is_method):
                return self._call(name, arguments, is_method)
            case syntax.PatternMatch(subject, pattern):
                text = self._function.of(STRINGS, self._emit(subject))
                found = self._function.constant("matches", self._matchers[pattern])
                return self._function.assign(f"{found}({text.code})", BOOLEANS)
            case syntax.Comprehension(name, subject, variable, body):
                return self._loop(name, subject, variable, body)
        raise UncoveredError("it calls a function of an installed package")

    def _reference(self, path: tuple[str, ...]) -> Operand:
        root, *rest = path
        if root in self._bound:
            return self._within(self._bound[root], rest)
        if root == "data" and rest:
            operand, inner = self._columns.data(tuple(rest))
            return self._within(self._function.parameter(operand), inner)
        for length in (2, 1):
            if path[:length] in self._columns.others:
                return self._within(self._function.parameter(self._columns.others[path[:length]]), path[length:])
        if root not in self._columns.constants:
            raise UncoveredError(f"it reads {root!r} as a whole")
        value = self._columns.constants[root]
        for name in rest:
            value = value.get(name, ABSENT) if type(value) is dict else ABSENT
        if type(value) in (list, dict):
            return Operand(self._function.constant("constant", value), frozenset({kind_of(value)}))
        return Operand(literal(value), frozenset({kind_of(value)}))

    def _within(self, operand: Operand, names: Sequence[str]) -> Operand:
        """The value at a path from a value on: absent where any part of it is."""
        for name in names:
            if OBJECT not in operand.kinds:
                return Operand("ABSENT", frozenset({MISSING}))
            get = f"{operand.code}.get({literal(name)}, ABSENT)"
            has = operand.kinds == {OBJECT}
            operand = self._function.assign(get if has else f"{get} if {operand.code}.__class__ is dict else ABSENT")
        return operand

    def _member(self, subject: Tree, key: Tree) -> Operand:
        value, name = self._emit(subject), self._emit(key)
        general = f"{self._function.constant('member_of', member_of)}({value.code}, {name.code})"
        if name.kinds == STRINGS and OBJECT in value.kinds:
            get = f"{value.code}.get({name.code}, ABSENT)"
            has = value.kinds == {OBJECT}
            return self._function.assign(get if has else f"{get} if {value.code}.__class__ is dict else {general}")
        return self._function.assign(general)

    def _choice(self, test: Tree, yes: Tree, no: Tree) -> Operand:
        lines, result, kinds = self._function.lines, self._function.variable(), frozenset[str]()
        chosen = self._function.of(BOOLEANS, self._emit(test))
        for header, tree in ((f"if {chosen.code}:", yes), ("else:", no)):
            with lines.block(header):
                operand = self._emit(tree)
                lines.add(f"{result} = {operand.code}")
                kinds |= operand.kinds
        return Operand(result, kinds)

    def _binary(self, sign: str, left: Tree, right: Tree) -> Operand:
        function = self._function
        if sign in ("&&", "||"):
            result = function.assign(function.of(BOOLEANS, self._emit(left)).code, BOOLEANS)
            with function.lines.block(f"if {'' if sign == '&&' else 'not '}{result.code}:"):
                function.lines.add(f"{result.code} = {function.of(BOOLEANS, self._emit(right)).code}")
            return result
        if sign in ("==", "!="):
            return self._equality(sign, self._emit(left), self._emit(right))
        if sign in COMPARISONS:
            return self._comparison(sign, self._emit(left), self._emit(right))
        if sign == "in":
            (value,) = function.present(self._emit(left))
            return self._membership(value, right)
        if sign == "+":
            (one,) = function.present(self._emit(left))
            (other,) = function.present(self._emit(right))
            kinds = frozenset.union(*(each.kinds & (NUMBERS | STRINGS) for each in (one, other))) or ANY
            return function.assign(f"{function.constant('add', add)}({one.code}, {other.code})", kinds)
        one = function.of(NUMBERS, self._emit(left))
        other = function.of(NUMBERS, self._emit(right))
        return function.assign(
            f"{function.constant(WORK[sign], ARITHMETIC[sign])}({one.code}, {other.code})", NUMBERS
        )

    def _equality(self, sign: str, one: Operand, other: Operand) -> Operand:
        """Python's equality, where it is that of JSON: between texts, between numbers, and with a text or a truth."""
        if one.is_literal:
            one, other = other, one
        if one.is_literal:
            test = f"{self._function.constant('same', same)}({one.code}, {other.code})"
        elif other.code == "None":
            test = f"({one.code} is None{f' or {one.code} is ABSENT' if MISSING in one.kinds else ''})"
        elif other.code in ("True", "False"):
            test = f"({one.code} is {other.code})"
        elif (other.is_literal and other.kinds == STRINGS) or one.kinds | other.kinds <= EQUAL_ALIKE:
            test = f"({one.code} == {other.code})"
        else:
            test = f"{self._function.constant('same', same)}({one.code}, {other.code})"
        return self._function.assign(test if sign == "==" else f"not {test}", BOOLEANS)

    def _comparison(self, sign: str, one: Operand, other: Operand) -> Operand:
        function = self._function
        one, other = function.present(one, other)
        plain = f"{one.code} {sign} {other.code}"
        if one.kinds == other.kinds and one.kinds in (NUMBERS, STRINGS):
            return function.assign(plain, BOOLEANS)
        general = f"{function.constant(WORDS[sign], COMPARISONS[sign])}({one.code}, {other.code})"
        numeric = function.constant("numeric", NUMERIC)
        tests = [f"{each.code}.__class__ in {numeric}" for each in (one, other) if each.kinds != NUMBERS]
        if not one.kinds >= NUMBERS or not other.kinds >= NUMBERS:
            return function.assign(general, BOOLEANS)
        return function.assign(f"{plain} if {' and '.join(tests)} else {general}", BOOLEANS)

    def _membership(self, value: Operand, where: Tree) -> Operand:
        function = self._function
        words = constant_texts(where)
        if words is not None:
            found = f"{value.code} in {function.constant('words', words)}"
            test = found if value.kinds == STRINGS else f"{value.code}.__class__ is str and {found}"
            return function.assign(test if STRING in value.kinds else "False", BOOLEANS)
        (operand,) = function.present(self._emit(where))
        if operand.kinds == {OBJECT} and value.kinds == STRINGS:
            return function.assign(f"{value.code} in {operand.code}", BOOLEANS)
        return function.assign(f"{function.constant('contains', contains)}({operand.code}, {value.code})", BOOLEANS)

    def _call(self, name: str, arguments: tuple[Tree, ...], is_method: bool) -> Operand:
        function = self._function
        values = [function.present(self._emit(argument))[0] for argument in arguments]
        codes = [value.code for value in values]
        kinds, code = INLINE.get(name, ((), ""))
        fits = len(kinds) == len(values) and all(map(frozenset.__le__, (value.kinds for value in values), kinds))
        if code and fits:
            return function.assign(code.format(*codes), RESULTS[name])
        called = function.constant(f"call_{name}", CALLS[name, is_method])
        return function.assign(f"{called}({', '.join(codes)})", RESULTS[name])

    def _loop(self, name: str, subject: Tree, variable: str, body: Tree) -> Operand:
        function, lines = self._function, self._function.lines
        if len(self._bound) >= LOOPS_MAX:
            raise UncoveredError(f"more than {LOOPS_MAX} loops are within each other")
        items = function.of(ARRAYS, self._emit(subject))
        begins = {"exists": "False", "all": "True"}.get(name, "[]")
        result = function.assign(begins, ARRAYS if begins == "[]" else BOOLEANS)
        element = Operand(function.variable())
        with lines.block(f"for {element.code} in {items.code}:"):
            lines.add("steps -= 1")
            function.fail_where("steps < 0")
            self._bound[variable] = element
            value = self._emit(body)
            del self._bound[variable]
            if name == "map":
                (value,) = function.present(value)
                lines.add(f"{result.code}.append({value.code})")
                return result
            value = function.of(BOOLEANS, value)
            if name == "filter":
                lines.add(f"if {value.code}: {result.code}.append({element.code})")
                return result
            with lines.block(f"if {'' if name == 'exists' else 'not '}{value.code}:"):
                lines.add(f"{result.code} = {name == 'exists'}")
                lines.add("break")
        return result


def constant_texts(tree: Tree) -> frozenset[str] | None:
    """The texts of an array of literal texts; None for any other expression."""
    if not isinstance(tree, syntax.ArrayOf):
        return None
    texts = [item.value for item in tree.items if isinstance(item, syntax.Constant) and type(item.value) is str]
    return frozenset(texts) if len(texts) == len(tree.items) else None
