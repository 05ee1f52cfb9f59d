"""What all formats of bodies have in common: why one is refused, and which characters its bytes are."""

import re
from typing import Final

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
"""Those that are taken, by the names that servers give them; Python has more, some of them no character sets."""
CHARSET: Final = re.compile(r';\s*+charset\s*+=\s*+"?([A-Za-z0-9_.:-]{1,40})', re.IGNORECASE)

_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")  # an escaped U+0000, not an escaped backslash before "u0000"


class UnreadableBodyError(WorldFault):
    """A body is not in the format that its source has; the text says why, and continues "the body ..."."""

    code = "unreadable-body"


def charset_of(media_type: str) -> str:
    """The charset that a Content-Type names, in lower case; empty where it names none."""
    found = CHARSET.search(media_type[:1_024])
    return found[1].lower() if found else ""


def text_of(body: bytes, charset: str) -> str:
    """A body as text, UTF-8 where nobody says otherwise.

    Raises:
        UnreadableBodyError: The charset is not known here, or the body is not in it.
    """
    codec = CHARSETS.get(charset or "utf-8")
    if codec is None:
        raise UnreadableBodyError(f"is in {charset}, known here are {', '.join(CHARSETS)}")
    try:
        return body.decode(codec)
    except UnicodeDecodeError as error:
        raise UnreadableBodyError(f"is not in {charset or 'utf-8'}: byte {error.start}") from error


def holds_nul(content: bytes) -> bool:
    """Whether a JSON text holds the character U+0000, which no text of the database can hold."""
    return b"u0000" in content and _NUL.search(content) is not None
