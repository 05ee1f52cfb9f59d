"""Batches as they arrive: a payload becomes records, each shown to be in canonical form (RFC 8785).

A payload is parsed as one array and written again: where the two texts are equal, every line is what ``orjson``
writes, which differs from RFC 8785 in few values only. Lines that may hold one of these, and all lines of a payload
of which anything else is unusual, are read one by one.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any, Final, TypeAlias

import attrs
import orjson

from protocols.canonical import canonical_json, parse_json
from protocols.errors import InvalidJsonError, MalformedError, NotCanonicalizableError
from protocols.limits import (
    EVENT_TYPE_CHARS_MAX,
    EVENTS_PER_BATCH_MAX,
    EXTERNAL_ID_CHARS_MAX,
    JSON_DEPTH_MAX,
    PAYLOAD_BYTES_MAX,
)

Record: TypeAlias = dict[str, Any]

RECORD_KEYS: Final = ["data", "eventType", "externalId", "previous", "timestamp"]
PLAIN: Final = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER
DEPTH_PLAIN_MAX: Final = JSON_DEPTH_MAX // 2  # a part of such a record is not too deep wherever a mapping puts it
HEX: Final = frozenset("0123456789abcdef")
TEXT_OR_NULL: Final = {str, type(None)}
SEPARATORS: Final = (b",0,", b",7,", b",93,")
ZERO: Final = re.compile(rb"\.0[,\]}]")
ODD_NUMBER: Final = re.compile(rb"[:,\[]-?[0-9]+(?:\.0[,\]}]|(?:\.[0-9]+)?e[-+])")
BEYOND_BMP: Final = re.compile(rb"[\xf0-\xff]")


@attrs.frozen(kw_only=True)
class Batch:
    """The records of a batch, and the same by member.

    Attributes:
        lines: The text of each record.
        odd: Indexes of records whose values ``orjson`` may write otherwise than RFC 8785 does, and of deep ones.
    """

    lines: list[bytes]
    records: list[Record]
    data: Sequence[Any]
    event_types: Sequence[str]
    external_ids: Sequence[str | None]
    previous: Sequence[str | None]
    timestamps: Sequence[str | None]
    odd: frozenset[int]


def read_batch(payload: bytes) -> Batch:
    """Split a payload into records and check that each is in canonical form.

    Raises:
        MalformedError: With ``index`` where one record is at fault.
    """
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise MalformedError(f"a payload may have at most {PAYLOAD_BYTES_MAX} bytes, this one has {len(payload)}")
    lines = payload.split(b"\n")
    if len(lines) > EVENTS_PER_BATCH_MAX:
        raise MalformedError(f"a batch may have at most {EVENTS_PER_BATCH_MAX} events, this one has {len(lines)}")
    batch = read_together(payload, lines)
    return read_one_by_one(lines) if batch is None else batch


def read_payload(payload: bytes) -> tuple[list[bytes], list[Record]]:
    """The lines and the records of a payload; raises as ``read_batch``."""
    batch = read_batch(payload)
    return batch.lines, batch.records


def read_together(payload: bytes, lines: list[bytes]) -> Batch | None:
    """The batch, if it can be read as one array and all its records are in form.

    Between the lines stands a number that the payload has nowhere between commas. So if the array has an object for
    each line and that number between each two of them, its elements end where the lines end.
    """
    separator = next((text for text in SEPARATORS if text not in payload), None)
    if separator is None:
        return None
    text = b"[%b]" % payload.replace(b"\n", separator)
    try:
        values: list[Any] = orjson.loads(text)
        if len(values) != 2 * len(lines) - 1 or orjson.dumps(values, option=PLAIN) != text:
            return None
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None
    records, between = values[::2], values[1::2]
    if between.count(int(separator[1:-1])) < len(between) or set(map(type, records)) != {dict}:
        return None
    if set(map(tuple, records)) != {tuple(RECORD_KEYS)}:
        return None
    odd = frozenset(odd_records(payload, lines, records))
    batch = as_columns(lines, records, odd)
    return batch if well_typed(batch) and all(is_canonical(lines[index]) for index in odd) else None


def read_one_by_one(lines: list[bytes]) -> Batch:
    records: list[Record] = []
    for index, line in enumerate(lines):
        try:
            record, canonical = read_record(line)
        except (InvalidJsonError, NotCanonicalizableError) as error:
            raise MalformedError(f"line {index} is not valid JSON: {error}", index=index) from error
        if not well_formed(record):
            raise MalformedError(f"line {index} is not in record form", index=index)
        if not canonical:
            raise MalformedError(f"line {index} is not in canonical form (RFC 8785)", index=index)
        records.append(record)
    return as_columns(lines, records, frozenset(range(len(lines))))


def as_columns(lines: list[bytes], records: list[Record], odd: frozenset[int]) -> Batch:
    data, kinds, externals, previous, timestamps = zip(*map(dict.values, records), strict=True)
    return Batch(
        lines=lines,
        records=records,
        data=data,
        event_types=kinds,
        external_ids=externals,
        previous=previous,
        timestamps=timestamps,
        odd=odd,
    )


# --- one record --------------------------------------------------------------------------------------------------


def read_record(line: bytes) -> tuple[Any, bool]:
    """The value of a line, and whether the line is its canonical form (RFC 8785).

    ``orjson`` differs from RFC 8785 only in floats that it ends with ``.0`` or writes with an exponent, in
    integers beyond 2^53, and in the order of keys beyond U+FFFF. A line that shows none of these, cannot be too
    deep, and is unchanged when parsed and written again, is canonical: no walk over its values is needed.
    """
    shallow = line.count(b"{") + line.count(b"[") <= JSON_DEPTH_MAX
    if shallow and not has_odd_value(line):
        try:
            record = orjson.loads(line)
            if orjson.dumps(record, option=PLAIN) == line:
                return record, True
        except (orjson.JSONDecodeError, orjson.JSONEncodeError):
            pass  # the strict parser finds what is wrong
    value = parse_json(line)
    return value, canonical_json(value) == line


def is_canonical(line: bytes) -> bool:
    try:
        return canonical_json(parse_json(line)) == line
    except (InvalidJsonError, NotCanonicalizableError):
        return False


def well_formed(record: Any) -> bool:
    """Whether a value has a record's keys with their types; the content of ``data`` is not checked."""
    if type(record) is not dict or list(record) != RECORD_KEYS:
        return False
    return well_typed(as_columns([], [record], frozenset()))


def well_typed(batch: Batch) -> bool:
    """Whether the members of all records have their types and lengths, whatever their data."""
    if set(map(type, batch.event_types)) != {str} or not set(map(type, batch.timestamps)) <= TEXT_OR_NULL:
        return False
    if not (set(map(type, batch.external_ids)) | set(map(type, batch.previous))) <= TEXT_OR_NULL:
        return False
    return (
        max(map(len, batch.event_types)) <= EVENT_TYPE_CHARS_MAX
        and max(map(len, filter(None, batch.external_ids)), default=0) <= EXTERNAL_ID_CHARS_MAX
        and all(text is None or (len(text) == 64 and HEX.issuperset(text)) for text in set(batch.previous))
    )


# --- what orjson writes otherwise --------------------------------------------------------------------------------


def odd_records(payload: bytes, lines: list[bytes], records: list[Record]) -> Iterator[int]:
    """Indexes of records that are deep, or may hold what ``orjson`` writes otherwise; each at least once."""
    if is_suspect(payload):
        yield from (index for index, line in enumerate(lines) if has_odd_value(line))
    openings = list(map(bytes.count, lines, repeat(b"{")))
    if b"[" in payload:
        openings = list(map(int.__add__, openings, map(bytes.count, lines, repeat(b"["))))
    if max(openings) > DEPTH_PLAIN_MAX:
        for index, count in enumerate(openings):
            if count > DEPTH_PLAIN_MAX and is_deep(records[index], DEPTH_PLAIN_MAX):
                yield index


def is_suspect(text: bytes) -> bool:
    """Whether JSON text needs a closer look: cheap searches, which find words such as ``re-open`` as well."""
    if not text.isascii() and BEYOND_BMP.search(text) is not None:
        return True
    return ZERO.search(text) is not None or b"e-" in text or (b"+" in text and b"e+" in text)


def has_odd_value(line: bytes) -> bool:
    """Whether JSON text may hold a number or a key of those that ``orjson`` writes otherwise."""
    if not is_suspect(line):
        return False
    return ODD_NUMBER.search(line) is not None or (not line.isascii() and BEYOND_BMP.search(line) is not None)


def is_deep(value: Any, depth_max: int) -> bool:
    """Whether arrays and objects are nested more than ``depth_max`` levels deep."""
    kind = type(value)
    if kind is not dict and kind is not list:
        return False
    return depth_max == 0 or any(is_deep(item, depth_max - 1) for item in (value.values() if kind is dict else value))
