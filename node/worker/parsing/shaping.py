"""Messages of a source become events: a ``Shape`` says where their type, id and time are found. Pure.

Runs in worker processes where messages must be parsed. The connector provides the defaults, such as the topic that a
message came by or its position in a log.
"""

import base64
from collections.abc import Mapping
from typing import Any, Final, Literal

import attrs
import jiter
import orjson

from node.worker.parsing.bodies import RawEvent
from protocols.certificate import rfc3339

Format = Literal["json", "text", "base64"]

MILLIS_FROM: Final = 10**11  # a time in seconds from here on would be past the year 5000
MILLIS_TO: Final = 253_402_300_800_000  # the year 10000


@attrs.frozen(kw_only=True)
class Shape:
    """How events are read from a source's messages.

    Attributes:
        event_type: Of every event that has none of its own.
        event_type_path, external_id_path, timestamp_path: JSON pointers (RFC 6901) into the message.
        event_type_header, external_id_header, timestamp_header: Names of headers, which take precedence over paths.
        format: ``json``: the message is the data. ``text``, ``base64``: the data is a string made of its bytes.
    """

    event_type: str = ""
    event_type_path: str = ""
    event_type_header: str = ""
    external_id_path: str = ""
    external_id_header: str = ""
    timestamp_path: str = ""
    timestamp_header: str = ""
    format: Format = "json"

    @property
    def looks_inside(self) -> bool:
        """Whether the message has to be parsed."""
        return bool(self.event_type_path or self.external_id_path or self.timestamp_path)


def shaped(
    shape: Shape,
    message: bytes,
    *,
    headers: Mapping[str, str],
    event_type: str,
    external_id: str | None,
    timestamp: str | None = None,
) -> RawEvent:
    """The event of one message.

    Args:
        headers: By lower-case name.
        event_type, external_id, timestamp: Of a message in which the shape finds none.

    A message that is not in its format becomes an event that is not JSON, and is rejected with that reason.
    """
    value: Any = None
    if shape.format == "json" and shape.looks_inside:
        try:
            value = jiter.from_json(message, allow_inf_nan=True, cache_mode="none")
        except ValueError:
            value = None  # admission reports what is wrong
    return RawEvent(
        data=encoded(message, shape.format),
        event_type=_text_at(headers, shape.event_type_header, value, shape.event_type_path)
        or shape.event_type
        or event_type,
        external_id=_text_at(headers, shape.external_id_header, value, shape.external_id_path) or external_id,
        timestamp=_time(headers, value, shape) or timestamp,
    )


def encoded(message: bytes, form: Format) -> bytes:
    """The data of an event as JSON text. A message of format ``json`` is returned as it is, JSON or not."""
    if form == "json":
        return message
    if form == "base64":
        return orjson.dumps(base64.b64encode(message).decode())
    try:
        return orjson.dumps(message.decode())
    except UnicodeDecodeError:
        return message  # not JSON either: rejected with that reason


def at(value: Any, pointer: str) -> Any:
    """The value that a JSON pointer refers to (RFC 6901, section 4); None where there is none."""
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict):
            value = value.get(name)
        elif (
            isinstance(value, list) and name.isascii() and name.isdigit() and len(name) < 7 and int(name) < len(value)
        ):
            value = value[int(name)]
        else:
            return None
    return value


def as_text(value: Any) -> str:
    """A string, or a number as JSON writes it; empty for any other value."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return orjson.dumps(value).decode() if abs(value) < 2**63 else str(value)
    return ""


def _text_at(headers: Mapping[str, str], header: str, value: Any, pointer: str) -> str:
    found = headers.get(header.lower(), "") if header else ""
    return found or (as_text(at(value, pointer)) if pointer else "")


def _time(headers: Mapping[str, str], value: Any, shape: Shape) -> str | None:
    """A time as RFC 3339: text is left as it is, numbers are seconds or milliseconds since 1970."""
    time: Any = headers.get(shape.timestamp_header.lower()) if shape.timestamp_header else None
    if time is None and shape.timestamp_path:
        time = at(value, shape.timestamp_path)
    if isinstance(time, str) and time.isascii() and time.isdigit() and len(time) < 16:
        time = int(time)
    if isinstance(time, bool) or not isinstance(time, int | float):
        return time if isinstance(time, str) and time else None
    millis = time if abs(time) >= MILLIS_FROM else time * 1_000
    return rfc3339(int(millis)) if 0 <= millis < MILLIS_TO else str(time)
