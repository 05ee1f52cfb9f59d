"""From what a source says, message by message, to events: where their type, id and time stand. Pure.

Runs where messages are read, in worker processes as a rule. What a message does not say is the connector's to say:
the topic it came by, its place in a log.
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
        event_type: Of every event that says none itself.
        event_type_path, external_id_path, timestamp_path: JSON pointers (RFC 6901) into the message.
        event_type_header, external_id_header, timestamp_header: Names of headers, which go before paths.
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
    """An event of one message.

    Args:
        headers: By lower-case name.
        event_type, external_id, timestamp: Of a message that says none where it should.

    A message that is not in its format becomes an event that is no JSON, and is rejected with that reason.
    """
    value: Any = None
    if shape.format == "json" and shape.looks_inside:
        try:
            value = jiter.from_json(message, allow_inf_nan=True, cache_mode="none")
        except ValueError:
            value = None  # admission says what is wrong
    return RawEvent(
        data=encoded(message, shape.format),
        event_type=_said(headers, shape.event_type_header, value, shape.event_type_path)
        or shape.event_type
        or event_type,
        external_id=_said(headers, shape.external_id_header, value, shape.external_id_path) or external_id,
        timestamp=_time(headers, value, shape) or timestamp,
    )


def encoded(message: bytes, form: Format) -> bytes:
    """The data of an event, JSON text; the message itself where it is to be JSON, whatever it is."""
    if form == "json":
        return message
    if form == "base64":
        return orjson.dumps(base64.b64encode(message).decode())
    try:
        return orjson.dumps(message.decode())
    except UnicodeDecodeError:
        return message  # no JSON either


def at(value: Any, pointer: str) -> Any:
    """What a JSON pointer leads to (RFC 6901, section 4); None where it leads nowhere."""
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
    """A string, or a number as JSON writes it; empty for what names nothing."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return orjson.dumps(value).decode() if abs(value) < 2**63 else str(value)
    return ""


def _said(headers: Mapping[str, str], header: str, value: Any, pointer: str) -> str:
    found = headers.get(header.lower(), "") if header else ""
    return found or (as_text(at(value, pointer)) if pointer else "")


def _time(headers: Mapping[str, str], value: Any, shape: Shape) -> str | None:
    """A time as RFC 3339: text is left as it is, numbers are seconds or milliseconds since 1970."""
    said: Any = headers.get(shape.timestamp_header.lower()) if shape.timestamp_header else None
    if said is None and shape.timestamp_path:
        said = at(value, shape.timestamp_path)
    if isinstance(said, str) and said.isascii() and said.isdigit() and len(said) < 16:
        said = int(said)
    if isinstance(said, bool) or not isinstance(said, int | float):
        return said if isinstance(said, str) and said else None
    millis = said if abs(said) >= MILLIS_FROM else said * 1_000
    return rfc3339(int(millis)) if 0 <= millis < MILLIS_TO else str(said)
