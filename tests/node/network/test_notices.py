"""Notices of certified batches: what a subscription has a node tell, and what another makes of what it hears."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import psycopg
import pytest
import trio
from psycopg.types.json import Jsonb

from node.coordination.driver import Driver
from node.coordination.payloads import Payloads
from node.coordination.serialization import read_certificate
from node.delivery.announcer import GOSSIP_CERTIFIED, Announcer
from node.network.certificate_log import CertificateLog
from node.network.inbound_fence import InboundFence
from node.network.notices import NODE_RATE, Interests, Notices
from node.network.quotas import InboundQuotas
from node.network.receiver import Receiver
from node.network.requests import ABSENT, PRESENT
from node.network.sync import Synchronizer
from node.network.transport import Gossip
from node.runtime.caches import BytesCache
from node.runtime.containment import Quarantine
from node.runtime.topic_patterns import Patterns
from protocols.canonical import sha256
from protocols.envelope import open_frame, sign, to_frame
from protocols.limits import GOSSIP_BYTES_MAX
from protocols.messages import (
    CertifiedBatch,
    CertifiedNotice,
    FraudProof,
    IdentityKey,
    Signed,
)
from protocols.rules import Rules
from storage import certificate_log, subscriptions
from storage.database import Database
from tests.node.certified_batches import AGENT, NETWORK, NODE, KeySigner
from tests.node.memory_transport import MemoryNetwork, MemoryTransport
from tests.node.running import Forgetful, Running, ThreadWorkers, running, until

HEARER, STRANGER = KeySigner(9), KeySigner(10)
DIGEST = bytes(32)


class GossipedTo(MemoryTransport):
    """Keeps what was gossiped."""

    def __init__(self) -> None:
        super().__init__(NODE.identity)
        self.gossiped: list[tuple[str, bytes]] = []

    async def publish(self, topic: str, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.gossiped.append((topic, data))

    def batches(self) -> list[CertifiedBatch]:
        found: list[CertifiedBatch] = []
        for topic, data in self.gossiped:
            message = open_frame(data, NETWORK)[0].message
            assert topic == GOSSIP_CERTIFIED
            assert isinstance(message, CertifiedNotice)
            assert len(data) <= GOSSIP_BYTES_MAX
            found += message.batches
        return found


@pytest.fixture
async def node(postgres_url: str) -> AsyncIterator[Running]:
    async with running(postgres_url) as started:
        await started.source("s1")
        await started.source("s2")
        yield started


async def certify(node: Running, value: Any, *topics: str, source: str = "s1", kind: str = "reading") -> bytes:
    """A sealed batch of one event; its digest."""
    body = {"processingOptions": {"distributionTopics": list(topics)}}
    await node.post({"eventType": kind, "data": value}, source=source, body=body)
    sealed = await node.seal(node.recorder.told[-1].manifest)
    return bytes.fromhex(sealed.certificate.statement.batch_id.removeprefix("batch_"))


def subscribe(
    url: str, topics: Sequence[str], state: str = "active", ends: str | None = None, **criteria: Any
) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            """INSERT INTO overlay_event_subscriptions (subscription_id, client_id, subscription_type,
                   overlay_topics, filter_criteria, subscription_status, expires_at)
               VALUES (gen_random_uuid(), 'c', 'overlay', %s, %s, %s, NOW() + %s::interval)""",
            (list(topics), Jsonb(criteria), state, ends),
        )


@asynccontextmanager
async def announcing(node: Running, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GossipedTo]:
    monkeypatch.setattr("node.delivery.announcer.NOTICE_S", 0.05)
    transport = GossipedTo()
    announcer = Announcer(network=NETWORK, database=node.database, signer=NODE, transport=transport)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(announcer.run)
        yield transport
        nursery.cancel_scope.cancel()


async def until_all_stand_at(node: Running, sequence: int) -> None:
    """Wait until some subscription stands at a sequence, and none that moves before it."""
    with trio.fail_after(10):
        while True:
            rows = await node.database.run(lambda connection: subscriptions.active(connection, "overlay", 10))
            if {row.cursor_sequence for row in rows if row.cursor_sequence} == {sequence}:
                return
            await trio.sleep(0.02)


async def test_what_subscriptions_want_is_told_by_address(
    node: Running, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscribe(postgres_url, ["weather.*"], sourceIds=["s1"])
    subscribe(postgres_url, ["orders.#"], eventTypes=["placed"], minCertificationLevel="enhanced", status="all")
    subscribe(postgres_url, ["paused"], state="paused")
    subscribe(postgres_url, ["expired"], ends="-1 minute")
    subscribe(postgres_url, ["unreadable"], minCertificationLevel="golden")
    wanted = [await certify(node, 1, "weather.jfk", "other")]
    await certify(node, 2, "weather.jfk", source="s2")
    wanted.append(await certify(node, 3, "orders", kind="placed"))
    for topic in ("orders.paid", "paused", "expired", "unreadable", "elsewhere"):
        await certify(node, topic, topic)
    await certify(node, 4)
    async with announcing(node, monkeypatch) as transport:
        await until(lambda: len(transport.batches()) == 2)
        await until_all_stand_at(node, 9)
        first, second = transport.batches()
    assert [first.batch, second.batch] == wanted
    rows = await node.database.run(lambda connection: subscriptions.active(connection, "overlay", 10))
    assert sorted(row.deliveries for row in rows) == [0, 0, 1, 1]
    assert set(first.topics) == {"other", "weather.jfk"}
    (found,) = await node.database.run(
        lambda connection: certificate_log.find(connection, [f"batch_{first.batch.hex()}"])
    )
    certificate = read_certificate(found[0])
    assert first.certificate == sha256(found[0])
    assert (first.records, first.outputs) == (certificate.statement.input_root, certificate.statement.output_root)


async def test_an_expression_chooses_batches_by_their_events(
    node: Running, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscribe(postgres_url, ["a"], expression="data.t > 30")
    subscribe(postgres_url, ["b"], expression="data.t > 30", eventTypes=["hot"])
    body = {"processingOptions": {"distributionTopics": ["a"]}}
    await node.post(*({"eventType": "reading", "data": {"t": t}} for t in (1, 2, 31)), source="s1", body=body)
    mixed = await node.seal(node.recorder.told[-1].manifest)
    wanted = [bytes.fromhex(mixed.certificate.statement.batch_id.removeprefix("batch_"))]
    await certify(node, {"t": 30}, "a")
    await certify(node, {"x": 99}, "a")
    await certify(node, {"t": 99}, "b")
    wanted.append(await certify(node, {"t": 99}, "b", kind="hot"))
    await certify(node, {"t": 3}, "b", kind="hot")
    async with announcing(node, monkeypatch) as transport:
        await until_all_stand_at(node, 6)
    assert [batch.batch for batch in transport.batches()] == wanted


async def test_too_many_expressions_tell_more_never_less(
    node: Running, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.delivery.announcer.EXPRESSIONS_MAX", 2)
    for number in range(4):
        subscribe(postgres_url, [f"t{number}"], expression=f"data > {number}")
    subscribe(postgres_url, ["last"], expression="data > 0")
    told = [await certify(node, -number, f"t{number}") for number in range(4)]
    await certify(node, -9, "last")
    async with announcing(node, monkeypatch) as transport:
        await until_all_stand_at(node, 5)
    assert [batch.batch for batch in transport.batches()] == told[2:]


async def test_many_batches_go_in_few_messages(
    node: Running, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscribe(postgres_url, [])
    topics = [f"{number:02}".ljust(128, "t") for number in range(16)]
    wanted = [await certify(node, number, *topics) for number in range(30)]
    async with announcing(node, monkeypatch) as transport:
        await until_all_stand_at(node, 30)
    assert [batch.batch for batch in transport.batches()] == wanted, "in the order of their seals"
    assert len(transport.gossiped) == 2, "as the bytes of their topics allow"
    later = await certify(node, "later", "weather.jfk")
    async with announcing(node, monkeypatch) as transport:
        await until_all_stand_at(node, 31)
    assert len(transport.batches()) == 1
    assert transport.batches()[0].batch == later, "a node that starts goes on where it stopped"


@attrs.frozen(kw_only=True)
class Hearing:
    notices: Notices
    interests: Interests
    network: MemoryNetwork
    transport: MemoryTransport
    database: Database

    async def known(self) -> int:
        return await self.database.run(certificate_log.last_number)


@asynccontextmanager
async def hearing(url: str) -> AsyncIterator[Hearing]:
    network = MemoryNetwork()
    transport: Any = network.join(HEARER.identity)

    async def no_proof(proof: FraudProof, peer: IdentityKey) -> None:
        raise AssertionError("nobody is accused")

    with Database(url) as database:
        log = CertificateLog(
            network=NETWORK,
            database=database,
            kept_max=1_000,
            is_known=lambda identity: identity in (NODE.identity, AGENT.identity),
            has_standing=lambda key: True,
            enqueue=lambda stimulus: None,
            fence=InboundFence(Quarantine(), transport),
            quarantine=Quarantine(),
        )
        sync = Synchronizer(
            network=NETWORK,
            database=database,
            transport=transport,
            checker=ThreadWorkers(),
            certificates=log,
            expects_peers=lambda: False,
            on_proof=no_proof,
            fence=InboundFence(Quarantine(), transport),
        )
        interests = Interests()
        notices = Notices(
            database=database,
            transport=transport,
            sync=sync,
            interests=interests,
            fence=InboundFence(Quarantine(), transport),
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(notices.run)
            yield Hearing(
                notices=notices, interests=interests, network=network, transport=transport, database=database
            )
            nursery.cancel_scope.cancel()


def serving(node: Running) -> Any:
    """Answers for a node's log of certificates."""
    log = CertificateLog(
        network=NETWORK,
        database=node.database,
        kept_max=1_000,
        is_known=lambda _: True,
        has_standing=lambda key: True,
        enqueue=lambda stimulus: None,
        fence=InboundFence(Quarantine(), MemoryTransport(NODE.identity)),
        quarantine=Quarantine(),
    )

    async def answer(_: IdentityKey, body: bytes) -> bytes:
        found = await log.answer(body)
        return PRESENT + found if found else ABSENT

    return answer


def notice(*digests: bytes, topic: str = "weather.jfk", signer: KeySigner = NODE) -> Signed[CertifiedNotice]:
    batches = tuple(
        CertifiedBatch(batch=each, topics=(topic,), certificate=DIGEST, records=DIGEST, outputs=DIGEST)
        for each in digests
    )
    return sign(signer, CertifiedNotice(network=NETWORK, issued_ms=1, batches=batches))


async def test_certificates_are_had_of_whoever_told_of_them_else_of_others(
    node: Running, other_postgres_url: str
) -> None:
    digests = [await certify(node, value, "weather.jfk") for value in range(3)]
    async with hearing(other_postgres_url) as here:
        here.network.answers[AGENT.identity] = serving(node)
        here.notices.receive(notice(*digests))
        await trio.sleep(0.2)
        assert here.network.asked == [], "no source here follows the topic"
        with here.interests.follow(Patterns(frozenset({"weather.#"}))):
            here.notices.receive(notice(*digests, topic="orders"))
            here.notices.receive(notice(*digests))  # its signer does not answer
            with trio.fail_after(10):
                while await here.known() < 3:
                    await trio.sleep(0.02)
            assert {peer for peer, _ in here.network.asked} == {NODE.identity, AGENT.identity}
            asked = len(here.network.asked)
            here.notices.receive(notice(*digests))
            await trio.sleep(0.2)
            assert len(here.network.asked) == asked, "told again, it changes nothing"


async def test_certificates_that_do_not_hold_are_a_fault_and_left_out(node: Running, other_postgres_url: str) -> None:
    digest = await certify(node, 1, "weather.jfk")
    honest = serving(node)

    async def lying(sender: IdentityKey, body: bytes) -> bytes:
        said = bytearray(await honest(sender, body))
        said[-300] ^= 1
        return bytes(said)

    async with hearing(other_postgres_url) as here:
        here.network.answers = {NODE.identity: lying}
        with here.interests.follow(Patterns(frozenset("#"))):
            here.notices.receive(notice(digest))
            await until(lambda: bool(here.transport.struck))
            assert await here.known() == 0
            assert {peer for peer, _ in here.transport.struck} == {NODE.identity}
            here.network.answers = {NODE.identity: lying, AGENT.identity: honest}
            here.notices.receive(notice(digest, signer=AGENT))
            with trio.fail_after(10):
                while await here.known() < 1:
                    await trio.sleep(0.02)


async def test_a_node_that_never_stops_telling_is_not_heard_more_for_it(postgres_url: str) -> None:
    async with hearing(postgres_url) as here:
        here.network.answers = {NODE.identity: silent, AGENT.identity: absent}
        with here.interests.follow(Patterns(frozenset("#"))):
            for number in range(200):
                here.notices.receive(notice(number.to_bytes(32, "big")))
            here.notices.receive(notice(DIGEST, signer=AGENT))
            await until(lambda: AGENT.identity in {peer for peer, _ in here.network.asked})
            assert sum(peer == NODE.identity for peer, _ in here.network.asked) <= NODE_RATE.burst


async def silent(_: IdentityKey, body: bytes) -> bytes:
    await trio.sleep_forever()
    raise AssertionError


async def absent(_: IdentityKey, body: bytes) -> bytes:
    return ABSENT


@pytest.mark.parametrize(
    ("signer", "sender", "heard", "struck"),
    [(NODE, NODE, True, False), (NODE, AGENT, False, True), (STRANGER, STRANGER, False, False)],
)
async def test_who_gossips_a_notice_signed_it_and_is_a_member(
    signer: KeySigner, sender: KeySigner, heard: bool, struck: bool
) -> None:
    told: list[Signed[CertifiedNotice]] = []
    transport: Any = MemoryTransport(HEARER.identity)

    async def nothing(_: Any) -> None:
        return None

    async def no_proof(*_: Any) -> None:
        raise AssertionError("nobody sends a proof")

    receiver = Receiver(
        network=NETWORK,
        driver=Driver(Rules(network=NETWORK, self_key=HEARER.identity), Forgetful()),
        transport=transport,
        payloads=Payloads(own=BytesCache(1), find=nothing, strike=transport.strike),
        reputations=lambda _: {},
        topics=lambda _: (),
        is_known=lambda _: True,
        admits=lambda identity: identity != STRANGER.identity,
        on_advertisement=nothing,
        on_notice=told.append,
        on_proof=no_proof,
        fence=InboundFence(Quarantine(), transport),
        quotas=InboundQuotas(lambda identity: True),
    )
    send, receive = trio.open_memory_channel[Gossip](1)
    transport.gossip = lambda: receive
    frame = to_frame(notice(DIGEST, signer=signer))
    async with send:
        await send.send(Gossip(topic=GOSSIP_CERTIFIED, sender=sender.identity, data=frame))
    await receiver.run_gossip()
    assert bool(told) is heard
    assert bool(transport.struck) is struck
