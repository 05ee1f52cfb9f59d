"""The client library: its configuration, its errors in plain words, its log, and questions to a cluster."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import orjson
import structlog
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from node.sources.intake import SourceFault
from node.sources.settings.kafka import KafkaSourceSettings

log = structlog.get_logger(__name__)

Broker: TypeAlias = tuple[str, int]  # host, port

ANSWER_S: Final = 10.0
ATTEMPT_MS: Final = 500
ATTEMPTS: Final = 8  # to connect, as the library counts them
STATISTICS_MS: Final = 3_000
LOG_PAUSE_S: Final = 10.0  # the same kind of message is logged once in so long
KINDS_MAX: Final = 64
NO_TOPIC_ID: Final = "AAAAAAAAAAAAAAAAAAAAAA"  # in a cluster that gives topics no ids
URL_SAFE: Final = str.maketrans("+/", "-_")  # as Kafka itself writes topic ids

DEFAULTS: Final[dict[str, Any]] = {
    "queued.max.messages.kbytes": 16_384,
    "fetch.max.bytes": 8_388_608,
    "reconnect.backoff.ms": 250,
    "reconnect.backoff.max.ms": 5_000,
    "isolation.level": "read_committed",
}
REASONS: Final = {
    KafkaError._AUTHENTICATION: "the broker does not accept the credentials",
    KafkaError._SSL: "TLS with the broker failed",
    KafkaError._RESOLVE: "the name of a broker cannot be resolved",
    KafkaError._TRANSPORT: "no broker can be reached",
    KafkaError._TIMED_OUT: "no broker answers in time",
    KafkaError._ALL_BROKERS_DOWN: "no broker can be reached",
    KafkaError.UNKNOWN_TOPIC_OR_PART: "a topic does not exist, or may not be read",
    KafkaError._UNKNOWN_TOPIC: "a topic does not exist, or may not be read",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "a topic may not be read with these credentials",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "the group may not be used with these credentials",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "the cluster may not be used with these credentials",
    KafkaError.SASL_AUTHENTICATION_FAILED: "the broker does not accept the credentials",
    KafkaError.UNSUPPORTED_SASL_MECHANISM: "the broker does not know this SASL mechanism",
}
DECISIVE: Final = (
    KafkaError._AUTHENTICATION,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError._SSL,
    KafkaError._RESOLVE,
)
"""Errors that state a cause, the most specific first; all others only state that something failed."""


def configuration(settings: KafkaSourceSettings, brokers: Sequence[str]) -> dict[str, Any]:
    """The configuration that every client of a source needs, secrets included."""
    values: dict[str, Any] = {
        **DEFAULTS,
        **settings.properties,
        "bootstrap.servers": ",".join(brokers),
        "client.id": "overlay-node",
        "security.protocol": _protocol(settings),
        "allow.auto.create.topics": False,
        "logger": LibraryLog(),
    }
    if settings.tls is not None:
        tls = settings.tls
        values["ssl.endpoint.identification.algorithm"] = "https"
        if tls.ca_pem:
            values["ssl.ca.pem"] = tls.ca_pem
        if tls.certificate_pem:
            values["ssl.certificate.pem"] = tls.certificate_pem
            values["ssl.key.pem"] = tls.key_pem.get_secret_value()
    if settings.sasl is not None:
        values["sasl.mechanisms"] = settings.sasl.mechanism
        values["sasl.username"] = settings.sasl.username
        values["sasl.password"] = settings.sasl.password.get_secret_value()
    return values


def for_group(settings: KafkaSourceSettings, common: dict[str, Any], group: str) -> dict[str, Any]:
    """The configuration of a member of a group."""
    return {
        **common,
        "group.id": group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        # where a group begins is decided at assignment; this is for offsets that retention has deleted since
        "auto.offset.reset": "earliest",
        "partition.assignment.strategy": "cooperative-sticky",
        "statistics.interval.ms": STATISTICS_MS,
    }


def named_brokers(statistics: Mapping[str, Any]) -> set[Broker]:
    """The brokers that a client knows, by its statistics: those configured, and those that the cluster named."""
    names = [str(broker["nodename"]).rpartition(":") for broker in statistics["brokers"].values()]
    return {(host, int(port)) for host, _, port in names if host}


def for_admin(common: Mapping[str, Any]) -> dict[str, Any]:
    """The common configuration without what only members of a group understand."""
    consumers = ("fetch.", "queued.", "isolation.", "session.", "heartbeat.", "max.poll.", "max.partition.")
    return {name: value for name, value in common.items() if not name.startswith(consumers)}


def fault(error: KafkaError) -> SourceFault:
    """An error of the library in plain words, followed by its own."""
    reason = REASONS.get(error.code(), "")
    text = error.str() or error.name()
    return SourceFault(f"{reason}: {text}" if reason else text)


def worst(errors: Sequence[KafkaError]) -> KafkaError | None:
    """The error that states the most specific cause; None where none states more than that no broker is up."""
    for code in DECISIVE:
        for error in errors:
            if error.code() == code:
                return error
    return next((error for error in errors if error.code() != KafkaError._ALL_BROKERS_DOWN), None)


class Cluster:
    """Questions to a cluster, each asked by a client that joins no group and ends with the answer.

    A client that is not polled would collect its events without bound; so none is kept.
    """

    def __init__(self, common: Mapping[str, Any]) -> None:
        self._settings = for_admin(common)

    def topics(self, check: Callable[[frozenset[Broker]], None], is_stopping: Callable[[], bool]) -> frozenset[str]:
        """The names of its topics, once all brokers that it names are checked.

        Args:
            check: Raises when one of the brokers may not be called.

        Raises:
            SourceFault: It does not answer; the text states why.
        """
        errors: list[KafkaError] = []
        brokers: set[Broker] = set()
        client = self._client(
            error_cb=errors.append,
            stats_cb=lambda text: brokers.update(named_brokers(orjson.loads(text))),
            **{"statistics.interval.ms": ATTEMPT_MS},
        )
        deadline_s = time.monotonic() + ANSWER_S
        while True:
            try:
                found = client.list_topics(timeout=ATTEMPT_MS / 1000)
                check(frozenset((str(each.host), int(each.port)) for each in found.brokers.values()) | brokers)
                return frozenset(found.topics)
            except KafkaException as error:
                client.poll(0)
                check(frozenset(brokers))
                cause = worst(errors)
                is_known = cause is not None and (cause.code() in DECISIVE or len(errors) >= ATTEMPTS)
                if is_known or is_stopping() or time.monotonic() > deadline_s:
                    raise fault(cause or error.args[0]) from None

    def unique_names(self, topics: Sequence[str]) -> dict[str, str]:
        """Names that no later topic has, by topic: ``name:id``, or the name alone where topics have no ids.

        Raises:
            SourceFault: It does not answer; the text states why.
        """
        found = {}
        client = self._client()
        try:
            asked = client.describe_topics(TopicCollection(list(topics)), request_timeout=ANSWER_S)
            for topic, future in asked.items():
                topic_id = str(future.result(ANSWER_S).topic_id).translate(URL_SAFE)
                found[topic] = topic if topic_id == NO_TOPIC_ID else f"{topic}:{topic_id}"
        except KafkaException as error:
            raise fault(error.args[0]) from None
        except TimeoutError:
            raise SourceFault("no broker answers which ids the topics have") from None
        return found

    def _client(self, **more: Any) -> AdminClient:
        settings: dict[str, Any] = {**self._settings, **more}
        client: AdminClient = created(lambda: AdminClient(settings))
        return client


class LibraryLog:
    """Writes the library's log to the node's; the same kind of message at most once in ``LOG_PAUSE_S``."""

    def __init__(self) -> None:
        self._logged_s: dict[str, float] = {}

    def log(self, level: int, text: str, *parts: Any) -> None:
        """Called by the library, in the thread that polls; parts are the facility, the client's name, the text."""
        now_s = time.monotonic()
        kind = str(parts[0]) if parts else text
        if len(self._logged_s) >= KINDS_MAX:
            self._logged_s.clear()
        if now_s - self._logged_s.get(kind, -LOG_PAUSE_S) < LOG_PAUSE_S:
            return
        self._logged_s[kind] = now_s
        log.info("kafka.client", level=level, text=(text % parts)[:500] if parts else text[:500])


def created(build: Callable[[], Any]) -> Any:
    """A client of the library, made by ``build``.

    Raises:
        SourceFault: The library refuses its configuration.
    """
    try:
        return build()
    except KafkaException as error:
        raise fault(error.args[0]) from None


def _protocol(settings: KafkaSourceSettings) -> str:
    inner = "SSL" if settings.tls is not None else "PLAINTEXT"
    return inner if settings.sasl is None else f"SASL_{inner}"
