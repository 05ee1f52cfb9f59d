"""Kafka messages become events: key, value, headers, position and time. Pure; runs in worker processes too.

A message's id is its position in the log, which is the same for every reader and every reading.
"""

import base64
from collections.abc import Sequence
from typing import Any, Final, Literal

import attrs
import jiter
import orjson

from node.worker.parsing.bodies import RawEvent
from node.worker.parsing.shaping import Format, Shape, shaped
from protocols.certificate import rfc3339
from protocols.limits import EVENT_TYPE_CHARS_MAX

NULL: Final = b"null"
TIME_MS_MAX: Final = 253_402_300_800_000  # the year 10000
KeyFormat = Literal["text", "json", "base64"]


@attrs.frozen(kw_only=True)
class KafkaMessage:
    """A message as the client library gives it.

    Attributes:
        log: Identifies the topic for good: its name, with its id where the cluster gives topics ids.
        value: None in a tombstone.
        timestamp_ms: Since 1970; None where the message has none.
    """

    topic: str
    log: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    timestamp_ms: int | None

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        headers = sum(len(name) + len(value or b"") for name, value in self.headers)
        return len(self.key or b"") + len(self.value or b"") + headers + 100


@attrs.frozen(kw_only=True)
class KafkaFormat:
    """How messages become events; see ``node.sources.settings.kafka.KafkaSettings``."""

    shape: Shape
    is_whole: bool
    key_format: KeyFormat = "text"
    skips_tombstones: bool = False
    has_timestamps: bool = True

    @property
    def parses(self) -> bool:
        """Whether values are parsed: work for another process."""
        return self.is_whole or self.shape.looks_inside


def events_of(messages: Sequence[KafkaMessage], reading: KafkaFormat) -> list[RawEvent]:
    """The events of messages, in order. A message that is not in its format becomes an event that is not JSON."""
    return [
        _event(message, reading) for message in messages if message.value is not None or not reading.skips_tombstones
    ]


def place(message: KafkaMessage) -> str:
    """``topic/partition/offset``, the topic with its id where it has one.

    A topic that is created again counts from 0 again: by the name alone, its messages would count as repeats.
    """
    return f"{message.log}/{message.partition}/{message.offset}"


def _event(message: KafkaMessage, reading: KafkaFormat) -> RawEvent:
    shape = reading.shape
    if reading.is_whole:
        content = _whole(message, reading)
        shape = attrs.evolve(shape, format="json")
    elif message.value is None:
        content, shape = NULL, attrs.evolve(shape, format="json")
    else:
        content = message.value
    moment = message.timestamp_ms if reading.has_timestamps else None
    return shaped(
        shape,
        content,
        headers=_texts(message.headers),
        event_type=message.topic[:EVENT_TYPE_CHARS_MAX],
        external_id=place(message),
        timestamp=None if moment is None or not 0 <= moment < TIME_MS_MAX else rfc3339(moment),
    )


def _texts(headers: Sequence[tuple[str, bytes | None]]) -> dict[str, str]:
    """Headers that are text, by lower-case name; of several with one name the last."""
    found: dict[str, str] = {}
    for name, value in headers:
        try:
            found[name.lower()] = (value or b"").decode()
        except UnicodeDecodeError:
            continue
    return found


def _whole(message: KafkaMessage, reading: KafkaFormat) -> bytes:
    """The message as one JSON object; a text that is not JSON where key or value are not in their format."""
    try:
        return orjson.dumps(
            {
                "key": _decoded(message.key, reading.key_format),
                "value": _decoded(message.value, reading.shape.format),
                "headers": {name: _header(value) for name, value in message.headers},
                "topic": message.topic,
                "partition": message.partition,
                "offset": message.offset,
                "timestamp": message.timestamp_ms,
            }
        )
    except (ValueError, TypeError, RecursionError) as error:
        return b"(key or value is not in its format: %b)" % str(error).encode(errors="replace")


def _decoded(content: bytes | None, form: Format) -> Any:
    if content is None:
        return None
    if form == "json":
        return jiter.from_json(content, allow_inf_nan=False, catch_duplicate_keys=True, cache_mode="none")
    return base64.b64encode(content).decode() if form == "base64" else content.decode()


def _header(value: bytes | None) -> Any:
    """Text, or an object with the bytes in base64 where it is not text."""
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}
