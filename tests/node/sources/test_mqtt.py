"""MQTT sources with a real Mosquitto, and paho as the client that publishes."""

import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trustme

from node.ingest.admission_control import IngestLimits
from node.sources import mqtt
from node.sources.mqtt import codec
from node.sources.mqtt.connection import CHUNK_BYTES
from node.sources.mqtt.connector import default_client_id
from node.sources.settings import HIDDEN
from node.worker import compute
from scripts.mosquitto import Mosquitto, binary
from storage import batches
from tests.mqtt_clients import Said, held, publish
from tests.node.certified_batches import NETWORK, NODE
from tests.node.running import Running, running

CONNECTORS = {"mqtt": mqtt.connector(network=NETWORK, identity=NODE.identity)}
PATIENT = {"max_queued_messages": "0", "persistence": "true"}  # keeps all that waits; writes it down when it ends
VERSIONS: tuple[tuple[str, codec.Version], ...] = (("5", 5), ("3.1.1", 4))
DYNAMIC_SECURITY = next(Path("/usr/lib").rglob("mosquitto_dynamic_security.so"))  # comes with Mosquitto
CLIENT_ID = default_client_id(NETWORK, "s1", NODE.identity)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker", settings=PATIENT) as started:
        yield started


@pytest.fixture
async def node(postgres_url: str) -> AsyncIterator[Running]:
    async with running(postgres_url, connectors=CONNECTORS) as started:
        yield started


def configuration(broker: Mosquitto, **more: Any) -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": broker.port, "topics": ["sensors/#"], **more}


async def add(node: Running, broker: Mosquitto, source_id: str = "s1", **more: Any) -> None:
    """A source that is read."""
    answer = await node.source(source_id, sourceType="mqtt", configuration=configuration(broker, **more))
    assert answer.status_code == 201, answer.text
    await until(partial(is_status, node, "running", source_id))


async def state(node: Running, source_id: str = "s1") -> dict[str, Any]:
    found: dict[str, Any] | None = (await node.client.get(f"/overlay/sources/{source_id}")).json()["state"]
    return found or {"status": None}


async def is_status(node: Running, wanted: str, source_id: str = "s1") -> bool:
    return bool((await state(node, source_id))["status"] == wanted)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    with trio.fail_after(20):
        while not await condition():
            await trio.sleep(0.02)


async def fault(node: Running, words: str = "", source_id: str = "s1") -> str:
    """Why a source cannot be read, once its state has an error with these words."""
    error = ""

    async def is_shown() -> bool:
        nonlocal error
        error = (await state(node, source_id)).get("lastError") or ""
        return bool(error) and words in error

    await until(is_shown)
    return error


async def say(broker: Mosquitto, *messages: Said, **login: str) -> None:
    await trio.to_thread.run_sync(partial(publish, broker, messages, **login))


async def records(node: Running) -> list[dict[str, Any]]:
    """The events that were committed, in the order of their batches."""
    found: list[dict[str, Any]] = []
    for told in list(node.recorder.told):
        packed = await node.database.run(partial(batches.payload, batch_id=told.manifest.message.batch_id))
        assert packed is not None
        found += map(json.loads, compute.unpack(packed).splitlines())
    return found


async def events(node: Running, count: int) -> list[dict[str, Any]]:
    async def enough() -> bool:
        return sum(told.manifest.message.events for told in node.recorder.told) >= count

    await until(enough)
    return await records(node)


def readings(count: int, qos: int = 1, topic: str = "sensors/hall", first: int = 0) -> list[Said]:
    return [Said(topic, b'{"n":%d}' % number, qos) for number in range(first, first + count)]


def numbers(found: list[dict[str, Any]]) -> list[int]:
    return [event["data"]["n"] for event in found]


async def stop_source(node: Running) -> None:
    await node.client.patch("/overlay/sources/s1", json={"enabled": False})

    async def is_gone() -> bool:
        return (await state(node))["status"] is None

    await until(is_gone)


async def nothing_is_held(node: Running, broker: Mosquitto, version: codec.Version, *, sent: int) -> None:
    """``sent``: messages of QoS 1 and 2 that the broker has to hear of."""

    async def all_are_acknowledged() -> bool:
        said = broker.log.read_text(errors="replace")
        return sum(said.count(f"Received {kind} from {CLIENT_ID}") for kind in ("PUBACK", "PUBCOMP")) >= sent

    await until(all_are_acknowledged)
    await stop_source(node)
    assert await trio.to_thread.run_sync(held, broker, CLIENT_ID, version) == []


# --- what comes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("protocol", "version"), VERSIONS)
async def test_messages_of_every_qos_become_events_in_their_order(
    node: Running, broker: Mosquitto, protocol: str, version: codec.Version
) -> None:
    await add(node, broker, protocolVersion=protocol, qos=2)
    for qos in (0, 1, 2):
        await say(broker, *readings(50, qos, f"sensors/{qos}", first=100 * qos))
    found = await events(node, 150)
    for qos in (0, 1, 2):
        own = [event for event in found if event["eventType"] == f"sensors/{qos}"]
        assert numbers(own) == list(range(100 * qos, 100 * qos + 50))
    assert len(found) == 150
    assert f"MQTT {protocol}, new session" in (await state(node))["detail"]
    await nothing_is_held(node, broker, version, sent=100)


async def test_user_properties_say_id_type_and_time(node: Running, broker: Mosquitto) -> None:
    names = {"externalIdHeader": "Reading-Id", "eventTypeHeader": "kind", "timestampHeader": "at"}
    await add(node, broker, **names)
    properties = (("reading-id", "r-1"), ("kind", "reading"), ("at", "1705314600"), ("kind", "second"))
    await say(broker, Said("sensors/a", b"1", 1, properties), Said("sensors/a", b"1", 1, properties))
    await say(broker, Said("sensors/a", b"1"))
    first, second = await events(node, 2)
    assert (first["externalId"], first["eventType"], first["timestamp"]) == (
        "r-1",
        "reading",
        "2024-01-15T10:30:00.000Z",
    )
    assert (second["eventType"], second["timestamp"]) == ("sensors/a", None)
    assert second["externalId"].startswith("sha256:")


async def test_messages_that_say_the_same_are_one_event_and_a_time_tells_them_apart(
    node: Running, broker: Mosquitto
) -> None:
    await add(node, broker, timestampPath="/at")
    same, later = b'{"v":1,"at":1705314600}', b'{"v":1,"at":1705314601}'
    await say(broker, *(Said("sensors/a", payload) for payload in (same, same, later)), Said("sensors/b", same))
    found = await events(node, 3)
    assert len({event["externalId"] for event in found}) == len(found) == 3
    assert (await state(node))["duplicates"] == 1


async def test_the_topic_becomes_part_of_the_data(node: Running, broker: Mosquitto) -> None:
    await add(node, broker, topicField="topic", externalIdPath="/id", eventType="reading")
    forged = b'1},"topic":"forged","payload":{"id":2'
    await say(broker, Said("sensors/hall 1/é", b'{"id":7}'), Said("sensors/a", forged), Said("sensors/a", b"[1]"))
    first, second = await events(node, 2)
    assert first["data"] == {"topic": "sensors/hall 1/é", "payload": {"id": 7}}
    assert (first["externalId"], first["eventType"]) == ("7", "reading")
    assert second["data"] == {"topic": "sensors/a", "payload": [1]}
    assert (await state(node))["rejected"] == 1


async def test_a_retained_message_that_comes_again_is_a_repeat(node: Running, broker: Mosquitto) -> None:
    await say(broker, Said("sensors/a", b"1", retain=True), Said("sensors/b", b"2", retain=True))
    await add(node, broker, protocolVersion="3.1.1")
    await events(node, 2)
    await stop_source(node)
    await node.client.patch("/overlay/sources/s1", json={"enabled": True})

    async def came_again() -> bool:
        return bool((await state(node)).get("duplicates") == 2)

    await until(came_again)
    assert len(await records(node)) == 2


async def test_two_members_share_one_feed(node: Running, broker: Mosquitto) -> None:
    for source_id in ("s1", "s2"):
        await add(node, broker, source_id, topics=["$share/overlay/sensors/#"], qos=2)
    await say(broker, *readings(200, 1), *readings(200, 2, first=200))
    found = await events(node, 400)
    assert sorted(numbers(found)) == list(range(400))
    assert {told.manifest.message.source_id for told in node.recorder.told} == {"s1", "s2"}


async def test_what_is_no_event_is_kept_with_its_reason_and_holds_nobody_up(node: Running, broker: Mosquitto) -> None:
    await add(node, broker, externalIdPath="/id", timestampPath="/at", eventTypePath="/type")
    hostile = [
        b"",
        b"\xff\xfe",
        b"{",
        b"NaN",
        b'{"a":1,"a":2}',
        b'"' + b"x" * 300_000 + b'"',
        b"1" * (codec.PUBLISH_BYTES_MAX + 70_000),
        b'{"id":"\\ud800"}',
        b'{"type":"\\ud800"}',
        b'{"at":"yesterday"}',
        b'{"id":"\\u0000"}',
        b"[" * 100_000,
    ]
    await say(broker, *(Said("sensors/a", payload) for payload in hostile), *readings(1))
    assert numbers(await events(node, 1)) == [0]

    async def all_are_kept() -> bool:
        return bool((await state(node))["rejected"] == len(hostile))

    await until(all_are_kept)
    kept = (await node.client.get("/overlay/sources/s1/progress")).json()["rejections"]
    assert len(kept) == len(hostile)
    assert all(entry["reason"] for entry in kept)
    assert (await state(node))["errors"] == 0
    await nothing_is_held(node, broker, 5, sent=len(hostile) + 1)


# --- acknowledgement --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize(("protocol", "version"), VERSIONS)
async def test_what_was_received_and_not_committed_comes_again(
    postgres_url: str, broker: Mosquitto, protocol: str, version: codec.Version, qos: int
) -> None:
    """The node is full, so the connector has the messages and no commit; then it is ended. Had it said PUBACK, or
    PUBREC for QoS 2, the broker would hold no PUBLISH any more."""
    limits = IngestLimits(unsettled_max=1)
    async with running(postgres_url, limits=limits, connectors=CONNECTORS) as node:
        await add(node, broker, protocolVersion=protocol, qos=qos)
        await say(broker, *readings(1, qos))
        await events(node, 1)
        await say(broker, *readings(9, qos, first=1))

        async def is_held_up() -> bool:
            return bool((await state(node))["heldUp"])

        await until(is_held_up)
        await stop_source(node)
        waiting = await trio.to_thread.run_sync(held, broker, CLIENT_ID, version)
        assert [(type(each), getattr(each, "payload", None)) for each in waiting] == [
            (codec.Published, b'{"n":%d}' % number) for number in range(1, 10)
        ]
        node.forget_unsettled()
        await node.client.patch("/overlay/sources/s1", json={"enabled": True})
        assert numbers(await events(node, 10)) == list(range(10))
        assert "resumed session" in (await state(node))["detail"]
        node.forget_unsettled()
        await nothing_is_held(node, broker, version, sent=10)


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_a_full_node_leaves_messages_with_the_broker(
    postgres_url: str, broker: Mosquitto, protocol: str
) -> None:
    full, window, chunk = 300, 50, CHUNK_BYTES // 1_000
    padding = b"x" * 1_000
    said = [Said("sensors/a", b'{"n":%d,"x":"%b"}' % (number, padding), 1 + number // 400) for number in range(600)]
    async with running(postgres_url, limits=IngestLimits(unsettled_max=full), connectors=CONNECTORS) as node:
        await add(node, broker, protocolVersion=protocol, receiveMaximum=window, qos=2)
        await say(broker, *said)
        seen, deadline_s = 0, trio.current_time() + 60
        while seen < len(said):
            assert trio.current_time() < deadline_s, f"{seen} of {len(said)} messages came"
            count = sum(told.manifest.message.events for told in node.recorder.told)
            assert count - seen <= full + window + chunk, "what fits, and one batch"
            node.forget_unsettled()
            seen = count
            await trio.sleep(0.01)
        assert numbers(await records(node)) == list(range(len(said)))
        assert (await state(node))["duplicates"] == 0


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_a_broker_that_restarts_goes_on_where_it_was(node: Running, broker: Mosquitto, protocol: str) -> None:
    await add(node, broker, protocolVersion=protocol, qos=2)
    await say(broker, *readings(20, 1), *readings(20, 2, first=20))
    await events(node, 40)
    broker.stop()
    await fault(node)
    broker.start()
    await say(broker, *readings(20, 2, first=40))
    await until(partial(is_status, node, "running"))
    assert numbers(await events(node, 60)) == list(range(60))
    assert "resumed session" in (await state(node))["detail"]


async def test_a_topic_that_is_taken_out_of_the_settings_is_left(node: Running, broker: Mosquitto) -> None:
    await add(node, broker, topics=["sensors/a", "sensors/b"])
    await stop_source(node)
    changed = {"configuration": configuration(broker, topics=["sensors/b", "sensors/c"]), "enabled": True}
    await node.client.patch("/overlay/sources/s1", json=changed)
    await until(partial(is_status, node, "running"))
    await say(broker, *(Said(f"sensors/{name}", b'"%b"' % name.encode()) for name in "abc"))
    assert [event["data"] for event in await events(node, 2)] == ["b", "c"]
    mark = (await node.client.get("/overlay/sources/s1/progress")).json()["mark"]
    assert mark == {"clientId": CLIENT_ID, "filters": ["sensors/b", "sensors/c"]}


# --- what goes wrong --------------------------------------------------------------------------------------------


async def test_a_broker_that_is_not_there(node: Running, broker: Mosquitto) -> None:
    broker.kill()
    await node.source(sourceType="mqtt", configuration=configuration(broker))
    assert await fault(node) == f"127.0.0.1:{broker.port} cannot be reached: Connection refused"
    broker.start()
    await until(partial(is_status, node, "running"))


async def test_addresses_that_are_not_public_are_not_called(node: Running, broker: Mosquitto) -> None:
    await node.source(sourceType="mqtt", configuration={**configuration(broker), "host": "169.254.169.254"})
    assert "169.254.169.254 is not public" in await fault(node)


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_a_wrong_password_is_said_and_never_shown(
    node: Running, tmp_path: Path, protocol: str, capfd: pytest.CaptureFixture[str]
) -> None:
    passwords = tmp_path / "passwords"
    await trio.run_process([binary("mosquitto_passwd"), "-b", "-c", str(passwords), "node", "right-secret"])
    passwords.chmod(0o600)
    closed = {"allow_anonymous": "false", "password_file": str(passwords)}
    with Mosquitto(tmp_path / "broker", settings=closed) as broker:
        settings = configuration(broker, protocolVersion=protocol, username="node", password="wrong-secret")
        made = await node.source(sourceType="mqtt", configuration=settings)
        assert made.json()["configuration"]["password"] == HIDDEN
        await fault(node, "the broker refuses the connection: this user is not allowed to ")
        settings["password"] = "right-secret"
        changed = await node.client.patch("/overlay/sources/s1", json={"configuration": settings})
        await until(partial(is_status, node, "running"))
        shown = changed.text + made.text + json.dumps(await state(node)) + "".join(capfd.readouterr())
        assert "wrong-secret" not in shown
        assert "right-secret" not in shown


async def test_a_subscription_that_is_refused(node: Running, tmp_path: Path) -> None:
    rights = tmp_path / "rights.json"
    access = {"publishClientSend": True, "publishClientReceive": True, "subscribe": False, "unsubscribe": True}
    reader = {"rolename": "reader", "acls": [{"acltype": "subscribePattern", "topic": "sensors/#", "allow": True}]}
    anyone = {"groupname": "anyone", "roles": [{"rolename": "reader"}]}
    document = {"defaultACLAccess": access, "roles": [reader], "groups": [anyone], "anonymousGroup": "anyone"}
    rights.write_text(json.dumps(document))
    settings = {"plugin": str(DYNAMIC_SECURITY), "plugin_opt_config_file": str(rights)}
    with Mosquitto(tmp_path / "broker", settings=settings) as broker:
        await node.source(sourceType="mqtt", configuration=configuration(broker, topics=["sensors/#", "secret/#"]))
        reason = "this user is not allowed to do that (0x87)"
        await fault(node, f"the broker refuses the subscription to secret/#: {reason}")


async def test_another_client_under_the_same_id(node: Running, broker: Mosquitto) -> None:
    await add(node, broker, clientId="one-for-all")
    await trio.to_thread.run_sync(held, broker, "one-for-all", 5)
    await fault(node, "a second client under the same id")
    await until(partial(is_status, node, "running"))


@pytest.mark.slow
async def test_a_broker_that_falls_silent_is_noticed(node: Running, broker: Mosquitto) -> None:
    await add(node, broker, keepAliveSeconds=5)
    broker.signal(signal.SIGSTOP)
    await fault(node, "the broker has been silent for")
    broker.signal(signal.SIGCONT)
    await until(partial(is_status, node, "running"))


# --- TLS --------------------------------------------------------------------------------------------------------


@attrs.frozen
class Authority:
    ca: trustme.CA
    pem: str
    directory: Path

    def broker(self, name: str, **more: str) -> Mosquitto:
        certificate = self.ca.issue_cert(name)
        for file, blobs in (
            ("broker.pem", certificate.cert_chain_pems),
            ("broker.key", [certificate.private_key_pem]),
            ("ca.pem", [self.ca.cert_pem]),
        ):
            (self.directory / file).write_bytes(b"".join(blob.bytes() for blob in blobs))
        files = {"cafile": "ca.pem", "certfile": "broker.pem", "keyfile": "broker.key"}
        settings = {name: str(self.directory / file) for name, file in files.items()}
        return Mosquitto(self.directory / "broker", settings={**settings, **more})


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    ca = trustme.CA()
    return Authority(ca, ca.cert_pem.bytes().decode(), tmp_path)


async def test_messages_come_by_tls_with_certificates_on_both_sides(node: Running, authority: Authority) -> None:
    mine = authority.ca.issue_cert("node.example")
    key = mine.private_key_pem.bytes().decode()
    tls = {"caPem": authority.pem, "certificatePem": mine.cert_chain_pems[0].bytes().decode(), "keyPem": key}
    with authority.broker("127.0.0.1", require_certificate="true") as broker:
        await add(node, broker, tls=tls)
        shown = (await node.client.get("/overlay/sources/s1")).json()
        assert shown["configuration"]["tls"]["keyPem"] == HIDDEN
        settings = configuration(broker, tls={"caPem": authority.pem})
        await node.client.patch("/overlay/sources/s1", json={"configuration": settings})
        assert (await fault(node)).endswith("it may require a certificate of this node")


async def test_a_broker_under_another_name_is_not_trusted_unless_it_is_named(
    node: Running, authority: Authority
) -> None:
    with authority.broker("broker.example") as broker:
        tls = {"caPem": authority.pem}
        await node.source(sourceType="mqtt", configuration=configuration(broker, tls=tls))
        await fault(node, "the broker's certificate is not accepted: IP address mismatch")
        named = configuration(broker, tls={**tls, "serverName": "broker.example"})
        await node.client.patch("/overlay/sources/s1", json={"configuration": named})
        await until(partial(is_status, node, "running"))


async def test_a_broker_of_another_authority_is_not_trusted(node: Running, authority: Authority) -> None:
    other = trustme.CA().cert_pem.bytes().decode()
    with authority.broker("127.0.0.1") as broker:
        for number, tls in enumerate(({}, {"caPem": other})):
            source_id = f"s{number}"
            await node.source(source_id, sourceType="mqtt", configuration=configuration(broker, tls=tls))
            await fault(node, "TLS with 127.0.0.1: the broker's certificate is not accepted: ", source_id)


async def test_tls_with_a_port_that_speaks_none(node: Running, broker: Mosquitto) -> None:
    await node.source(sourceType="mqtt", configuration=configuration(broker, tls={}))
    assert (await fault(node)).startswith("TLS with 127.0.0.1: ")
