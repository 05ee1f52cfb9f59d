"""Certified batches of another node as a source: real databases and certificates, peers in memory that may lie."""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import pytest
import trio

from agents.reading import read_payload
from node.network.certificate_log import CertificateLog
from node.network.content_exchange import OUTPUTS, ContentExchange, answer_outputs
from node.network.inbound_fence import InboundFence
from node.network.notices import Interests
from node.network.remote_batches import RemoteBatches
from node.network.requests import ABSENT, PRESENT, RequestTable
from node.network.sync_messages import MANIFESTS, ManifestPage
from node.runtime.containment import Quarantine
from node.sources import SourceConnector, SourceIntake
from node.sources.overlay import OverlayReader
from node.worker.compute import unpack
from node.worker.parsing.foreign_events import CHAIN_MAX
from protocols.codec import encode
from protocols.envelope import sign, to_frame
from protocols.identifiers import event_id
from protocols.messages import BatchSealed, IdentityKey, Level
from protocols.uhrp import read_uhrp_url
from storage import batches, objects, sources
from storage.database import Database
from tests.node.certified_batches import AGENT, NETWORK, NODE, KeySigner
from tests.node.memory_transport import MemoryNetwork, MemoryTransport
from tests.node.running import Running, ThreadWorkers, running, until

READER = KeySigner(9)
TOPIC = "weather.jfk"
Answer = Callable[[IdentityKey, bytes], Awaitable[bytes]]


@attrs.define(kw_only=True)
class World:
    """A node that certified batches, served by peers, and one that reads them; ``hidden``: batches nobody gives."""

    origin: Running
    reader: Running
    log: CertificateLog
    database: Database
    transport: MemoryTransport
    network: MemoryNetwork
    honest: Answer
    hidden: set[str]
    sealed: int = 0

    async def certify(
        self,
        *values: Any,
        source: str = "s1",
        topics: Sequence[str] = (TOPIC,),
        level: Level | None = None,
        ids: Sequence[str] = (),
        hide: bool = False,
    ) -> list[str]:
        """A batch at the origin; its certificate is known at the reader. Returns the ids of its events."""
        names = ids or [f"{source}-{self.sealed}-{at}" for at in range(len(values))]
        said = [
            {"externalId": name, "eventType": "reading", "timestamp": "2024-01-15T10:30:00Z", "data": value}
            for name, value in zip(names, values, strict=True)
        ]
        body = {"processingOptions": {"distributionTopics": list(topics)}}
        answer = await self.origin.post(*said, source=source, body=body)
        assert answer.status_code == 202, answer.text
        manifest = self.origin.recorder.told[-1].manifest
        if hide:
            self.hidden.add(manifest.message.batch_id)
        sealed = await self.origin.seal(manifest, level)
        self.sealed += 1
        await self.log.put([BatchSealed(network=NETWORK, certificate=sealed.certificate, context=b"")])
        return [event["eventId"] for event in answer.json()["processedEvents"]]

    async def read(self, **settings: Any) -> None:
        made = await self.reader.source("copy", sourceType="overlay", configuration=settings)
        assert made.status_code == 201, made.text

    async def records(self) -> list[dict[str, Any]]:
        """What the reader took in, in its order."""
        found: list[dict[str, Any]] = []
        for told in self.reader.recorder.told:
            batch_id = told.manifest.message.batch_id
            packed = await self.database.run(partial(batches.payload, batch_id=batch_id))
            assert packed is not None
            found += read_payload(unpack(packed))[1]
        return found

    async def until_taken(self, count: int) -> list[str]:
        """External ids of what the reader took in, once they are so many."""
        await until(lambda: sum(told.manifest.message.events for told in self.reader.recorder.told) >= count)
        return [record["externalId"] for record in await self.records()]

    async def until_state(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        with trio.fail_after(10):
            while True:
                shown = await self.state()
                if shown is not None and condition(shown):
                    return shown
                await trio.sleep(0.02)

    async def rejections(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.reader.client.get("/overlay/sources/copy/progress")).json()[
            "rejections"
        ]
        return found

    def lie(self, liar: IdentityKey, letter: bytes, spoil: Callable[[bytes], bytes]) -> None:
        """Have a peer answer such requests with something else."""

        async def answer(sender: IdentityKey, body: bytes) -> bytes:
            said = await self.honest(sender, body)
            return PRESENT + spoil(said[1:]) if body.startswith(letter) and said != ABSENT else said

        self.network.answers[liar] = answer

    async def state(self) -> dict[str, Any] | None:
        """None until the source is being read."""
        found: dict[str, Any] | None = (await self.reader.client.get("/overlay/sources/copy")).json()["state"]
        return found


@pytest.fixture
async def world(postgres_urls: tuple[str, str]) -> AsyncIterator[World]:
    async with opened(*postgres_urls) as found:
        yield found


@asynccontextmanager
async def opened(reader_url: str, origin_url: str, kept_max: int = 1_000) -> AsyncIterator[World]:
    network = MemoryNetwork()
    transport = network.join(READER.identity)
    readers: list[OverlayReader] = []

    async def run(intake: SourceIntake) -> None:
        await readers[0].run(intake)

    async with (
        running(origin_url) as origin,
        running(reader_url, connectors={"overlay": SourceConnector(run=run)}) as reader,
    ):
        with Database(reader_url) as database:
            log = CertificateLog(
                network=NETWORK,
                database=database,
                kept_max=kept_max,
                is_known=lambda identity: identity in (NODE.identity, AGENT.identity),
                has_standing=lambda key: True,
                enqueue=lambda stimulus: None,
                fence=InboundFence(Quarantine(), MemoryTransport(AGENT.identity)),
                quarantine=Quarantine(),
            )
            hidden: set[str] = set()
            honest = answers_of(origin.database, network, hidden)
            network.answers = {NODE.identity: honest, AGENT.identity: honest}
            reads = OverlayReader(
                network=NETWORK,
                identity=READER.identity,
                database=database,
                certificates=log,
                batches=foreign(database, transport),
                interests=Interests(),
            )
            readers.append(reads)
            await origin.source("s1")
            await origin.source("s2")
            yield World(
                origin=origin,
                reader=reader,
                log=log,
                database=database,
                transport=transport,
                network=network,
                honest=honest,
                hidden=hidden,
            )


def foreign(database: Database, transport: MemoryTransport) -> RemoteBatches:
    async def nothing(*_: Any) -> None:
        return None

    library = ContentExchange(
        transport=transport,  # type: ignore[arg-type]  # as much of one as asking takes
        find_policy=nothing,
        keep_policy=nothing,
    )
    return RemoteBatches(
        network=NETWORK,
        database=database,
        transport=transport,  # type: ignore[arg-type]
        library=library,
        checker=ThreadWorkers(),
        fence=InboundFence(Quarantine(), transport),
    )


def answers_of(database: Database, network: MemoryNetwork, hidden: set[str]) -> Answer:
    batches_of = foreign(database, MemoryTransport(NODE.identity, network))

    async def outputs(batch_id: str) -> tuple[bytes, bytes] | None:
        return None if batch_id in hidden else await batches_of.outputs(batch_id)

    table = RequestTable()
    table.serve({MANIFESTS: batches_of.answer, OUTPUTS: answer_outputs(outputs)}, admits=lambda sender: True)
    return table.answer


async def test_certified_events_become_events_here_once(world: World) -> None:
    first = await world.certify({"v": 1}, {"v": 2})
    await world.read(topics=["weather.*"])
    assert await world.until_taken(2) == first, "what was certified before there was a source"
    second = await world.certify({"v": 3})
    assert await world.until_taken(3) == first + second, "what is certified now, as soon as it is known"
    record = (await world.records())[2]
    assert (record["data"], record["eventType"]) == ({"v": 3}, "reading")
    assert record["timestamp"] == "2024-01-15T10:30:00Z"
    assert (await world.until_state(lambda shown: shown["lag"] == 0))["status"] == "running"
    await world.reader.client.delete("/overlay/sources/copy/progress")
    shown = await world.until_state(lambda shown: shown["duplicates"] == 3)
    assert shown["accepted"] == 0, "read anew, all are repeats"
    await world.certify({"v": 4}, ids=["s1-0-0"])
    assert await world.until_taken(4) == [*first, *second, first[0]]
    assert (await world.records())[3]["previous"] is not None, "a later version there is a later version here"


async def test_only_what_the_source_wants_is_read(world: World) -> None:
    await world.certify(1, topics=["orders.placed"])
    await world.certify(2, topics=())
    await world.certify(3, source="s2")
    wanted = await world.certify(4, topics=["orders.placed", TOPIC])
    await world.read(topics=["weather.jfk"], sourceIds=["s1"], minCertificationLevel="enhanced")
    await world.certify(5, level=Level.BASIC)
    last = await world.certify(6)
    assert await world.until_taken(2) == wanted + last
    assert (await world.until_state(lambda shown: shown["lag"] == 0))["received"] == 2
    assert await world.rejections() == []


async def test_only_batches_of_named_coordinators_are_read(world: World) -> None:
    await world.certify(1)
    await world.read(coordinators=[AGENT.identity.hex()])
    await world.until_state(lambda shown: shown["lag"] == 0)
    await world.reader.client.patch(
        "/overlay/sources/copy", json={"configuration": {"coordinators": [NODE.identity.hex()]}}
    )
    await world.reader.client.delete("/overlay/sources/copy/progress")
    assert len(await world.until_taken(1)) == 1


async def test_data_can_say_where_they_come_from(world: World) -> None:
    (event,) = await world.certify({"v": 1})
    await world.read(includeReference=True)
    await world.until_taken(1)
    data = (await world.records())[0]["data"]
    assert data["data"] == {"v": 1}
    said = data["certified"]
    manifest = world.origin.recorder.told[0].manifest.message
    assert (said["network"], said["batchId"], said["eventId"]) == (NETWORK, manifest.batch_id, event)
    assert (said["sourceId"], said["coordinator"]) == ("s1", NODE.identity.hex())
    digest = read_uhrp_url(said["certificate"])
    kept = await world.database.run(partial(objects.copies, digest=digest))
    assert [hashlib.sha256(copy.stored).digest() for copy in kept] == [digest], "the certificate is an object here"


@pytest.mark.parametrize("letter", [MANIFESTS, OUTPUTS])
async def test_a_peer_that_sends_wrong_bytes_is_found_out_and_another_asked(world: World, letter: bytes) -> None:
    other = await world.certify({"v": 0}, topics=["elsewhere"])
    events = await world.certify({"v": 1}, {"v": 2})
    wrong = world.origin.recorder.told[0].manifest

    def spoil(said: bytes) -> bytes:
        if letter == MANIFESTS:
            return encode(ManifestPage(entries=(to_frame(wrong), to_frame(wrong))))
        return said.replace(b'{"v":2}', b'{"v":9}')

    world.lie(NODE.identity, letter, spoil)
    await world.read(topics=[TOPIC])
    assert await world.until_taken(2) == events
    assert [record["data"] for record in await world.records()] == [{"v": 1}, {"v": 2}]
    assert {peer for peer, _ in world.transport.struck} == {NODE.identity}
    assert other


async def test_a_peer_that_claims_another_topic_is_not_believed(world: World) -> None:
    """The topics are those of the manifest that has the batch's hash; one with other topics has another hash."""
    await world.certify(1, topics=["elsewhere"])
    manifest = world.origin.recorder.told[0].manifest.message
    forged = sign(NODE, attrs.evolve(manifest, topics=(TOPIC,)))
    for peer in (NODE, AGENT):
        world.lie(peer.identity, MANIFESTS, lambda _: encode(ManifestPage(entries=(to_frame(forged),))))
    await world.read(topics=[TOPIC])
    shown = await world.until_state(lambda shown: shown["detail"] != "")
    assert "manifest" in shown["detail"]
    assert world.reader.recorder.told == []
    assert {peer for peer, _ in world.transport.struck} == {NODE.identity, AGENT.identity}


async def test_what_cannot_be_had_is_waited_for_in_order_and_holds_up_no_other_source(world: World) -> None:
    first = await world.certify({"v": 1}, hide=True)
    second = await world.certify({"v": 2})
    other = await world.certify({"v": 3}, source="s2")
    await world.read()
    assert await world.until_taken(1) == other
    shown = await world.until_state(lambda shown: "2 batches wait" in shown["detail"])
    assert (shown["status"], shown["lag"]) == ("running", 2)
    await world.reader.client.patch("/overlay/sources/copy", json={"configuration": {"topics": ["weather.#"]}})
    world.hidden.clear()
    assert await world.until_taken(3) == other + first + second, "also by a connector that was started anew"
    assert (await world.until_state(lambda shown: shown["lag"] == 0))["detail"] == ""


async def test_what_is_given_up_is_shown(world: World) -> None:
    await world.certify({"v": 1}, hide=True)
    second = await world.certify({"v": 2})
    await world.read(waitSeconds=0)
    assert await world.until_taken(1) == second
    (given_up,) = await world.rejections()
    assert given_up["externalId"] == world.origin.recorder.told[0].manifest.message.batch_id
    assert "sent the events" in given_up["reason"]
    mark = await world.database.run(partial(sources.mark, source_id="copy"))
    assert mark is not None
    assert mark["aside"] == []


async def test_certificates_that_the_log_let_go_before_they_were_read_are_shown(
    postgres_urls: tuple[str, str],
) -> None:
    async with opened(*postgres_urls, kept_max=2) as world:
        await world.certify(0)
        await world.read()
        await world.until_taken(1)
        await world.reader.client.patch("/overlay/sources/copy", json={"enabled": False})
        for value in range(1, 6):
            await world.certify(value)
        await world.reader.client.patch("/overlay/sources/copy", json={"enabled": True})
        await world.until_taken(3)
        assert any("deleted before they were read" in each["reason"] for each in await world.rejections())


async def test_a_certificate_of_strangers_is_not_used(world: World) -> None:
    await world.certify(1)
    world.log._is_known = lambda identity: identity == NODE.identity
    await world.read()
    shown = await world.until_state(lambda shown: shown["detail"] != "")
    assert "not known" in shown["detail"]
    assert world.reader.recorder.told == []
    await world.reader.client.patch(
        "/overlay/sources/copy",
        json={"configuration": {"coordinators": [NODE.identity.hex(), AGENT.identity.hex()]}},
    )
    await world.until_taken(1)


async def test_what_was_made_of_own_events_is_not_read_back(world: World) -> None:
    """A node that reads the reader's events, and is read by it, gives back what has been here, under new ids."""
    await world.reader.source("mine")
    await world.reader.post({"externalId": "e", "eventType": "reading", "data": 1}, source="mine")
    own = event_id(NETWORK, "mine", "e")
    strange = [event_id(NETWORK, "theirs", str(number)) for number in range(CHAIN_MAX)]
    ids = [own, f"{strange[0]} {own}", f"{strange[0]} {strange[1]}", " ".join(strange), "event_ of a client"]
    events = await world.certify(1, 2, 3, 4, 5, ids=ids)
    await world.read()
    taken = (await world.until_taken(3))[1:]
    assert taken == [f"{events[2]} {ids[2]}", events[4]]
    assert (await world.until_state(lambda shown: shown["lag"] == 0))["received"] == 2
