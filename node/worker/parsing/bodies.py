"""Encodings of an ingest request other than plain JSON: compressed, as JSON lines, as CloudEvents.

Runs in the worker process that reads requests; limits hold before the bytes are processed.

CloudEvents 1.0 (JSON format 1.0.2, HTTP binding 1.0.2) are kept whole under ``data``, their attributes included, so
that a policy sees all of them. Their type and time become the event's; ``source`` and ``id``, which together identify
a CloudEvent, become its external id, so that a repeated delivery is a duplicate.
"""

import base64
from collections.abc import Sequence
from typing import Any, Final, Literal
from urllib.parse import unquote

import attrs
import jiter
import orjson

from node.worker.parsing.admission import (
    FOUND_CHARS_MAX,
    Admitted,
    InvalidRequestError,
    admit,
    admit_events,
    json_kind,
    parse_strictly,
)
from node.worker.parsing.flaws import Flaw, read_with_flaws
from node.worker.parsing.unpacking import Coding, decompressed
from protocols.errors import InvalidJsonError
from protocols.json_errors import json_flaw
from protocols.limits import EVENTS_PER_REQUEST_MAX

BodyShape = Literal["request", "lines", "cloudevent", "cloudevents", "binary"]

JSON_TYPES: Final = ("application/json", "text/json")
REQUIRED: Final = ("id", "source", "specversion", "type")
VERSION: Final = "1.0"
NOT_AN_EVENT: Final = b"null"


@attrs.frozen(kw_only=True)
class RequestEncoding:
    """How the body of a request is encoded.

    Attributes:
        source_id, options: From the query, where the body cannot hold them; options as in ``processingOptions``.
        attributes: Of a CloudEvent in binary mode: name and value of each ``ce-`` header.
        media_type: Of the data of a CloudEvent in binary mode.
    """

    shape: BodyShape = "request"
    coding: Coding = "identity"
    source_id: str = ""
    options: tuple[tuple[str, Any], ...] = ()
    attributes: tuple[tuple[str, str], ...] = ()
    media_type: str = ""


PLAIN: Final = RequestEncoding()


@attrs.frozen(kw_only=True)
class RawEvent:
    """An event of a source that this node reads. ``data`` is unchecked: it should be JSON text."""

    data: bytes
    event_type: str
    external_id: str | None = None
    timestamp: str | None = None


def admit_read(raw: Sequence[RawEvent], *, source_id: str, network: str, event_bytes_max: int) -> Admitted:
    """Admit what was read of a source, event by event: one that is not JSON does not affect the others.

    Raises:
        InvalidRequestError, TooManyEventsError: As ``admit``.
    """
    flaws: dict[int, Flaw] = {}
    events: list[dict[str, Any]] = []
    for index, each in enumerate(raw):
        data, flaw = _parsed_data(each.data, event_bytes_max)
        if flaw is not None:
            flaws[index] = flaw
        events.append(
            {
                "eventType": each.event_type,
                "externalId": each.external_id,
                "timestamp": each.timestamp,
                "data": data,
            }
        )
    return admit_events(
        source_id, events, options=None, flaws=flaws, network=network, event_bytes_max=event_bytes_max
    )


def _parsed_data(data: bytes, bytes_max: int) -> tuple[Any, Flaw | None]:
    """The JSON value of an event's data, or what is wrong with it."""
    if len(data) > 4 * bytes_max:  # its canonical form may be shorter, but not by that much
        return None, Flaw("/data", f"has {len(data)} bytes", f"send events of at most {bytes_max} bytes")
    try:
        return parse_strictly(data), None
    except (ValueError, InvalidJsonError):
        flaw = _json_flaw(data)
    if flaw is not None:
        return None, flaw
    request, flaws = read_with_flaws(b'{"events":[{"data":%b}]}' % data)
    return request["events"][0]["data"], flaws.get(0)


def _json_flaw(data: bytes) -> Flaw | None:
    """Why a text is not exactly one JSON value, NaN and the like included; None if it is."""
    try:
        data.decode()
        jiter.from_json(data, allow_inf_nan=True, cache_mode="none")
    except ValueError as error:
        return Flaw("/data", f"is not JSON: {json_flaw(str(error))}", "send one JSON document per message")
    return None


def admit_form(
    body: bytes, form: RequestEncoding, *, network: str, event_bytes_max: int, body_bytes_max: int
) -> Admitted:
    """Read a request in any encoding.

    Raises:
        BodyTooLargeError: More than ``body_bytes_max`` once decompressed. InvalidRequestError: It cannot be
            decompressed, or names no source. And what ``admit`` raises.
    """
    body = decompressed(body, form.coding, body_bytes_max)
    if form.shape == "request":
        return admit(body, network=network, event_bytes_max=event_bytes_max)
    events, flaws = _events(body, form)
    options = orjson.dumps(dict(form.options))
    head = b'{"sourceId":%b,"processingOptions":%b,"events":[' % (orjson.dumps(form.source_id), options)
    whole = head + b",".join(events) + b"]}"
    return admit(
        whole,
        network=network,
        event_bytes_max=event_bytes_max,
        known_flaws=flaws,
        events_min=0 if form.shape == "cloudevents" else 1,  # a batch may be empty (JSON format of CloudEvents, 4.3)
    )


def _events(body: bytes, form: RequestEncoding) -> tuple[list[bytes], dict[int, Flaw]]:
    """The events as JSON, and by index what is wrong with those that are not events."""
    if form.shape == "lines":
        return _of_lines([line for line in body.split(b"\n") if line.strip()])
    if form.shape == "binary":
        found = [_from_binary(body, form.attributes, form.media_type)]
    elif form.shape == "cloudevent":
        found = [_parsed(body)]
    else:
        found = _parsed(body)
        if not isinstance(found, list):
            raise InvalidRequestError("the body must be an array of CloudEvents", field="", remedy="send an array")
    events: list[bytes] = []
    flaws: dict[int, Flaw] = {}
    for index, event in enumerate(found):
        flaw = _missing(event)
        if flaw is not None:
            flaws[index] = flaw
        events.append(NOT_AN_EVENT if flaw is not None else _event_of(event))
    return events, flaws


def _of_lines(lines: list[bytes]) -> tuple[list[bytes], dict[int, Flaw]]:
    """Each line by itself: one that is not JSON must not affect the others."""
    if len(lines) > EVENTS_PER_REQUEST_MAX:
        return lines, {}  # refused for their number
    flaws: dict[int, Flaw] = {}
    for index, line in enumerate(lines):
        try:
            jiter.from_json(line, allow_inf_nan=True, cache_mode="none")
        except ValueError as error:
            flaws[index] = Flaw("", f"the line is not JSON: {json_flaw(str(error))}", "send one event per line")
            lines[index] = NOT_AN_EVENT
    return lines, flaws


def _parsed(body: bytes) -> Any:
    try:
        return jiter.from_json(body, allow_inf_nan=False, catch_duplicate_keys=True, cache_mode="keys")
    except ValueError as error:
        raise InvalidRequestError(
            f"the body is not JSON: {json_flaw(str(error))}", field="", remedy="send one document"
        ) from error


def _missing(event: Any) -> Flaw | None:
    """What keeps a value from being a CloudEvent."""
    if not isinstance(event, dict):
        return Flaw(
            "", f"must be an object, not {json_kind(event)}", "send id, source, specversion and type in an object"
        )
    for name in REQUIRED:
        if not isinstance(event.get(name), str) or not event[name]:
            return Flaw(f"/{name}", "must be a string that is not empty", "send id, source, specversion and type")
    if event["specversion"] != VERSION:
        reason = f"must be {VERSION}, found {event['specversion'][:FOUND_CHARS_MAX]!r}"
        return Flaw("/specversion", reason, f"send CloudEvents of version {VERSION}")
    if "data" in event and "data_base64" in event:
        return Flaw("/data_base64", "must not stand beside data", "send one of the two")
    return None


def _event_of(event: dict[str, Any]) -> bytes:
    admitted = {"eventType": event["type"], "externalId": f"{event['source']} {event['id']}", "data": event}
    if "time" in event:
        admitted["timestamp"] = event["time"]
    try:
        return orjson.dumps(admitted)
    except (orjson.JSONEncodeError, RecursionError):  # too deep, or an integer that is too large for an event
        return NOT_AN_EVENT


def _from_binary(body: bytes, attributes: Sequence[tuple[str, str]], media_type: str) -> dict[str, Any]:
    """HTTP binding, section 3.1: attributes are headers, percent-encoded; the body is the data."""
    event: dict[str, Any] = {name: unquote(value) for name, value in attributes}
    if media_type:
        event["datacontenttype"] = media_type
    base = media_type.partition(";")[0].strip().lower()
    if not body:
        return event
    if base in JSON_TYPES or base.endswith("+json"):
        event["data"] = _parsed(body)
    elif base.startswith("text/"):
        try:
            event["data"] = body.decode()
        except UnicodeDecodeError:
            event["data_base64"] = base64.b64encode(body).decode()
    else:
        event["data_base64"] = base64.b64encode(body).decode()
    return event
