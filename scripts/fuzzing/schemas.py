"""Values that JSON Schemas allow, hostile within what they allow, and such values with one part spoiled.

Of JSON Schema as much is understood as the node's own description uses; a keyword that is not is ignored, and the
value may then be one that the node refuses.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from re import _constants as sre
from re import _parser as sre_parser
from typing import Any, Final, TypeAlias

from scripts.fuzzing.values import Draw

Schema: TypeAlias = Mapping[str, Any]
Maker: TypeAlias = Callable[[Draw], Any]

ITEMS_MAX: Final = 64
TEXT_MAX: Final = 300
REPEAT_MAX: Final = 80
DEPTH_MAX: Final = 7
NUMBER_MAX: Final = 2**53 - 1
OPTIONAL: Final = 0.5  # of members that may be left out, the part that is given
CATEGORIES: Final = {sre.CATEGORY_DIGIT: "7", sre.CATEGORY_SPACE: " ", sre.CATEGORY_WORD: "w"}
ANY_CHAR: Final = (0x20, 0x7E)


class SchemaValues:
    """Draws values by schemas."""

    def __init__(self, document: Mapping[str, Any], named: Mapping[str, Maker]) -> None:
        """Args:
        document: Where references lead into, ``#/...``.
        named: What is drawn for members of these names in place of what their schema says, most of the time.
        """
        self._document = document
        self._named = named

    def draw(self, draw: Draw, schema: Schema, name: str = "", depth: int = DEPTH_MAX) -> Any:
        """A value that the schema allows, or nearly."""
        if name in self._named and draw.chance(0.8):
            return self._named[name](draw)
        schema = self.resolved(schema)
        for choice in ("anyOf", "oneOf"):
            if choice in schema and "properties" not in schema:
                return self.draw(draw, draw.pick(schema[choice]), name, depth)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return draw.pick(schema["enum"])
        kind = schema.get("type", "any")
        if isinstance(kind, list):
            kind = draw.pick(kind)
        if kind == "object":
            return self._object(draw, schema, depth)
        if kind == "array":
            return self._array(draw, schema, name, depth)
        return _simple(draw, schema, kind, min(depth, 3))

    def resolved(self, schema: Schema) -> Schema:
        """The schema that a chain of references ends at."""
        while "$ref" in schema:
            found: Any = self._document
            for part in schema["$ref"].removeprefix("#/").split("/"):
                found = found[part]
            schema = found
        return schema

    def _object(self, draw: Draw, schema: Schema, depth: int) -> dict[str, Any]:
        required = set(schema.get("required", ()))
        some = draw.pick(schema["anyOf"]).get("required", ()) if "anyOf" in schema else ()
        made = {
            name: self.draw(draw, part, name, depth - 1)
            for name, part in schema.get("properties", {}).items()
            if name in required or name in some or (depth > 0 and draw.chance(OPTIONAL))
        }
        beside = schema.get("additionalProperties", False)
        if beside and depth > 0:
            for _ in range(min(draw.size(ITEMS_MAX), schema.get("maxProperties", ITEMS_MAX))):
                made[draw.key()] = draw.json(2) if beside is True else self.draw(draw, beside, depth=depth - 1)
        return made

    def _array(self, draw: Draw, schema: Schema, name: str, depth: int) -> list[Any]:
        most = min(schema.get("maxItems", ITEMS_MAX), ITEMS_MAX)
        count = max(schema.get("minItems", 0), draw.size(most) if depth > 0 else 0)
        item = schema.get("items", schema.get("unevaluatedItems", {}))
        return [self.draw(draw, item, depth=depth - 1) for _ in range(count)]


def _simple(draw: Draw, schema: Schema, kind: str, depth: int) -> Any:
    match kind:
        case "string":
            return _text(draw, schema)
        case "integer":
            return _integer(draw, schema)
        case "number":
            return (
                draw.real() if not {"minimum", "maximum", "exclusiveMinimum"} & set(schema) else _number(draw, schema)
            )
        case "boolean":
            return draw.chance(0.5)
        case "null":
            return None
        case _:
            return draw.json(depth)


def _integer(draw: Draw, schema: Schema) -> int:
    least = int(schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1 if "exclusiveMinimum" in schema else 0))
    return draw.number(int(schema.get("maximum", NUMBER_MAX)), least)


def _number(draw: Draw, schema: Schema) -> float:
    least = float(schema.get("minimum", schema.get("exclusiveMinimum", 0.0)))
    most = float(schema.get("maximum", max(least, 0.0) + 1e6))
    return draw.pick((least, most, draw.rng.uniform(least, most)))


def _text(draw: Draw, schema: Schema) -> str:
    pattern = schema.get("pattern")
    if pattern is not None:
        return matching(draw, pattern)
    if schema.get("format") == "date-time" and draw.chance(0.8):
        return moment(draw)
    return draw.text(
        min(schema.get("maxLength", TEXT_MAX), TEXT_MAX), schema.get("minLength", 0), nul=draw.chance(0.1)
    )


def moment(draw: Draw) -> str:
    """An RFC 3339 time, usual or not."""
    year, second = draw.pick((0, 1, 1582, 1969, 1970, 2024, 2038, 9999)), draw.pick((0, 30, 59, 60))
    fraction = draw.pick(("", ".5", "." + "9" * draw.pick((3, 6, 9, 40))))
    zone = draw.pick(("Z", "z", "+00:00", "-00:00", "+14:00", "-23:59"))
    day = f"{year:04}-{1 + draw.below(12):02}-{1 + draw.below(28):02}"
    return f"{day}T{draw.below(24):02}:59:{second:02}{fraction}{zone}"


def matching(draw: Draw, pattern: str) -> str:
    """A text that a regular expression matches; any text where Python cannot read it, or it looks around."""
    parsed = _parsed(pattern)
    if parsed is None:
        return draw.text(TEXT_MAX)
    return "".join(chr(each) for part in parsed for each in _points(draw, part))


@lru_cache(maxsize=256)
def _parsed(pattern: str) -> Any:
    try:
        return list(sre_parser.parse(pattern))
    except re.error:  # those of JSON Schema are ECMAScript's, which has \\p{...}
        return None


def _points(draw: Draw, part: Any) -> list[int]:
    kind, value = part
    if kind is sre.LITERAL:
        return [value]
    if kind is sre.ANY:
        return [draw.below(ANY_CHAR[1] - ANY_CHAR[0]) + ANY_CHAR[0]]
    if kind is sre.IN:
        return [_member(draw, value)]
    if kind is sre.SUBPATTERN:
        return [point for each in value[-1] for point in _points(draw, each)]
    if kind is sre.BRANCH:
        return [point for each in draw.pick(value[1]) for point in _points(draw, each)]
    if kind in (sre.MAX_REPEAT, sre.MIN_REPEAT):
        least, most, inner = value
        most = least + REPEAT_MAX if most is sre.MAXREPEAT else most
        count = draw.pick((least, most, min(most, least + draw.below(9))))
        return [point for _ in range(count) for each in inner for point in _points(draw, each)]
    return []  # an anchor


def _member(draw: Draw, members: Any) -> int:
    if members[0][0] is sre.NEGATE:
        return draw.below(26) + ord("a") if draw.chance(0.5) else draw.pick((0x1F600, 0x202E, 0x21, 0x7F))
    kind, value = draw.pick(members)
    if kind is sre.LITERAL:
        return int(value)
    if kind is sre.RANGE:
        return int(value[0]) + draw.below(value[1] - value[0] + 1)
    return ord(CATEGORIES.get(value, "-"))


def spoiled(draw: Draw, value: Any) -> Any:
    """The value with one of its parts, at any depth, replaced, left out, added or repeated."""
    if isinstance(value, dict) and value and draw.chance(0.85):
        name = draw.pick(list(value))
        match draw.below(10):
            case 0:
                return {key: part for key, part in value.items() if key != name}
            case 1:
                return {**value, draw.key(): draw.json(2)}
            case _:
                return {**value, name: spoiled(draw, value[name])}
    if isinstance(value, list) and value and draw.chance(0.85):
        at = draw.below(len(value))
        match draw.below(10):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return value[:at] + [value[at]] * draw.size(ITEMS_MAX) + value[at:]
            case _:
                return [*value[:at], spoiled(draw, value[at]), *value[at + 1 :]]
    if isinstance(value, str) and draw.chance(0.5):
        return draw.text(TEXT_MAX)
    if isinstance(value, int | float) and draw.chance(0.5):
        return draw.real()
    return draw.json(3)
