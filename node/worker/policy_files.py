"""Policy files and bodies: JSON, or YAML with the same values and the same limits.

YAML is read as version 1.2 with its core schema, from the parser's events, so that nothing is built before it is
checked: what has several meanings among readers of YAML (anchors, tags, merge keys, directives), or none in JSON, is
refused with its line.
"""

import math
import re
from collections.abc import Callable
from typing import Any, Final

from node.worker.parsing.text import nul_place
from protocols.canonical import INTEGER_MAX, Json, canonical_json, parse_json
from protocols.errors import InvalidJsonError, InvalidPolicyError, NotCanonicalizableError
from protocols.limits import JSON_DEPTH_MAX, POLICY_BYTES_MAX

YAML_TYPES: Final = ("application/yaml", "application/x-yaml", "text/yaml")
YAML_NODES_MAX: Final = 20_000  # each takes about 25 us to read, and requests of others wait meanwhile
MERGE_KEY: Final = "<<"
BREAKS_OF_1_1: Final = re.compile("[\\x85\\u2028\\u2029]")  # the parser takes them so, as YAML 1.2 does not

CONSTANTS: Final = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
INTEGERS: Final[tuple[tuple[re.Pattern[str], Callable[[str], int]], ...]] = (
    (re.compile(r"[-+]?[0-9]+"), int),
    (re.compile(r"0o[0-7]+"), lambda text: int(text[2:], 8)),
    (re.compile(r"0x[0-9a-fA-F]+"), lambda text: int(text[2:], 16)),
)
FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
NOT_FINITE: Final = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
NUMBER_CHARS_MAX: Final = 1_000


def read_policy(data: bytes, *, yaml: bool) -> Json:
    """The value of a file or a body.

    Raises:
        InvalidPolicyError: It cannot be read. ``path`` is a JSON pointer to what is wrong, or empty where the text
            has the line.
    """
    if len(data) > POLICY_BYTES_MAX:
        raise InvalidPolicyError(
            f"a policy may have at most {POLICY_BYTES_MAX} bytes, this one has {len(data)}", path=""
        )
    value = _read_yaml(data) if yaml else _read_json(data)
    place = nul_place(value)
    if place is not None:
        what, pointer = place
        raise InvalidPolicyError(f"{pointer or '/'}: {what} must not contain U+0000", path=pointer)
    return value


def _read_json(data: bytes) -> Json:
    try:
        return parse_json(data)
    except InvalidJsonError as error:
        raise InvalidPolicyError(str(error), path="") from error


def _read_yaml(data: bytes) -> Json:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    reader = _Reader()
    try:
        text = data.decode("utf-8-sig")
        if (found := BREAKS_OF_1_1.search(text)) is not None:
            line = text.count("\n", 0, found.start()) + 1
            raise _refusal(
                line, f"U+{ord(found[0]):04X} ends a line in YAML 1.1 alone: write it as an escape, in quotes"
            )
        for event in YAML(typ="safe", pure=True).parse(text):
            reader.take(event)
    except (YAMLError, UnicodeDecodeError, ValueError) as error:
        raise InvalidPolicyError(f"not valid YAML: {' '.join(str(error).split())[:300]}", path="") from error
    try:
        canonical_json(reader.value)  # as of JSON: no half of a surrogate pair, nothing too deep
    except NotCanonicalizableError as error:
        raise InvalidPolicyError(str(error), path=error.fields["path"]) from error
    return reader.value


class _Reader:
    """Builds the value of a document from the events of YAML's parser.

    Attributes:
        value: The document's, once all events were taken.
    """

    def __init__(self) -> None:
        self.value: Json = None
        self._open: list[Any] = []  # collections that are not closed yet, the outermost first
        self._keys: list[str | None] = []  # for each of them, the key whose value comes next
        self._nodes = 0
        self._documents = 0

    def take(self, event: Any) -> None:
        """Take the next event in; raises InvalidPolicyError."""
        kind, line = type(event).__name__, event.start_mark.line + 1
        if getattr(event, "anchor", None) is not None or getattr(event, "tag", None) is not None:
            raise _refusal(line, "anchors, aliases and tags are not allowed")
        match kind:
            case "DocumentStartEvent":
                self._begin_document(event, line)
            case "ScalarEvent":
                self._take_scalar(event, line)
            case "MappingStartEvent":
                self._begin({}, line)
            case "SequenceStartEvent":
                self._begin([], line)
            case "MappingEndEvent" | "SequenceEndEvent":
                self._open.pop()
                self._keys.pop()

    def _begin_document(self, event: Any, line: int) -> None:
        self._documents += 1
        if self._documents > 1:
            raise _refusal(line, "one document only")
        if event.version is not None or event.tags:
            raise _refusal(line, "directives are not allowed")

    def _take_scalar(self, event: Any, line: int) -> None:
        text = _joined(event.value, line)
        if self._awaits_key:
            if event.style is None and not isinstance(_plain(text, line), str):
                raise _refusal(line, f"a key must be a string: write {text[:80]!r} in quotes")
            self._take_key(text, line)
        else:
            self._place(_plain(text, line) if event.style is None else text, line)

    @property
    def _awaits_key(self) -> bool:
        return bool(self._open) and isinstance(self._open[-1], dict) and self._keys[-1] is None

    def _take_key(self, key: str, line: int) -> None:
        self._count(line)
        if key == MERGE_KEY:
            raise _refusal(line, "merge keys are not allowed")
        if key in self._open[-1]:
            raise _refusal(line, f"the key {key[:80]!r} stands there twice")
        self._keys[-1] = key

    def _begin(self, collection: Any, line: int) -> None:
        if self._awaits_key:
            raise _refusal(line, "a key must be a string")
        self._place(collection, line)
        self._open.append(collection)
        self._keys.append(None)
        if len(self._open) > JSON_DEPTH_MAX:
            raise _refusal(line, f"nested deeper than {JSON_DEPTH_MAX} levels")

    def _place(self, value: Json, line: int) -> None:
        self._count(line)
        if not self._open:
            self.value = value
        elif isinstance(self._open[-1], list):
            self._open[-1].append(value)
        else:
            self._open[-1][self._keys[-1]] = value
            self._keys[-1] = None

    def _count(self, line: int) -> None:
        self._nodes += 1
        if self._nodes > YAML_NODES_MAX:
            raise _refusal(line, f"more than {YAML_NODES_MAX} keys and values; larger documents are sent as JSON")


def _refusal(line: int, why: str) -> InvalidPolicyError:
    return InvalidPolicyError(f"line {line}: {why}", path="")


def _joined(text: str, line: int) -> str:
    """The characters that pairs of surrogates stand for, as JSON writes them."""
    if not any("\ud800" <= char <= "\udfff" for char in text):
        return text
    try:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError as error:
        raise _refusal(line, "half of a surrogate pair is no character") from error


def _plain(text: str, line: int) -> Json:
    """The value of a scalar without quotes."""
    if text in CONSTANTS:
        return CONSTANTS[text]
    if NOT_FINITE.fullmatch(text):
        raise _refusal(line, f"{text} has no JSON form: a number must be finite")
    if not FLOAT.fullmatch(text) and not text.startswith(("0o", "0x")):
        return text
    if len(text) > NUMBER_CHARS_MAX:
        raise _refusal(line, f"a number may have at most {NUMBER_CHARS_MAX} characters")
    for form, read in INTEGERS:
        if form.fullmatch(text):
            number = read(text)
            if abs(number) > INTEGER_MAX:
                raise _refusal(line, "an integer beyond 2^53 - 1: write it as a string")
            return number
    if not FLOAT.fullmatch(text):
        return text
    if not math.isfinite(float(text)):
        raise _refusal(line, "a number that is too large for a double")
    return float(text)
