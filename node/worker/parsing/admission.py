"""Admission: the bytes of an ingest request become columns of records. Pure; runs in a worker process.

A request is refused as a whole where it cannot be read (it is not JSON or UTF-8, has no ``sourceId``, or more events
than allowed). Anything wrong with one event is reported by its index, and the other events are admitted: where the
strict parser fails, ``flaws`` reads the body again and finds the events at fault.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
import jiter
import orjson

from agents.paths import pointer
from agents.timestamps import read_rfc3339
from node.worker.parsing.flaws import DATA_DEPTH_MAX, POINTER_CHARS_MAX, Flaw, first_flaw, read_with_flaws
from node.worker.parsing.text import holds_nul, printable
from protocols.canonical import canonical_json, parse_json
from protocols.errors import ClientFault, InvalidJsonError, NotCanonicalizableError
from protocols.identifiers import EventIds, record_hash
from protocols.levels import LEVEL_WORDS
from protocols.limits import (
    EVENT_BYTES_MAX,
    EVENT_TYPE_CHARS_MAX,
    EVENTS_PER_REQUEST_MAX,
    EXTERNAL_ID_CHARS_MAX,
    SOURCE_ID_CHARS_MAX,
    TOPICS_PER_BATCH_MAX,
)
from protocols.topic_names import TOPIC_RULE, is_topic

REQUEST_KEYS: Final = ("sourceId", "events", "processingOptions")
OPTION_KEYS: Final = ("requireCertification", "distributionTopics", "consensusLevel", "durability")
REASON_CHARS_MAX: Final = 400
DURABILITIES: Final = ("local", "replicated")
FOUND_CHARS_MAX: Final = 40
EVENT_KEYS: Final = ("externalId", "eventType", "timestamp", "data")
_EVENT_KEY_SET: Final = frozenset(EVENT_KEYS)
UNKNOWN: Final = "unknown member"
_PLAIN: Final = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER
_DIGITS: Final = bytes.maketrans(b"123456789E", b"000000000e")
_LONG: Final = b"0" * 200  # with it a two-digit exponent can overflow too
_EXACT: Final = re.compile(rb"[0-9]{16}")
_UNLIKE: Final = (b"e-", b"e+", b".0,", b".0]", b".0}")
_NO_PREVIOUS: Final = b',"previous":null,"timestamp":'


class InvalidRequestError(ClientFault):
    """The request as a whole is refused. Field: ``field``, a JSON pointer; ``remedy``."""

    code = "invalid-request"


class TooManyEventsError(ClientFault):
    code = "too-many-events"


def _pointer(field: str) -> str:
    return printable(field, POINTER_CHARS_MAX)


def _reason(reason: str) -> str:
    return printable(reason, REASON_CHARS_MAX)


@attrs.frozen(kw_only=True)
class Rejection:
    """Why one event was not admitted. ``field`` is a JSON pointer into the event.

    Pointers and reasons quote keys of the event, which can contain any character: see ``printable``.
    """

    index: int
    external_id: str | None
    field: str = attrs.field(converter=_pointer)
    reason: str = attrs.field(converter=_reason)
    remedy: str


@attrs.frozen(kw_only=True)
class Admitted:
    """A request's events as columns of equal length, in the order of the request.

    Attributes:
        total: Number of events in the request, the rejected ones included.
        level: That the request asks for; None where it leaves that to the source and the node.
        requires_certification: None where the request has no such option.
        durability: ``local`` or ``replicated``; None where the request has no such option.
        topics: None where the request names none.
        indexes: Position of each admitted event in the request.
        lines: Records with ``previous`` null, see ``with_previous``.
        hashes: Record hashes of ``lines``, 64 hex digits.
    """

    source_id: str
    total: int
    level: str | None
    requires_certification: bool | None
    durability: str | None
    topics: tuple[str, ...] | None
    indexes: list[int]
    event_ids: list[str]
    external_ids: list[str | None]
    event_types: list[str]
    lines: list[bytes]
    hashes: list[str]
    rejections: list[Rejection]


class _RejectedEventError(Exception):
    def __init__(self, flaw: Flaw) -> None:
        super().__init__(flaw.reason)
        self.flaw = flaw


def _rejected(field: str, reason: str, remedy: str) -> _RejectedEventError:
    return _RejectedEventError(Flaw(field, reason, remedy))


def with_previous(line: bytes, previous: str) -> bytes:
    """The record that an admitted line becomes as a later version.

    Args:
        previous: Record hash of the version before, 64 hex digits.

    A timestamp contains no quotes, so the last match of ``previous`` is the member.
    """
    head, found, tail = line.rpartition(_NO_PREVIOUS)
    assert found, "an admitted line has no previous"
    return b'%b,"previous":"%b","timestamp":%b' % (head, previous.encode(), tail)


def admit(
    body: bytes,
    *,
    network: str,
    event_bytes_max: int = EVENT_BYTES_MAX,
    known_flaws: Mapping[int, Flaw] | None = None,
    events_min: int = 1,
) -> Admitted:
    """Parse and check an ingest request.

    Args:
        known_flaws: Of events that are rejected whatever they contain, by index.
        event_bytes_max: Largest record, in bytes of its canonical form.

    Raises:
        InvalidJsonError, InvalidRequestError, TooManyEventsError: The request is refused as a whole.
    """
    flaws: dict[int, Flaw] = {}
    try:
        request = parse_strictly(body)
    except (ValueError, InvalidJsonError):
        request, flaws = read_with_flaws(body)
    if type(request) is not dict:
        _refuse("", f"the body must be an object, not {json_kind(request)}", "send {sourceId, events}")
    for key in request:
        if key not in REQUEST_KEYS:
            _refuse(pointer((key,)), UNKNOWN, f"allowed members are {', '.join(REQUEST_KEYS)}")
    return admit_events(
        request.get("sourceId"),
        request.get("events"),
        options=request.get("processingOptions"),
        flaws=flaws | dict(known_flaws or {}),
        network=network,
        event_bytes_max=event_bytes_max,
        events_min=events_min,
    )


def admit_events(
    source_id: Any,
    events: Any,
    *,
    options: Any,
    flaws: Mapping[int, Flaw],
    network: str,
    event_bytes_max: int,
    events_min: int = 1,
) -> Admitted:
    """Check the parsed members of an ingest request; raises as ``admit``.

    Args:
        flaws: Of events that are rejected whatever they contain, by index.
    """
    _check_members(source_id, events, events_min)
    options = _options(options)
    ids = EventIds(network, source_id)
    taken = Admitted(
        source_id=source_id,
        total=len(events),
        level=options.get("consensusLevel"),
        requires_certification=options.get("requireCertification"),
        durability=options.get("durability"),
        topics=_topics(options.get("distributionTopics")),
        indexes=[],
        event_ids=[],
        external_ids=[],
        event_types=[],
        lines=[],
        hashes=[],
        rejections=[],
    )
    for index, event in enumerate(events):
        try:
            if index in flaws:
                raise _RejectedEventError(flaws[index])
            _take(taken, ids, index, event, event_bytes_max)
        except _RejectedEventError as rejected:
            taken.rejections.append(_rejection(index, event, rejected.flaw))
    return taken


def parse_strictly(body: bytes) -> Any:
    """Parse JSON without repeated keys, NaN, or numbers that overflow.

    The walk over all values is left out where the text shows that no number can overflow: integers and nesting are
    checked event by event, but ``orjson`` would write an infinity as null.

    Raises:
        ValueError, InvalidJsonError: The text does not say where; see ``flaws``.
    """
    digits = body.translate(_DIGITS)
    if b"0e000" in digits or b"0e+000" in digits or _LONG in digits:
        return parse_json(body)
    return jiter.from_json(body, allow_inf_nan=False, catch_duplicate_keys=True, cache_mode="keys")


def _rejection(index: int, event: Any, flaw: Flaw) -> Rejection:
    external_id = event.get("externalId") if type(event) is dict else None
    if type(external_id) is not str or len(external_id) > EXTERNAL_ID_CHARS_MAX or not _is_text(external_id):
        external_id = None
    return Rejection(index=index, external_id=external_id, field=flaw.field, reason=flaw.reason, remedy=flaw.remedy)


def _check_members(source_id: Any, events: Any, events_min: int) -> None:
    if type(source_id) is not str or not 0 < len(source_id) <= SOURCE_ID_CHARS_MAX or not _is_text(source_id):
        _refuse(
            "/sourceId",
            f"must be a string of 1 to {SOURCE_ID_CHARS_MAX} characters, found {_found(source_id)}",
            "send the id of the registered source that the events come from",
        )
    if type(events) is not list or len(events) < events_min:
        _refuse(
            "/events",
            f"must be an array of {events_min} to {EVENTS_PER_REQUEST_MAX} events, found {_found(events)}",
            "send at least one event",
        )
    if len(events) > EVENTS_PER_REQUEST_MAX:
        raise TooManyEventsError(
            f"/events: has {len(events)} events, at most {EVENTS_PER_REQUEST_MAX} are allowed in a request",
            field="/events",
            remedy=f"send them in requests of at most {EVENTS_PER_REQUEST_MAX}",
        )


def _found(value: Any) -> str:
    """What a client sent in place of something else."""
    if value is None:
        return "nothing"
    if type(value) is list:
        return f"an array of {len(value)}"
    if type(value) is str and len(value) > FOUND_CHARS_MAX:
        return f"a string of {len(value)} characters"
    return repr(value) if type(value) is str else json_kind(value)


def _one_of(options: dict[str, Any], name: str, choices: Sequence[str]) -> None:
    value = options.get(name)
    if value is not None and value not in choices:
        reason = f"must be one of {', '.join(choices)}, found {_found(value)}"
        _refuse(f"/processingOptions/{name}", reason, f"send {choices[0]}, or leave it out")


def _refuse(field: str, reason: str, remedy: str) -> Any:
    field = _pointer(field)
    raise InvalidRequestError(f"{field}: {reason}" if field else reason, field=field, remedy=remedy)


def _options(options: Any) -> dict[str, Any]:
    place = "/processingOptions"
    if options is None:
        return {}
    if type(options) is not dict:
        _refuse(place, f"must be an object, not {json_kind(options)}", "leave it out or send an object")
    for key in options:
        if key not in OPTION_KEYS:
            _refuse(place + pointer((key,)), UNKNOWN, f"allowed members are {', '.join(OPTION_KEYS)}")
    _one_of(options, "consensusLevel", LEVEL_WORDS)
    _one_of(options, "durability", DURABILITIES)
    required = options.get("requireCertification", True)
    if type(required) is not bool:
        reason = f"must be true or false, found {_found(required)}"
        _refuse(f"{place}/requireCertification", reason, "send true, or leave it out")
    checked: dict[str, Any] = options
    return checked


def _topics(topics: Any) -> tuple[str, ...] | None:
    if topics is None:
        return None
    place = "/processingOptions/distributionTopics"
    if type(topics) is not list or not all(type(topic) is str for topic in topics):
        reason = f"must be an array of strings, found {_found(topics)}"
        _refuse(place, reason, "send topics like 'gitdata.events.iot'")
    distinct = tuple(sorted(set(topics)))
    if len(distinct) > TOPICS_PER_BATCH_MAX:
        _refuse(
            place,
            f"has {len(distinct)} topics, at most {TOPICS_PER_BATCH_MAX} are allowed",
            "distribute under fewer topics",
        )
    if any(not is_topic(topic) for topic in distinct):
        _refuse(place, f"each topic must be {TOPIC_RULE}", "send topics like 'gitdata.events.iot'")
    return distinct


def _take(taken: Admitted, ids: EventIds, index: int, event: Any, bytes_max: int) -> None:
    """Check one event and append it to the columns; this is the hot path, about 10 us an event."""
    if type(event) is not dict:
        raise _rejected("", f"the event must be an object, not {json_kind(event)}", "send {eventType, data}")
    if not _EVENT_KEY_SET.issuperset(event):
        extra = next(key for key in event if key not in _EVENT_KEY_SET)
        raise _rejected(pointer((extra,)), UNKNOWN, f"allowed members are {', '.join(EVENT_KEYS)}")
    kind, external, timestamp = event.get("eventType"), event.get("externalId"), event.get("timestamp")
    if type(kind) is not str or not 0 < len(kind) <= EVENT_TYPE_CHARS_MAX or "\x00" in kind:
        _reject_text("/eventType", kind, EVENT_TYPE_CHARS_MAX, "send the kind of event that this is")
    if external is not None and (
        type(external) is not str or not 0 < len(external) <= EXTERNAL_ID_CHARS_MAX or "\x00" in external
    ):
        _reject_text("/externalId", external, EXTERNAL_ID_CHARS_MAX, "leave it out, or send the source's own id")
    if timestamp is not None and read_rfc3339(timestamp) is None:
        raise _rejected("/timestamp", "must be an RFC 3339 time", "send a time like 2024-01-15T10:30:00Z")
    if "data" not in event:
        raise _rejected("/data", "is missing", "send the event's content, any JSON value")
    _append(taken, ids, index, (event["data"], kind, external, timestamp), bytes_max)


def _append(taken: Admitted, ids: EventIds, index: int, parts: Sequence[Any], bytes_max: int) -> None:
    """Build the record from its parts, in key order; only ``data`` needs sorting and number rules."""
    data, kind, external, timestamp = parts
    try:
        content = _canonical(data)
        kind_text, time_text = orjson.dumps(kind), orjson.dumps(timestamp)
        line = b'{"data":%b,"eventType":%b,"externalId":%b,"previous":null,"timestamp":%b}' % (
            content,
            kind_text,
            orjson.dumps(external),
            time_text,
        )
    except NotCanonicalizableError as error:
        place = f"/data{error.fields.get('path', '')}"[:200]
        raise _rejected(place, str(error), "send numbers within 2^53 and well-formed Unicode") from error
    except TypeError as error:  # orjson: a lone surrogate in eventType or externalId
        raise _rejected(
            "", "eventType or externalId is not well-formed Unicode", "send whole surrogate pairs"
        ) from error
    if len(line) > bytes_max:
        raise _rejected(
            "", f"the record has {len(line)} bytes, at most {bytes_max} are allowed", "send smaller events"
        )
    if holds_nul(content):
        raise _rejected("/data", "contains the character U+0000", "leave it out: the database cannot store it")
    if external is None:
        identified = b'{"data":%b,"eventType":%b,"timestamp":%b}' % (content, kind_text, time_text)
        event_id = ids.canonical_content(identified)
    else:
        event_id = ids.external(external)
    taken.indexes.append(index)
    taken.event_ids.append(event_id)
    taken.external_ids.append(external)
    taken.event_types.append(kind)
    taken.lines.append(line)
    taken.hashes.append(record_hash(line))


def _canonical(data: Any) -> bytes:
    """The RFC 8785 form, without a walk over the value where ``orjson`` is known to write the same.

    It differs only in floats that it ends with ``.0`` or writes with an exponent, in integers beyond 2^53 (refused
    here), and in the order of keys beyond U+FFFF. Nesting cannot be too deep where there are few brackets.
    """
    try:
        text = orjson.dumps(data, option=_PLAIN)
    except orjson.JSONEncodeError:
        return canonical_json(data)  # raises with the place
    if text.count(b"{") + text.count(b"[") > DATA_DEPTH_MAX:
        flaw = first_flaw(data, DATA_DEPTH_MAX)
        if flaw is not None:
            raise _RejectedEventError(flaw._replace(field=f"/data{flaw.field}"))
    if text.isascii() and not text.endswith(b".0") and not any(sign in text for sign in _UNLIKE):
        return text
    text = canonical_json(data)
    if _EXACT.search(text):  # a float beyond 2^53 without a fraction is written like an integer that is refused
        try:
            parse_json(text)
        except InvalidJsonError as error:
            raise NotCanonicalizableError(str(error), **error.fields) from error
    return text


def _reject_text(field: str, value: Any, chars_max: int, remedy: str) -> None:
    if value is None:
        raise _rejected(field, "is missing", remedy)
    if type(value) is not str:
        raise _rejected(field, f"must be a string, not {json_kind(value)}", remedy)
    if "\x00" in value:
        raise _rejected(field, "contains the character U+0000", remedy)
    raise _rejected(field, f"has {len(value)} characters, 1 to {chars_max} are allowed", remedy)


def _is_text(value: str) -> bool:
    """Whether a string has a UTF-8 form (no lone surrogate) and no NUL, which Postgres cannot store."""
    return "\x00" not in value and not any("\ud800" <= char <= "\udfff" for char in value)


def json_kind(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
