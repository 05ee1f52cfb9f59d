"""Expressions over an event: the syntax of CEL, the numbers of JSON, a bounded cost, the same result everywhere.

``data.gust >= data.wind && data.station in ["EWR", "JFK"]``. What there is:

* literals, ``data.a.b``, ``data["a"]``, ``list[0]``, ``[1, 2]``, ``c ? a : b``
* ``||``, ``&&``, ``!`` from left to right; ``== != < <= > >= in``; ``+ - * / %``
* ``has(data.a)``, ``size(x)``, ``abs floor ceil round min max sum``, ``millis(timestamp)``
* ``s.startsWith(t) s.endsWith(t) s.contains(t) s.matches("pattern") s.lower() s.upper() s.trim()``
* ``list.exists(x, ...) list.all(x, ...) list.filter(x, ...) list.map(x, ...)``
* functions of installed packages by their full name, ``acme.heat_index(data.t, data.h)``

Numbers are doubles as in JSON: ``40`` and ``40.0`` are one number, ``7 / 2`` is 3.5. A value that is absent or null
where one is needed makes the expression say *nothing* (``NothingToSay``): rules skip such events, which are for
``required``. Patterns run on a linear-time engine. There is no clock, no randomness and no way to loop but over
lists, whose elements count against ``STEPS_MAX``.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NoReturn, TypeAlias

import attrs
import jsonschema_rs

from agents.paths import ABSENT
from agents.timestamps import epoch_ms
from agents.units import plain, writable
from protocols.canonical import canonical_json

Scope: TypeAlias = dict[str, Any]
Term: TypeAlias = Callable[[Scope], Any]
Function: TypeAlias = Callable[..., Any]

EXPRESSION_CHARS_MAX: Final = 2_048
NODES_MAX: Final = 512
DEPTH_MAX: Final = 32
STEPS_MAX: Final = 10_000  # elements looked at by exists, all, filter and map, all together, per evaluation
TEXT_CHARS_MAX: Final = 65_536
ARGUMENTS_MAX: Final = 8
REGEX_BYTES_MAX: Final = 1_048_576
BUDGET: Final = ""  # no name: the key of the steps left

TOKEN: Final = re.compile(
    r"""\s*(?:(?P<number>(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)
           |(?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
           |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
           |(?P<sign>\|\||&&|==|!=|<=|>=|[-+*/%<>!?:.,()\[\]]))""",
    re.VERBOSE,
)
ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'", "/": "/"}
WORDS: Final[dict[str, Any]] = {"true": True, "false": False, "null": None}
RANKS: Final = (("||",), ("&&",), ("==", "!=", "<", "<=", ">", ">=", "in"), ("+", "-"), ("*", "/", "%"))
BINARY: Final = {sign: rank for rank, signs in enumerate(RANKS, 1) for sign in signs}


class EvaluationError(Exception):
    """An expression that cannot be evaluated for an event; the text says why."""


class NothingToSay(EvaluationError):
    """A value that the expression needs is absent or null."""


@attrs.frozen(kw_only=True)
class Expression:
    """A compiled expression.

    Attributes:
        text: As written.
        roots: The names of what it reads, of those that stand to choice.
    """

    text: str
    roots: frozenset[str]
    _run: Term

    def value(self, scope: Mapping[str, Any]) -> Any:
        """The value for what ``scope`` holds by name.

        Raises:
            NothingToSay: Something needed is absent or null. EvaluationError: types do not fit, a number is too
                large, or the steps are used up.
        """
        return self._run({**scope, BUDGET: [STEPS_MAX]})

    def holds(self, scope: Mapping[str, Any]) -> bool:
        """Whether it is true; raises as ``value``, also where it is neither true nor false."""
        return truth(self.value(scope))


def compile_expression(
    text: str, *, names: tuple[str, ...], functions: Mapping[str, Function] | None = None
) -> Expression:
    """Check and compile an expression.

    Args:
        names: What it may read.
        functions: Callables by their full name, beside those that are built in.

    Raises:
        ValueError: It is wrong; the text says where and what is allowed.
    """
    if len(text) > EXPRESSION_CHARS_MAX:
        raise ValueError(f"an expression has at most {EXPRESSION_CHARS_MAX} characters")
    parser = Parser(text, names, functions or {})
    return Expression(text=text, run=parser.whole(), roots=frozenset(parser.roots))


def kind(value: Any) -> str:
    """The JSON type of a value, for people."""
    if value is None or value is ABSENT:
        return "null" if value is None else "absent"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array"}
    return names.get(type(value), "an object")


# --- reading -----------------------------------------------------------------------------------------------------


class Parser:
    """Precedence climbing over tokens, straight to functions."""

    def __init__(self, text: str, names: tuple[str, ...], functions: Mapping[str, Function]) -> None:
        self._tokens = list(tokens(text))
        self._at = 0
        self._names = set(names)
        self._bound: list[str] = []
        self._functions = functions
        self._nodes = 0
        self._depth = 0
        self.roots: set[str] = set()

    def whole(self) -> Term:
        term = self._ternary()
        if self._peek()[0] != "end":
            self._refuse("an operator or the end")
        return term

    def _peek(self) -> tuple[str, Any, int]:
        return self._tokens[self._at]

    def _next(self) -> tuple[str, Any, int]:
        token = self._tokens[self._at]
        self._at += 1
        return token

    def _is(self, sign: str) -> bool:
        return self._peek()[:2] == ("sign", sign)

    def _accept(self, sign: str) -> bool:
        found = self._is(sign)
        self._at += found
        return found

    def _expect(self, sign: str) -> None:
        if not self._accept(sign):
            self._refuse(repr(sign))

    def _refuse(self, wanted: str) -> NoReturn:
        what, value, place = self._peek()
        found = "the end" if what == "end" else repr(value)
        raise ValueError(f"at character {place + 1}: found {found} where {wanted} belongs")

    def _count(self, term: Term) -> Term:
        self._nodes += 1
        if self._nodes > NODES_MAX:
            raise ValueError(f"more than {NODES_MAX} parts: write several rules")
        return term

    def _ternary(self) -> Term:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise ValueError(f"nested deeper than {DEPTH_MAX}")
        chosen = self._binary(1)
        if self._accept("?"):
            yes = self._ternary()
            self._expect(":")
            chosen = self._count(choice(chosen, yes, self._ternary()))
        self._depth -= 1
        return chosen

    def _binary(self, least: int) -> Term:
        left = self._unary()
        while True:
            what, value, _ = self._peek()
            rank = BINARY.get(value, 0) if what in ("sign", "name") and isinstance(value, str) else 0
            if rank < least or (what == "name" and value != "in"):
                return left
            self._next()
            left = self._count(OPERATORS[value](left, self._binary(rank + 1)))

    def _unary(self) -> Term:
        signs = []
        while self._is("!") or self._is("-"):
            signs.append(self._next()[1])
            if len(signs) > DEPTH_MAX:
                raise ValueError(f"nested deeper than {DEPTH_MAX}")
        term = self._member()
        for sign in reversed(signs):
            term = self._count(negation(term) if sign == "!" else opposite(term))
        return term

    def _member(self) -> Term:
        path, term = self._primary()
        while True:
            if self._accept("."):
                name = self._name()
                if self._accept("("):
                    term, path = self._count(self._method(term, name)), None
                elif path is not None:
                    path = (*path, name)
                    term = self._count(reader(path))
                else:
                    term = self._count(member(term, constant(name)))
            elif self._accept("["):
                index = self._ternary()
                self._expect("]")
                term, path = self._count(member(term, index)), None
            else:
                return term

    def _name(self) -> str:
        what, value, _ = self._peek()
        if what != "name":
            self._refuse("a name")
        self._next()
        return str(value)

    def _primary(self) -> tuple[tuple[str, ...] | None, Term]:
        what, value, place = self._next()
        if what in ("number", "text"):
            return None, self._count(constant(value))
        if what == "name" and value in WORDS:
            return None, self._count(constant(WORDS[value]))
        if what == "name":
            return self._named(value, place)
        if (what, value) == ("sign", "("):
            term = self._ternary()
            self._expect(")")
            return None, term
        if (what, value) == ("sign", "["):
            return None, self._count(array(self._arguments("]", NODES_MAX)))
        self._at -= 1
        return self._refuse("a value")

    def _named(self, name: str, place: int) -> tuple[tuple[str, ...] | None, Term]:
        if name == "has" and self._accept("("):
            return None, self._has()
        if self._is("(") and name in BUILT_IN:
            self._next()
            return None, self._call(name, BUILT_IN[name])
        full = self._installed(name)
        if full is not None:
            return None, self._call(full, self._functions[full])
        if name not in self._names and name not in self._bound:
            known = ", ".join(sorted((*self._names, *self._bound)))
            raise ValueError(f"at character {place + 1}: {name!r} is not known here; known are {known}")
        if name not in self._bound:
            self.roots.add(name)
        return (name,), self._count(reader((name,)))

    def _installed(self, first: str) -> str | None:
        """The full name of an installed function that is called here; its tokens are taken."""
        name, at = first, self._at
        while self._tokens[at][:2] == ("sign", ".") and self._tokens[at + 1][0] == "name":
            name, at = f"{name}.{self._tokens[at + 1][1]}", at + 2
        if name not in self._functions or self._tokens[at][:2] != ("sign", "("):
            return None
        self._at = at + 1
        return name

    def _has(self) -> Term:
        what, name, _ = self._peek()
        if what != "name" or (name not in self._names and name not in self._bound):
            self._refuse("a path like data.a")
        self._next()
        if name not in self._bound:
            self.roots.add(name)
        path = [name]
        while self._accept("."):
            path.append(self._name())
        if len(path) < 2:
            self._refuse("'.' and a name")
        self._expect(")")
        read = reader(tuple(path))
        return self._count(lambda scope: read(scope) is not ABSENT)

    def _arguments(self, closing: str, count_max: int = ARGUMENTS_MAX) -> list[Term]:
        terms: list[Term] = []
        while not self._accept(closing):
            if terms:
                self._expect(",")
            terms.append(self._ternary())
            if len(terms) > count_max:
                raise ValueError(f"more than {count_max} arguments")
        return terms

    def _call(self, name: str, function: Function) -> Term:
        return self._count(call(name, function, self._arguments(")")))

    def _method(self, subject: Term, name: str) -> Term:
        if name in FINISH:
            return self._macro(subject, name)
        if name == "matches":
            what, pattern, _ = self._peek()
            if what != "text":
                self._refuse("a pattern, written out")
            self._next()
            self._expect(")")
            return matching(subject, pattern)
        if name not in METHODS:
            raise ValueError(f"no method {name!r}; known are {', '.join((*METHODS, 'matches', *FINISH))}")
        return call(name, METHODS[name], [subject, *self._arguments(")")])

    def _macro(self, subject: Term, name: str) -> Term:
        variable = self._name()
        if variable in self._names or variable in self._bound:
            raise ValueError(f"{variable!r} is a name already; take another")
        self._expect(",")
        self._bound.append(variable)
        body = self._ternary()
        self._bound.pop()
        self._expect(")")
        return over(subject, variable, body, name)


def tokens(text: str) -> "list[tuple[str, Any, int]]":
    found: list[tuple[str, Any, int]] = []
    at = 0
    end = len(text.rstrip())
    while at < end:
        match = TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"at character {at + 1}: {text[at : at + 10].strip()!r} is no part of an expression")
        what = str(match.lastgroup)
        value: Any = match[what]
        if what == "number":
            value = plain(float(value))
            if not writable(value):
                raise ValueError(f"at character {match.start(what) + 1}: the number is too large")
        elif what == "text":
            value = unescaped(value[1:-1], match.start(what))
        found.append((what, value, match.start(what)))
        at = match.end()
    found.append(("end", None, len(text)))
    return found


def unescaped(text: str, place: int) -> str:
    def one(match: re.Match[str]) -> str:
        if match[1] not in ESCAPES:
            raise ValueError(
                f"at character {place + 1}: \\{match[1]} is no escape; known are \\n \\t \\r \\\\ \\\" \\'"
            )
        return ESCAPES[match[1]]

    return re.sub(r"\\(.)", one, text)


# --- running -----------------------------------------------------------------------------------------------------


def constant(value: Any) -> Term:
    return lambda scope: value


def reader(path: tuple[str, ...]) -> Term:
    """What stands at a path; absent where any part is."""
    if len(path) == 1:
        root = path[0]
        return lambda scope: scope[root]
    if len(path) == 2:
        first, second = path

        def read_two(scope: Scope) -> Any:
            value = scope[first]
            return value.get(second, ABSENT) if type(value) is dict else ABSENT

        return read_two
    first, *rest = path

    def read(scope: Scope) -> Any:
        value = scope[first]
        for name in rest:
            if type(value) is not dict or name not in value:
                return ABSENT
            value = value[name]
        return value

    return read


def member(subject: Term, index: Term) -> Term:
    def read(scope: Scope) -> Any:
        value, key = subject(scope), index(scope)
        if type(value) is dict and type(key) is str:
            return value.get(key, ABSENT)
        if type(value) is list and type(key) is int:
            return value[key] if 0 <= key < len(value) else ABSENT
        if value is None or value is ABSENT or key is None or key is ABSENT:
            return ABSENT
        raise EvaluationError(f"{kind(value)} has no member {key!r:.60}")

    return read


def array(terms: list[Term]) -> Term:
    return lambda scope: [present(term(scope)) for term in terms]


def choice(test: Term, yes: Term, no: Term) -> Term:
    return lambda scope: yes(scope) if truth(test(scope)) else no(scope)


def negation(term: Term) -> Term:
    return lambda scope: not truth(term(scope))


def opposite(term: Term) -> Term:
    return lambda scope: -number(term(scope))


def both(left: Term, right: Term) -> Term:
    return lambda scope: truth(left(scope)) and truth(right(scope))


def either(left: Term, right: Term) -> Term:
    return lambda scope: truth(left(scope)) or truth(right(scope))


def equal(left: Term, right: Term) -> Term:
    return lambda scope: same(left(scope), right(scope))


def unequal(left: Term, right: Term) -> Term:
    return lambda scope: not same(left(scope), right(scope))


def ordered(test: Callable[[Any, Any], bool]) -> Callable[[Term, Term], Term]:
    def make(left: Term, right: Term) -> Term:
        def compare(scope: Scope) -> bool:
            one, other = left(scope), right(scope)
            a, b = type(one), type(other)
            if (a is float or a is int) and (b is float or b is int):
                return test(one, other)
            if a is str and b is str:
                return test(one, other)
            present(one)
            present(other)
            raise EvaluationError(f"{kind(one)} and {kind(other)} have no order")

        return compare

    return make


def within(left: Term, right: Term) -> Term:
    def find(scope: Scope) -> bool:
        value, where = present(left(scope)), present(right(scope))
        if type(where) is list:
            return any(same(value, item) for item in where)
        if type(where) is dict and type(value) is str:
            return value in where
        raise EvaluationError(f"nothing is 'in' {kind(where)}")

    return find


def sum_of(left: Term, right: Term) -> Term:
    def add(scope: Scope) -> Any:
        one, other = present(left(scope)), present(right(scope))
        if type(one) is str and type(other) is str:
            if len(one) + len(other) > TEXT_CHARS_MAX:
                raise EvaluationError(f"a text of more than {TEXT_CHARS_MAX} characters")
            return one + other
        return finite(float(number(one)) + float(number(other)))

    return add


def arithmetic(work: Callable[[float, float], float]) -> Callable[[Term, Term], Term]:
    def make(left: Term, right: Term) -> Term:
        def compute(scope: Scope) -> int | float:
            one, other = float(number(left(scope))), float(number(right(scope)))
            try:
                return finite(work(one, other))
            except ZeroDivisionError:
                raise EvaluationError("division by zero") from None

        return compute

    return make


def remainder(one: float, other: float) -> float:
    if other == 0:
        raise ZeroDivisionError
    return math.fmod(one, other)


def call(name: str, function: Function, terms: list[Term]) -> Term:
    def run(scope: Scope) -> Any:
        values = [present(term(scope)) for term in terms]
        try:
            return function(*values)
        except EvaluationError:
            raise
        except TypeError:
            raise EvaluationError(f"{name}() does not take {', '.join(map(kind, values)) or 'nothing'}") from None
        except (ValueError, ArithmeticError) as error:
            raise EvaluationError(f"{name}(): {str(error)[:100]}") from None

    return run


def matching(subject: Term, pattern: str) -> Term:
    options = jsonschema_rs.RegexOptions(size_limit=REGEX_BYTES_MAX, dfa_size_limit=REGEX_BYTES_MAX)
    try:
        found = jsonschema_rs.Draft202012Validator({"pattern": pattern}, pattern_options=options).is_valid
    except (jsonschema_rs.ValidationError, ValueError) as error:
        raise ValueError(
            f"the pattern {pattern[:60]!r}: {str(error).splitlines()[0]} (no look-around, no \\1)"
        ) from None

    def run(scope: Scope) -> bool:
        return found(text(subject(scope)))

    return run


def over(subject: Term, variable: str, body: Term, name: str) -> Term:
    finish = FINISH[name]

    def run(scope: Scope) -> Any:
        items = present(subject(scope))
        if type(items) is not list:
            raise EvaluationError(f"{name}() wants an array, not {kind(items)}")
        return finish(steps(scope, variable, body, items))

    return run


def steps(scope: Scope, variable: str, body: Term, items: list[Any]) -> Iterator[tuple[Any, Any]]:
    """Each element with what the body makes of it."""
    budget = scope[BUDGET]
    inner = dict(scope)
    for item in items:
        budget[0] -= 1
        if budget[0] < 0:
            raise EvaluationError(f"more than {STEPS_MAX} steps")
        inner[variable] = item
        yield item, body(inner)


def present(value: Any) -> Any:
    if value is None or value is ABSENT:
        raise NothingToSay("a value is absent or null")
    return value


def truth(value: Any) -> bool:
    if value is True or value is False:
        return value
    present(value)
    raise EvaluationError(f"{kind(value)} where true or false belongs")


def number(value: Any) -> int | float:
    if type(value) is float or type(value) is int:
        return value
    present(value)
    raise EvaluationError(f"{kind(value)} where a number belongs")


def text(value: Any) -> str:
    if type(value) is str:
        return value
    present(value)
    raise EvaluationError(f"{kind(value)} where a string belongs")


def finite(value: float) -> int | float:
    if not writable(value) or value != value:
        raise EvaluationError("a number that JSON cannot hold")
    return plain(value)


def same(one: Any, other: Any) -> bool:
    """JSON equality: 1 is 1.0, true is not 1, absent is like null."""
    a, b = type(one), type(other)
    if (a is float or a is int) and (b is float or b is int):
        return bool(one == other)
    if one is ABSENT or other is ABSENT:
        return (one is None or one is ABSENT) and (other is None or other is ABSENT)
    if a is not b:
        return False
    if a is list or a is dict:
        return canonical_json(one) == canonical_json(other)
    return bool(one == other)


def size(value: Any) -> int:
    if isinstance(value, (str, list, dict)):
        return len(value)
    raise EvaluationError(f"{kind(value)} has no size")


def least(*values: Any) -> int | float:
    return min(map(number, several(values)))


def most(*values: Any) -> int | float:
    return max(map(number, several(values)))


def total(values: Any) -> int | float:
    """From the first to the last, each sum rounded: the standard library's own sum differs between versions."""
    if type(values) is not list:
        raise EvaluationError(f"sum() wants an array, not {kind(values)}")
    result = 0.0
    for value in values:
        result += float(number(value))
    return finite(result)


def several(values: tuple[Any, ...]) -> Any:
    found = values[0] if len(values) == 1 and type(values[0]) is list else values
    if not found:
        raise NothingToSay("nothing to choose from")
    return found


def rounded(value: Any, digits: Any = 0) -> int | float:
    """To so many decimals, half to even, of the shortest decimal form."""
    if type(digits) is not int or not 0 <= digits <= 15:
        raise EvaluationError("round() takes 0 to 15 decimals")
    return finite(float(round(float(number(value)), digits)))


def millis(value: Any) -> int:
    """Milliseconds since 1970 of an RFC 3339 timestamp."""
    found = epoch_ms(text(value))
    if found is None:
        raise EvaluationError("millis() wants an RFC 3339 timestamp")
    return found


FINISH: Final[dict[str, Callable[[Iterator[tuple[Any, Any]]], Any]]] = {
    "exists": lambda found: any(truth(value) for _, value in found),
    "all": lambda found: all(truth(value) for _, value in found),
    "filter": lambda found: [item for item, value in found if truth(value)],
    "map": lambda found: [present(value) for _, value in found],
}
LOWER: Final = {ord(letter): ord(letter) + 32 for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
UPPER: Final = {value: key for key, value in LOWER.items()}
BUILT_IN: Final[dict[str, Function]] = {
    "size": size,
    "abs": lambda value: abs(number(value)),
    "floor": lambda value: finite(float(math.floor(number(value)))),
    "ceil": lambda value: finite(float(math.ceil(number(value)))),
    "round": rounded,
    "min": least,
    "max": most,
    "sum": total,
    "millis": millis,
}
METHODS: Final[dict[str, Function]] = {
    "startsWith": lambda value, part: text(value).startswith(text(part)),
    "endsWith": lambda value, part: text(value).endswith(text(part)),
    "contains": lambda value, part: text(part) in text(value),
    "lower": lambda value: text(value).translate(LOWER),
    "upper": lambda value: text(value).translate(UPPER),
    "trim": lambda value: text(value).strip(" \t\r\n"),
    "size": size,
}
OPERATORS: Final[dict[str, Callable[[Term, Term], Term]]] = {
    "||": either,
    "&&": both,
    "==": equal,
    "!=": unequal,
    "<": ordered(lambda a, b: bool(a < b)),
    "<=": ordered(lambda a, b: bool(a <= b)),
    ">": ordered(lambda a, b: bool(a > b)),
    ">=": ordered(lambda a, b: bool(a >= b)),
    "in": within,
    "+": sum_of,
    "-": arithmetic(lambda a, b: a - b),
    "*": arithmetic(lambda a, b: a * b),
    "/": arithmetic(lambda a, b: a / b),
    "%": arithmetic(remainder),
}
