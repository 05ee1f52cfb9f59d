"""Reads the settings: a flat TOML file, overridden by the environment. Nothing that is set is ignored.

A TOML key is the variable's name in lower case. A setting that this version cannot honour is refused when it is set
to such a value. An unknown key of the file is refused. An unknown variable of ours is only warned of, by
``Settings.warnings``: orchestrators put variables like ``OVERLAY_NODE_SERVICE_HOST`` into environments that nobody
wrote by hand.
"""

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, get_args, get_origin

import attrs
from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from node.runtime.access import TrustedCertifier
from node.runtime.setting_types import Accepts, Only
from node.runtime.settings import Settings
from protocols.errors import OverlayError

M = TypeVar("M")

REASONS: Final = {
    "bool_parsing": "is not true or false",
    "bool_type": "is not true or false",
    "float_parsing": "is not a number",
    "float_type": "is not a number",
    "int_from_float": "is not an integer",
    "int_parsing": "is not an integer",
    "int_type": "is not an integer",
    "literal_error": "is not one of the values allowed",
    "path_type": "is not a path",
    "string_type": "is not a text",
    "tuple_type": "is not a list",
}
"""What is wrong, by pydantic's type of error, where its own text names types of Python."""
TOLD_CHARS_MAX: Final = 500
PREFIXES: Final = re.compile(r"(EVENT|OVERLAY|BRC\d*)_")


class ConfigError(OverlayError):
    """Settings are wrong: one line for each problem, with the setting, its value and what is accepted.

    Field ``problems``: those lines.
    """

    code = "config"

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems), problems=list(problems))


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """Read a TOML file, if one is given, and the environment over it.

    Raises:
        ConfigError: naming every setting that is unknown, out of bounds or cannot be honoured.
    """
    from_file = _read(path) if path is not None else {}
    known = Settings.model_fields
    problems = [_unknown(f"{path}: {name}", name, list(known)) for name in from_file if name not in known]
    from_environ = {
        name: _from_text(field, environ[name.upper()]) for name, field in known.items() if name.upper() in environ
    }
    values = {name: value for name, value in from_file.items() if name in known} | from_environ
    places = {name: name.upper() if name in from_environ else f"{path}: {name}" for name in values}
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        problems += _problems(error, values, places)
        raise ConfigError(*problems) from None
    if problems:
        raise ConfigError(*problems)
    settings._warnings = tuple(_unknown_variables(environ))
    return settings


@attrs.frozen(kw_only=True)
class Change:
    """A setting that differs, its values as text; of a secret they are hidden."""

    name: str
    before: str
    after: str


def changes(before: Settings, after: Settings) -> tuple[Change, ...]:
    """The settings that differ, in their order."""
    return tuple(
        Change(name=name, before=_told(field, getattr(before, name)), after=_told(field, getattr(after, name)))
        for name, field in Settings.model_fields.items()
        if getattr(before, name) != getattr(after, name)
    )


def settings_table() -> str:
    """Every setting as a Markdown table."""
    lines = [
        "| environment variable (TOML key: the same in lower case) | default | what it is | accepted |",
        "| --- | --- | --- | --- |",
    ]
    for name, field in Settings.model_fields.items():
        is_unset = field.default_factory is not None or field.default in (None, (), "")
        default = "" if is_unset else f"`{_shown(field.default)}`"
        lines.append(f"| `{name.upper()}` | {default} | {field.description} | {accepted(field)} |")
    return "\n".join(lines)


def accepted(field: FieldInfo) -> str:
    """What a setting may be, in words."""
    only = _metadata(field.metadata, Only)
    if only is not None:
        return _shown(only.value)
    kind = field.annotation
    bounds = {type(bound).__name__: bound for bound in field.metadata}
    named = _metadata(field.metadata, Accepts) or _metadata(_parts(kind), Accepts)
    if _is_list(field):
        most = f"at most {bounds['MaxLen'].max_length} " if "MaxLen" in bounds else ""
        items = named.text if named is not None else ", ".join(_parts(kind))
        return f"a list of {most}{items} (comma-separated in the environment)"
    if named is not None:
        return named.text
    if kind is bool:
        return "true or false"
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    if kind in (int, float):
        return f"{'an integer' if kind is int else 'a number'} from {bounds['Ge'].ge} to {bounds['Le'].le}"
    if kind is str:
        least = "1 to " if "MinLen" in bounds else "at most "
        return f"text of {least}{bounds['MaxLen'].max_length} characters"
    return "a path"


def _metadata(candidates: Any, kind: type[M]) -> M | None:
    return next((each for each in candidates if isinstance(each, kind)), None)


def _parts(annotation: Any) -> list[Any]:
    """What is annotated to, or literal in, the items of a list, or the value of an optional setting."""
    return [
        part
        for inner in get_args(annotation)
        for part in (get_args(inner) if get_origin(inner) in (Annotated, Literal) else ())
    ]


def _is_list(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is tuple


def _is_secret(field: FieldInfo) -> bool:
    return SecretStr in (field.annotation, *_parts(field.annotation))


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}). Name a file that can") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not TOML ({error}). Correct that line") from None


def _from_text(field: FieldInfo, text: str) -> Any:
    """A variable's text: a list is split at its commas, so that no item of it can contain one."""
    if _is_list(field):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return None if not text and _is_secret(field) else text


def _unknown(place: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name.lower() if place != name else name, known, n=1, cutoff=0.7)
    remedy = f"Did you mean {near[0]}?" if near else "Remove it; 'overlay-node settings' lists them all"
    return f"{place}: is not a setting of this version. {remedy}"


def _unknown_variables(environ: Mapping[str, str]) -> Iterator[str]:
    known = [name.upper() for name in Settings.model_fields]
    for name in sorted(environ):
        if PREFIXES.match(name) and name not in known:
            yield _unknown(name, name, known)


def _problems(error: ValidationError, values: Mapping[str, Any], places: Mapping[str, str]) -> Iterator[str]:
    """A line for each setting that is wrong: the first thing wrong with it."""
    seen = set()
    for detail in error.errors(include_url=False, include_context=False):
        name = str(detail["loc"][0])
        if name in values and name not in seen:  # one that is not set is only wrong because of another
            seen.add(name)
            field = Settings.model_fields[name]
            value = "(hidden)" if _is_secret(field) else f"{_shown(values[name]):.200}"
            yield f"{places[name]} = {value}: {_reason(detail)}. Set it to {accepted(field)}"


def _reason(detail: ErrorDetails) -> str:
    """What is wrong: our own words where a check of ours refused it, else that it is not of the kind it has to be."""
    kind = REASONS.get(detail["type"])
    if kind is not None:
        return kind
    return detail["msg"].removeprefix("Value error, ").replace("Input should", "should", 1)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)


def _told(field: FieldInfo, value: Any) -> str:
    """A setting that was read, as it is written."""
    return "(hidden)" if _is_secret(field) else _written(value)[:TOLD_CHARS_MAX]


def _written(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, TrustedCertifier):
        fields = "+".join(value.fields)
        return ":".join(filter(None, (value.certifier.hex(), value.type, value.role.value, fields)))
    if isinstance(value, tuple):
        of_pairs = bool(value) and isinstance(value[0], bytes) and isinstance(value[-1], str)
        return (":" if of_pairs else ",").join(map(_written, value))
    return "" if value is None else _shown(value)
