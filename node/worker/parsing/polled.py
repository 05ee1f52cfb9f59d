"""The bodies of polled responses become events. Pure; runs in a worker process.

A body that is not in its format is refused as a whole, with the first reason. A single bad line or row among good
ones becomes an event that is not JSON, and is rejected alone.
"""

import codecs
import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, Literal

import attrs
import cbor2
import jiter
import orjson

from node.worker.parsing.bodies import RawEvent
from node.worker.parsing.feeds import entries
from node.worker.parsing.shaping import Shape, at, shaped
from node.worker.parsing.text import UnreadableBodyError, charset_of, text_of
from protocols.json_errors import json_flaw

BodyFormat = Literal["json", "ndjson", "csv", "feed"]

EVENTS_MAX: Final = 100_000  # of one body
PART_EVENTS_MAX: Final = 500  # what the event loop unpacks at once, in 2 ms
PART_BYTES: Final = 1024 * 1024
CURSOR_CHARS_MAX: Final = 1_024
COLUMNS_MAX: Final = 1_024
EVENT_TYPE: Final = "item"
NUMBER: Final = re.compile(r"-?[0-9]{1,64}(?:\.[0-9]{1,64})?(?:[eE][+-]?[0-9]{1,3})?")
HEAD_CHARS: Final = 64


@attrs.frozen(kw_only=True)
class PollFormat:
    """How bodies are read; the attributes are those of ``PollSettings``."""

    shape: Shape
    format: BodyFormat = "json"
    events_path: str | None = None
    delimiter: str = ","
    cursor_path: str = ""
    cursor_field: str = ""
    lag_path: str = ""


@attrs.frozen(kw_only=True)
class Polled:
    """The contents of a body.

    Attributes:
        parts: The events in order, packed: see ``unpacked``. Empty where the body is the same as before.
        events: How many there are.
        cursor: The value at ``cursor_path``, or the greatest value of ``cursor_field``; empty where there is none.
        lag: The value at ``lag_path``; None where there is none.
        digest: SHA-256 of the body, in hexadecimal.
        is_same: The body is the same as before.
    """

    parts: tuple[bytes, ...]
    events: int
    cursor: str
    lag: int | None
    digest: str
    is_same: bool


@attrs.frozen(kw_only=True)
class _Item:
    """An event before its shape is applied. ``value``: parsed, where it was."""

    message: bytes
    value: Any = None
    external_id: str | None = None
    timestamp: str | None = None


def read_body(body: bytes, reader: PollFormat, *, headers: Mapping[str, str], digest_before: str = "") -> Polled:
    """The events of a body.

    Args:
        headers: Of the response, by lower-case name.
        digest_before: Of the last body from the same address, if any.

    Raises:
        UnreadableBodyError: It is not in its format.
    """
    digest = hashlib.sha256(body).hexdigest()
    document: Any = None
    if reader.format == "json":
        document = _parsed(body)
    is_same = digest == digest_before
    items = [] if is_same else _items(body, document, reader, headers)
    if reader.cursor_field:
        cursor = _greatest(items, reader)
    else:
        cursor = _scalar(at(document, reader.cursor_path)) if reader.cursor_path else ""
    if len(cursor) > CURSOR_CHARS_MAX:
        raise UnreadableBodyError(f"has a cursor of {len(cursor)} characters, at most {CURSOR_CHARS_MAX} are allowed")
    return Polled(
        parts=tuple(_packed(items, reader.shape, headers)),
        events=len(items),
        cursor=cursor,
        lag=_count(at(document, reader.lag_path)) if reader.lag_path else None,
        digest=digest,
        is_same=is_same,
    )


def unpacked(part: bytes) -> list[RawEvent]:
    """The events of a part."""
    return [
        RawEvent(data=data, event_type=event_type, external_id=external_id, timestamp=timestamp)
        for data, event_type, external_id, timestamp in cbor2.loads(part)
    ]


def greater(one: str, other: str) -> str:
    """The greater of two cursors: numbers by value, then all other texts, such as times, by code points."""
    return max(one, other, key=_rank)


def _items(body: bytes, document: Any, reader: PollFormat, headers: Mapping[str, str]) -> list[_Item]:
    media_type = headers.get("content-type", "")
    if reader.format == "ndjson":
        return _of_lines(body, keeps_values=bool(reader.cursor_field))
    if reader.format == "csv":
        return list(_of_rows(text_of(body, charset_of(media_type)), reader.delimiter))
    if reader.format == "feed":
        found = entries(body, charset_of(media_type))
        return [
            _Item(message=_text(each.data), value=each.data, external_id=each.external_id, timestamp=each.timestamp)
            for each in found
        ]
    if reader.events_path is None:
        return [_Item(message=body, value=document)]
    array = at(document, reader.events_path)
    if not isinstance(array, list):
        raise UnreadableBodyError(f"has no array at {reader.events_path or 'its root'}")
    if len(array) > EVENTS_MAX:
        raise UnreadableBodyError(f"has {len(array)} events, at most {EVENTS_MAX} are allowed")
    return [_Item(message=_text(value), value=value) for value in array]


def _of_lines(body: bytes, *, keeps_values: bool) -> list[_Item]:
    """A line that is not JSON becomes an event that is rejected; if all are, the body is refused."""
    first_flaw = ""
    is_any_good = False
    items: list[_Item] = []
    for number, line in enumerate(io.BytesIO(body.removeprefix(codecs.BOM_UTF8)), start=1):
        if not line.strip():
            continue
        if len(items) >= EVENTS_MAX:
            raise UnreadableBodyError(f"has more than {EVENTS_MAX} events")
        value: Any = None
        try:
            value = jiter.from_json(line, allow_inf_nan=False, float_mode="lossless-float", cache_mode="none")
            is_any_good = True
        except ValueError as error:
            first_flaw = first_flaw or f"has no line that is JSON: line {number}: {json_flaw(str(error))}"
        items.append(_Item(message=line, value=value if keeps_values else None))
    if first_flaw and not is_any_good:
        raise UnreadableBodyError(first_flaw)
    return items


def _of_rows(text: str, delimiter: str) -> Iterator[_Item]:
    """Rows as objects of strings, named by the first row (RFC 4180)."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = next((row for row in rows if row), [])
        if len(names) > COLUMNS_MAX or len(set(names)) < len(names):
            raise UnreadableBodyError(f"must have at most {COLUMNS_MAX} names in its first row, all different")
        for count, row in enumerate(filter(None, rows), start=1):
            if count > EVENTS_MAX:
                raise UnreadableBodyError(f"has more than {EVENTS_MAX} events")
            if len(row) == len(names):
                value = dict(zip(names, row, strict=True))
                yield _Item(message=_text(value), value=value)
            else:  # not JSON, whatever it contains: rejected, and kept for the operator
                cells = delimiter.join(row).encode()
                yield _Item(
                    message=b"row at line %d has %d cells, not %d: %b" % (rows.line_num, len(row), len(names), cells)
                )
    except csv.Error as error:
        raise UnreadableBodyError(f"is not CSV: line {rows.line_num}: {error}") from error


def _parsed(body: bytes) -> Any:
    """Parse a document, keeping the digits of floats: admission checks their range."""
    try:
        return jiter.from_json(
            body, allow_inf_nan=False, catch_duplicate_keys=True, float_mode="lossless-float", cache_mode="keys"
        )
    except ValueError as error:
        raise UnreadableBodyError(f"is not JSON: {json_flaw(str(error))}; it begins with {_head(body)}") from error


def _text(value: Any) -> bytes:
    try:
        return orjson.dumps(value, default=_digits)
    except orjson.JSONEncodeError:  # an integer beyond 64 bits, which is rejected with that reason
        return json.dumps(value, default=str).encode()


def _digits(value: Any) -> Any:
    assert isinstance(value, jiter.LosslessFloat), "the parser makes no other type that is not JSON"
    return orjson.Fragment(bytes(value))


def _scalar(value: Any) -> str:
    """A cursor as text; empty for what cannot be one."""
    if isinstance(value, str):
        return value
    if isinstance(value, jiter.LosslessFloat):
        return bytes(value).decode()
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None


def _greatest(items: Sequence[_Item], reader: PollFormat) -> str:
    found = (_scalar(at(item.value, reader.cursor_field)) for item in items)
    return max((text for text in found if len(text) <= CURSOR_CHARS_MAX), key=_rank, default="")


def _rank(text: str) -> tuple[int, Decimal, str]:
    """The empty text is least, then numbers, then other texts."""
    if NUMBER.fullmatch(text):
        return 1, Decimal(text), ""
    return (2 if text else 0), Decimal(0), text


def _packed(items: Sequence[_Item], shape: Shape, headers: Mapping[str, str]) -> Iterator[bytes]:
    part: list[tuple[bytes, str, str | None, str | None]] = []
    size = 0
    for item in items:
        event = shaped(
            shape,
            item.message,
            headers=headers,
            event_type=EVENT_TYPE,
            external_id=item.external_id,
            timestamp=item.timestamp,
        )
        if part and (len(part) >= PART_EVENTS_MAX or size + len(event.data) > PART_BYTES):
            yield cbor2.dumps(part)
            part, size = [], 0
        part.append((event.data, event.event_type, event.external_id, event.timestamp))
        size += len(event.data)
    if part:
        yield cbor2.dumps(part)


def _head(body: bytes) -> str:
    return repr(body[:HEAD_CHARS].decode("utf-8", "replace"))
