"""Publishers to a broker, by a client that is not ours, and a look at what a session holds."""

import socket
from collections.abc import Sequence
from typing import Any

import attrs
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from node.sources.mqtt import codec
from scripts.mosquitto import Mosquitto

ANSWER_S = 20.0


@attrs.frozen
class Said:
    topic: str
    payload: bytes
    qos: int = 1
    properties: tuple[tuple[str, str], ...] = ()
    retain: bool = False


def publish(broker: Mosquitto, messages: Sequence[Said], **login: str) -> None:
    """Publish in order; returns once the broker acknowledged all of it."""
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    if login:
        client.username_pw_set(login["username"], login["password"])
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    try:
        sent = [
            client.publish(each.topic, each.payload, each.qos, each.retain, _properties(each)) for each in messages
        ]
        for info in sent:
            info.wait_for_publish(ANSWER_S)
            assert info.is_published()
    finally:
        client.disconnect()
        client.loop_stop()


def _properties(said: Said) -> Properties | None:
    if not said.properties:
        return None
    properties: Any = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = list(said.properties)
    return properties


def held(broker: Mosquitto, client_id: str, version: codec.Version) -> list[codec.Packet]:
    """What a session is sent by its broker when it is resumed, and acknowledges nothing."""
    login = codec.Login(client_id=client_id, keep_alive_s=60, session_expiry_s=3_600, receive_maximum=1_000)
    reader = codec.PacketReader(version)
    found: list[codec.Packet] = []
    with socket.create_connection(("127.0.0.1", broker.port), timeout=ANSWER_S) as connection:
        connection.sendall(codec.connect(login, version) + codec.PING)
        while codec.PingAnswer() not in found:
            data = connection.recv(65_536)
            assert data, "the broker hung up"
            found += reader.feed(data)
    accepted = found.pop(0)
    assert isinstance(accepted, codec.Connected), accepted
    assert accepted.session_present, "there is no such session"
    return [packet for packet in found if packet != codec.PingAnswer()]
