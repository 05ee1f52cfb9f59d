"""Kafka topics that the node reads as a member of a consumer group."""

import re
from typing import Annotated, Final, Literal, Self

import attrs
from pydantic import Field, SecretStr, StringConstraints, field_validator, model_validator

from node.sources.settings.base import EventSettings, SourceSettings

BROKER: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]{1,253}):(?P<port>[0-9]{1,5})")
PEM_CHARS_MAX: Final = 65_536
PropertyValue = bool | int | str


@attrs.frozen
class Numbers:
    """The values that a property of the client library may have: a range, both ends in it."""

    least: int
    most: int

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and self.least <= value <= self.most

    def __str__(self) -> str:
        return f"a whole number from {self.least} to {self.most}"


@attrs.frozen
class Texts:
    """The values that a property of the client library may have: one of these."""

    choices: tuple[str, ...]

    def __contains__(self, value: object) -> bool:
        return value in self.choices

    def __str__(self) -> str:
        return "one of " + ", ".join(self.choices)


PROPERTIES: Final[dict[str, Numbers | Texts]] = {
    "broker.address.family": Texts(("any", "v4", "v6")),
    "connections.max.idle.ms": Numbers(0, 3_600_000),
    "fetch.error.backoff.ms": Numbers(10, 60_000),
    "fetch.max.bytes": Numbers(65_536, 33_554_432),
    "fetch.min.bytes": Numbers(1, 1_048_576),
    "fetch.wait.max.ms": Numbers(10, 10_000),
    "heartbeat.interval.ms": Numbers(100, 60_000),
    "isolation.level": Texts(("read_committed", "read_uncommitted")),
    "max.partition.fetch.bytes": Numbers(65_536, 16_777_216),
    "max.poll.interval.ms": Numbers(10_000, 3_600_000),
    "metadata.max.age.ms": Numbers(10_000, 3_600_000),
    "queued.max.messages.kbytes": Numbers(1_024, 65_536),
    "reconnect.backoff.max.ms": Numbers(100, 60_000),
    "session.timeout.ms": Numbers(3_000, 600_000),
    "socket.connection.setup.timeout.ms": Numbers(1_000, 60_000),
    "socket.keepalive.enable": Texts(("true", "false")),
    "socket.timeout.ms": Numbers(1_000, 120_000),
    "topic.metadata.refresh.interval.ms": Numbers(1_000, 3_600_000),
}
"""Properties of librdkafka that a source may set; all others are the node's. Names as in its CONFIGURATION.md."""

Topic = Annotated[str, StringConstraints(pattern="^[A-Za-z0-9._-]{1,249}$")]
Pem = Annotated[str, StringConstraints(max_length=PEM_CHARS_MAX)]


class KafkaTls(SourceSettings):
    """TLS to the brokers, whose certificates must name the hosts that are called.

    ``caPem``: who is trusted to say so; the system's authorities where it is empty.
    ``certificatePem``, ``keyPem``: of the client, for brokers that ask for one.
    """

    ca_pem: Pem = ""
    certificate_pem: Pem = ""
    key_pem: SecretStr = SecretStr("")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if bool(self.certificate_pem) != bool(self.key_pem.get_secret_value()):
            raise ValueError("a certificate and its key come together")
        return self


class KafkaSasl(SourceSettings):
    """How the node says who it is."""

    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
    username: str = Field(min_length=1, max_length=256)
    password: SecretStr = Field(min_length=1, max_length=1_024)


class KafkaSourceSettings(EventSettings):
    """A source that is read from Kafka.

    Attributes:
        brokers: ``host:port`` of some of the cluster's brokers.
        topics, topic_pattern: What is read: names, or a regular expression that whole names match. One of both.
        group: The consumer group. Left out, it is made of the network's name and the source's id, so that nodes
            which have the same source share its partitions.
        start: Where a group that has no offset yet begins. It is asked once: the place is committed at once.
        data: ``value``: the message's value is the event's data. ``message``: the data is an object
            ``{key, value, headers, topic, partition, offset, timestamp}``, and paths lead into that.
        key_format: How the key stands in it.
        tombstones: What messages without a value are: events whose data (or ``/value``) is null, or nothing.
        timestamps: Whether the message's own time is that of events that say none.
        tls, sasl: How to connect. A PLAIN password goes through TLS alone.
        properties: Further settings of the client library, of ``PROPERTIES``.
    """

    brokers: tuple[str, ...] = Field(min_length=1, max_length=16)
    topics: tuple[Topic, ...] = Field((), max_length=256)
    topic_pattern: str = Field("", max_length=256)
    group: str = Field("", max_length=255)
    start: Literal["earliest", "latest"] = "earliest"
    data: Literal["value", "message"] = "value"
    key_format: Literal["text", "json", "base64"] = "text"
    tombstones: Literal["events", "skip"] = "events"
    timestamps: bool = True
    tls: KafkaTls | None = None
    sasl: KafkaSasl | None = None
    properties: dict[str, PropertyValue] = Field(default_factory=dict, max_length=len(PROPERTIES))

    @field_validator("brokers")
    @classmethod
    def _addresses(cls, brokers: tuple[str, ...]) -> tuple[str, ...]:
        for broker in brokers:
            found = BROKER.fullmatch(broker)
            if found is None or not 0 < int(found["port"]) < 65_536:
                raise ValueError("brokers are written host:port")
        return brokers

    @field_validator("topic_pattern")
    @classmethod
    def _pattern(cls, pattern: str) -> str:
        if re.search(r"\\[0-9]", pattern) or not pattern.isprintable():
            raise ValueError("a pattern of topics refers back to nothing, and is printable")
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        return pattern

    @field_validator("properties")
    @classmethod
    def _known(cls, properties: dict[str, PropertyValue]) -> dict[str, PropertyValue]:
        for name, value in properties.items():
            allowed = PROPERTIES.get(name)
            if allowed is None:
                raise ValueError(f"{name[:64]!r} is not among {', '.join(PROPERTIES)}")
            if value not in allowed:
                raise ValueError(f"{name} is {allowed}")
        return properties

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if bool(self.topics) == bool(self.topic_pattern):
            raise ValueError("either topics or topicPattern says what is read")
        if self.sasl is not None and self.sasl.mechanism == "PLAIN" and self.tls is None:
            raise ValueError("a PLAIN password is sent through TLS only: set tls, or use SCRAM")
        if int(self.properties.get("heartbeat.interval.ms", 3_000)) >= int(
            self.properties.get("session.timeout.ms", 45_000)
        ):
            raise ValueError("heartbeat.interval.ms is below session.timeout.ms")
        return self
