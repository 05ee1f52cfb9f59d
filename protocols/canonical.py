"""JSON in and out with one form: strict parsing, and RFC 8785 for whatever is hashed.

RFC 8785 is ``JSON.stringify`` over sorted keys. ``orjson`` with sorted keys gives the same text for almost all
values, thirty times faster than the reference package; a walk over the value finds the others:

- floats that JavaScript writes otherwise: integral ones (``1.0`` is ``1``), which become integers first, and
  those that either side writes with an exponent: below 1e-5 and from 2^53 on;
- keys with characters beyond U+FFFF, which sort by UTF-16 units there and by bytes here.
"""

import hashlib
from typing import TypeAlias

import jiter
import orjson
import rfc8785

from protocols.errors import InvalidJsonError, NotCanonicalizableError
from protocols.json_errors import json_flaw
from protocols.limits import JSON_DEPTH_MAX

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

INTEGER_MAX = 2**53 - 1
_FRACTION_MIN, _PLAIN_MAX = 1e-5, 2.0**53 - 1
_SORTED = orjson.OPT_SORT_KEYS


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def parse_json(data: bytes, *, depth_max: int = JSON_DEPTH_MAX) -> Json:
    """Parse JSON text that has exactly one meaning.

    Raises:
        InvalidJsonError: not UTF-8, not JSON, a repeated key, NaN or infinity in any spelling (``1e400``
            too), an integer beyond 2^53 - 1, a lone surrogate, or nesting deeper than ``depth_max``;
            ``field`` is a JSON pointer to a value at fault.
    """
    try:
        value: Json = jiter.from_json(data, allow_inf_nan=False, catch_duplicate_keys=True, cache_mode="keys")
    except ValueError as error:
        raise InvalidJsonError(f"not acceptable JSON: {json_flaw(str(error))}") from error
    try:
        _walk(value, depth_max)
    except _UnfitValueError as error:
        raise InvalidJsonError(str(error), field=error.pointer) from error
    return value


def canonical_json(value: object) -> bytes:
    """The RFC 8785 form of a JSON value.

    Raises:
        NotCanonicalizableError: NaN, infinity, an integer beyond 2^53 - 1, a lone surrogate, a key that is not a
            string, or a value without a JSON form; ``path`` in its fields is a JSON pointer to it.
    """
    try:
        need = _walk(value, JSON_DEPTH_MAX)
    except _UnfitValueError as error:
        raise NotCanonicalizableError(str(error), path=error.pointer) from error
    try:
        if need == _SLOW:
            return rfc8785.dumps(value)  # type: ignore[arg-type]
        return orjson.dumps(_with_integers(value) if need == _INTEGERS else value, option=_SORTED)
    except (orjson.JSONEncodeError, rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        raise NotCanonicalizableError(f"no canonical form: {error}", path="") from error


_PLAIN, _INTEGERS, _SLOW = 0, 1, 2  # orjson as it is; after turning 1.0 into 1; the reference package


class _UnfitValueError(Exception):
    """A value that has no canonical form, and the steps that lead to it, the last one first.

    Written down while the error rises: a pointer made for every value on the way costs its length each time, which
    is quadratic where a long key holds many values.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.steps: list[object] = []

    @property
    def pointer(self) -> str:
        return "".join(f"/{step}" for step in reversed(self.steps))

    def __str__(self) -> str:
        return f"{self.reason} (at {self.pointer or '/'})"


def _walk(value: object, depth: int) -> int:
    """Check a value, and say what writing it needs: the greatest need of its parts."""
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return _PLAIN
    if kind is dict:
        return _walk_object(value, depth)  # type: ignore[arg-type]
    if kind is float:
        return _walk_float(value)  # type: ignore[arg-type]
    if kind is int:
        if not -INTEGER_MAX <= value <= INTEGER_MAX:  # type: ignore[operator]
            raise _UnfitValueError("an integer beyond 2^53 - 1: send it as a string")
        return _PLAIN
    if kind is list:
        return _walk_array(value, depth)  # type: ignore[arg-type]
    raise _UnfitValueError(f"a {kind.__name__} has no JSON form")


def _walk_array(value: list[object], depth: int) -> int:
    if depth <= 0:
        raise _UnfitValueError("nested too deeply")
    need, index = _PLAIN, 0
    try:
        for index, item in enumerate(value):  # noqa: B007  # the place of the item at fault
            found = _walk(item, depth - 1)
            if found > need:
                need = found
    except _UnfitValueError as error:
        error.steps.append(index)
        raise
    return need


def _walk_object(value: dict[object, object], depth: int) -> int:
    if depth <= 0:
        raise _UnfitValueError("nested too deeply")
    need = _PLAIN
    key: object = None
    try:
        for key, item in value.items():
            if type(key) is not str:
                raise _UnfitValueError("a key is a string")
            if not key.isascii() and any(letter > "\uffff" for letter in key):
                need = _SLOW
            kind = type(item)
            if kind is str or item is None or kind is bool:
                continue
            if kind is float and _FRACTION_MIN <= abs(item) < _PLAIN_MAX:  # type: ignore[arg-type]
                if not item % 1 and need == _PLAIN:  # type: ignore[operator]
                    need = _INTEGERS
                continue
            found = _walk(item, depth - 1)
            if found > need:
                need = found
    except _UnfitValueError as error:
        if type(key) is str:
            error.steps.append(_escaped(key))
        raise
    return need


def _walk_float(value: float) -> int:
    size = abs(value)
    if size < INTEGER_MAX:
        if not value % 1:
            return _INTEGERS
        return _PLAIN if size >= _FRACTION_MIN else _SLOW
    if size == float("inf") or value != value:
        raise _UnfitValueError("a number that is not finite")
    return _SLOW


def _with_integers(value: object) -> object:
    """A copy in which integral floats are integers: RFC 8785 writes both alike."""
    kind = type(value)
    if kind is float:
        return int(value) if not value % 1 else value  # type: ignore[call-overload, operator]
    if kind is dict:
        return {
            key: (int(item) if not item % 1 else item) if type(item) is float else _with_integers(item)
            for key, item in value.items()  # type: ignore[attr-defined]
        }
    if kind is list:
        return [_with_integers(item) for item in value]  # type: ignore[attr-defined]
    return value


def _escaped(key: str) -> str:
    """A key as a token of a JSON pointer (RFC 6901, section 3)."""
    return key.replace("~", "~0").replace("/", "~1")
