"""Sources that this node reads from an MQTT broker."""

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, SecretStr, StringConstraints, model_validator

from node.sources.settings.base import EventSettings, SourceSettings

FILTERS_MAX: Final = 100
FILTER_CHARS_MAX: Final = 1_024
PEM_CHARS_MAX: Final = 65_536
PORT: Final = 1883
PORT_TLS: Final = 8883
PAYLOAD_FIELD: Final = "payload"


def _checked_filter(text: str) -> str:
    """A topic filter, or ``$share/GROUP/FILTER`` (MQTT 5, sections 4.7 and 4.8.2)."""
    bare = text
    if text.startswith("$share/"):
        _, _, rest = text.partition("/")
        group, _, bare = rest.partition("/")
        if not group or {"+", "#"} & set(group) or not bare:
            raise ValueError("is no shared subscription like $share/group/sensors/#")
    levels = bare.split("/")
    if any("+" in level and level != "+" for level in levels):
        raise ValueError("+ stands for a whole level, as in sensors/+/temperature")
    if "#" in bare and (levels[-1] != "#" or "#" in "".join(levels[:-1])):
        raise ValueError("# stands for all levels at the end, as in sensors/#")
    if not text.isprintable():
        raise ValueError("has characters that cannot be printed")
    return text


TopicFilter = Annotated[
    str, StringConstraints(min_length=1, max_length=FILTER_CHARS_MAX), AfterValidator(_checked_filter)
]
Host = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:-]{1,253}$")]
Pem = Annotated[str, StringConstraints(max_length=PEM_CHARS_MAX)]
Name = Annotated[str, StringConstraints(max_length=512)]


class MqttTls(SourceSettings):
    """How the broker proves itself, and the node to it.

    Attributes:
        ca_pem: Certificates that are trusted instead of the public authorities.
        certificate_pem, key_pem: What the node shows the broker.
        server_name: Whom the broker's certificate has to name, where that is not ``host``.
    """

    ca_pem: Pem = ""
    certificate_pem: Pem = ""
    key_pem: SecretStr | None = Field(None, max_length=PEM_CHARS_MAX)
    server_name: Host | None = None

    @model_validator(mode="after")
    def _belongs_together(self) -> "MqttTls":
        if bool(self.certificate_pem) != bool(self.key_pem):
            raise ValueError("certificatePem and keyPem go together")
        return self


class MqttSourceSettings(EventSettings):
    """One broker, its topics, and how its messages become events.

    Headers are the user properties of MQTT 5. A message that says no type is of a type named like its topic. A
    message that says no id gets one made of its content, so that it stays one event however often it is delivered:
    two readings that are equal in topic, payload, type and time are one event too. A time or an id inside the
    message (``timestampHeader``, a payload with its time, ``externalIdPath``) tells them apart. Retained messages
    that come again when the node connects are repeats.

    The broker keeps what the node has not acknowledged, for ``sessionExpirySeconds`` (MQTT 5) and as far as its own
    queue goes: set that limit (Mosquitto: ``max_queued_messages``, 1,000 at first) to what an outage may bring.

    Attributes:
        port: 1883, with TLS 8883, where it is not said.
        topics: Filters, of several nodes that share one feed ``$share/GROUP/FILTER``.
        qos: The highest that is asked for; messages come with the lower of this and what they were published with.
        client_id: Names the session at the broker: one for each node. Made of network, source and node if not said.
        receive_maximum: Messages that may be under way at once, unacknowledged. MQTT 5 tells the broker; so many wait
            in the node in any case, whatever the broker sends.
        topic_field: The topic as part of the data: ``{<topicField>: topic, "payload": message}``. Paths lead into the
            message all the same.
    """

    host: Host
    port: int | None = Field(None, ge=1, le=65_535)
    protocol_version: Literal["5", "3.1.1"] = "5"
    topics: tuple[TopicFilter, ...] = Field(min_length=1, max_length=FILTERS_MAX)
    qos: Literal[0, 1, 2] = 1
    client_id: Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]*$", max_length=128)] = ""
    session_expiry_seconds: int = Field(7 * 86_400, ge=0, le=2**32 - 1)
    keep_alive_seconds: int = Field(30, ge=5, le=3_600)
    receive_maximum: int = Field(2_000, ge=1, le=10_000)
    username: Name = ""
    password: SecretStr | None = Field(None, max_length=4_096)
    tls: MqttTls | None = None
    topic_field: Annotated[str, StringConstraints(pattern="^[A-Za-z0-9_.-]*$", max_length=64)] = ""

    @property
    def at_port(self) -> int:
        return self.port or (PORT_TLS if self.tls else PORT)

    @model_validator(mode="after")
    def _can_be_said(self) -> "MqttSourceSettings":
        if self.topic_field == PAYLOAD_FIELD:
            raise ValueError(f"topicField: {PAYLOAD_FIELD} is where the message stands")
        if self.password is not None and not self.username and self.protocol_version == "3.1.1":
            raise ValueError("MQTT 3.1.1 takes no password without a username")
        if len(set(self.topics)) < len(self.topics):
            raise ValueError("topics: one stands there twice")
        return self
