"""Paths into an event as policies write them: ``temp``, ``wind.speed``, or ``/wind/speed`` as a JSON pointer."""

import enum
import re
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

Segments: TypeAlias = tuple[str, ...]

SEGMENTS_MAX: Final = 8
SEGMENT_CHARS_MAX: Final = 128
POINTER_CHARS_MAX: Final = 512
INDEX = re.compile(r"0|[1-9][0-9]{0,6}", re.ASCII)


class Absent(enum.Enum):
    """The value of a path that leads nowhere; ``None`` is JSON's null, which is a value."""

    ABSENT = enum.auto()


ABSENT: Final = Absent.ABSENT


def parse_path(text: str) -> Segments:
    """Split a path into names.

    Raises:
        ValueError: Empty names, too long or too deep; the text says which.
    """
    if text.startswith("/"):
        segments = tuple(part.replace("~1", "/").replace("~0", "~") for part in text[1:].split("/"))
    else:
        segments = tuple(text.split("."))
    if not all(segments):
        raise ValueError("a path must not have empty names; write 'a', 'a.b', or '/a/b' for names with dots")
    if len(segments) > SEGMENTS_MAX:
        raise ValueError(f"a path may have at most {SEGMENTS_MAX} names, not {len(segments)}")
    if max(map(len, segments)) > SEGMENT_CHARS_MAX:
        raise ValueError(f"a name in a path may have at most {SEGMENT_CHARS_MAX} characters")
    return segments


def pointer(segments: Sequence[str | int]) -> str:
    """JSON pointer (RFC 6901), cut after ``POINTER_CHARS_MAX`` characters with an ellipsis."""
    text = "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in segments)
    return text if len(text) <= POINTER_CHARS_MAX else text[:POINTER_CHARS_MAX] + "…"


def read(value: Any, segments: Segments) -> Any:
    """The value at a path, or ``ABSENT``; an integer is an index of an array."""
    if len(segments) == 1 and type(value) is dict:
        return value.get(segments[0], ABSENT)
    for name in segments:
        if type(value) is dict:
            value = value.get(name, ABSENT)
        elif isinstance(value, list) and INDEX.fullmatch(name) and int(name) < len(value):
            value = value[int(name)]
        else:
            return ABSENT
    return value


def replaced(value: Any, segments: Segments, new: Any) -> Any:
    """A copy of ``value`` with ``new`` at a path that ``read`` found; only what is on the way is copied."""
    if not segments:
        return new
    name, rest = segments[0], segments[1:]
    if isinstance(value, list):
        index = int(name)
        return [*value[:index], replaced(value[index], rest, new), *value[index + 1 :]]
    return {**value, name: replaced(value.get(name, {}), rest, new)}
