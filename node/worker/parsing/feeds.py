"""RSS and Atom documents become their entries. Pure; runs in a worker process.

``feedparser`` handles the many dialects. It is given only well-formed XML of bounded depth without entity
declarations: otherwise it would fall back to a parser of regular expressions, which a hostile document can keep busy
for hours and which takes half an entry for a whole one. Markup in entries is left as the feed has it.
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
    """Counts elements and depth in one pass over a document, before feedparser reads it."""

    def __init__(self) -> None:
        self.depth = 0
        self.root = ""
        self.elements = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        local = name.rpartition(":")[2]
        self.root = self.root or local
        self.depth += 1
        self.elements += 1
        if self.elements > ELEMENTS_MAX:
            raise UnreadableBodyError(f"has more than {ELEMENTS_MAX} elements")
        if self.depth > DEPTH_MAX:
            raise UnreadableBodyError(f"is nested deeper than {DEPTH_MAX} levels")
        if len(attributes) > ATTRIBUTES_MAX:
            raise UnreadableBodyError(f"has an element with more than {ATTRIBUTES_MAX} attributes")

    def end(self, name: str) -> None:
        self.depth -= 1

    def entity(self, *declaration: Any) -> None:
        raise UnreadableBodyError("declares entities, which are not allowed in a feed")


def _check(body: bytes, encoding: str | None) -> None:
    element = FIRST_ELEMENT.search(body)
    if element is not None and element.start() > HEAD_BYTES_MAX:
        raise UnreadableBodyError(f"has more than {HEAD_BYTES_MAX} bytes before its first element")
    walk = _Walk()
    parser = expat.ParserCreate(encoding)
    parser.StartElementHandler, parser.EndElementHandler = walk.start, walk.end
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
