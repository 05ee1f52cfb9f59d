"""Other ways to say an ingest request: compressed, as JSON lines, as CloudEvents. All become the one form.

Runs in the worker process that reads requests; limits hold before anything is made of the bytes.

CloudEvents 1.0 (JSON format 1.0.2, HTTP binding 1.0.2) come as they are under ``data``, their attributes with them,
so that a policy sees all of it. Their type and time are the event's; ``source`` and ``id``, which together name a
CloudEvent, are its external id: a delivery that is repeated is a duplicate.
"""

import base64
import zlib
from collections.abc import Sequence
from typing import Any, Final, Literal
from urllib.parse import unquote

import attrs
import jiter
import orjson
import zstandard

from node.worker.parsing.admission import Admitted, InvalidRequestError, admit
from protocols.errors import ClientFault
from protocols.limits import EVENTS_PER_REQUEST_MAX

BodyShape = Literal["request", "lines", "cloudevent", "cloudevents", "binary"]
Coding = Literal["identity", "gzip", "zstd"]

JSON_TYPES: Final = ("application/json", "text/json")
WINDOW_MAX: Final = 2**23  # of zstd: what decompressing takes in memory (RFC 9659)
REQUIRED: Final = ("id", "source", "specversion", "type")
NOT_AN_EVENT: Final = b"null"
Flaw = tuple[str, str, str]


class BodyTooLargeError(ClientFault):
    """A body that is larger than is taken, once it is not compressed."""

    code = "body-too-large"


@attrs.frozen(kw_only=True)
class RequestEncoding:
    """How a request says its events.

    Attributes:
        source_id, options: From the query, where the body has no place for them; options as in ``processingOptions``.
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
    """An event as a source that this node reads said it; ``data`` is JSON text, or turns out to be none."""

    data: bytes
    event_type: str
    external_id: str | None = None
    timestamp: str | None = None


def admit_read(said: Sequence[RawEvent], *, source_id: str, network: str, event_bytes_max: int) -> Admitted:
    """Take in what a source said, event by event: one that is no JSON spoils no other.

    Raises what ``admit`` raises.
    """
    flaws: dict[int, Flaw] = {}
    events: list[bytes] = []
    for index, each in enumerate(said):
        flaw = _no_json(each.data, event_bytes_max)
        if flaw is not None:
            flaws[index] = flaw
        head = b'{"eventType":%b,"externalId":%b' % (orjson.dumps(each.event_type), orjson.dumps(each.external_id))
        if each.timestamp is not None:
            head += b',"timestamp":%b' % orjson.dumps(each.timestamp)
        events.append(b'%b,"data":%b}' % (head, NOT_AN_EVENT if flaw is not None else each.data))
    whole = b'{"sourceId":%b,"events":[%b]}' % (orjson.dumps(source_id), b",".join(events))
    return admit(whole, network=network, event_bytes_max=event_bytes_max, known_flaws=flaws)


def _no_json(data: bytes, bytes_max: int) -> Flaw | None:
    """What keeps a text from being one JSON value, and nothing else beside it."""
    if len(data) > 4 * bytes_max:  # its canonical form may be shorter, but not by that much
        return "/data", f"has {len(data)} bytes", f"send events of at most {bytes_max} bytes"
    try:
        data.decode()
        jiter.from_json(data, allow_inf_nan=True, cache_mode="none")
    except ValueError as error:
        return "/data", f"is no JSON: {error}", "send one JSON document a message"
    return None


def admit_form(
    body: bytes, form: RequestEncoding, *, network: str, event_bytes_max: int, body_bytes_max: int
) -> Admitted:
    """Read a request in any form.

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
    return admit(whole, network=network, event_bytes_max=event_bytes_max, known_flaws=flaws)


def decompressed(body: bytes, coding: Coding, bytes_max: int) -> bytes:
    """A body as it was before it was compressed, within a bound that holds while it is made."""
    try:
        if coding == "gzip":
            body = _gunzip(body, bytes_max)
        elif coding == "zstd":
            with zstandard.ZstdDecompressor(max_window_size=2**23).stream_reader(
                body, read_across_frames=True
            ) as reader:
                body = reader.read(bytes_max + 1)
    except (zlib.error, zstandard.ZstdError) as error:
        raise InvalidRequestError(f"the body is no {coding}", field="", remedy="compress it anew") from error
    if len(body) > bytes_max:
        raise BodyTooLargeError(f"the body has more than {bytes_max} bytes once it is not compressed")
    return body


def _gunzip(body: bytes, bytes_max: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while body and size <= bytes_max:
        member = zlib.decompressobj(wbits=31)
        part = member.decompress(body, bytes_max + 1 - size)
        parts.append(part)
        size += len(part)
        if size <= bytes_max and not member.eof:
            raise zlib.error("the stream ends early")
        body = member.unused_data
    return b"".join(parts)


def _events(body: bytes, form: RequestEncoding) -> tuple[list[bytes], dict[int, Flaw]]:
    """The events as JSON, and by index what is wrong with those that are none."""
    if form.shape == "lines":
        return _of_lines([line for line in body.split(b"\n") if line.strip()])
    if form.shape == "binary":
        found = [_from_binary(body, form.attributes, form.media_type)]
    elif form.shape == "cloudevent":
        found = [_parsed(body)]
    else:
        found = _parsed(body)
        if not isinstance(found, list):
            raise InvalidRequestError("the body is no array of CloudEvents", field="", remedy="send an array of them")
    events: list[bytes] = []
    flaws: dict[int, Flaw] = {}
    for index, event in enumerate(found):
        flaw = _missing(event)
        if flaw is not None:
            flaws[index] = flaw
        events.append(NOT_AN_EVENT if flaw is not None else _event_of(event))
    return events, flaws


def _of_lines(lines: list[bytes]) -> tuple[list[bytes], dict[int, Flaw]]:
    """Each line by itself: one that is no JSON must not spoil the others."""
    if len(lines) > EVENTS_PER_REQUEST_MAX:
        return lines, {}  # refused for their number
    flaws: dict[int, Flaw] = {}
    for index, line in enumerate(lines):
        try:
            jiter.from_json(line, allow_inf_nan=True, cache_mode="none")
        except ValueError as error:
            flaws[index] = "", f"the line is no JSON: {error}", "send one event a line"
            lines[index] = NOT_AN_EVENT
    return lines, flaws


def _parsed(body: bytes) -> Any:
    try:
        return jiter.from_json(body, allow_inf_nan=False, catch_duplicate_keys=True, cache_mode="keys")
    except ValueError as error:
        raise InvalidRequestError(f"the body is no JSON: {error}", field="", remedy="send one document") from error


def _missing(event: Any) -> Flaw | None:
    """What keeps a value from being a CloudEvent."""
    if not isinstance(event, dict):
        return "", "is no CloudEvent", "send an object with id, source, specversion and type"
    for name in REQUIRED:
        if not isinstance(event.get(name), str) or not event[name]:
            return f"/{name}", "is missing, or no text", "a CloudEvent has id, source, specversion and type"
    return None


def _event_of(event: dict[str, Any]) -> bytes:
    said = {"eventType": event["type"], "externalId": f"{event['source']} {event['id']}", "data": event}
    if "time" in event:
        said["timestamp"] = event["time"]
    try:
        return orjson.dumps(said)
    except (orjson.JSONEncodeError, RecursionError):  # too deep, or an integer that is too large: no event takes it
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
