"""What all formats of bodies share: the error of an unreadable one, character sets, text that can be stored."""

import re
from typing import Final

from protocols.canonical import Json
from protocols.errors import WorldFault

CHARSETS: Final = {
    "utf-8": "utf-8-sig",
    "utf8": "utf-8-sig",
    "us-ascii": "ascii",
    "iso-8859-1": "iso8859-1",
    "latin-1": "iso8859-1",
    "iso-8859-15": "iso8859-15",
    "windows-1252": "cp1252",
    "utf-16": "utf-16",
}
"""Python's codecs by the names that servers use. Python has more, some of which are not character sets."""
CHARSET: Final = re.compile(r';\s*+charset\s*+=\s*+"?([A-Za-z0-9_.:-]{1,40})', re.IGNORECASE)

_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")  # an escaped U+0000, not an escaped backslash before "u0000"
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")  # control characters, halves of surrogate pairs


class UnreadableBodyError(WorldFault):
    """A body is not in the format of its source. The text says why, as the end of a sentence: "the body ..."."""

    code = "unreadable-body"


def charset_of(media_type: str) -> str:
    """The charset of a Content-Type, in lower case; empty where it has none."""
    found = CHARSET.search(media_type[:1_024])
    return found[1].lower() if found else ""


def text_of(body: bytes, charset: str) -> str:
    """Decode a body.

    Args:
        charset: In lower case; UTF-8 where it is empty.

    Raises:
        UnreadableBodyError: The charset is not supported, or the body is not in it.
    """
    codec = CHARSETS.get(charset or "utf-8")
    if codec is None:
        raise UnreadableBodyError(f"is in the charset {charset}; supported are {', '.join(CHARSETS)}")
    try:
        return body.decode(codec)
    except UnicodeDecodeError as error:
        raise UnreadableBodyError(f"is not valid {charset or 'utf-8'} at byte {error.start}") from error


def holds_nul(content: bytes) -> bool:
    """Whether a JSON text contains the character U+0000, which the database cannot store."""
    return b"u0000" in content and _NUL.search(content) is not None


def nul_place(value: Json) -> tuple[str, str] | None:
    """What contains U+0000, and a JSON pointer to that; None where nothing of a value does."""
    found = _find_nul(value)
    return None if found is None else (found[0], "".join(f"/{step}" for step in reversed(found[1])))


def _find_nul(value: Json) -> tuple[str, list[str]] | None:
    """As ``nul_place``, with the steps of the pointer, the last one first."""
    if isinstance(value, str):
        return ("a string", []) if "\0" in value else None
    if not isinstance(value, dict | list):
        return None
    for name, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(name, str) and "\0" in name:
            return "a member's name", []
        found = _find_nul(item)
        if found is not None:
            found[1].append(str(name).replace("~", "~0").replace("/", "~1"))
            return found
    return None


def printable(text: str, chars_max: int) -> str:
    """A text of ours that quotes from outside, as it can be stored, logged and sent: control characters and halves of
    surrogate pairs are written as JSON escapes them, and what exceeds ``chars_max`` is cut off.
    """
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text[:chars_max])[:chars_max]
