"""Documents that clients send as typed models, and errors that name the wrong field.

A model is the one description of a document: it checks what is sent, and the interface's description is derived from
it. Attributes are snake_case, members of the document camelCase. An error names the field as a JSON pointer
(RFC 6901), what was found there, and what is allowed; the latter is read from the model's own JSON Schema.
"""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, TypeVar

import attrs
from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails, core_schema

from protocols.errors import ClientFault

Schema = dict[str, Any]

POINTER_CHARS_MAX: Final = 200
FOUND_CHARS_MAX: Final = 40
REASON_CHARS_MAX: Final = 400
CHOICES: Final = re.compile(r"\^\(([\w|-]+)\)\$")
"""A pattern that lists what is allowed."""
PRINTABLE: Final = r"^[\p{L}\p{M}\p{N}\p{P}\p{S} ]*[\p{L}\p{M}\p{N}\p{P}\p{S}][\p{L}\p{M}\p{N}\p{P}\p{S} ]*$"
PRINTABLE_WORDS: Final = "printable characters, not only spaces"
WITHOUT_NUL: Final = r"^[^\x00]*$"
WITHOUT_NUL_WORDS: Final = "characters other than U+0000"
WORDS_OF: Final = {PRINTABLE: PRINTABLE_WORDS, WITHOUT_NUL: WITHOUT_NUL_WORDS}
"""Patterns of ECMA-262 that errors put in words."""


class DocumentModel(BaseModel):
    """Frozen and strict: no value is converted, and unknown members are refused.

    Attributes:
        shows_strings: Whether errors repeat a string that was refused; not where members may be secrets.
    """

    shows_strings: ClassVar[bool] = False

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        hide_input_in_errors=True,
        alias_generator=to_camel,
        validate_by_name=False,
    )

    def to_json(self) -> dict[str, Any]:
        """The members that are set, as JSON values under the names of the interface."""
        return self.model_dump(by_alias=True, exclude_unset=True, warnings=False)


class SchemaMembers:
    """The annotation of a type whose JSON Schema has these members too."""

    def __init__(self, **members: Any) -> None:
        self._members = members

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), **self._members}


class TextRule:
    """The annotation of a string that a test decides about, with the pattern that describes it."""

    def __init__(self, pattern: str, words: str, test: Callable[[str], bool]) -> None:
        """Args:
        pattern: Of ECMA-262. words: Those that errors have for it: "must consist of ...".
        """
        self._pattern = pattern
        self._words = words
        self._test = test

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), "pattern": self._pattern}

    def _checked(self, text: str) -> str:
        if not self._test(text):
            raise ValueError(f"must consist of {self._words}")
        return text


IS_PRINTABLE: Final = TextRule(PRINTABLE, PRINTABLE_WORDS, lambda text: text.isprintable() and bool(text.strip()))
HAS_NO_NUL: Final = TextRule(WITHOUT_NUL, WITHOUT_NUL_WORDS, lambda text: "\0" not in text)

Model = TypeVar("Model", bound=BaseModel)


@attrs.frozen(kw_only=True)
class FieldProblem:
    """The first thing that is wrong with a document.

    Attributes:
        pointer: Where, as a JSON pointer into the document.
        reason: What is wrong: "must be an array of 1 to 64 strings, found null".
        remedy: What to send instead.
    """

    pointer: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.pointer}: {self.reason}"


class FixedMemberError(ClientFault):
    """A member that only the creation sets would change. Fields: ``field``, a JSON pointer, and ``remedy``."""

    code = "fixed-member"


def optional_member(**options: Any) -> Any:
    """A member that may be left out and has no default that could be sent, so its schema shows none.

    Args:
        options: As for pydantic's ``Field``.
    """
    return Field(default=None, json_schema_extra=_without_default, **options)


def _without_default(schema: Schema) -> None:
    schema.pop("default", None)


def read_document(
    model: type[Model],
    document: Mapping[str, Any],
    fault: Callable[[FieldProblem], Exception],
    *,
    pointer: str = "",
) -> Model:
    """Check a document against its model.

    Args:
        fault: Makes the error to raise; problems differ in their codes by kind of document.
        pointer: Where ``document`` stands in what the client sent.

    Raises:
        Exception: What ``fault`` makes of the first problem.
    """
    try:
        return model.model_validate(dict(document))
    except ValidationError as error:
        raise fault(field_problem(model, error, pointer=pointer)) from None


def field_problem(model: type[BaseModel], error: ValidationError, *, pointer: str = "") -> FieldProblem:
    """The first problem of a validation by ``model``.

    Args:
        pointer: Where the document stands in what the client sent.
    """
    detail = error.errors(include_url=False)[0]
    place = pointer + "".join(f"/{escaped(str(part))}" for part in detail["loc"])
    reason, remedy = _words(model, detail)
    return FieldProblem(pointer=place[:POINTER_CHARS_MAX] or "/", reason=reason[:REASON_CHARS_MAX], remedy=remedy)


def escaped(part: str) -> str:
    """A member's name as a token of a JSON pointer (RFC 6901, section 3)."""
    return part.replace("~", "~0").replace("/", "~1")


def _words(model: type[BaseModel], detail: ErrorDetails) -> tuple[str, str]:
    """What is wrong, and what to do about it."""
    if detail["type"] == "extra_forbidden":
        members = ", ".join(_schema_at(model, detail["loc"][:-1]).get("properties", {}))
        return "unknown member", f"allowed members are {members}"
    allowed = allowed_text(_schema_at(model, detail["loc"]))
    if detail["type"] == "value_error":
        return detail["msg"].removeprefix("Value error, "), f"send {allowed}"
    if detail["type"] == "missing":
        return "is missing", f"send {allowed}"
    return f"must be {allowed}, found {_found(detail, shown=_shows_strings(model))}", f"send {allowed}"


def _shows_strings(model: type[BaseModel]) -> bool:
    return issubclass(model, DocumentModel) and model.shows_strings


def _found(detail: ErrorDetails, *, shown: bool) -> str:
    """What stood there. Strings are shown where the model lists what is allowed, or has no secrets (``shown``)."""
    value = detail["input"]
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"{value!r:.{FOUND_CHARS_MAX}}"
        case str() if shown or detail["type"] == "literal_error":
            return f"{value[:FOUND_CHARS_MAX]!r}"
        case str():
            return f"a string of {_counted(len(value), 'character')}"
        case list():
            return f"an array of {_counted(len(value), 'item')}"
        case _:
            return "an object"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


@functools.lru_cache(maxsize=64)
def _schema(model: type[BaseModel]) -> Schema:
    return model.model_json_schema(by_alias=True)


def _schema_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> Schema:
    """The part of a model's schema that describes one field; empty where the schema does not go so deep."""
    root = _schema(model)
    here = root
    for part in loc:
        here = _resolved(here, root)
        found = here.get("items") if isinstance(part, int) else here.get("properties", {}).get(part)
        if found is None:
            return {}
        here = found
    return _resolved(here, root)


def _resolved(schema: Schema, root: Schema) -> Schema:
    """Without ``$ref``; of a schema that also allows null, the other part."""
    if "$ref" in schema:
        return _resolved(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    others = [each for each in schema.get("anyOf", ()) if each.get("type") != "null"]
    if len(others) == 1:
        return {**_resolved(others[0], root), "nullable": True}
    return schema


def allowed_text(schema: Schema) -> str:
    """What a JSON Schema allows, in words: "a string of 1 to 128 characters"."""
    text = _allowed(schema)
    return f"{text}, or null" if schema.get("nullable") else text


def _allowed(schema: Schema) -> str:
    if "enum" in schema:
        return f"one of {', '.join(str(each) or 'an empty string' for each in schema['enum'])}"
    if "const" in schema:
        return str(schema["const"])
    match schema.get("type"):
        case "string" if schema.get("format") == "date-time":
            return "a time as in RFC 3339"
        case "string" if (choices := CHOICES.fullmatch(schema.get("pattern", ""))) is not None:
            return f"one of {choices[1].replace('|', ', ')}"
        case "string":
            return _string(schema)
        case "integer" | "number" as kind:
            size = _range(schema.get("minimum"), schema.get("maximum"), "")
            return f"{'an integer' if kind == 'integer' else 'a number'}{size and f' of {size}'}"
        case "boolean":
            return "true or false"
        case "array":
            items = {"string": "strings", "integer": "integers", "object": "objects"}
            what = items.get(schema.get("items", {}).get("type", ""), "items")
            size = _range(schema.get("minItems"), schema.get("maxItems"), f" {what}")
            return f"an array of {size or what}"
        case "object":
            return "an object"
        case _:
            return "as /openapi.json describes it"


def _string(schema: Schema) -> str:
    pattern = schema.get("pattern", "")
    what = WORDS_OF.get(pattern, "characters")
    size = _range(schema.get("minLength"), schema.get("maxLength"), f" {what}")
    if pattern in WORDS_OF:
        return f"a string of {size or what}"
    return f"a string{size and f' of {size}'}{pattern and f' matching {pattern}'}"


def _range(least: int | None, most: int | None, unit: str) -> str:
    if least is not None and most is not None:
        return f"{least} to {most}{unit}"
    if most is not None:
        return f"at most {most}{unit}"
    return "" if least is None else f"at least {least}{unit}"
