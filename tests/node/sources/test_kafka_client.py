"""What the Kafka reader is made of, without a broker: the client's configuration and errors, offsets, batches."""

from collections.abc import Sequence
from functools import partial
from ipaddress import ip_network
from typing import Any

import pytest
import trio
from confluent_kafka import Consumer, KafkaError
from hypothesis import given
from hypothesis import strategies as st

from node.runtime.guarded_network import ForbiddenAddressError
from node.sources import settings as source_settings
from node.sources.intake import SourceFault
from node.sources.kafka import client
from node.sources.kafka.brokers import address_of
from node.sources.kafka.in_flight import PART_BYTES_MAX, EventLoop, InFlightBatch, Partition, parts_by_size
from node.sources.kafka.partitions import Offsets
from node.sources.settings.kafka import PROPERTIES, AllowedChoices, KafkaSourceSettings
from node.worker.parsing.kafka_messages import KafkaMessage

BASE: dict[str, Any] = {"brokers": ["kafka.example:9092"], "topics": ["t"]}
SASL = {"mechanism": "SCRAM-SHA-512", "username": "alice", "password": "hush"}
PRIVATE = ("ssl.key.pem", "sasl.password")


def settings(**more: Any) -> KafkaSourceSettings:
    return KafkaSourceSettings.model_validate({**BASE, **more})


def message(offset: int, partition: int = 0, topic: str = "t", size: int = 1) -> KafkaMessage:
    return KafkaMessage(
        topic=topic,
        log=topic,
        partition=partition,
        offset=offset,
        key=None,
        value=b"x" * size,
        headers=(),
        timestamp_ms=None,
    )


@pytest.mark.parametrize(
    ("more", "protocol"),
    [
        ({}, "PLAINTEXT"),
        ({"tls": {}}, "SSL"),
        ({"sasl": SASL}, "SASL_PLAINTEXT"),
        ({"tls": {}, "sasl": SASL}, "SASL_SSL"),
    ],
)
def test_the_security_protocol_follows_from_tls_and_sasl(more: dict[str, Any], protocol: str) -> None:
    found = client.configuration(settings(**more), ["127.0.0.1:9092"])
    assert found["security.protocol"] == protocol
    assert ("ssl.endpoint.identification.algorithm" in found) is ("tls" in more)
    assert found.get("sasl.mechanisms") == (SASL["mechanism"] if "sasl" in more else None)
    assert found["allow.auto.create.topics"] is False


def test_secrets_reach_the_client_and_no_representation_of_the_settings() -> None:
    tls = {"caPem": "CA", "certificatePem": "CERTIFICATE", "keyPem": "KEY-hush"}
    made = settings(tls=tls, sasl=SASL)
    found = client.configuration(made, ["a:1", "b:2"])
    assert [found[name] for name in PRIVATE] == ["KEY-hush", "hush"]
    assert (found["ssl.ca.pem"], found["ssl.certificate.pem"]) == ("CA", "CERTIFICATE")
    assert found["bootstrap.servers"] == "a:1,b:2"
    assert "hush" not in repr(made) + str(made)


def test_properties_of_the_source_go_before_defaults_and_never_before_what_the_node_sets() -> None:
    properties = {"fetch.max.bytes": 1_000_000, "isolation.level": "read_uncommitted"}
    found = client.for_group(settings(), client.configuration(settings(properties=properties), ["a:1"]), "mine")
    assert {name: found[name] for name in properties} == properties
    assert (found["group.id"], found["enable.auto.commit"], found["enable.auto.offset.store"]) == (
        "mine",
        False,
        False,
    )
    assert not set(PROPERTIES) & {
        "group.id",
        "enable.auto.commit",
        "bootstrap.servers",
        "security.protocol",
        "logger",
    }


@pytest.mark.parametrize("name", PROPERTIES)
def test_the_library_takes_every_property_at_both_ends_of_its_range(name: str) -> None:
    """A property that the library does not know, or a value that it refuses, would end a source when it starts."""
    allowed = PROPERTIES[name]
    values: Sequence[Any]
    values = allowed.choices if isinstance(allowed, AllowedChoices) else (allowed.least, allowed.most)
    others: dict[str, Any] = {
        "heartbeat.interval.ms": {"session.timeout.ms": 600_000, "max.poll.interval.ms": 3_600_000},
        "session.timeout.ms": {"heartbeat.interval.ms": 100, "max.poll.interval.ms": 3_600_000},
        "max.poll.interval.ms": {"session.timeout.ms": 6_000},
    }
    for value in values:
        made = settings(properties={**others.get(name, {}), name: value})
        configuration = client.for_group(made, client.configuration(made, ["127.0.0.1:1"]), "g")
        consumer: Consumer = client.created(partial(Consumer, configuration))
        consumer.close()


def test_an_admin_client_gets_no_settings_of_consumers() -> None:
    common = client.configuration(settings(properties={"max.poll.interval.ms": 10_000}), ["a:1"])
    found = client.for_admin(common)
    assert found["bootstrap.servers"] == "a:1"
    assert not [name for name in found if name.startswith(("fetch.", "max.poll.", "isolation.", "queued."))]


def test_a_configuration_that_the_library_refuses_is_the_source_s_fault() -> None:
    with pytest.raises(SourceFault):
        client.created(
            lambda: Consumer({"group.id": "g", "sasl.mechanisms": "NONSENSE", "security.protocol": "SASL_SSL"})
        )


def test_an_error_is_put_in_plain_words_followed_by_the_library_s() -> None:
    known = client.fault(KafkaError(KafkaError._AUTHENTICATION, "SASL says no"))
    assert str(known) == "the broker does not accept the credentials: SASL says no"
    other = client.fault(KafkaError(KafkaError.INVALID_GROUP_ID, "bad group"))
    assert str(other) == "bad group"


def test_the_error_that_states_a_cause_is_the_one_that_is_shown() -> None:
    down = KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down")
    transport = KafkaError(KafkaError._TRANSPORT, "Connection refused")
    name = KafkaError(KafkaError._RESOLVE, "cannot resolve")
    login = KafkaError(KafkaError._AUTHENTICATION, "wrong password")
    assert client.worst([]) is None
    assert client.worst([down]) is None
    assert client.worst([down, transport]) is transport
    assert client.worst([transport, name, down]) is name
    assert client.worst([down, name, login, transport]) is login


def test_brokers_are_named_by_statistics_and_those_without_a_host_are_left_out() -> None:
    statistics = {
        "brokers": {
            "a": {"nodename": "a.example:9092"},
            "six": {"nodename": "[::1]:9093"},
            "coordinator": {"nodename": ":0"},
        }
    }
    assert client.named_brokers(statistics) == {("a.example", 9092), ("[::1]", 9093)}


async def test_a_broker_is_called_at_the_address_that_was_checked_or_by_its_name_for_tls() -> None:

    allowed = [ip_network("127.0.0.0/8"), ip_network("::1/128")]
    assert await address_of("localhost:9092", by_name=True, allowed=allowed) == "localhost:9092"
    assert await address_of("127.0.0.1:9092", by_name=False, allowed=allowed) == "127.0.0.1:9092"
    assert await address_of("[::1]:9092", by_name=False, allowed=allowed) == "[::1]:9092"
    with pytest.raises(ForbiddenAddressError):
        await address_of("127.0.0.1:9092", by_name=False, allowed=[])
    with pytest.raises(SourceFault, match=r"cannot be resolved: nowhere\.invalid"):
        await address_of("nowhere.invalid:9092", by_name=False, allowed=allowed)


# --- offsets ----------------------------------------------------------------------------------------------------


def batch(*messages: KafkaMessage, is_on_disk: bool = True) -> InFlightBatch:
    return InFlightBatch(messages=messages, is_on_disk=is_on_disk)


@pytest.fixture
def offsets() -> Offsets:
    found = Offsets()
    found.own([("t", 0), ("t", 1)])
    return found


async def test_only_what_is_on_disk_and_still_ours_is_committed(offsets: Offsets) -> None:
    offsets.on_disk(batch(message(4), message(7, partition=1), is_on_disk=False))
    assert offsets.next_commit() == {}
    given_up = batch(message(4), message(7, partition=1))
    given_up.given_up.add(("t", 1))
    offsets.on_disk(given_up)
    offsets.on_disk(batch(message(9, partition=2)))
    assert offsets.next_commit() == {("t", 0): 5}


async def test_one_commit_at_a_time_and_a_refused_one_is_repeated_unless_there_is_a_later_offset(
    offsets: Offsets,
) -> None:
    offsets.on_disk(batch(message(0), message(0, partition=1)))
    assert offsets.next_commit() == {("t", 0): 1, ("t", 1): 1}
    offsets.on_disk(batch(message(1)))
    assert offsets.next_commit() == {}, "one is under way"
    offsets.committed(refused=[("t", 0), ("t", 1), ("other", 9)])
    assert offsets.next_commit() == {("t", 0): 2, ("t", 1): 1}
    offsets.committed(refused=[])
    assert offsets.next_commit() == {}


async def test_what_is_not_known_to_be_committed_goes_with_revoked_partitions(offsets: Offsets) -> None:
    offsets.on_disk(batch(message(0), message(0, partition=1)))
    offsets.next_commit()
    offsets.on_disk(batch(message(5)))
    assert offsets.uncommitted([("t", 0), ("t", 7)]) == {("t", 0): 6}
    offsets.lose([("t", 0)])
    assert offsets.uncommitted([("t", 0), ("t", 1)]) == {("t", 1): 1}
    assert offsets.owned == {("t", 1)}
    offsets.begin_at(("t", 1), 40)
    offsets.committed(refused=[("t", 1)])
    assert offsets.next_commit() == {("t", 1): 40}


def test_an_offset_that_goes_back_is_noticed(offsets: Offsets) -> None:
    assert not offsets.goes_back(("t", 0), 10)
    assert not offsets.goes_back(("t", 0), 11)
    assert offsets.goes_back(("t", 0), 3), "the topic was made anew"
    assert not offsets.goes_back(("t", 0), 4)
    assert not offsets.goes_back(("t", 1), 0)


PARTITIONS: tuple[Partition, ...] = (("t", 0), ("t", 1), ("u", 0))
STEPS = st.lists(
    st.tuples(st.sampled_from(["read", "send", "ok", "refused", "lose", "own"]), st.sampled_from(PARTITIONS))
)


@given(steps=STEPS)
def test_committed_offsets_never_pass_what_is_on_disk_and_nothing_on_disk_is_forgotten(
    steps: list[tuple[str, Partition]],
) -> None:
    offsets, on_disk, known = Offsets(), dict.fromkeys(PARTITIONS, 0), dict.fromkeys(PARTITIONS, 0)
    under_way: dict[Partition, int] = {}
    offsets.own(PARTITIONS)
    for step, partition in steps:
        if step == "read" and partition in offsets.owned:
            topic, number = partition
            found = InFlightBatch.__new__(InFlightBatch)  # without a cancel scope, which needs an event loop
            found.messages = (message(on_disk[partition], number, topic),)
            found.given_up, found.is_on_disk = set(), True
            on_disk[partition] += 1
            offsets.on_disk(found)
        elif step == "send":
            sent = dict(offsets.next_commit())
            assert not (sent and under_way), "one commit at a time"
            under_way = under_way or sent
            assert all(offset <= on_disk[each] for each, offset in sent.items())
        elif step in ("ok", "refused"):
            if step == "ok":
                known.update({each: max(known[each], offset) for each, offset in under_way.items()})
            offsets.committed(refused=under_way if step == "refused" else ())
            under_way = {}
        elif step == "lose":
            offsets.lose([partition])
            under_way = {each: offset for each, offset in under_way.items() if each != partition}
            known[partition] = on_disk[partition]  # whoever reads on is another
        elif step == "own":
            offsets.own([partition])
    pending = offsets.uncommitted(PARTITIONS)
    for partition in offsets.owned:
        assert max(known[partition], pending.get(partition, 0)) == on_disk[partition]


# --- batches ----------------------------------------------------------------------------------------------------


@given(
    sizes=st.lists(
        st.sampled_from([1, 1_000, PART_BYTES_MAX // 2, PART_BYTES_MAX - 200, PART_BYTES_MAX + 1]), max_size=8
    )
)
def test_parts_keep_the_order_and_their_bound(sizes: list[int]) -> None:
    messages = [message(at, size=size) for at, size in enumerate(sizes)]
    parts = parts_by_size(messages)
    assert [each.offset for part in parts for each in part] == list(range(len(sizes)))
    assert all(len(part) == 1 or sum(each.size for each in part) <= PART_BYTES_MAX for part in parts)
    assert all(parts)


async def test_a_batch_that_gave_partitions_up_has_the_others_left() -> None:
    found = batch(message(0), message(0, partition=1), message(1), is_on_disk=False)
    assert found.partitions == {("t", 0), ("t", 1)}
    found.give_up([("t", 1)])
    assert [each.partition for each in found.remaining] == [0, 0]
    assert found.scope.cancel_called
    assert batch(message(0)).remaining == []


async def test_the_thread_learns_that_the_event_loop_has_ended() -> None:
    called: list[str] = []
    loop = EventLoop()

    def thread() -> None:
        loop.call_soon(called.append, "from the thread")

    await trio.to_thread.run_sync(thread)
    with trio.fail_after(5):
        while not called:
            await trio.lowlevel.checkpoint()
    assert not loop.is_stopping
    loop.stop()
    assert loop.is_stopping


def test_an_event_loop_that_is_gone_stops_the_thread() -> None:
    async def made() -> EventLoop:
        return EventLoop()

    loop = trio.run(made)
    loop.call_soon(print, "never")
    assert loop.is_stopping


# --- settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"brokers": []}, "/configuration/brokers"),
        ({"brokers": ["kafka.example"]}, "/configuration/brokers"),
        ({"brokers": ["a:1,b:2"]}, "/configuration/brokers"),
        ({"topics": []}, "/configuration"),
        ({"topicPattern": "t.*"}, "/configuration"),
        ({"topics": ["^a.*"]}, "/configuration/topics/0"),
        ({"topics": [], "topicPattern": "("}, "/configuration/topicPattern"),
        ({"properties": {"ssl.ca.location": "/etc/shadow"}}, "/configuration/properties"),
        ({"properties": {"plugin.library.paths": "x"}}, "/configuration/properties"),
        ({"properties": {"session.timeout.ms": 1}}, "/configuration/properties"),
        ({"properties": {"session.timeout.ms": "6000"}}, "/configuration/properties"),
        ({"sasl": {"mechanism": "PLAIN", "username": "u", "password": "p"}}, "/configuration"),
        ({"sasl": {"mechanism": "GSSAPI", "username": "u", "password": "p"}}, "/configuration/sasl/mechanism"),
        ({"tls": {"certificatePem": "x"}}, "/configuration/tls"),
    ],
)
def test_settings_that_are_wrong_are_refused(change: dict[str, Any], field: str) -> None:
    source_settings.read("kafka", BASE)
    with pytest.raises(source_settings.InvalidConfigurationError) as refused:
        source_settings.read("kafka", {**BASE, **change})
    assert refused.value.fields["field"] == field
