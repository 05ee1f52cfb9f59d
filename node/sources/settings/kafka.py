"""Settings of sources that are read from Kafka."""

import re
from typing import Annotated, Final, Literal, Self

import attrs
from pydantic import Field, SecretStr, StringConstraints, field_validator, model_validator

from node.sources.settings.base import EventSettings, Pem, SourceSettings

BROKER: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]{1,253}):(?P<port>[0-9]{1,5})")
PropertyValue = bool | int | str


@attrs.frozen
class AllowedRange:
    """The values that a property of the client library may have: integers of a range, both ends included."""

    least: int
    most: int

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and self.least <= value <= self.most

    def __str__(self) -> str:
        return f"an integer from {self.least} to {self.most}"


@attrs.frozen
class AllowedChoices:
    """The values that a property of the client library may have: one of these."""

    choices: tuple[str, ...]

    def __contains__(self, value: object) -> bool:
        return value in self.choices

    def __str__(self) -> str:
        return "one of " + ", ".join(self.choices)


PROPERTIES: Final[dict[str, AllowedRange | AllowedChoices]] = {
    "broker.address.family": AllowedChoices(("any", "v4", "v6")),
    "connections.max.idle.ms": AllowedRange(0, 3_600_000),
    "fetch.error.backoff.ms": AllowedRange(10, 60_000),
    "fetch.max.bytes": AllowedRange(1_000_000, 33_554_432),  # at least the library's message.max.bytes
    "fetch.min.bytes": AllowedRange(1, 1_048_576),
    "fetch.wait.max.ms": AllowedRange(10, 10_000),
    "heartbeat.interval.ms": AllowedRange(100, 60_000),
    "isolation.level": AllowedChoices(("read_committed", "read_uncommitted")),
    "max.partition.fetch.bytes": AllowedRange(65_536, 16_777_216),
    "max.poll.interval.ms": AllowedRange(10_000, 3_600_000),
    "metadata.max.age.ms": AllowedRange(10_000, 3_600_000),
    "queued.max.messages.kbytes": AllowedRange(1_024, 65_536),
    "reconnect.backoff.max.ms": AllowedRange(250, 60_000),  # at least the reconnect.backoff.ms that the node sets
    "session.timeout.ms": AllowedRange(3_000, 600_000),
    "socket.connection.setup.timeout.ms": AllowedRange(1_000, 60_000),
    "socket.keepalive.enable": AllowedChoices(("true", "false")),
    "socket.timeout.ms": AllowedRange(1_000, 120_000),
    "topic.metadata.refresh.interval.ms": AllowedRange(1_000, 3_600_000),
}
"""Properties of librdkafka that a source may set; the node sets all others. Names as in its CONFIGURATION.md."""

Topic = Annotated[str, StringConstraints(pattern="^[A-Za-z0-9._-]{1,249}$")]


class KafkaTls(SourceSettings):
    """TLS with Kafka brokers, whose certificates must be issued for the hosts that are called."""

    ca_pem: Pem = Field("", description="Certificate authorities to trust, PEM. Default: those of the system.")
    certificate_pem: Pem = Field("", description="Client certificate of the node, PEM, for brokers that ask for one.")
    key_pem: SecretStr = Field(SecretStr(""), description="Private key of the client certificate, PEM.")

    @model_validator(mode="after")
    def _has_certificate_and_key(self) -> Self:
        if bool(self.certificate_pem) != bool(self.key_pem.get_secret_value()):
            raise ValueError("certificatePem and keyPem must be given together")
        return self


class KafkaSasl(SourceSettings):
    """How the node authenticates to Kafka brokers."""

    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(description="SASL mechanism.")
    username: str = Field(min_length=1, max_length=256, description="User name for the brokers.")
    password: SecretStr = Field(min_length=1, max_length=1_024, description="Password for the brokers.")


class KafkaSourceSettings(EventSettings):
    """One Kafka cluster, what is read from it as a member of a consumer group, and how messages become events."""

    brokers: tuple[str, ...] = Field(
        min_length=1, max_length=16, description="`host:port` of some of the cluster's brokers."
    )
    topics: tuple[Topic, ...] = Field((), max_length=256, description="Topics to read; or give `topicPattern`.")
    topic_pattern: str = Field(
        "", max_length=256, description="Regular expression: topics whose whole name matches are read."
    )
    group: str = Field(
        "",
        max_length=255,
        description="The consumer group. Default: made from the network's name and the source's id, so that nodes "
        "that have the same source share its partitions.",
    )
    start: Literal["earliest", "latest"] = Field(
        "earliest",
        description="Where a group without an offset begins. It is decided once: the offset is committed at once.",
    )
    data: Literal["value", "message"] = Field(
        "value",
        description="value: the message's value is the event's data. message: the data is an object `{key, value, "
        "headers, topic, partition, offset, timestamp}`, and paths lead into it.",
    )
    key_format: Literal["text", "json", "base64"] = Field(
        "text", description="How the key is written in the data, with `data` message."
    )
    tombstones: Literal["events", "skip"] = Field(
        "events", description="Messages without a value: events whose data (or `/value`) is null, or skipped."
    )
    timestamps: bool = Field(
        True, description="Whether events that state no time of their own get the time of their message."
    )
    tls: KafkaTls | None = Field(None, description="TLS with the brokers; null: none.")
    sasl: KafkaSasl | None = Field(
        None, description="Authentication; null: none. A PLAIN password is sent through TLS only."
    )
    properties: dict[str, PropertyValue] = Field(
        default_factory=dict,
        max_length=len(PROPERTIES),
        description="Further settings of the client library, librdkafka: " + ", ".join(PROPERTIES) + ".",
    )

    @field_validator("brokers")
    @classmethod
    def _are_addresses(cls, brokers: tuple[str, ...]) -> tuple[str, ...]:
        for broker in brokers:
            found = BROKER.fullmatch(broker)
            if found is None or not 0 < int(found["port"]) < 65_536:
                raise ValueError("must be an array of host:port with ports from 1 to 65535")
        return brokers

    @field_validator("topic_pattern")
    @classmethod
    def _is_regular_expression(cls, pattern: str) -> str:
        if re.search(r"\\[0-9]", pattern) or not pattern.isprintable():
            raise ValueError("must be a printable regular expression without back-references")
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"must be a regular expression: {error}") from None
        return pattern

    @field_validator("properties")
    @classmethod
    def _are_allowed(cls, properties: dict[str, PropertyValue]) -> dict[str, PropertyValue]:
        for name, value in properties.items():
            allowed = PROPERTIES.get(name)
            if allowed is None:
                raise ValueError(f"has the unknown property {name[:64]!r}; allowed are {', '.join(PROPERTIES)}")
            if value not in allowed:
                raise ValueError(f"{name} must be {allowed}")
        return properties

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if bool(self.topics) == bool(self.topic_pattern):
            raise ValueError("must have either topics or topicPattern, not both")
        if self.sasl is not None and self.sasl.mechanism == "PLAIN" and self.tls is None:
            raise ValueError("must have tls with the mechanism PLAIN, which sends the password; or use SCRAM")
        if int(self.properties.get("heartbeat.interval.ms", 3_000)) >= int(
            self.properties.get("session.timeout.ms", 45_000)
        ):
            raise ValueError("heartbeat.interval.ms must be less than session.timeout.ms")
        return self
