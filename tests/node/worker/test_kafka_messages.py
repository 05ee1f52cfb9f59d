"""Kafka messages become events: values or whole messages, keys, headers, tombstones, times, ids."""

import json
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.worker.parsing.bodies import admit_read
from node.worker.parsing.kafka_messages import TIME_MS_MAX, KafkaFormat, KafkaMessage, events_of, place
from node.worker.parsing.shaping import Shape

MESSAGE = KafkaMessage(
    topic="readings",
    log="readings",
    partition=3,
    offset=17,
    key=b"EWR",
    value=b'{"v":1}',
    headers=(("Kind", b"wind"), ("raw", b"\xff"), ("none", None)),
    timestamp_ms=1_705_314_600_123,
)
VALUES = KafkaFormat(shape=Shape(), is_whole=False)
WHOLE = KafkaFormat(shape=Shape(), is_whole=True)


def only(message: KafkaMessage, form: KafkaFormat = VALUES) -> Any:
    (event,) = events_of([message], form)
    return event


def changed(**members: Any) -> KafkaMessage:
    return attrs.evolve(MESSAGE, **members)


def test_a_value_is_the_data_and_the_position_the_id() -> None:
    event = only(MESSAGE)
    assert (event.data, event.event_type, event.external_id) == (b'{"v":1}', "readings", "readings/3/17")
    assert event.timestamp == "2024-01-15T10:30:00.123Z"


def test_a_topic_that_was_created_again_has_other_ids() -> None:
    first, second = changed(log="readings~a"), changed(log="readings~b")
    assert place(first) != place(second)
    assert only(first).event_type == only(second).event_type == "readings"


def test_headers_and_paths_give_type_id_and_time() -> None:
    shape = Shape(event_type_header="KIND", external_id_path="/v", timestamp_path="/t")
    event = only(changed(value=b'{"v":7,"t":1700000000}'), KafkaFormat(shape=shape, is_whole=False))
    assert (event.event_type, event.external_id, event.timestamp) == ("wind", "7", "2023-11-14T22:13:20.000Z")
    of_two = changed(headers=(("kind", b"a"), ("KIND", b"b")))
    assert only(of_two, KafkaFormat(shape=shape, is_whole=False)).event_type == "b"
    not_text = changed(headers=(("kind", b"\xff"),))
    assert only(not_text, KafkaFormat(shape=shape, is_whole=False)).event_type == "readings"


@pytest.mark.parametrize("moment", [None, -1, TIME_MS_MAX])
def test_a_time_that_is_none_is_left_out(moment: int | None) -> None:
    assert only(changed(timestamp_ms=moment)).timestamp is None
    without = attrs.evolve(VALUES, has_timestamps=False)
    assert only(MESSAGE, without).timestamp is None


@pytest.mark.parametrize("form", ["json", "text", "base64"])
def test_a_tombstone_is_null_or_left_out(form: Any) -> None:
    tombstone = changed(value=None)
    reading = KafkaFormat(shape=Shape(format=form), is_whole=False)
    assert only(tombstone, reading).data == b"null"
    assert events_of([tombstone, MESSAGE], attrs.evolve(reading, skips_tombstones=True)) == [only(MESSAGE, reading)]


def test_a_whole_message_has_all_its_parts() -> None:
    event = only(MESSAGE, WHOLE)
    assert json.loads(event.data) == {
        "key": "EWR",
        "value": {"v": 1},
        "headers": {"Kind": "wind", "raw": {"base64": "/w=="}, "none": None},
        "topic": "readings",
        "partition": 3,
        "offset": 17,
        "timestamp": 1_705_314_600_123,
    }
    assert json.loads(only(changed(value=None, key=None), WHOLE).data)["value"] is None
    text = KafkaFormat(shape=Shape(format="base64"), is_whole=True, key_format="base64")
    assert json.loads(only(MESSAGE, text).data)["key"] == "RVdS"
    as_json = KafkaFormat(shape=Shape(external_id_path="/key/id"), is_whole=True, key_format="json")
    assert only(changed(key=b'{"id": "k"}'), as_json).external_id == "k"


@pytest.mark.parametrize(
    ("message", "form"),
    [
        (changed(value=b"nope"), WHOLE),
        (changed(value=b"\xff"), KafkaFormat(shape=Shape(format="text"), is_whole=True)),
        (changed(key=b"\xff"), WHOLE),
        (changed(key=b"{"), KafkaFormat(shape=Shape(), is_whole=True, key_format="json")),
        (changed(value=b"123456789012345678901234567890"), WHOLE),
        (changed(value=b"nope"), VALUES),
        (changed(value=b"\xff"), KafkaFormat(shape=Shape(format="text"), is_whole=False)),
    ],
)
def test_a_message_in_another_format_is_rejected_alone(message: KafkaMessage, form: KafkaFormat) -> None:
    events = events_of([message, changed(offset=18, key=b"1", value=b"1")], form)
    admitted = admit_read(events, source_id="s", network="n", event_bytes_max=10_000)
    assert [(each.index, each.external_id) for each in admitted.rejections] == [(0, "readings/3/17")]
    assert admitted.external_ids == ["readings/3/18"]


def test_values_are_parsed_where_something_inside_is_asked_for() -> None:
    assert not VALUES.parses
    assert WHOLE.parses
    assert KafkaFormat(shape=Shape(timestamp_path="/t"), is_whole=False).parses
    assert MESSAGE.size > len(MESSAGE.value or b"")


@given(
    st.binary(max_size=20) | st.none(),
    st.binary(max_size=20) | st.none(),
    st.sampled_from(["json", "text", "base64"]),
    st.booleans(),
)
def test_any_message_is_one_event(key: bytes | None, value: bytes | None, form: Any, is_whole: bool) -> None:
    reading = KafkaFormat(shape=Shape(format=form, external_id_path="/a"), is_whole=is_whole, key_format=form)
    events = events_of([changed(key=key, value=value)], reading)
    admitted = admit_read(events, source_id="s", network="n", event_bytes_max=10_000)
    assert len(admitted.lines) + len(admitted.rejections) == 1
