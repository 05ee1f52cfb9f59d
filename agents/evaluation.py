"""Evaluation of expressions: a tree is compiled to a function from a scope to a value.

Every node becomes a closure once, so that evaluating an event walks no tree: rules run for some ten thousand events
a second.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias, assert_never

import jsonschema_rs

from agents import syntax
from agents.operations import ARITHMETIC, COMPARISONS, add, checked, contains, member_of
from agents.paths import ABSENT
from agents.syntax import Tree
from agents.units import SAFE_INTEGER
from agents.values import (
    BUILT_IN,
    METHODS,
    TEXT_CHARS_MAX,
    EvaluationError,
    finite,
    kind,
    number,
    present,
    same,
    text,
    truth,
)
from protocols.limits import JSON_DEPTH_MAX

Scope: TypeAlias = dict[str, Any]
Term: TypeAlias = Callable[[Scope], Any]
Function: TypeAlias = Callable[..., Any]
Matcher: TypeAlias = Callable[[str], bool]

STEPS_MAX: Final = 10_000  # elements looked at by exists, all, filter and map, all together, per evaluation
RETURNED_VALUES_MAX: Final = 10_000  # in what an operator's function returns, arrays and objects included
TYPE_NAME_CHARS_MAX: Final = 64
REGEX_BYTES_MAX: Final = 1_048_576
BUDGET: Final = ""  # not a name: the key of the steps that are left


def compile_tree(tree: Tree, functions: Mapping[str, Function], matchers: Mapping[str, Matcher]) -> Term:
    """The function that evaluates a tree.

    Args:
        functions: Those of installed packages, by their full name.
        matchers: Those of the patterns in it.
    """

    def compiled(part: Tree) -> Term:
        return compile_tree(part, functions, matchers)

    match tree:
        case syntax.Constant(value):
            return constant(value)
        case syntax.Reference(path):
            return reader(path)
        case syntax.Presence(path):
            read = reader(path)
            return lambda scope: read(scope) is not ABSENT
        case syntax.Member(subject, key):
            return member(compiled(subject), compiled(key))
        case syntax.ArrayOf(items):
            return array(list(map(compiled, items)))
        case syntax.Conditional(test, yes, no):
            return choice(compiled(test), compiled(yes), compiled(no))
        case syntax.Unary(sign, operand):
            return UNARY[sign](compiled(operand))
        case syntax.Binary(sign, left, right):
            return BINARY[sign](compiled(left), compiled(right))
        case syntax.BuiltInCall(name, arguments, is_method):
            function = checked(name, (METHODS if is_method else BUILT_IN)[name])
            return built_in_call(function, list(map(compiled, arguments)))
        case syntax.InstalledCall(name, arguments):
            return installed_call(name, functions[name], list(map(compiled, arguments)))
        case syntax.PatternMatch(subject, pattern):
            return matching(compiled(subject), matchers[pattern])
        case syntax.Comprehension(name, subject, variable, body):
            return over(compiled(subject), variable, compiled(body), name)
        case _:
            assert_never(tree)


def constant(value: Any) -> Term:
    return lambda scope: value


def reader(path: tuple[str, ...]) -> Term:
    """The value at a path; absent where any part of the path is."""
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
    return lambda scope: member_of(subject(scope), index(scope))


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


def comparison(sign: str) -> Callable[[Term, Term], Term]:
    compare = COMPARISONS[sign]
    return lambda left, right: lambda scope: compare(left(scope), right(scope))


def within(left: Term, right: Term) -> Term:
    def find(scope: Scope) -> bool:
        value = present(left(scope))
        return contains(present(right(scope)), value)

    return find


def sum_of(left: Term, right: Term) -> Term:
    return lambda scope: add(present(left(scope)), present(right(scope)))


def arithmetic(sign: str) -> Callable[[Term, Term], Term]:
    compute = ARITHMETIC[sign]
    return lambda left, right: lambda scope: compute(number(left(scope)), number(right(scope)))


def built_in_call(function: Function, terms: list[Term]) -> Term:
    return lambda scope: function(*[present(term(scope)) for term in terms])


def installed_call(name: str, function: Function, terms: list[Term]) -> Term:
    """Call an operator's function, which is given copies and whose result is copied, so that it can change nothing.

    Whatever it raises is an ``EvaluationError`` that names the type alone: messages may hold what differs between
    machines, as addresses do. That includes ``SystemExit`` and ``KeyboardInterrupt``, which would end the worker;
    no cancellation arrives as an exception here, since a call that is given up ends with its process.
    """

    def run(scope: Scope) -> Any:
        values = [detached(present(term(scope))) for term in terms]
        try:
            result = function(*values)
        except BaseException as error:  # noqa: BLE001  # an operator's code: see above
            raise EvaluationError(f"{name}() raised {type_name(error)}") from None
        return returned(name, result, [RETURNED_VALUES_MAX], 1)

    return run


def type_name(error: BaseException) -> str:
    """The name that the class was created with, whatever its metaclass returns."""
    return str(type.__dict__["__name__"].__get__(type(error)))[:TYPE_NAME_CHARS_MAX]


def detached(value: Any) -> Any:
    """A copy of a JSON value that shares no array or object with it."""
    if type(value) is list:
        return [detached(item) for item in value]
    if type(value) is dict:
        return {key: detached(item) for key, item in value.items()}
    return value


def returned(name: str, value: Any, budget: list[int], depth: int) -> Any:
    """A copy of what a function returned.

    Args:
        budget: How many values it may still hold, as the one element.

    Raises:
        EvaluationError: It is not a JSON value, or too large.
    """
    budget[0] -= 1
    if budget[0] < 0:
        raise EvaluationError(f"{name}() returned more than {RETURNED_VALUES_MAX} values")
    if depth > JSON_DEPTH_MAX:
        raise EvaluationError(f"{name}() returned a value nested deeper than {JSON_DEPTH_MAX}")
    if value is None or type(value) is bool:
        return value
    if (type(value) is int and abs(value) <= SAFE_INTEGER) or type(value) is float:
        return finite(float(value))
    if type(value) is int:
        raise EvaluationError("a number that JSON cannot hold")
    if type(value) is str and len(value) > TEXT_CHARS_MAX:
        raise EvaluationError(f"a text of more than {TEXT_CHARS_MAX} characters")
    if is_text(value):
        return value
    if type(value) is list:
        return [returned(name, item, budget, depth + 1) for item in value]
    if type(value) is dict and all(map(is_text, value)):
        return {key: returned(name, item, budget, depth + 1) for key, item in value.items()}
    raise EvaluationError(f"{name}() returned what is not a JSON value")


def is_text(value: Any) -> bool:
    """Whether a value is a string without lone surrogates, which have no encoding."""
    return type(value) is str and (value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value))


def matcher(pattern: str) -> Matcher:
    """The test whether a text has a part that a pattern describes.

    Raises:
        ValueError: The pattern is wrong or too large.
    """
    options = jsonschema_rs.RegexOptions(size_limit=REGEX_BYTES_MAX, dfa_size_limit=REGEX_BYTES_MAX)
    try:
        return jsonschema_rs.Draft202012Validator({"pattern": pattern}, pattern_options=options).is_valid
    except (jsonschema_rs.ValidationError, ValueError) as error:
        raise ValueError(
            f"the pattern {pattern[:60]!r}: {str(error).splitlines()[0]} (no look-around, no \\1)"
        ) from None


def matching(subject: Term, found: Matcher) -> Term:
    return lambda scope: found(text(subject(scope)))


def over(subject: Term, variable: str, body: Term, name: str) -> Term:
    finish = FINISH[name]

    def run(scope: Scope) -> Any:
        items = present(subject(scope))
        if type(items) is not list:
            raise EvaluationError(f"{name}() wants an array, not {kind(items)}")
        return finish(steps(scope, variable, body, items))

    return run


def steps(scope: Scope, variable: str, body: Term, items: list[Any]) -> Iterator[tuple[Any, Any]]:
    """Each element with the value of the body for it."""
    budget = scope[BUDGET]
    inner = dict(scope)
    for item in items:
        budget[0] -= 1
        if budget[0] < 0:
            raise EvaluationError(f"more than {STEPS_MAX} steps")
        inner[variable] = item
        yield item, body(inner)


FINISH: Final[dict[str, Callable[[Iterator[tuple[Any, Any]]], Any]]] = {
    "exists": lambda found: any(truth(value) for _, value in found),
    "all": lambda found: all(truth(value) for _, value in found),
    "filter": lambda found: [item for item, value in found if truth(value)],
    "map": lambda found: [present(value) for _, value in found],
}
UNARY: Final[dict[str, Callable[[Term], Term]]] = {"!": negation, "-": opposite}
BINARY: Final[dict[str, Callable[[Term, Term], Term]]] = {
    "||": either,
    "&&": both,
    "==": equal,
    "!=": unequal,
    **{sign: comparison(sign) for sign in COMPARISONS},
    "in": within,
    "+": sum_of,
    **{sign: arithmetic(sign) for sign in ARITHMETIC},
}
