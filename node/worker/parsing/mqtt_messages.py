"""MQTT messages become events, with the topic in the data and an id from the content. Pure.

MQTT gives a message no id that outlives a connection, so a message that is delivered again is known by its content.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

import attrs
import jiter
import orjson

from node.worker.parsing.bodies import RawEvent
from node.worker.parsing.shaping import Shape, encoded, shaped
from protocols.limits import EVENT_TYPE_CHARS_MAX

MARK_HEX: Final = 16


@attrs.frozen(kw_only=True)
class MqttMessage:
    """A published message. ``properties``: user properties of MQTT 5 by lower-case name, the first of each name."""

    topic: str
    payload: bytes
    properties: Mapping[str, str]


def events_of(messages: Sequence[MqttMessage], *, shape: Shape, topic_field: str) -> list[RawEvent]:
    """The event of each message, in order. ``topic_field`` as in ``MqttSettings``."""
    return [_event(message, shape, topic_field) for message in messages]


def _event(message: MqttMessage, shape: Shape, topic_field: str) -> RawEvent:
    event = shaped(
        shape,
        message.payload,
        headers=message.properties,
        event_type=event_type_of(message.topic),
        external_id=None,
    )
    external_id = event.external_id or _content_id(message, event)
    data = _with_topic(message, shape, topic_field) if topic_field else event.data
    return attrs.evolve(event, external_id=external_id, data=data)


def event_type_of(topic: str) -> str:
    """A topic as the type of events: without control characters; a long one ends in its hash."""
    name = topic if topic.isprintable() else "".join(char if char.isprintable() else "_" for char in topic)
    if len(name) <= EVENT_TYPE_CHARS_MAX:
        return name
    mark = hashlib.sha256(topic.encode()).hexdigest()[:MARK_HEX]
    return f"{name[: EVENT_TYPE_CHARS_MAX - MARK_HEX - 1]}~{mark}"


def _content_id(message: MqttMessage, event: RawEvent) -> str:
    """An id that two messages share only if topic, type, time and payload are equal."""
    parts = (message.topic.encode(), event.event_type.encode(), (event.timestamp or "").encode())
    content = hashlib.sha256(b"".join(b"%d:%b" % (len(part), part) for part in parts))
    content.update(message.payload)
    return f"sha256:{content.hexdigest()}"


def _with_topic(message: MqttMessage, shape: Shape, topic_field: str) -> bytes:
    """The data with its topic. What is not JSON stays as it is, since beside the topic it might become JSON."""
    inner = encoded(message.payload, shape.format)
    try:
        inner.decode()
        jiter.from_json(inner, allow_inf_nan=True, cache_mode="none")
    except ValueError:
        return inner
    return b'{%b:%b,"payload":%b}' % (orjson.dumps(topic_field), orjson.dumps(message.topic), inner)
