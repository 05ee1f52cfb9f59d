"""Whatever bytes a broker sends: packets, however they are cut up, or a refusal, in bounded memory."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from node.sources.mqtt import codec, reasons
from node.sources.mqtt.codec import (
    BrokenProtocolError,
    Connected,
    Disconnected,
    Packet,
    PacketReader,
    Published,
    SubscriptionAnswer,
)
from node.worker.parsing.mqtt_messages import MqttMessage, event_type_of, events_of
from node.worker.parsing.shaping import Shape
from protocols.limits import EVENT_TYPE_CHARS_MAX

VERSIONS: tuple[codec.Version, ...] = (4, 5)


def length(value: int) -> bytes:
    encoded = b""
    while True:
        value, low = divmod(value, 128)
        encoded += bytes((low | (128 if value else 0),))
        if not value:
            return encoded


def message(topic: str, payload: bytes, *, qos: int, packet_id: int, properties: bytes | None) -> bytes:
    """PUBLISH as a broker sends it; ``properties`` packed by paho, None for MQTT 3.1.1."""
    name = topic.encode()
    body = len(name).to_bytes(2, "big") + name + (packet_id.to_bytes(2, "big") if qos else b"")
    body += (b"" if properties is None else properties) + payload
    return bytes((codec.PUBLISH << 4 | qos << 1,)) + length(len(body)) + body


def every_property() -> bytes:
    """All that a message may bring along (MQTT 5, section 3.3.2.3), packed by paho."""
    properties = Properties(PacketTypes.PUBLISH)
    properties.PayloadFormatIndicator = 1
    properties.MessageExpiryInterval = 70_000
    properties.TopicAlias = 7
    properties.ResponseTopic = "answers"
    properties.CorrelationData = b"\x00\xff"
    properties.SubscriptionIdentifier = 300
    properties.ContentType = "application/json"
    properties.UserProperty = [("Id", "é"), ("id", "second"), ("other", "")]
    packed: bytes = properties.pack()
    return packed


def test_a_message_with_every_property_is_read() -> None:
    frame = message("a/b", b"1", qos=2, packet_id=258, properties=every_property())
    wanted = Published(topic="a/b", payload=b"1", qos=2, packet_id=258, properties={"id": "é", "other": ""})
    assert PacketReader(5).feed(frame) == [wanted]


@given(st.data(), st.sampled_from(VERSIONS))
def test_packets_are_the_same_however_the_bytes_come(data: st.DataObject, version: codec.Version) -> None:
    none = None if version == 4 else b"\x00"
    stream = b"".join(
        (
            b"\x20\x02\x01\x00" if version == 4 else b"\x20\x06\x01\x00\x03\x13\x00\x0a",
            message("t", b"", qos=0, packet_id=0, properties=none),
            message("t/ü", b"x" * 200, qos=1, packet_id=65_535, properties=none),
            b"\x62\x02\x00\x07",
            b"\x90\x03\x00\x01\x01" if version == 4 else b"\x90\x04\x00\x01\x00\x01",
            b"\xd0\x00",
        )
    )
    whole = PacketReader(version).feed(stream)
    assert len(whole) == 6
    reader, found, at = PacketReader(version), list[Packet](), 0
    while at < len(stream):
        step = data.draw(st.integers(1, 40))
        found += reader.feed(stream[at : at + step])
        at += step
    assert found == whole


@given(st.binary(max_size=300), st.sampled_from(VERSIONS))
def test_no_bytes_do_more_than_be_refused(data: bytes, version: codec.Version) -> None:
    reader = PacketReader(version)
    with contextlib.suppress(BrokenProtocolError):
        for _ in range(2):
            for packet in reader.feed(data):
                assert isinstance(packet, Packet)


@given(st.integers(0, 15), st.integers(0, 15), st.binary(max_size=60), st.sampled_from(VERSIONS))
def test_no_body_does_more_than_be_refused(kind: int, flags: int, body: bytes, version: codec.Version) -> None:
    with contextlib.suppress(BrokenProtocolError):
        found = PacketReader(version).feed(bytes((kind << 4 | flags, len(body))) + body)
        assert len(found) == 1


@pytest.mark.parametrize(
    "frame",
    [
        b"\x36\x05\x00\x01t\x00\x01",  # QoS 3
        b"\x32\x05\x00\x01t\x00\x00",  # the packet identifier 0
        b"\x90\xff\xff\xff\x7f",  # 256 MiB of something that is no message
        b"\x30\xff\xff\xff\xff\x01",  # a length of five bytes
        b"\xf0\x00",  # AUTH, which was not asked for
        b"\x10\x00",  # CONNECT
    ],
)
def test_what_no_broker_may_send_is_refused(frame: bytes) -> None:
    with pytest.raises(BrokenProtocolError):
        PacketReader(5).feed(frame)


@pytest.mark.parametrize("form", ["json", "text", "base64"])
def test_a_message_of_200_mb_is_passed_over_and_the_next_one_read(form: str) -> None:
    """It must be acknowledged and become no event, or it would come again for ever."""
    size = 200_000_000
    head = message("t", b"", qos=1, packet_id=9, properties=b"\x00")[2:]
    reader = PacketReader(5)
    found = reader.feed(b"\x32" + length(len(head) + size) + head)
    chunk = b"1" * 1_000_000
    for _ in range(size // len(chunk)):
        found += reader.feed(chunk)
        assert len(reader._buffer) <= codec.PUBLISH_BYTES_MAX + len(chunk)
    found += reader.feed(message("next", b"2", qos=0, packet_id=0, properties=b"\x00"))
    cut, after = found
    assert isinstance(cut, Published)
    assert (cut.packet_id, len(cut.payload)) == (9, codec.PUBLISH_BYTES_MAX - len(head))
    assert isinstance(after, Published)
    assert after.topic == "next"
    (event,) = events_of(
        [MqttMessage(topic="t", payload=cut.payload, properties={})],
        shape=Shape(format=form),  # type: ignore[arg-type]
        topic_field="topic",
    )
    assert len(event.data) >= codec.MESSAGE_BYTES_MAX


def test_properties_that_are_longer_than_is_kept_are_left_out() -> None:
    pair = b"\x26\x00\x01k\xff\xff" + b"v" * 65_535
    block = pair * 30
    frame = message("t", b"1", qos=1, packet_id=9, properties=length(len(block)) + block)
    (cut,) = PacketReader(5).feed(frame)
    assert isinstance(cut, Published)
    assert (cut.packet_id, cut.properties, len(cut.payload)) == (9, {}, codec.MESSAGE_BYTES_MAX)


def test_answers_and_farewells_are_read() -> None:
    reader = PacketReader(5)
    text = b"\x1f\x00\x04full"
    assert reader.feed(b"\x20\x0a\x00\x97" + bytes((len(text),)) + text) == [Connected(code=0x97, text="full")]
    answer = SubscriptionAnswer(packet_id=2, codes=(0, 0x11, 0x87))
    assert reader.feed(b"\xb0\x06\x00\x02\x00\x00\x11\x87") == [answer]
    assert reader.feed(b"\xe0\x00") == [Disconnected(code=0)]
    assert reader.feed(b"\xe0\x09\x8e" + bytes((len(text),)) + text) == [Disconnected(code=0x8E, text="full")]
    assert reasons.reason(0x8E, "a\x00b") == "another client connected under the same client id (0x8e: ab)"
    assert reasons.connection_refused(5, 4) == "this user is not allowed to connect (0x05)"
    assert reasons.connection_refused(1, 5) == "it does not support this version of MQTT (0x01)"
    assert PacketReader(4).feed(b"\xb0\x02\x00\x02") == [SubscriptionAnswer(packet_id=2, codes=())]


def test_types_made_of_topics_fit_and_differ() -> None:
    long = "sensors/" + "x" * 300
    names = {event_type_of(topic) for topic in (long, long + "y", "a/b", "a/\x07")}
    assert names >= {"a/b", "a/_"}
    assert len(names) == 4
    assert max(map(len, names)) == EVENT_TYPE_CHARS_MAX


def test_content_ids_keep_their_parts_apart() -> None:
    def ids(*messages: MqttMessage, **shape: str) -> set[str | None]:
        found = events_of(messages, shape=Shape(**shape), topic_field="")  # type: ignore[arg-type]
        return {event.external_id for event in found}

    assert (
        len(
            ids(
                MqttMessage(topic="a", payload=b"b1", properties={}),
                MqttMessage(topic="ab", payload=b"1", properties={}),
            )
        )
        == 2
    )
    noon = [MqttMessage(topic="a", payload=b"1", properties={"at": str(hour), "other": "x"}) for hour in (12, 13)]
    assert len(ids(*noon, timestamp_header="at")) == 2
    assert len(ids(*noon)) == 1
