"""The values of one leaf over many events: from raw values to normalized ones and their canonical text.

What a raw value becomes is computed once and kept by value, as sensors repeat themselves. A column of values that
stay as they are is only looked at as a whole. A value of which anything is unusual becomes ``UNUSUAL``: its event is
left to the interpreter, which then says what is wrong with it.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias

import attrs
import orjson

from agents.compiler.layout import VALUE, Leaf
from agents.compiler.schema_parts import SchemaParts, plain_types
from agents.issues import Issue
from agents.mapping import FieldMapping
from agents.normalize import coercer, map_each
from agents.paths import ABSENT
from agents.reading import PLAIN
from agents.rules import AllowedRule, BoundRule
from agents.timestamps import read_rfc3339
from protocols.canonical import canonical_json
from protocols.errors import NotCanonicalizableError

Column: TypeAlias = Sequence[Any]
Check: TypeAlias = Callable[[Any], bool]

UNUSUAL: Final = object()
MEMO_CHARS_MAX: Final = 64  # longer texts are not kept: they seldom repeat
MEMO_BYTES_MAX: Final = 2 * 1024 * 1024  # of all memos of a policy
ENTRY_BYTES: Final = 300  # of one kept value, its texts aside
HASHED: Final = {str, int, float, type(None), type(ABSENT)}  # not bool: True is 1 as the key of a dictionary
SCALARS: Final = frozenset({str, int, float, bool, type(None)})
NUMBERS: Final = frozenset({int, float})
FRACTION_MIN, FRACTION_MAX = 1e-5, 2.0**53 - 1  # floats between these are written alike by orjson and RFC 8785


class Memos:
    """What the memos of a policy share: a bound on their size, and the note that a value was unusual."""

    def __init__(self, bytes_max: int = MEMO_BYTES_MAX) -> None:
        self.unusual = False
        self._bytes_max = self._left = bytes_max
        self._memos: list[dict[Any, Any] | set[str]] = []

    def share(self, memo: dict[Any, Any] | set[str]) -> None:
        self._memos.append(memo)

    def spend(self, size: int) -> None:
        """Count what is about to be kept; all memos are emptied where it would be too much."""
        self._left -= size
        if self._left < 0:
            for memo in self._memos:
                memo.clear()
            self._left = self._bytes_max - size


@attrs.frozen(kw_only=True)
class Wanted:
    """What code needs of a leaf.

    Attributes:
        text: Canonical text; ``before`` and ``after`` stand around it where there is a value, if it can be absent.
        value: The normalized value.
    """

    text: bool
    value: bool
    before: bytes = b""
    after: bytes = b""


class Memo(dict[Any, Any]):
    """What raw values become. The keys are no booleans."""

    __slots__ = ("_compute",)

    def __init__(self, compute: Callable[[Any], Any]) -> None:
        super().__init__()
        self._compute = compute

    def __missing__(self, raw: Any) -> Any:
        return self._compute(raw)


class Cells:
    """From a column of raw values to columns of texts and values, as they are wanted.

    Called with raw values, it returns the texts, the values, or a pair of both. Where one of them is ``UNUSUAL``, it
    notes so in ``memos``.
    """

    def __init__(self, leaf: Leaf, wanted: Wanted, memos: Memos, schema: SchemaParts | None) -> None:
        self._wanted = wanted
        self._memos = memos
        self._normalize = normalizer(leaf)
        self._write = writer(leaf) if wanted.text else plainness(leaf)
        self._checks = checks_of(leaf, schema)
        self._stays = stays_as_it_is(leaf, schema, memos)
        self._memo = Memo(self._compute)
        memos.share(self._memo)

    def __call__(self, raws: Column) -> Any:
        kinds = set(map(type, raws))
        if self._stays(raws, kinds):
            return self._unchanged(raws)
        if kinds <= HASHED:
            cells = list(map(self._memo.__getitem__, raws))
        else:
            cells = [self._memo[raw] if type(raw) in HASHED else self._compute(raw) for raw in raws]
        return zip(*cells, strict=True) if self._wanted.text and self._wanted.value else cells

    def _unchanged(self, raws: Column) -> Any:
        if not self._wanted.text:
            return raws
        texts = list(map(orjson.dumps, raws))
        if self._wanted.before or self._wanted.after:
            texts = [b"%b%b%b" % (self._wanted.before, text, self._wanted.after) for text in texts]
        return (texts, raws) if self._wanted.value else texts

    def _compute(self, raw: Any) -> Any:
        value = self._normalize(raw)
        text = None if value is UNUSUAL else self._write(value)
        if text is None or not all(check(value) for check in self._checks):
            self._memos.unusual = True
            return (UNUSUAL, UNUSUAL) if self._wanted.text and self._wanted.value else UNUSUAL
        if text:
            text = b"%b%b%b" % (self._wanted.before, text, self._wanted.after)
        cell = (text, value) if self._wanted.text and self._wanted.value else text if self._wanted.text else value
        kind = type(raw)
        if kind in HASHED and (kind is not str or len(raw) <= MEMO_CHARS_MAX):
            self._memos.spend(ENTRY_BYTES + 4 * MEMO_CHARS_MAX * (kind is str) + len(text))
            self._memo[raw] = cell
        return cell


# --- what a cell is made of --------------------------------------------------------------------------------------


def normalizer(leaf: Leaf) -> Callable[[Any], Any]:
    """From a raw value to a normalized one, or ``UNUSUAL``."""
    each, coercion = leaf.each, leaf.coercion
    coerce = coercer(leaf.inner) if leaf.inner else None

    def normalize(value: Any) -> Any:
        issues: list[Issue] = []
        if each is not None and value is not ABSENT:
            value = map_each(each, value, issues)
        if issues:
            return UNUSUAL
        if value is None or value is ABSENT:
            return value
        if coercion is not None:
            value = coercion.apply(value)
            return UNUSUAL if value is ABSENT else value
        if coerce is not None:
            value = coerce({VALUE: value}, issues)[VALUE]
        return UNUSUAL if issues else value

    return normalize


def writer(leaf: Leaf) -> Callable[[Any], bytes | None]:
    """From a normalized value to its canonical text: empty for what is absent, None where it has none.

    Arrays and objects of a record that is not odd are written by ``orjson`` as RFC 8785 has it, unless a coercion
    makes numbers in them, or a mapping adds numbers or names that are not plain.
    """
    each = leaf.each
    is_plain = not leaf.inner and (each is None or all(map(adds_what_is_plain, each.each or ())))
    is_plain = is_plain and (each is None or all(map(is_plain_name, each.columns)))

    def write(value: Any) -> bytes | None:
        kind = type(value)
        if kind is str:
            return orjson.dumps(value)
        if value is ABSENT:
            return b""
        if kind is float and not is_plain_float(value):
            return canonical_json(value)
        if is_plain or kind in SCALARS:
            return orjson.dumps(value, option=PLAIN)
        try:
            return canonical_json(value)
        except NotCanonicalizableError:
            return None

    return write


def plainness(leaf: Leaf) -> Callable[[Any], bytes | None]:
    """From a normalized value to nothing, if ``orjson`` writes it as RFC 8785 does, or None."""
    write = writer(leaf)

    def check(value: Any) -> bytes | None:
        kind = type(value)
        if kind is float:
            return b"" if is_plain_float(value) else None
        if kind in SCALARS or value is ABSENT or leaf.passes:
            return b""
        return b"" if write(value) == orjson.dumps(value, option=PLAIN) else None

    return check


def is_plain_float(value: float) -> bool:
    return FRACTION_MIN <= abs(value) < FRACTION_MAX and bool(value % 1)


def is_plain_name(name: str) -> bool:
    """Whether a name sorts alike by code points and by UTF-16."""
    return name.isascii() or max(name) <= "\uffff"


def adds_what_is_plain(part: FieldMapping) -> bool:
    is_plain = type(part.default) is not float or is_plain_float(part.default)
    return is_plain and all(map(is_plain_name, part.target))


def checks_of(leaf: Leaf, schema: SchemaParts | None) -> list[Check]:
    """What must hold for a normalized value for nothing to be wrong with it."""
    checks: list[Check] = []
    if leaf.required:
        checks.append(lambda value: value is not None and value is not ABSENT)
    if leaf.must_exist:
        checks.append(lambda value: value is not ABSENT)
    if leaf.part is not True:
        assert schema is not None
        accepts = schema.accepts(leaf.path[0])
        checks.append(lambda value: value is ABSENT or accepts(value))
    checks += map(is_within, leaf.bounds)
    checks += map(is_allowed, leaf.allowed)
    return checks


def is_within(rule: BoundRule) -> Check:
    low, high = limits([rule])

    def check(value: Any) -> bool:
        if type(value) in NUMBERS:
            return bool(low <= value <= high)
        return value is None or value is ABSENT

    return check


def is_allowed(rule: AllowedRule) -> Check:
    return lambda value: value is None or value is ABSENT or canonical_json(value) in rule.values


def limits(bounds: Iterable[BoundRule]) -> tuple[float, float]:
    low = max((rule.minimum for rule in bounds if rule.minimum is not None), default=-math.inf)
    high = min((rule.maximum for rule in bounds if rule.maximum is not None), default=math.inf)
    return low, high


# --- columns that stay as they are -------------------------------------------------------------------------------


def stays_as_it_is(leaf: Leaf, schema: SchemaParts | None, memos: Memos) -> Callable[[Column, set[type]], bool]:
    """The test of a column, with the types in it, that all its values are usual and stay as they are."""
    if leaf.each is not None or leaf.inner or leaf.allowed:
        return lambda raws, kinds: False
    if leaf.coercion is not None and leaf.coercion.reads_rfc3339 and not leaf.bounds and is_of_times(leaf.part):
        accepts = schema.accepts(leaf.path[0]) if schema is not None and leaf.part is not True else is_text
        return Times(accepts, memos)
    types = SCALARS if leaf.coercion is None else leaf.coercion.unchanged | {type(None)}
    types &= plain_types(leaf.part) or frozenset()
    if leaf.required:
        types -= {type(None)}
    if type(leaf.default) is float and not is_plain_float(leaf.default):
        types -= {float}
    if not leaf.bounds:
        return lambda raws, kinds: kinds <= types
    types &= NUMBERS | {type(None)}
    low, high = limits(leaf.bounds)

    def stays(raws: Column, kinds: set[type]) -> bool:
        if not kinds <= types:
            return False
        numbers = [raw for raw in raws if raw is not None] if type(None) in kinds else raws
        return not numbers or bool(low <= min(numbers) and max(numbers) <= high)

    return stays


def is_of_times(part: Any) -> bool:
    """Whether a schema asks for no more than a timestamp."""
    return part is True or (
        type(part) is dict
        and {"type", "format"}.issuperset(part)
        and part.get("type", "string") == "string"
        and part.get("format", "date-time") == "date-time"
    )


def is_text(value: Any) -> bool:
    return type(value) is str


class Times:
    """The test that all values of a column are timestamps as ``read_rfc3339`` returns them.

    Such a text is known by its parts: date and hour, minute and second, fraction and ``Z``, each of which is known to
    be right or wrong by itself.
    """

    def __init__(self, accepts: Check, memos: Memos) -> None:
        self._accepts = accepts
        self._memos = memos
        self._hours: set[str] = set()
        self._seconds: set[str] = set()
        self._ends: set[str] = set()
        for parts in (self._hours, self._seconds, self._ends):
            memos.share(parts)

    def __call__(self, raws: Column, kinds: set[type]) -> bool:
        return (
            kinds == {str}
            and self._known(self._hours, {raw[:13] for raw in raws}, "", ":00:00Z")
            and self._known(self._seconds, {raw[13:19] for raw in raws}, "2000-01-01T00", "Z")
            and self._known(self._ends, {raw[19:] for raw in raws}, "2000-01-01T00:00:00", "")
        )

    def _known(self, known: set[str], parts: set[str], before: str, after: str) -> bool:
        for part in parts - known:
            text = before + part + after
            if read_rfc3339(text) != text or not self._accepts(text):
                return False
            self._memos.spend(ENTRY_BYTES)
            known.add(part)
        return True
