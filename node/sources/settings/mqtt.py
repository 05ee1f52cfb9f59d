"""Settings of sources that are read from an MQTT broker."""

from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, StringConstraints, model_validator

from node.sources.settings.base import PEM_CHARS_MAX, EventSettings, Pem, SourceSettings

FILTERS_MAX: Final = 100
FILTER_CHARS_MAX: Final = 1_024
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
            raise ValueError("must be a shared subscription like $share/group/sensors/#")
    levels = bare.split("/")
    if any("+" in level and level != "+" for level in levels):
        raise ValueError("must use + for a whole level, as in sensors/+/temperature")
    if "#" in bare and (levels[-1] != "#" or "#" in "".join(levels[:-1])):
        raise ValueError("must use # as its last level only, as in sensors/#")
    if not text.isprintable():
        raise ValueError("must consist of printable characters")
    return text


TopicFilter = Annotated[
    str, StringConstraints(min_length=1, max_length=FILTER_CHARS_MAX), AfterValidator(_checked_filter)
]
Host = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:-]{1,253}$")]
Name = Annotated[str, StringConstraints(max_length=512)]


class MqttTls(SourceSettings):
    """TLS with an MQTT broker: how the broker proves its identity, and how the node proves its own."""

    ca_pem: Pem = Field("", description="Certificates to trust instead of the public authorities, PEM.")
    certificate_pem: Pem = Field("", description="Client certificate of the node, PEM.")
    key_pem: SecretStr | None = Field(
        None, max_length=PEM_CHARS_MAX, description="Private key of the client certificate, PEM."
    )
    server_name: Host | None = Field(
        None, description="Name that the broker's certificate must have, if it is not `host`."
    )

    @model_validator(mode="after")
    def _has_certificate_and_key(self) -> Self:
        if bool(self.certificate_pem) != bool(self.key_pem):
            raise ValueError("certificatePem and keyPem must be given together")
        return self


class MqttSourceSettings(EventSettings):
    """One MQTT broker, its topics, and how its messages become events.

    Headers are the user properties of MQTT 5. A message that states no type has a type named like its topic. One that
    states no id gets one made from its content, so that it stays one event however often it is delivered: two
    readings that are equal in topic, payload, type and time are one event too. A time or an id inside the message
    (`timestampHeader`, a payload with its time, `externalIdPath`) tells them apart. Retained messages that come again
    when the node connects are repeats.

    The broker keeps what the node has not acknowledged for `sessionExpirySeconds` (MQTT 5) and within the limits of
    its own queue: set that limit (Mosquitto: `max_queued_messages`, by default 1,000) to what an outage may produce.
    """

    host: Host = Field(description="Name or address of the broker.")
    port: int | None = Field(None, ge=1, le=65_535, description="Default: 1883, with TLS 8883.")
    protocol_version: Literal["5", "3.1.1"] = Field("5", description="Version of MQTT.")
    topics: tuple[TopicFilter, ...] = Field(
        min_length=1,
        max_length=FILTERS_MAX,
        description="Topic filters. Nodes that share one feed use `$share/GROUP/FILTER`.",
    )
    qos: Literal[0, 1, 2] = Field(
        1, description="Highest QoS to ask for: messages come with the lower of this and the one of their publisher."
    )
    client_id: Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]*$", max_length=128)] = Field(
        "",
        description="Names the session at the broker; must differ between nodes. Default: made from the network, the "
        "source and the node.",
    )
    session_expiry_seconds: int = Field(
        7 * 86_400, ge=0, le=2**32 - 1, description="How long the broker keeps the session of a node that is away."
    )
    keep_alive_seconds: int = Field(30, ge=5, le=3_600, description="Keep-alive interval of the connection.")
    receive_maximum: int = Field(
        2_000,
        ge=1,
        le=10_000,
        description="Messages that may be unacknowledged at once. MQTT 5 tells the broker; the node holds at most so "
        "many in any case.",
    )
    username: Name = Field("", description="User name for the broker.")
    password: SecretStr | None = Field(None, max_length=4_096, description="Password for the broker.")
    tls: MqttTls | None = Field(None, description="TLS with the broker; null: none.")
    topic_field: Annotated[str, StringConstraints(pattern="^[A-Za-z0-9_.-]*$", max_length=64)] = Field(
        "",
        description='Makes the topic part of the data: `{<topicField>: topic, "payload": message}`. Paths still lead '
        "into the message.",
    )

    @property
    def port_or_default(self) -> int:
        return self.port or (PORT_TLS if self.tls else PORT)

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.topic_field == PAYLOAD_FIELD:
            raise ValueError(f"topicField must not be {PAYLOAD_FIELD!r}, the member that holds the message")
        if self.password is not None and not self.username and self.protocol_version == "3.1.1":
            raise ValueError("MQTT 3.1.1 allows a password only together with a username")
        if len(set(self.topics)) < len(self.topics):
            raise ValueError("topics must not repeat a filter")
        return self
