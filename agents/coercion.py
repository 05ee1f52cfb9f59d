"""Coercions: from a value to the type that a policy asks for, or to ``ABSENT`` where it cannot be read as that.

Nothing here depends on locale or on the Unicode version: case is folded for ASCII letters only, digits are
ASCII digits, and numbers are read by JSON's own grammar (with an optional plus and surrounding blanks).
"""

import decimal
import re
import string
import unicodedata
from collections.abc import Callable
from typing import Any, Final

import attrs

from agents.document import DocumentNode
from agents.paths import ABSENT, Segments
from agents.timestamps import read_rfc3339, timestamp_reader
from agents.units import converter, plain, writable
from protocols.canonical import canonical_json

Coercer = Callable[[Any], Any]

NUMBER: Final = re.compile(r"[ \t]*\+?(-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)[ \t]*")
NUMBER_CHARS_MAX: Final = 64
LOWER: Final = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
UPPER: Final = str.maketrans(string.ascii_lowercase, string.ascii_uppercase)
BLANKS: Final = " \t\r\n"
# The Unicode database that every Python carries unchanged (version 3.2): normal forms are then the same everywhere,
# and composed forms of characters added since are excluded from composition by the stability policy anyway.
FROZEN: Final = unicodedata.ucd_3_2_0
ROUNDINGS: Final = {
    "exact": decimal.ROUND_HALF_EVEN,
    "half-even": decimal.ROUND_HALF_EVEN,
    "half-up": decimal.ROUND_HALF_UP,
}
SCALE_MAX: Final = 18

ENUM_VALUES_MAX: Final = 4_096
NULL_VALUES_MAX: Final = 32
FORMATS_MAX: Final = 8
MEMO_ENTRIES_MAX: Final = 4_096
MEMO_CHARS_MAX: Final = 64
COMMON: Final = ("each", "field", "type", "nullValues")
KEYS: Final = {
    "number": ("unit",),
    "integer": (),
    "boolean": ("trueValues", "falseValues"),
    "decimal": ("scale", "rounding"),
    "string": ("trim", "case", "unicode"),
    "timestamp": ("formats", "timezone"),
    "enum": ("values", "aliases", "ignoreCase"),
}


@attrs.frozen(kw_only=True)
class Coercion:
    """One compiled entry of ``coercion``: ``apply`` returns the new value, or ``ABSENT`` for an issue.

    Attributes:
        each: An array; ``field`` is looked for in each of its elements, and is empty for the elements themselves.
        unchanged: The Python types of values that stay as they are, whatever the value.
        reads_rfc3339: Timestamps in the form of RFC 3339 in UTC, without a fraction that ends in 0, stay as they are.
    """

    field: Segments
    each: Segments = ()
    expected: dict[str, Any]
    apply: Coercer
    is_timestamp: bool
    unchanged: frozenset[type] = frozenset()
    reads_rfc3339: bool = False


def to_number(value: Any) -> Any:
    kind = type(value)
    if kind is float or kind is int:
        return value
    match = NUMBER.fullmatch(value) if kind is str and len(value) <= NUMBER_CHARS_MAX else None
    if match is None:
        return ABSENT
    number = float(match[1])
    return plain(number) if writable(number) else ABSENT


def to_integer(value: Any) -> Any:
    number = to_number(value)
    if type(number) is float:
        number = plain(number)
    return number if type(number) is int else ABSENT


def to_boolean(true_values: tuple[Any, ...], false_values: tuple[Any, ...]) -> Coercer:
    known = {canonical_json(item): True for item in true_values}
    known |= {canonical_json(item): False for item in false_values}

    def coerce(value: Any) -> Any:
        if type(value) is bool:
            return value
        if isinstance(value, (list, dict)) or (type(value) is str and len(value) > MEMO_CHARS_MAX):
            return ABSENT
        return known.get(canonical_json(value.translate(LOWER) if type(value) is str else value), ABSENT)

    return coerce


def to_decimal(scale: int, rounding: str) -> Coercer:
    """To text with exactly ``scale`` decimals, from a number's shortest decimal form, as JSON writes it."""
    context = decimal.Context(
        prec=2 * NUMBER_CHARS_MAX, rounding=ROUNDINGS[rounding], traps=[decimal.InvalidOperation]
    )
    unit = decimal.Decimal(1).scaleb(-scale)

    def coerce(value: Any) -> Any:
        if type(value) is int or type(value) is float:
            value = repr(value)
        match = NUMBER.fullmatch(value) if type(value) is str and len(value) <= NUMBER_CHARS_MAX else None
        if match is None:
            return ABSENT
        try:
            exact = decimal.Decimal(match[1])
            result = exact.quantize(unit, context=context)
        except (decimal.InvalidOperation, ValueError):
            return ABSENT
        if rounding == "exact" and result != exact:
            return ABSENT
        return format(abs(result) if result.is_zero() else result, "f")

    return coerce


def to_string(trim: bool, case: str, form: str) -> Coercer:
    table = {"lower": LOWER, "upper": UPPER}.get(case)

    def coerce(value: Any) -> Any:
        if isinstance(value, (list, dict)):
            return ABSENT
        text = value if type(value) is str else canonical_json(value).decode()
        if form:
            text = FROZEN.normalize(form, text)  # type: ignore[arg-type]
        if trim:
            text = text.strip(BLANKS)
        return text if table is None else text.translate(table)

    return coerce


def to_enum(values: tuple[str, ...], aliases: dict[str, str], ignore_case: bool) -> Coercer:
    known = {value: value for value in values} | aliases
    if ignore_case:
        known = {name.translate(LOWER): value for name, value in known.items()}

    def coerce(value: Any) -> Any:
        if type(value) is not str:
            return ABSENT
        return known.get(value.translate(LOWER) if ignore_case else value, ABSENT)

    return coerce


def remember(known: dict[Any, Any], value: Any, coerce: Coercer) -> Any:
    """Apply, and cache the result of a small value, since sensors repeat themselves. Changes no result."""
    result = coerce(value)
    if type(value) is not str or len(value) <= MEMO_CHARS_MAX:
        if len(known) >= MEMO_ENTRIES_MAX:
            known.clear()
        known[value] = result
    return result


def with_nulls(coerce: Coercer, null_values: tuple[str | int | float, ...]) -> Coercer:
    nulls = {canonical_json(item): None for item in null_values}

    def coerce_or_null(value: Any) -> Any:
        small = type(value) is not str or len(value) <= MEMO_CHARS_MAX
        if small and not isinstance(value, (list, dict)) and canonical_json(value) in nulls:
            return None
        return coerce(value)

    return coerce_or_null


def scalar(node: DocumentNode) -> str | int | float | bool:
    value: Any = node.value
    if not isinstance(value, (str, int, float)) or (isinstance(value, str) and len(value) > MEMO_CHARS_MAX):
        node.refuse(f"must be a string of at most {MEMO_CHARS_MAX} characters, a number, true or false")
    return value


def read_number(node: DocumentNode) -> tuple[Coercer, dict[str, Any]]:
    unit = node.maybe("unit")
    if unit is None:
        return to_number, {}
    unit.object("from", "to")
    source, target = unit.required("from").text(), unit.required("to").text()
    convert = unit.checked(lambda: converter(source, target))

    def coerce(value: Any) -> Any:
        number = to_number(value)
        if number is ABSENT:
            return ABSENT
        converted = convert(number)
        return converted if writable(converted) else ABSENT

    return coerce, {"unit": source}


def read_boolean(node: DocumentNode) -> tuple[Coercer, dict[str, Any]]:
    """Strings are compared in lower case; by default ``true``/``false`` and 1/0 are recognized."""
    lists: list[tuple[Any, ...]] = []
    for key, usual in (("trueValues", ("true", 1)), ("falseValues", ("false", 0))):
        given = [scalar(item) for item in node.items(key, NULL_VALUES_MAX)]
        lowered = (item.translate(LOWER) if isinstance(item, str) else item for item in given)
        lists.append(tuple(lowered) if node.maybe(key) else usual)
    if {canonical_json(item) for item in lists[0]} & {canonical_json(item) for item in lists[1]}:
        node.refuse("'trueValues' and 'falseValues' must have no value in common")
    return to_boolean(lists[0], lists[1]), {}


def read_string(node: DocumentNode) -> tuple[Coercer, dict[str, Any]]:
    trim, case, form = node.maybe("trim"), node.maybe("case"), node.maybe("unicode")
    return to_string(
        trim is not None and trim.flag(),
        "" if case is None else case.choice("lower", "upper"),
        "" if form is None else form.choice("NFC", "NFKC"),
    ), {}


def read_decimal(node: DocumentNode) -> tuple[Coercer, dict[str, Any]]:
    scale, rounding = node.required("scale"), node.maybe("rounding")
    digits = scale.number()
    if not isinstance(digits, int) or not 0 <= digits <= SCALE_MAX:
        scale.refuse(f"must be a whole number from 0 to {SCALE_MAX}")
    chosen = "exact" if rounding is None else rounding.choice(*ROUNDINGS)
    return to_decimal(digits, chosen), {"scale": digits}


def read_timestamp(node: DocumentNode) -> tuple[Coercer, dict[str, Any]]:
    formats = tuple(item.text() for item in node.items("formats", FORMATS_MAX)) or ("rfc3339",)
    timezone = node.maybe("timezone")
    zone = None if timezone is None else timezone.text()
    reader = node.checked(lambda: timestamp_reader(formats, zone))

    def coerce(value: Any) -> Any:
        text = reader(value)
        return ABSENT if text is None else text

    return coerce, {"formats": list(formats)}


def read_enum(node: DocumentNode) -> tuple[Coercer, dict[str, Any]]:
    values = tuple(item.text() for item in node.items("values", ENUM_VALUES_MAX))
    if not values:
        node.refuse("the key 'values' is missing or empty; an enum needs an array of strings")
    aliases: dict[str, str] = {}
    if (given := node.maybe("aliases")) is not None:
        aliases = {key: given.child(key).choice(*values) for key in sorted(given.object())}
    ignore = node.maybe("ignoreCase")
    ignore_case = ignore is not None and ignore.flag()
    names = [name.translate(LOWER) if ignore_case else name for name in (*values, *aliases)]
    if len(set(names)) != len(names):
        node.refuse("the names in 'values' and 'aliases' must all be different")
    return to_enum(values, aliases, ignore_case), {"values": list(values)}


READ: Final = {
    "number": read_number,
    "integer": lambda _: (to_integer, {}),
    "boolean": read_boolean,
    "decimal": read_decimal,
    "string": read_string,
    "timestamp": read_timestamp,
    "enum": read_enum,
}


def read_coercion(node: DocumentNode) -> Coercion:
    """Compile one entry of the policy's ``coercion``.

    Raises:
        InvalidPolicyError: The entry is wrong.
    """
    node.object()
    kind = node.required("type").choice(*KEYS)
    node.object(*COMMON, *KEYS[kind])
    apply, details = READ[kind](node)
    null_values = tuple(scalar(item) for item in node.items("nullValues", NULL_VALUES_MAX))
    if null_values:
        apply = with_nulls(apply, null_values)
    each, field = node.maybe("each"), node.maybe("field")
    if each is None:
        field = node.required("field")
    return Coercion(
        field=() if field is None else field.path(),
        each=() if each is None else each.path(),
        expected={"type": kind, **details},
        apply=apply,
        is_timestamp=kind == "timestamp" and each is None,
        unchanged=unchanged_types(node, kind) - {type(value) for value in null_values},
        reads_rfc3339=details.get("formats", [""])[0] == "rfc3339" and not any(map(read_rfc3339, null_values)),
    )


def unchanged_types(node: DocumentNode, kind: str) -> frozenset[type]:
    """The types of values that a coercion leaves as they are, null values aside."""
    if kind == "boolean":
        return frozenset({bool})
    if any(key in node.value for key in KEYS[kind]):
        return frozenset()
    return {"number": frozenset({int, float}), "integer": frozenset({int}), "string": frozenset({str})}.get(
        kind, frozenset()
    )
