"""The client library: its configuration, its words for what is wrong, its log."""

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

LOOK_S: Final = 10.0
TRY_MS: Final = 500
TRIES: Final = 8  # to connect, by the library's count
STATISTICS_MS: Final = 3_000
QUIET_S: Final = 10.0  # the same kind of message is logged once in so long
KINDS_MAX: Final = 64
NO_TOPIC_ID: Final = "AAAAAAAAAAAAAAAAAAAAAA"  # of a cluster that gives topics none
URL_SAFE: Final = str.maketrans("+/", "-_")  # as Kafka itself writes topic ids

DEFAULTS: Final[dict[str, Any]] = {
    "queued.max.messages.kbytes": 16_384,
    "fetch.max.bytes": 8_388_608,
    "reconnect.backoff.ms": 250,
    "reconnect.backoff.max.ms": 5_000,
    "isolation.level": "read_committed",
}
WORDS: Final = {
    KafkaError._AUTHENTICATION: "the broker does not accept the credentials",
    KafkaError._SSL: "no TLS with the broker",
    KafkaError._RESOLVE: "a broker's name leads nowhere",
    KafkaError._TRANSPORT: "no broker can be reached",
    KafkaError._TIMED_OUT: "no broker answers",
    KafkaError._ALL_BROKERS_DOWN: "no broker can be reached",
    KafkaError.UNKNOWN_TOPIC_OR_PART: "a topic does not exist, or may not be read",
    KafkaError._UNKNOWN_TOPIC: "a topic does not exist, or may not be read",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "a topic may not be read with these credentials",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "the group may not be used with these credentials",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "the cluster may not be used with these credentials",
    KafkaError.SASL_AUTHENTICATION_FAILED: "the broker does not accept the credentials",
    KafkaError.UNSUPPORTED_SASL_MECHANISM: "the broker does not know this SASL mechanism",
}
TELLING: Final = (
    KafkaError._AUTHENTICATION,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError._SSL,
    KafkaError._RESOLVE,
)
"""Errors that say why, the most telling first; all others only say that."""


def configuration(settings: KafkaSourceSettings, brokers: Sequence[str]) -> dict[str, Any]:
    """What every client of a source needs; secrets are in it."""
    found: dict[str, Any] = {
        **DEFAULTS,
        **settings.properties,
        "bootstrap.servers": ",".join(brokers),
        "client.id": "overlay-node",
        "security.protocol": _protocol(settings),
        "allow.auto.create.topics": False,
        "logger": Logs(),
    }
    if settings.tls is not None:
        tls = settings.tls
        found["ssl.endpoint.identification.algorithm"] = "https"
        if tls.ca_pem:
            found["ssl.ca.pem"] = tls.ca_pem
        if tls.certificate_pem:
            found["ssl.certificate.pem"] = tls.certificate_pem
            found["ssl.key.pem"] = tls.key_pem.get_secret_value()
    if settings.sasl is not None:
        found["sasl.mechanisms"] = settings.sasl.mechanism
        found["sasl.username"] = settings.sasl.username
        found["sasl.password"] = settings.sasl.password.get_secret_value()
    return found


def for_group(settings: KafkaSourceSettings, common: dict[str, Any], group: str) -> dict[str, Any]:
    """What the member of a group needs."""
    return {
        **common,
        "group.id": group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        # where a group begins is decided at assignment; this is for what retention has taken away meanwhile
        "auto.offset.reset": "earliest",
        "partition.assignment.strategy": "cooperative-sticky",
        "statistics.interval.ms": STATISTICS_MS,
    }


def named_brokers(statistics: Mapping[str, Any]) -> set[Broker]:
    """The brokers that a client knows: those it was told to call, and those that the cluster named."""
    names = [str(broker["nodename"]).rpartition(":") for broker in statistics["brokers"].values()]
    return {(host, int(port)) for host, _, port in names if host}


def for_admin(common: Mapping[str, Any]) -> dict[str, Any]:
    """What a client that belongs to no group takes of the common settings."""
    consumers = ("fetch.", "queued.", "isolation.", "session.", "heartbeat.", "max.poll.", "max.partition.")
    return {name: value for name, value in common.items() if not name.startswith(consumers)}


def fault(error: KafkaError) -> SourceFault:
    """An error in words, with the library's own."""
    words = WORDS.get(error.code(), "")
    said = error.str() or error.name()
    return SourceFault(f"{words}: {said}" if words else said)


def worst(errors: Sequence[KafkaError]) -> KafkaError | None:
    """The error that says most about why."""
    for code in TELLING:
        for error in errors:
            if error.code() == code:
                return error
    return next((error for error in errors if error.code() != KafkaError._ALL_BROKERS_DOWN), None)


class Cluster:
    """Questions to a cluster, each asked by a client that joins no group and ends with the answer.

    A client that nobody polls would gather what it has to say; so none is kept.
    """

    def __init__(self, common: Mapping[str, Any]) -> None:
        self._settings = for_admin(common)

    def look(self, judge: Callable[[frozenset[Broker]], None], is_stopped: Callable[[], bool]) -> frozenset[str]:
        """The names of its topics, once all brokers that it names are judged.

        Args:
            judge: Raises when one of them may not be called.

        Raises:
            SourceFault: in words, why it does not answer.
        """
        errors: list[KafkaError] = []
        brokers: set[Broker] = set()
        client = self._client(
            error_cb=errors.append,
            stats_cb=lambda text: brokers.update(named_brokers(orjson.loads(text))),
            **{"statistics.interval.ms": TRY_MS},
        )
        deadline_s = time.monotonic() + LOOK_S
        while True:
            try:
                found = client.list_topics(timeout=TRY_MS / 1000)
                judge(frozenset((str(each.host), int(each.port)) for each in found.brokers.values()) | brokers)
                return frozenset(found.topics)
            except KafkaException as error:
                client.poll(0)
                judge(frozenset(brokers))
                said = worst(errors)
                is_told = said is not None and (said.code() in TELLING or len(errors) >= TRIES)
                if is_told or is_stopped() or time.monotonic() > deadline_s:
                    raise fault(said or error.args[0]) from None

    def logs(self, topics: Sequence[str]) -> dict[str, str]:
        """What names topics for good: ``name:id``, or the name alone where the cluster gives topics no ids.

        Raises:
            SourceFault: It does not say.
        """
        found = {}
        client = self._client()
        try:
            asked = client.describe_topics(TopicCollection(list(topics)), request_timeout=LOOK_S)
            for topic, future in asked.items():
                topic_id = str(future.result(LOOK_S).topic_id).translate(URL_SAFE)
                found[topic] = topic if topic_id == NO_TOPIC_ID else f"{topic}:{topic_id}"
        except KafkaException as error:
            raise fault(error.args[0]) from None
        except TimeoutError:
            raise SourceFault("no broker says which topics these are") from None
        return found

    def _client(self, **more: Any) -> AdminClient:
        settings: dict[str, Any] = {**self._settings, **more}
        client: AdminClient = made(lambda: AdminClient(settings))
        return client


class Logs:
    """The library's log, as lines of ours; the same kind of message not more often than every ``QUIET_S``."""

    def __init__(self) -> None:
        self._said: dict[str, float] = {}

    def log(self, level: int, text: str, *parts: Any) -> None:
        """Called by the library, in the thread that polls; parts are the facility, the client's name, the text."""
        now_s = time.monotonic()
        kind = str(parts[0]) if parts else text
        if len(self._said) >= KINDS_MAX:
            self._said.clear()
        if now_s - self._said.get(kind, -QUIET_S) < QUIET_S:
            return
        self._said[kind] = now_s
        log.info("kafka.client", level=level, said=(text % parts)[:500] if parts else text[:500])


def made(build: Callable[[], Any]) -> Any:
    """A client of the library.

    Raises:
        SourceFault: It does not take its configuration.
    """
    try:
        return build()
    except KafkaException as error:
        raise fault(error.args[0]) from None


def _protocol(settings: KafkaSourceSettings) -> str:
    inner = "SSL" if settings.tls is not None else "PLAINTEXT"
    return inner if settings.sasl is None else f"SASL_{inner}"
