"""Values of expressions: what they may be, how they compare, and the functions that are built in.

The texts of evaluation errors stand in the issues of events, which agents sign: where agents of two versions word one
differently, they disagree on the events that it is about. So these texts stay as they are.
"""

import math
from collections.abc import Callable
from typing import Any, Final

from agents.paths import ABSENT
from agents.timestamps import epoch_ms
from agents.units import plain, writable
from protocols.canonical import canonical_json

TEXT_CHARS_MAX: Final = 65_536


class EvaluationError(Exception):
    """An expression that cannot be evaluated for an event; the text says why."""


class AbsentValueError(EvaluationError):
    """A value that the expression needs is absent or null."""


def kind(value: Any) -> str:
    """The JSON type of a value, as error texts name it."""
    if value is None or value is ABSENT:
        return "null" if value is None else "absent"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array"}
    return names.get(type(value), "an object")


def present(value: Any) -> Any:
    """The value, where there is one.

    Raises:
        AbsentValueError: It is absent or null.
    """
    if value is None or value is ABSENT:
        raise AbsentValueError("a value is absent or null")
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
    """Added from first to last, each sum rounded: the standard library's own sum differs between versions."""
    if type(values) is not list:
        raise EvaluationError(f"sum() wants an array, not {kind(values)}")
    result = 0.0
    for value in values:
        result += float(number(value))
    return finite(result)


def several(values: tuple[Any, ...]) -> Any:
    found = values[0] if len(values) == 1 and type(values[0]) is list else values
    if not found:
        raise AbsentValueError("nothing to choose from")
    return found


def rounded(value: Any, digits: Any = 0) -> int | float:
    """To a number of decimals, half to even, from the shortest decimal form."""
    if type(digits) is not int or not 0 <= digits <= 15:
        raise EvaluationError("round() takes 0 to 15 decimals")
    return finite(float(round(float(number(value)), digits)))


def millis(value: Any) -> int:
    """Milliseconds since 1970 of an RFC 3339 timestamp."""
    found = epoch_ms(text(value))
    if found is None:
        raise EvaluationError("millis() wants an RFC 3339 timestamp")
    return found


LOWER: Final = {ord(letter): ord(letter) + 32 for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
UPPER: Final = {value: key for key, value in LOWER.items()}
BUILT_IN: Final[dict[str, Callable[..., Any]]] = {
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
METHODS: Final[dict[str, Callable[..., Any]]] = {
    "startsWith": lambda value, part: text(value).startswith(text(part)),
    "endsWith": lambda value, part: text(value).endswith(text(part)),
    "contains": lambda value, part: text(part) in text(value),
    "lower": lambda value: text(value).translate(LOWER),
    "upper": lambda value: text(value).translate(UPPER),
    "trim": lambda value: text(value).strip(" \t\r\n"),
    "size": size,
}
