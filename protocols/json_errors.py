"""What is wrong with a JSON text, in plain words: parsers have words of their own for it."""

import re
from typing import Final

PLACE: Final = re.compile(r"(.*)(?: at|:) line (\d+) column (\d+)(?: \(char \d+\))?", re.DOTALL)
REPEATED: Final = "Detected duplicate key "
ESCAPES: Final = r"an escape must be one of \" \\ \/ \b \f \n \r \t, or \u and four hex digits"
NO_END: Final = "a string has no end"
SURROGATE: Final = "half of a surrogate pair is not a character"
CONTROL: Final = r"a control character must be written as \u and four hex digits"
NAME: Final = "a member's name must be a string in double quotes"
VALUE: Final = "a value must stand here"
LAST_COMMA: Final = "a comma must be followed by another item or member"
WORDS: Final = {  # by the beginning of what jiter and the json module of Python say
    "EOF while parsing a string": NO_END,
    "EOF while parsing a list": "an array has no end",
    "EOF while parsing an object": "an object has no end",
    "EOF while parsing a value": "the text ends where a value must stand",
    "expected `:`": "a colon must follow a member's name",
    "expected `,` or `]`": "a comma or ] must follow an item of an array",
    "expected `,` or `}`": "a comma or } must follow a member of an object",
    "expected ": VALUE,
    "invalid escape": ESCAPES,
    "unexpected end of hex escape": SURROGATE,
    "lone leading surrogate": SURROGATE,
    "invalid number": "a number must have no plus sign, no leading zeros, and digits at its end",
    "number out of range": "a number has too many digits",
    "invalid unicode code point": "the text must be UTF-8",
    "control character": CONTROL,
    "key must be a string": NAME,
    "trailing comma": LAST_COMMA,
    "trailing characters": "nothing may follow the value",
    "recursion limit": "it is nested too deeply",
    "Unterminated string": NO_END,
    "Expecting ':' delimiter": "a colon must follow a member's name",
    "Expecting ',' delimiter": "a comma, or the end of the array or object, must stand here",
    "Expecting property name": NAME,
    "Expecting value": VALUE,
    "Illegal trailing comma": LAST_COMMA,
    "Invalid \\": ESCAPES,
    "Invalid control character": CONTROL,
    "Extra data": "nothing may follow the value",
    "Unexpected UTF-8 BOM": "it must not begin with a byte order mark",
}


def json_flaw(message: str) -> str:
    """A parser's message in plain words, with the line and the column where it has them."""
    found = PLACE.fullmatch(message)
    what, place = (found[1], f" (line {found[2]}, column {found[3]})") if found else (message, "")
    if what.startswith(REPEATED):
        return f"the member {what.removeprefix(REPEATED)[:80]} occurs twice{place}"
    words = next((words for start, words in WORDS.items() if what.startswith(start)), "it is not JSON")
    return words + place
