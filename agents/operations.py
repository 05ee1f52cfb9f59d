"""The operators of expressions as functions of values, which all that evaluates an expression uses."""

import math
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from agents.paths import ABSENT
from agents.values import TEXT_CHARS_MAX, EvaluationError, finite, kind, number, present, same

Operation: TypeAlias = Callable[[Any, Any], Any]


def member_of(value: Any, key: Any) -> Any:
    """``value[key]``."""
    if type(value) is dict and type(key) is str:
        return value.get(key, ABSENT)
    if type(value) is list and type(key) is int:
        return value[key] if 0 <= key < len(value) else ABSENT
    if value is None or value is ABSENT or key is None or key is ABSENT:
        return ABSENT
    raise EvaluationError(f"{kind(value)} has no member {key!r:.60}")


def ordered(test: Operation) -> Operation:
    """A comparison of two numbers or two texts."""

    def compare(one: Any, other: Any) -> bool:
        a, b = type(one), type(other)
        if (a is float or a is int) and (b is float or b is int):
            return bool(test(one, other))
        if a is str and b is str:
            return bool(test(one, other))
        present(one)
        present(other)
        raise EvaluationError(f"{kind(one)} and {kind(other)} have no order")

    return compare


def contains(where: Any, value: Any) -> bool:
    """Whether a value is in an array, or a text is a key of an object; neither is absent or null."""
    if type(where) is list:
        return any(same(value, member) for member in where)
    if type(where) is dict and type(value) is str:
        return value in where
    raise EvaluationError(f"nothing is 'in' {kind(where)}")


def add(one: Any, other: Any) -> Any:
    """The sum of numbers, or one text after the other; neither is absent or null."""
    if type(one) is str and type(other) is str:
        if len(one) + len(other) > TEXT_CHARS_MAX:
            raise EvaluationError(f"a text of more than {TEXT_CHARS_MAX} characters")
        return one + other
    return finite(float(number(one)) + float(number(other)))


def arithmetic(work: Callable[[float, float], float]) -> Callable[[int | float, int | float], int | float]:
    """An operation on two numbers."""

    def compute(one: int | float, other: int | float) -> int | float:
        try:
            return finite(work(float(one), float(other)))
        except ZeroDivisionError:
            raise EvaluationError("division by zero") from None

    return compute


def remainder(one: float, other: float) -> float:
    if other == 0:
        raise ZeroDivisionError
    return math.fmod(one, other)


def checked(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A built-in function that raises an ``EvaluationError`` where its arguments do not fit."""

    def call(*values: Any) -> Any:
        try:
            return function(*values)
        except EvaluationError:
            raise
        except TypeError:
            raise EvaluationError(f"{name}() does not take {', '.join(map(kind, values)) or 'nothing'}") from None
        except (ValueError, ArithmeticError) as error:
            raise EvaluationError(f"{name}(): {str(error)[:100]}") from None

    return call


COMPARISONS: Final[dict[str, Operation]] = {
    "<": ordered(lambda a, b: a < b),
    "<=": ordered(lambda a, b: a <= b),
    ">": ordered(lambda a, b: a > b),
    ">=": ordered(lambda a, b: a >= b),
}
ARITHMETIC: Final = {
    "-": arithmetic(lambda a, b: a - b),
    "*": arithmetic(lambda a, b: a * b),
    "/": arithmetic(lambda a, b: a / b),
    "%": arithmetic(remainder),
}
