"""JSON in and out of JSONB columns: what comes out is what went in, and what cannot go in is refused.

JSONB keeps a number as its decimal digits and writes it back without an exponent, so a double from 1e21 on comes
back as the digits of an integer. ``orjson`` reads an integer that exceeds 64 bits as the double it stands for, which
is the double that went in; Python's ``json`` reads an integer that nothing can write any more.
"""

import json
import re
from typing import Any, Final

import orjson
import psycopg
from psycopg.types.json import set_json_dumps, set_json_loads

from storage.errors import StorageRefusedError

_OPTIONS: Final = orjson.OPT_NON_STR_KEYS
_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")  # an escaped U+0000, not an escaped backslash before "u0000"


def adapt(connection: psycopg.Connection) -> None:
    """Have a connection read and write JSON as this module does."""
    set_json_loads(orjson.loads, connection)
    set_json_dumps(dump_json, connection)


def dump_json(value: Any) -> bytes:
    """The text of a JSON value for a JSONB column.

    Raises:
        StorageRefusedError: It holds U+0000, half of a surrogate pair, a number that is not finite, an integer that
            exceeds 64 bits, or a value without a JSON form.
    """
    try:
        text = orjson.dumps(value, option=_OPTIONS)
        if b"null" in text:
            json.dumps(value, allow_nan=False)  # orjson writes NaN and infinities as null
    except (TypeError, ValueError, RecursionError) as error:
        raise StorageRefusedError(f"a value cannot be stored as JSON: {error}") from error
    if b"u0000" in text and _NUL.search(text):
        raise StorageRefusedError("a value cannot be stored as JSON: it contains the character U+0000")
    return text
