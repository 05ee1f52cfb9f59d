"""A second, slower reading of a body that the strict parser refused: which events are at fault, and where.

NaN, numbers beyond the range of a double or of exact integers, repeated keys, lone surrogates and too deep nesting
are each a flaw of one value. They are kept in the tree as ``FlawedValue`` and found by walking it, so that one bad
event does not cost the events beside it. A body that is not JSON at all still fails the request.
"""

import json
import math
import re
from typing import Any, Final, NamedTuple

import attrs

from protocols.errors import InvalidJsonError
from protocols.json_errors import json_flaw
from protocols.limits import JSON_DEPTH_MAX

SAFE_INTEGER: Final = 2**53 - 1
INTEGER_CHARS_MAX: Final = 17  # 2^53 has 16 digits and a sign; longer ones are not worth converting
DATA_DEPTH_MAX: Final = JSON_DEPTH_MAX - 4  # records and verdicts put levels of their own around the data
POINTER_CHARS_MAX: Final = 200
SURROGATE: Final = re.compile("[\ud800-\udfff]")


class Flaw(NamedTuple):
    """What is wrong with an event.

    ``field`` is a JSON pointer into the event; ``reason`` says what is wrong there, ``remedy`` what to send instead.
    """

    field: str
    reason: str
    remedy: str


@attrs.frozen
class FlawedValue:
    """A value that JSON text can spell but no record can hold."""

    reason: str
    remedy: str


def read_with_flaws(body: bytes) -> tuple[Any, dict[int, Flaw]]:
    """Read a body leniently.

    Returns:
        The request, and the first flaw of each flawed event by its index.

    Raises:
        InvalidJsonError: It is not JSON text in UTF-8, is nested too deeply, or is flawed outside ``events``.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise InvalidJsonError(
            f"the body is not UTF-8: byte {error.start} belongs to no character",
            remedy="encode the body as UTF-8",
        ) from error
    try:
        request = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=lambda name: FlawedValue(f"{name} is not JSON", "leave the value out, or send null"),
            parse_float=_float,
            parse_int=_integer,
        )
    except json.JSONDecodeError as error:
        raise InvalidJsonError(
            f"the body is not JSON: {json_flaw(str(error))}",
            remedy="send one JSON object in UTF-8",
        ) from error
    except RecursionError as error:
        raise InvalidJsonError(
            "the body is nested too deeply", remedy=f"nest at most {JSON_DEPTH_MAX} levels"
        ) from error
    return request, _locate(request)


def _locate(request: Any) -> dict[int, Flaw]:
    if isinstance(request, FlawedValue) or not isinstance(request, dict):
        return _outside(first_flaw(request, JSON_DEPTH_MAX))
    events = request.get("events")
    around = {key: value for key, value in request.items() if key != "events"}
    _outside(first_flaw(around, JSON_DEPTH_MAX))
    if not isinstance(events, list):
        return _outside(first_flaw(events, JSON_DEPTH_MAX))
    found = {}
    for index, event in enumerate(events):
        flaw = first_flaw(event, DATA_DEPTH_MAX + 1)
        if flaw is not None:
            found[index] = flaw
    return found


def _outside(flaw: Flaw | None) -> dict[int, Flaw]:
    """Refuse a request that is flawed outside its events."""
    if flaw is not None:
        reason = f"{flaw.field}: {flaw.reason}" if flaw.field else flaw.reason
        raise InvalidJsonError(reason, field=flaw.field, remedy=flaw.remedy)
    return {}


def first_flaw(value: Any, depth_max: int) -> Flaw | None:
    """The first flaw in document order, or None. Containers may be nested ``depth_max`` deep."""
    waiting: list[tuple[str, int, Any]] = [("", 0, value)]
    while waiting:
        place, depth, item = waiting.pop()
        if isinstance(item, FlawedValue):
            return Flaw(place[:POINTER_CHARS_MAX], item.reason, item.remedy)
        if isinstance(item, str):
            if SURROGATE.search(item):
                return Flaw(
                    place[:POINTER_CHARS_MAX], "contains half of a surrogate pair", "send well-formed Unicode"
                )
            continue
        if not isinstance(item, (dict, list)):
            continue
        if depth == depth_max:
            return Flaw(place[:POINTER_CHARS_MAX], f"is nested deeper than {depth_max} levels", "send flatter data")
        pairs = item.items() if isinstance(item, dict) else enumerate(item)
        children = [(_child(place, key), depth + 1, child) for key, child in pairs]
        if isinstance(item, dict) and SURROGATE.search("".join(item)):
            return Flaw(
                place[:POINTER_CHARS_MAX], "a key contains half of a surrogate pair", "send well-formed Unicode"
            )
        waiting.extend(reversed(children))
    return None


def _child(place: str, key: object) -> str:
    if len(place) > POINTER_CHARS_MAX:
        return place
    return f"{place}/{str(key).replace('~', '~0').replace('/', '~1')}"


def _object(pairs: list[tuple[str, Any]]) -> Any:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            return FlawedValue(f"the key {key[:80]!r} occurs twice", "send every key once")
        seen.add(key)
    raise AssertionError("a dict is shorter than its pairs only when a key repeats")


def _float(text: str) -> Any:
    number = float(text)
    if math.isinf(number):
        return FlawedValue(f"{text[:40]} is beyond the range of a double", "send it as a string")
    return number


def _integer(text: str) -> Any:
    if len(text) > INTEGER_CHARS_MAX or abs(int(text)) > SAFE_INTEGER:
        return FlawedValue(f"{text[:40]} is beyond 2^53 - 1, the largest exact integer", "send it as a string")
    return int(text)
