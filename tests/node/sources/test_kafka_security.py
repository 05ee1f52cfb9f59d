"""Kafka sources and whom they connect to: addresses that are refused, credentials, TLS."""

import ssl
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme

from node.sources.settings import HIDDEN
from tests.kafka_broker import Broker
from tests.kafka_gate import Gate
from tests.node.running import Running, running
from tests.node.sources.test_kafka import CONNECTORS, QUICK, fault, has, read, state, until


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path) as started:
        yield started


@pytest.fixture
async def node(postgres_url: str) -> AsyncIterator[Running]:
    async with running(postgres_url, connectors=CONNECTORS) as started:
        yield started


async def test_addresses_that_may_not_be_called_are_refused(node: Running, tmp_path: Path) -> None:
    """The test's node may call loopback; what the cluster names is judged as what the operator named is."""
    await node.source(sourceType="kafka", configuration={"brokers": ["10.255.255.1:9092"], "topics": ["t"]})
    await fault(node, "10.255.255.1 is not public")
    (tmp_path / "b").mkdir()
    with Broker(tmp_path / "b", advertised="10.255.255.1:9092") as broker:
        configuration = {"brokers": [broker.address], "topics": ["t"]}
        await node.source("s2", sourceType="kafka", configuration=configuration)
        await fault(node, "the cluster names a broker that may not be called", "s2")


@pytest.mark.slow
async def test_a_cluster_that_names_a_private_address_later_is_left(node: Running, broker: Broker) -> None:
    broker.create("t")
    sender = broker.producer()
    sender.send("t", b"1")
    sender.flush()
    await read(node, broker, "t")
    await until(partial(has, node, 1))
    broker.kill()
    broker.advertised = "10.255.255.1:9092"
    broker.start()
    await fault(node, "a broker that may not be called")


async def test_what_is_wrong_is_said_in_words(node: Running, broker: Broker, tmp_path: Path) -> None:
    await read(node, broker, "missing")
    assert "the topic missing does not exist" in await fault(node)
    await node.client.delete("/overlay/sources/s1")
    broker.kill()
    broker.options = ["--authentication"]
    broker.start()
    sasl = {"mechanism": "SCRAM-SHA-512", "username": "u", "password": "hush-hush"}
    await read(node, broker, "t", sasl=sasl)
    said = await fault(node)
    assert "does not accept the credentials" in said
    assert "hush" not in said


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_a_password_that_is_proven_and_not_sent(node: Running, tmp_path: Path, mechanism: str) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    root = authority.cert_pem.bytes().decode()
    with Gate(context, {"alice": "hush"}) as gate, Broker(tmp_path, advertised=gate.address) as broker:
        gate.upstream = broker.port
        client = {"ssl.ca.pem": root, "security.protocol": "SASL_SSL", "sasl.mechanism": mechanism}
        client |= {"sasl.username": "alice", "sasl.password": "hush", "bootstrap.servers": gate.address}
        await trio.to_thread.run_sync(partial(broker.create, "t", settings=client))
        sender = broker.producer(**client)
        sender.send("t", b"1")
        await trio.to_thread.run_sync(sender.flush)
        for password in ("hush", "guess"):
            sasl = {"mechanism": mechanism, "username": "alice", "password": password}
            there = {"brokers": [gate.address], "topics": ["t"], "properties": QUICK}
            there |= {"tls": {"caPem": root}, "sasl": sasl}
            await node.source("s1" if password == "hush" else "wrong", sourceType="kafka", configuration=there)
        await until(partial(has, node, 1))
        await fault(node, "does not accept the credentials", "wrong")
        assert (await state(node, "wrong"))["accepted"] == 0


@pytest.mark.slow
async def test_tls_with_certificates_of_both_sides_and_a_password(node: Running, tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    own = authority.issue_cert("node@example.org")
    tls = {
        "caPem": authority.cert_pem.bytes().decode(),
        "certificatePem": own.cert_chain_pems[0].bytes().decode(),
        "keyPem": own.private_key_pem.bytes().decode(),
    }
    login = {"mechanism": "PLAIN", "username": "alice", "password": "hush"}
    with Gate(context, {"alice": "hush"}) as gate, Broker(tmp_path, advertised=gate.address) as broker:
        gate.upstream = broker.port
        client = {
            "ssl.ca.pem": tls["caPem"],
            "ssl.certificate.pem": tls["certificatePem"],
            "ssl.key.pem": tls["keyPem"],
        }
        client |= {"security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN", "bootstrap.servers": gate.address}
        client |= {"sasl.username": "alice", "sasl.password": "hush"}
        await trio.to_thread.run_sync(partial(broker.create, "t", settings=client))
        sender = broker.producer(**client)
        sender.send("t", b"1")
        await trio.to_thread.run_sync(sender.flush)
        there = {"brokers": [gate.address], "topics": ["t"], "properties": QUICK}
        await node.source(sourceType="kafka", configuration={**there, "tls": tls, "sasl": login})
        await until(partial(has, node, 1))
        assert gate.passed > 0
        shown = (await node.client.get("/overlay/sources/s1")).json()["configuration"]
        assert (shown["tls"]["keyPem"], shown["sasl"]["password"]) == (HIDDEN, HIDDEN)
        wrong = [
            ({**login, "password": "guess"}, tls, "does not accept the credentials"),
            (login, {**tls, "caPem": trustme.CA().cert_pem.bytes().decode()}, "TLS with the broker failed"),
            (login, {"caPem": tls["caPem"]}, ""),  # without a certificate of its own: the gate hangs up
        ]
        for number, (sasl, said, words) in enumerate(wrong):
            name = f"w{number}"
            await node.source(name, sourceType="kafka", configuration={**there, "tls": said, "sasl": sasl})
            await fault(node, words, name)
            assert (await state(node, name))["accepted"] == 0
