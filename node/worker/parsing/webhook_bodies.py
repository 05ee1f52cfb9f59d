"""Bodies of webhook deliveries become events. Pure; runs in a worker process where the body is long."""

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from json import JSONDecoder
from typing import Any, Final
from urllib.parse import parse_qsl

import attrs
import jiter
import orjson

from node.worker.parsing.admission import InvalidRequestError
from node.worker.parsing.bodies import RawEvent
from node.worker.parsing.shaping import Shape, shaped
from node.worker.parsing.unpacking import Coding, decompressed
from protocols.limits import EVENTS_PER_REQUEST_MAX, EXTERNAL_ID_CHARS_MAX

EVENT_TYPE: Final = "webhook"  # of events without one
FORM_TYPE: Final = "application/x-www-form-urlencoded"
FORM_FIELDS_MAX: Final = 256
PAYLOAD: Final = "payload"  # the field that GitHub and Slack send a document in
BLANK: Final = re.compile(r"[ \t\n\r]*")
PLACES: Final = len(str(EVENTS_PER_REQUEST_MAX)) + 1


@attrs.frozen(kw_only=True)
class ReceivedDelivery:
    """One request of a sender, its signature checked.

    Attributes:
        media_type: In lower case, without parameters.
        headers: Those that ``shape`` reads, by lower-case name.
        events_path: JSON pointer to the array of events; None where the delivery is one event.
    """

    body: bytes
    coding: Coding = "identity"
    media_type: str = ""
    headers: Mapping[str, str] = attrs.field(factory=dict)
    shape: Shape = Shape()
    events_path: str | None = None


def read_delivery(delivery: ReceivedDelivery, bytes_max: int) -> tuple[RawEvent, ...]:
    """The events of a delivery, in order.

    Args:
        bytes_max: Of the decompressed body.

    Raises:
        BodyTooLargeError: It is longer. InvalidRequestError: It is not in its format, or has no array of events at
            ``events_path``. That there are too many is found by admission.
    """
    document = document_of(delivery, bytes_max)
    shape, headers = delivery.shape, delivery.headers
    if delivery.events_path is None:
        return (shaped(shape, document, headers=headers, event_type=EVENT_TYPE, external_id=None),)
    name = headers.get(shape.external_id_header.lower(), "") if shape.external_id_header else ""
    shape = attrs.evolve(shape, external_id_header="")  # it identifies the delivery, not each of its events
    return tuple(
        shaped(shape, element, headers=headers, event_type=EVENT_TYPE, external_id=_nth(name, index))
        for index, element in enumerate(elements(document, delivery.events_path))
    )


def _nth(name: str, index: int) -> str | None:
    return f"{name[: EXTERNAL_ID_CHARS_MAX - PLACES]}/{index}" if name else None


def document_of(delivery: ReceivedDelivery, bytes_max: int) -> bytes:
    """The decompressed document of a delivery; of a form its field ``payload``, or all fields as one object.

    Raises: as ``read_delivery``.
    """
    body = decompressed(delivery.body, delivery.coding, bytes_max)
    if delivery.media_type != FORM_TYPE:
        return body
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=FORM_FIELDS_MAX, errors="strict")
    except ValueError as error:
        raise InvalidRequestError("the body is not a URL-encoded form", field="", remedy="send JSON") from error
    fields = dict(reversed(pairs))  # of equal names the first
    try:
        return fields[PAYLOAD].encode() if PAYLOAD in fields else orjson.dumps(fields)
    except UnicodeEncodeError as error:
        raise InvalidRequestError("the form is not well-formed Unicode", field="", remedy="send JSON") from error


def elements(document: bytes, pointer: str) -> list[bytes]:
    """The elements of the array that a JSON pointer leads to, each as it was written, to the byte.

    Raises:
        InvalidRequestError: The document is not JSON, or has no array there.
    """
    try:
        jiter.from_json(document, allow_inf_nan=True, cache_mode="none")  # strict, where the scanner is lenient
        text = document.decode()
        start = _find(text, pointer)
        if start is not None and text[start] == "[":
            found = islice(_members(text, start), EVENTS_PER_REQUEST_MAX + 1)  # one too many is refused later
            return [text[begin:end].encode() for begin, end, _ in found]
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"the body is not JSON: {str(error)[:200]}", field="") from error
    raise InvalidRequestError(
        f"the body has no array at {pointer!r}", field=pointer, remedy="see eventsPath of the source"
    )


def _find(text: str, pointer: str) -> int | None:
    """Where the value that a pointer refers to begins."""
    start = _skip(text, 0)
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if text[start] not in "{[":
            return None
        found = next((begin for begin, _, key in _members(text, start) if key == name), None)
        if found is None:
            return None
        start = found
    return start


def _members(text: str, start: int) -> Iterator[tuple[int, int, str]]:
    """Where the values of an object or array at ``start`` begin and end, with their names or numbers."""
    decode = JSONDecoder().raw_decode
    is_object, number, place = text[start] == "{", 0, _skip(text, start + 1)
    while text[place] not in "}]":
        key: Any = str(number)
        if is_object:
            key, place = decode(text, place)
            place = _skip(text, _skip(text, place) + 1)  # past the colon
        _, end = decode(text, place)
        yield place, end, key
        number, place = number + 1, _skip(text, end)
        if text[place] == ",":
            place = _skip(text, place + 1)


def _skip(text: str, place: int) -> int:
    """The next position that is not white space."""
    found = BLANK.match(text, place)
    assert found is not None, "the pattern matches the empty string too"
    return found.end()
