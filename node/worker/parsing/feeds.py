"""RSS and Atom documents become their entries. Pure; runs in a worker process.

``feedparser`` handles the many dialects. It is given only well-formed XML of bounded depth without entity
declarations: otherwise it would fall back to a parser of regular expressions, which a hostile document can keep busy
for hours and which takes half an entry for a whole one. It also compares each tag with all before it, each element
with all namespaces, and searches names of persons for addresses from every letter on: what such work grows with is
bounded here too. Markup in entries is left as the feed has it.
"""

import calendar
import codecs
import math
import re
import time
from collections.abc import Mapping
from typing import Any, Final
from xml.parsers import expat

import attrs

from node.worker.parsing.text import UnreadableBodyError, text_of
from protocols.certificate import rfc3339

HEAD_BYTES_MAX: Final = 8 * 1024  # before the first element: feedparser searches it in quadratic time
DEPTH_MAX: Final = 64
ELEMENTS_MAX: Final = 100_000  # feedparser takes some 40 us for each
ATTRIBUTES_MAX: Final = 256  # of one element
PREFIXES_MAX: Final = 128  # of namespaces: each element of an unknown one is compared with all
BASE_CHARS_MAX: Final = 1_024  # of xml:base and xml:lang, which every element below is given
TERMS_MAX: Final = 512  # of one entry: each is compared with all before it
PERSON_CHARS_MAX: Final = 16 * 1024
PERSON_WORD_CHARS_MAX: Final = 128  # searched for an address in quadratic time
INHERITED: Final = frozenset({"xml:base", "base", "xml:lang", "lang"})
ENTRIES: Final = frozenset({"item", "entry"})
TERMS: Final = frozenset({"category", "subject", "keywords", "tags"})
LISTS_OF_TERMS: Final = frozenset({"keywords", "tags"})  # separated by commas
PERSONS: Final = frozenset({"author", "creator", "managingeditor", "publisher", "webmaster"})
LONG_WORD: Final = re.compile(rf"[A-Za-z0-9_.+-]{{{PERSON_WORD_CHARS_MAX + 1}}}")
VALUES_DEPTH_MAX: Final = 8
FIRST_ELEMENT: Final = re.compile(rb"<\w")
FEED_ROOTS: Final = frozenset({"rss", "feed", "RDF"})


@attrs.frozen(kw_only=True)
class FeedEntry:
    """An entry of a feed.

    Attributes:
        data: JSON values by feedparser's names: ``title``, ``link``, ``summary``, ``tags``, ...
        external_id: Its guid or id, else its link; None where it has neither.
        timestamp: When it was published, else updated, as RFC 3339; None where it has neither.
    """

    data: dict[str, Any]
    external_id: str | None
    timestamp: str | None


def entries(body: bytes, charset: str) -> list[FeedEntry]:
    """The entries of a feed, in order.

    Args:
        charset: Of the response, which takes precedence over the document's own (RFC 7303); may be empty.

    Raises:
        UnreadableBodyError: It is not a well-formed feed, or exceeds the bounds that keep parsing it cheap.
    """
    import feedparser  # only workers that need it load it

    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        charset = "utf-16"
    if charset:
        body = text_of(body, charset).encode()
    _check(body, "utf-8" if charset else None)
    parsed = feedparser.parse(
        _Bytes(body),
        response_headers={"content-type": "application/xml" + ("; charset=utf-8" if charset else "")},
        resolve_relative_uris=False,
        sanitize_html=False,
    )
    return [_entry(each) for each in parsed.entries]


class _Bytes:
    """A document as a file, which feedparser cannot take for a file name or an address."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def read(self) -> bytes:
        return self._body


class _Walk:
    """Counts what a document consists of in one pass over it, before feedparser reads it."""

    def __init__(self) -> None:
        self.root = ""
        self._open: list[str] = []
        self._elements = 0
        self._prefixes: set[str] = set()
        self._terms = 0
        self._person = 0  # how deep the outermost element stands that names a person; 0: the walk is in none
        self._person_text: list[str] = []
        self._person_chars = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        local = name.rpartition(":")[2]
        self.root = self.root or local
        local = local.lower()
        self._open.append(local)
        self._elements += 1
        _bound(self._elements, ELEMENTS_MAX, "elements")
        if len(self._open) > DEPTH_MAX:
            raise UnreadableBodyError(f"is nested deeper than {DEPTH_MAX} levels")
        if len(attributes) > ATTRIBUTES_MAX:
            raise UnreadableBodyError(f"has an element with more than {ATTRIBUTES_MAX} attributes")
        if attributes:
            self._check_attributes(attributes)
        if local in ENTRIES:
            self._terms = 0
        elif local in TERMS:
            self._count_terms(1)
        elif local in PERSONS and not self._person:
            self._person = len(self._open)

    def text(self, text: str) -> None:
        if self._person:
            self._person_chars += len(text)
            _bound(self._person_chars, PERSON_CHARS_MAX, "characters in the name of a person")
            self._person_text.append(text)
        if self._open[-1] in LISTS_OF_TERMS:
            self._count_terms(text.count(","))

    def end(self, name: str) -> None:
        if self._person == len(self._open):
            if LONG_WORD.search("".join(self._person_text)):
                raise UnreadableBodyError(
                    f"has a word of more than {PERSON_WORD_CHARS_MAX} characters in the name of a person"
                )
            self._person, self._person_chars, self._person_text = 0, 0, []
        self._open.pop()

    def entity(self, *declaration: Any) -> None:
        raise UnreadableBodyError("declares entities, which are not allowed in a feed")

    def _check_attributes(self, attributes: dict[str, str]) -> None:
        for name, value in attributes.items():
            if name.startswith("xmlns"):
                self._prefixes.add(name)
                _bound(len(self._prefixes), PREFIXES_MAX, "prefixes of namespaces")
            elif name.lower() in INHERITED:
                _bound(len(value), BASE_CHARS_MAX, f"characters in an attribute {name.lower()}")

    def _count_terms(self, count: int) -> None:
        self._terms += count
        _bound(self._terms, TERMS_MAX, "categories and keywords in one entry")


def _bound(count: int, most: int, what: str) -> None:
    if count > most:
        raise UnreadableBodyError(f"has more than {most} {what}")


def _check(body: bytes, encoding: str | None) -> None:
    element = FIRST_ELEMENT.search(body)
    if element is not None and element.start() > HEAD_BYTES_MAX:
        raise UnreadableBodyError(f"has more than {HEAD_BYTES_MAX} bytes before its first element")
    walk = _Walk()
    parser = expat.ParserCreate(encoding)
    parser.StartElementHandler, parser.EndElementHandler = walk.start, walk.end
    parser.CharacterDataHandler, parser.buffer_text = walk.text, True
    parser.EntityDeclHandler = walk.entity
    try:
        parser.Parse(body, True)
    except (expat.ExpatError, ValueError, LookupError) as error:  # the last two: wrong encodings
        raise UnreadableBodyError(f"is not well-formed XML: {error}") from error
    if walk.root not in FEED_ROOTS:
        raise UnreadableBodyError(f"is not RSS or Atom: its root element is {walk.root:.64}, not rss, feed or RDF")


def _entry(fields: Mapping[str, Any]) -> FeedEntry:
    data = {name: _json(value) for name, value in fields.items() if not name.endswith(("_parsed", "_detail"))}
    moment = fields.get("published_parsed") or fields.get("updated_parsed")
    return FeedEntry(
        data=data,
        external_id=str(fields.get("id") or fields.get("link") or "") or None,
        timestamp=_moment(moment) if isinstance(moment, time.struct_time) else None,
    )


def _json(value: Any, depth: int = 0) -> Any:
    """As JSON values; what is not one, or is nested too deeply, as text."""
    if isinstance(value, dict) and depth < VALUES_DEPTH_MAX:
        return {
            str(name): _json(each, depth + 1) for name, each in value.items() if not str(name).endswith("_parsed")
        }
    if isinstance(value, list | tuple) and depth < VALUES_DEPTH_MAX:
        return [_json(each, depth + 1) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


def _moment(utc: time.struct_time) -> str | None:
    try:
        return rfc3339(calendar.timegm(utc) * 1_000)
    except (ValueError, OverflowError):  # a year out of range
        return None
