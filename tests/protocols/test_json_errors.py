"""What is wrong with a JSON text is stated in plain words, whichever parser found it."""

import json
import re

import jiter
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.json_errors import json_flaw

JARGON = re.compile(
    r"EOF|parsing|ident\b|delimiter|code point|[Ee]xpect|Extra data|Detected|surrogate in hex|char \d|\\u0000"
)
TEXTS = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
).map(json.dumps)


def flaws(text: str) -> list[str]:
    """What the parsers in use find."""
    found = []
    try:
        jiter.from_json(text.encode(), allow_inf_nan=False, catch_duplicate_keys=True)
    except ValueError as error:
        found.append(json_flaw(str(error)))
    try:
        json.loads(text)
    except ValueError as error:
        found.append(json_flaw(str(error)))
    return found


@given(TEXTS, st.data())
def test_every_broken_text_is_explained(text: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(text)))
    inserted = data.draw(
        st.sampled_from(["", "]", "}", ",", ":", '"', "\\", "\\ud800", "\n", "x", "-", "01", "{", "["])
    )
    removed = data.draw(st.integers(0, 3))
    for words in flaws(text[:at] + inserted + text[at + removed :]):
        assert not JARGON.search(words), words
        assert not words.startswith("it is not JSON"), words
        assert re.search(r"\(line \d+, column \d+\)$", words), words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1, "a": 2}', 'the member "a" occurs twice (line 1, column 14)'),
        ('{\n"a": tru}', "a value must stand here (line 2, column"),
        ("[1,]", "a comma must be followed by another item or member (line 1, column"),
        ("{'a': 1}", "a member's name must be a string in double quotes (line 1, column 2)"),
        ('{"a": 1', "an object has no end (line 1, column 7)"),
        ('["a\tb"]', "a control character must be written as \\u and four hex digits (line 1, column"),
        ("1 2", "nothing may follow the value (line 1, column 3)"),
    ],
)
def test_flaws_name_their_place(text: str, words: str) -> None:
    assert flaws(text)[0].startswith(words)


def test_an_unknown_message_is_no_jargon_either() -> None:
    assert json_flaw("unfathomable token at line 3 column 9") == "it is not JSON (line 3, column 9)"
