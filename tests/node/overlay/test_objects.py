"""Objects by content: read with their hash checked, had of peers, advertised; in a real Postgres, peers in memory."""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import attrs
import psycopg
import pytest
import trio
import trio.testing

from node.network.requests import ABSENT, PRESENT
from node.overlay.objects import Kind, Objects, ObjectsBusyError, object_store, search, wire
from node.overlay.objects.wire import Part, PartRequest
from protocols.errors import MalformedError
from protocols.messages import IdentityKey
from protocols.uhrp import check_uhrp_advert, uhrp_url
from storage import policies
from storage.database import Database
from tests.node.certified_batches import AGENT, NODE, KeySigner
from tests.node.memory_transport import MemoryNetwork, MemoryTransport

DOCUMENT = b'{"required":["value"]}'
LARGE = bytes(range(256)) * 6_000  # 1.5 MB, three parts


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


@attrs.frozen(kw_only=True)
class Member:
    objects: Objects
    transport: MemoryTransport
    database: Database

    async def put(self, document: bytes) -> bytes:
        """Store a policy document; its digest."""
        digest = sha256(document)
        await self.database.run(lambda connection: policies.put(connection, digest, document))
        return digest


@asynccontextmanager
async def member(
    url: str,
    network: MemoryNetwork,
    signer: KeySigner = NODE,
    likely: Callable[[bytes], Sequence[IdentityKey]] = lambda _: (),
) -> AsyncIterator[Member]:
    """One node's objects, on its network, until the block ends."""

    async def advertised_holders(digest: bytes) -> Sequence[IdentityKey]:
        return likely(digest)

    async def answer(_: IdentityKey, body: bytes) -> bytes:
        found = await objects.answer(body)
        return PRESENT + found if found else ABSENT

    with Database(url) as database:
        transport = network.join(signer.identity)
        objects = Objects(
            database=database,
            transport=transport,  # type: ignore[arg-type]  # as much of one as objects use
            key=signer.key,
            public_url="https://node.example/",
            likely=advertised_holders,
        )
        network.answers[signer.identity] = answer
        async with trio.open_nursery() as nursery:
            nursery.start_soon(objects.run)
            yield Member(objects=objects, transport=transport, database=database)
            nursery.cancel_scope.cancel()


async def test_an_object_is_read_by_its_digest(postgres_url: str) -> None:
    async with member(postgres_url, MemoryNetwork()) as node:
        digest = await node.put(DOCUMENT)
        content = await node.objects.get(digest)
        assert content is not None
        assert (content.data, content.kind, content.digest) == (DOCUMENT, Kind.POLICY, digest)
        assert await node.objects.get(sha256(b"nothing")) is None


async def test_a_row_whose_bytes_changed_is_never_served(postgres_url: str) -> None:
    async with member(postgres_url, MemoryNetwork()) as node:
        digest = await node.put(DOCUMENT)
        await node.database.run(lambda connection: connection.execute("UPDATE policies SET document = 'changed'"))
        assert await node.objects.get(digest) is None
        assert await node.objects.answer(wire.write_part_request(PartRequest(digest=digest, length=10))) == b""


async def test_a_spoiled_copy_is_never_served(postgres_urls: tuple[str, str]) -> None:
    """Bytes that are no zstd frame any more, and a frame of other content."""
    network = MemoryNetwork()
    async with member(postgres_urls[0], network) as node:
        digest = sha256(LARGE)
        async with member(postgres_urls[1], network, AGENT) as other:
            await other.put(LARGE)
            assert await node.objects.get(digest) is not None
        del network.answers[AGENT.identity]
        for content in (b"spoiled", bytes.fromhex("28b52ffd2000010000")):
            await node.database.run(partial(spoil, content))
            fresh = Objects(
                database=node.database,
                transport=node.transport,  # type: ignore[arg-type]  # as much of one as objects use
                key=NODE.key,
                public_url="https://node.example",
            )
            assert await fresh.get(digest, local=True) is None


async def test_what_is_not_here_comes_from_a_peer_and_stays(postgres_urls: tuple[str, str]) -> None:
    network = MemoryNetwork()
    async with member(postgres_urls[0], network) as node:
        async with member(postgres_urls[1], network, AGENT) as other:
            digest = await other.put(LARGE)
            assert await node.objects.get(digest, local=True) is None
            content = await node.objects.get(digest)
            assert content is not None
            assert (content.data, content.kind) == (LARGE, Kind.POLICY)
            parts = [body for _, body in network.asked if wire.read_part_request(body).length]
            assert len(parts) == 3
        del network.answers[AGENT.identity]
        kept = await node.objects.get(digest)
        assert kept is not None
        assert kept.data == LARGE
        assert await node.objects.own_adverts([digest]) != [None]


async def test_a_corrupt_row_is_mended_by_a_peer(postgres_urls: tuple[str, str]) -> None:
    network = MemoryNetwork()
    async with member(postgres_urls[0], network) as node, member(postgres_urls[1], network, AGENT) as other:
        digest = await node.put(DOCUMENT)
        await other.put(DOCUMENT)
        await node.database.run(lambda connection: connection.execute("UPDATE policies SET document = 'changed'"))
        content = await node.objects.get(digest)
        assert content is not None
        assert content.data == DOCUMENT


async def test_requests_for_one_object_share_one_search(postgres_urls: tuple[str, str]) -> None:
    network = MemoryNetwork()
    async with member(postgres_urls[0], network) as node, member(postgres_urls[1], network, AGENT) as other:
        digest = await other.put(DOCUMENT)
        found = []

        async def get() -> None:
            found.append(await node.objects.get(digest))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(get)
        assert [content.data for content in found if content is not None] == [DOCUMENT] * 20
        assert len(network.asked) == 2  # whether it is there, and all of it


async def test_what_nobody_has_is_not_searched_for_again_at_once(postgres_urls: tuple[str, str]) -> None:
    network = MemoryNetwork()
    async with member(postgres_urls[0], network) as node, member(postgres_urls[1], network, AGENT):
        for _ in range(5):
            assert await node.objects.get(sha256(b"nothing")) is None
        assert len(network.asked) == 1


async def test_a_request_that_is_given_up_does_not_end_the_search_of_others(postgres_urls: tuple[str, str]) -> None:
    network = MemoryNetwork()
    async with member(postgres_urls[0], network) as node, member(postgres_urls[1], network, AGENT) as other:
        digest = await other.put(DOCUMENT)
        impatient = trio.CancelScope()

        async def give_up() -> None:
            with impatient:
                await node.objects.get(digest)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(give_up)
            await trio.testing.wait_all_tasks_blocked(0.001)
            impatient.cancel()
            assert await node.objects.get(digest) is not None


def spoil(content: bytes, connection: psycopg.Connection) -> None:
    connection.execute("UPDATE fetched_objects SET content = %b", (content,))


def liar(make: Callable[[PartRequest], bytes]) -> Callable[[IdentityKey, bytes], Awaitable[bytes]]:
    async def answer(_: IdentityKey, body: bytes) -> bytes:
        return PRESENT + make(wire.read_part_request(body))

    return answer


@pytest.mark.parametrize(
    "make",
    [
        lambda asked: wire.write_part(Part(kind=Kind.POLICY, size=5, data=b"wrong"[: asked.length])),
        lambda asked: wire.write_part(Part(kind=Kind.POLICY, size=2**60)),
        lambda asked: wire.write_part(Part(kind=Kind.POLICY, size=5 + asked.length, data=b"x" * asked.length)),
        lambda asked: wire.write_part(Part(kind=Kind.POLICY, size=0)),
        lambda asked: b"\x09" + bytes(8),
        lambda asked: b"?",
    ],
    ids=["other bytes", "huge", "growing", "empty", "unknown kind", "garbage"],
)
async def test_a_peer_that_sends_something_else_is_struck_and_the_next_one_asked(
    postgres_urls: tuple[str, str], make: Callable[[PartRequest], bytes]
) -> None:
    network = MemoryNetwork()
    forger = KeySigner(7)
    network.answers[forger.identity] = liar(make)
    likely = lambda _: [forger.identity, AGENT.identity]  # noqa: E731
    async with (
        member(postgres_urls[0], network, likely=likely) as node,
        member(postgres_urls[1], network, AGENT) as other,
    ):
        digest = await other.put(DOCUMENT)
        content = await node.objects.get(digest)
        assert content is not None
        assert content.data == DOCUMENT
        del network.answers[AGENT.identity]
        assert await node.objects.get(sha256(b"only a liar has it")) is None
        assert {identity for identity, _ in node.transport.struck} == {forger.identity}


async def test_a_silent_peer_holds_nobody_up(postgres_urls: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(_: IdentityKey, body: bytes) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    network = MemoryNetwork()
    for number in range(10, 30):
        network.answers[KeySigner(number).identity] = silent
    monkeypatch.setattr(search, "ANSWER_S", 0.2)
    async with member(postgres_urls[0], network) as node, member(postgres_urls[1], network, AGENT) as other:
        digest = await other.put(DOCUMENT)
        with trio.fail_after(5):
            assert await node.objects.get(digest) is not None


async def test_only_so_many_peers_are_asked_and_likely_ones_first(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lacks_it(_: IdentityKey, body: bytes) -> bytes:
        return ABSENT

    network = MemoryNetwork()
    identities = [KeySigner(number).identity for number in range(10, 60)]
    for identity in identities:
        network.answers[identity] = lacks_it
    async with member(postgres_url, network, likely=lambda _: [identities[17]]) as node:
        assert await node.objects.get(sha256(b"nothing")) is None
    assert identities[17] in [identity for identity, _ in network.asked[: search.ASKED_AT_ONCE]]
    assert len(network.asked) == len({identity for identity, _ in network.asked}) == search.PEERS_ASKED_MAX


async def test_memory_for_objects_is_bounded(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While large objects are being sent no more are read; when they are sent, it goes on."""
    monkeypatch.setattr(object_store, "MEMORY_BYTES_MAX", 1_000)
    monkeypatch.setattr(object_store, "RECENT_BYTES_MAX", 100)
    async with member(postgres_url, MemoryNetwork()) as node:
        digests = [await node.put(bytes([number]) * 600) for number in range(4)]
        sent = [await node.objects.get(digest) for digest in digests[:2]]
        assert await node.objects.get(digests[0]) is sent[0]  # one copy, however many take it
        with pytest.raises(ObjectsBusyError):
            await node.objects.get(digests[2])
        sent.clear()
        assert await node.objects.get(digests[2]) is not None


async def test_searches_are_bounded(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(_: IdentityKey, body: bytes) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    network = MemoryNetwork()
    network.answers[AGENT.identity] = silent
    monkeypatch.setattr("node.overlay.objects.SEARCHES_WAITING_MAX", 2)
    async with member(postgres_url, network) as node, trio.open_nursery() as nursery:
        refused = []

        async def get(number: int) -> None:
            try:
                await node.objects.get(sha256(bytes([number])))
            except ObjectsBusyError:
                refused.append(number)

        for number in range(10):
            nursery.start_soon(get, number)
            await trio.testing.wait_all_tasks_blocked(0.02)
        assert len(refused) == 4  # four under way, two waiting
        nursery.cancel_scope.cancel()


async def test_adverts_are_the_same_bytes_and_those_of_peers_come_with_them(postgres_urls: tuple[str, str]) -> None:
    network = MemoryNetwork()
    async with member(postgres_urls[0], network) as node, member(postgres_urls[1], network, AGENT) as other:
        here, there = await node.put(DOCUMENT), await other.put(LARGE)
        nowhere = sha256(b"nothing")
        adverts = await node.objects.own_adverts([here, there, nowhere])
        assert adverts == await node.objects.own_adverts([here, there, nowhere])
        assert adverts[1:] == [None, None]
        assert adverts[0] is not None
        said = check_uhrp_advert(adverts[0], allow_local_urls=False)
        assert (said.identity, said.digest, said.size) == (NODE.identity, here, len(DOCUMENT))
        assert said.url == f"https://node.example/uhrp/{uhrp_url(here)}"
        ((peer, digest, script),) = await node.objects.peer_adverts([here, there, nowhere], 2.0)
        assert (peer, digest) == (AGENT.identity, there)
        assert check_uhrp_advert(script, allow_local_urls=False).identity == AGENT.identity


async def test_an_object_of_16_bytes_is_served_but_not_advertised(postgres_url: str) -> None:
    """The official SDK would misread its size."""
    async with member(postgres_url, MemoryNetwork()) as node:
        digest = await node.put(b"0123456789abcdef")
        assert await node.objects.own_adverts([digest]) == [None]
        assert await node.objects.get(digest) is not None


@pytest.mark.parametrize(
    "body",
    [
        b"U",
        b"U" + bytes(43),
        b"U" + bytes(45),
        b"U" + bytes(32) + bytes(8) + b"\xff" * 4,
        b"A",
        b"A" + bytes(31),
        b"A" + bytes(32 * 17),
    ],
)
def test_requests_that_are_none_are_a_peers_fault(body: bytes) -> None:
    for read in (wire.read_part_request, wire.read_adverts_request):
        with pytest.raises(MalformedError):
            read(body)


async def test_parts_past_the_end_are_empty(postgres_url: str) -> None:
    async with member(postgres_url, MemoryNetwork()) as node:
        digest = await node.put(DOCUMENT)
        for offset, length, expected in ((0, 5, DOCUMENT[:5]), (20, 100, DOCUMENT[20:]), (2**63, 10, b"")):
            asked = PartRequest(digest=digest, offset=offset, length=length)
            answer = wire.read_part(await node.objects.answer(wire.write_part_request(asked)))
            assert answer == Part(kind=Kind.POLICY, size=len(DOCUMENT), data=expected)
