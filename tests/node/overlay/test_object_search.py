"""Searches for objects among peers, and the messages they are made of: bounds, refusals, lies."""

import hashlib
from collections.abc import Awaitable, Callable, Sequence

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from node.network.requests import ABSENT, PRESENT
from node.overlay.objects import search, wire
from node.overlay.objects.adverts import ADVERTS_MAX, DAY_S, AdvertMaker
from node.overlay.objects.search import ASKED_AT_ONCE, PEERS_ASKED_MAX, PeerSearch
from node.overlay.objects.wire import (
    ADVERT_BYTES_MAX,
    DIGESTS_MAX,
    PART_BYTES_MAX,
    Part,
    PartRequest,
    read_adverts,
    read_adverts_request,
    read_part,
    read_part_request,
    write_adverts,
    write_adverts_request,
    write_part,
    write_part_request,
)
from protocols.errors import MalformedError
from protocols.messages import IdentityKey
from protocols.uhrp import DIGEST_BYTES, check_uhrp_advert, uhrp_url
from storage.objects import Kind, StoredObject
from tests.node.certified_batches import AGENT, NODE, KeySigner
from tests.node.memory_transport import MemoryNetwork, MemoryTransport

DATA = bytes(range(256)) * 3_000  # 768 KB, two parts
DIGEST = hashlib.sha256(DATA).digest()
Answer = Callable[[IdentityKey, bytes], Awaitable[bytes]]


def serving(data: bytes, *, size: int | None = None, cut: int = 0) -> Answer:
    """A peer that holds an object; or claims another size, or sends parts that are too short."""

    async def answer(_: IdentityKey, body: bytes) -> bytes:
        request = read_part_request(body)
        part = data[request.offset : request.offset + request.length]
        part = part[: len(part) - cut] if request.length else b""
        return PRESENT + write_part(Part(kind=Kind.PAYLOAD, size=len(data) if size is None else size, data=part))

    return answer


async def absent(_: IdentityKey, body: bytes) -> bytes:
    return ABSENT


def searching(network: MemoryNetwork, likely: Sequence[IdentityKey] = ()) -> tuple[PeerSearch, MemoryTransport]:
    async def holders(_: bytes) -> Sequence[IdentityKey]:
        return likely

    transport = network.join(NODE.identity)
    return PeerSearch(transport, holders), transport  # type: ignore[arg-type]  # as much of one as searches use


def identities(count: int) -> list[IdentityKey]:
    return [KeySigner(number).identity for number in range(100, 100 + count)]


async def test_an_object_is_fetched_part_by_part_and_checked() -> None:
    network = MemoryNetwork()
    network.answers = {AGENT.identity: serving(DATA)}
    peers, transport = searching(network)
    content = await peers.fetch(DIGEST)
    assert content is not None
    assert (content.data, content.kind, content.digest) == (DATA, Kind.PAYLOAD, DIGEST)
    lengths = [read_part_request(body).length for _, body in network.asked]
    assert lengths == [0, PART_BYTES_MAX, len(DATA) - PART_BYTES_MAX]
    assert transport.struck == []


@pytest.mark.parametrize(
    ("liar", "reason"),
    [
        (serving(DATA[:-1] + b"?"), "forged-object"),
        (serving(DATA, size=len(DATA) + 1), "malformed"),
        (serving(DATA, size=0), "malformed"),
        (serving(DATA, size=2**40), "malformed"),
        (serving(DATA, cut=1), "malformed"),
    ],
)
async def test_a_peer_that_lies_is_struck_and_the_object_comes_from_another(liar: Answer, reason: str) -> None:
    network = MemoryNetwork()
    first, second = identities(2)
    network.answers = {first: liar, second: serving(DATA)}
    peers, transport = searching(network, likely=[first])
    with trio.fail_after(20):
        while not transport.struck:  # the honest one may answer first
            content = await peers.fetch(DIGEST)
            assert content is not None
            assert content.data == DATA
    assert transport.struck[0] == (first, reason)


async def test_a_peer_that_withholds_parts_after_it_claimed_to_have_them_is_no_holder() -> None:
    async def withholding(_: IdentityKey, body: bytes) -> bytes:
        if read_part_request(body).length:
            return ABSENT
        return PRESENT + write_part(Part(kind=Kind.PAYLOAD, size=len(DATA)))

    network = MemoryNetwork()
    network.answers = {AGENT.identity: withholding}
    peers, transport = searching(network)
    assert await peers.fetch(DIGEST) is None
    assert transport.struck == [], "it may have deleted the object since"


async def test_only_so_many_peers_are_asked_a_few_at_a_time_the_likely_ones_first() -> None:
    network, under_way, most = MemoryNetwork(), 0, 0

    async def slow(_: IdentityKey, body: bytes) -> bytes:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await trio.lowlevel.checkpoint()
        under_way -= 1
        return ABSENT

    everybody = identities(3 * PEERS_ASKED_MAX)
    network.answers = dict.fromkeys(everybody, slow)
    likely = everybody[-3:]
    peers, _ = searching(network, likely=[*likely, NODE.identity, *likely])
    assert await peers.fetch(DIGEST) is None
    asked = [peer for peer, _ in network.asked]
    assert len(asked) == len(set(asked)) == PEERS_ASKED_MAX
    assert set(asked[:3]) == set(likely)
    assert NODE.identity not in asked, "a node does not ask itself"
    assert 1 < most <= ASKED_AT_ONCE


async def test_a_search_ends_in_time_though_no_peer_answers(autojump_clock: trio.testing.MockClock) -> None:
    async def silent(_: IdentityKey, body: bytes) -> bytes:
        await trio.sleep_forever()
        raise AssertionError("never")

    network = MemoryNetwork()
    network.answers = dict.fromkeys(identities(PEERS_ASKED_MAX), silent)
    peers, _ = searching(network)
    begun_s = trio.current_time()
    assert await peers.fetch(DIGEST) is None
    rounds = -(-PEERS_ASKED_MAX // ASKED_AT_ONCE)
    assert trio.current_time() - begun_s <= rounds * search.ANSWER_S + 0.1
    begun_s = trio.current_time()
    assert await peers.adverts([DIGEST], 0.5) == []
    assert trio.current_time() - begun_s <= 0.6


async def test_adverts_come_with_their_peer_and_object_and_other_answers_are_struck() -> None:
    one, two, three = identities(3)

    async def holds_first(_: IdentityKey, body: bytes) -> bytes:
        assert read_adverts_request(body) == [DIGEST, bytes(32)]
        return PRESENT + write_adverts([b"script", None])

    async def too_few(_: IdentityKey, body: bytes) -> bytes:
        return PRESENT + write_adverts([b"script"])

    network = MemoryNetwork()
    network.answers = {one: holds_first, two: too_few, three: absent}
    peers, transport = searching(network)
    assert await peers.adverts([DIGEST, bytes(32)], 5.0) == [(one, DIGEST, b"script")]
    assert transport.struck == [(two, "malformed")]


# --- messages ---------------------------------------------------------------------------------------------------

DIGESTS = st.binary(min_size=DIGEST_BYTES, max_size=DIGEST_BYTES)


@given(digest=DIGESTS, offset=st.integers(0, 2**64 - 1), length=st.integers(0, PART_BYTES_MAX))
def test_requests_for_parts_survive_the_wire(digest: bytes, offset: int, length: int) -> None:
    request = PartRequest(digest=digest, offset=offset, length=length)
    assert read_part_request(write_part_request(request)) == request


@given(kind=st.sampled_from(Kind), size=st.integers(0, 2**64 - 1), data=st.binary(max_size=100))
def test_parts_survive_the_wire(kind: Kind, size: int, data: bytes) -> None:
    part = Part(kind=kind, size=size, data=data)
    assert read_part(write_part(part)) == part


@given(digests=st.lists(DIGESTS, min_size=1, max_size=DIGESTS_MAX))
def test_requests_for_adverts_survive_the_wire(digests: list[bytes]) -> None:
    assert read_adverts_request(write_adverts_request(digests)) == digests


@given(scripts=st.lists(st.none() | st.binary(min_size=1, max_size=300), max_size=DIGESTS_MAX))
def test_adverts_survive_the_wire(scripts: list[bytes | None]) -> None:
    assert read_adverts(write_adverts(scripts), len(scripts)) == scripts
    with pytest.raises(MalformedError):
        read_adverts(write_adverts(scripts) + b"\x00", len(scripts))
    with pytest.raises(MalformedError):
        read_adverts(write_adverts(scripts), len(scripts) + 1)


@given(body=st.binary(max_size=600))
def test_bytes_of_a_peer_are_read_or_its_fault(body: bytes) -> None:
    readers: list[Callable[[bytes], object]] = [
        read_part_request,
        read_part,
        read_adverts_request,
        lambda data: read_adverts(data, 3),
    ]
    raised: list[BaseException] = []
    for read in readers:
        for data in (body, wire.PART + body, wire.ADVERTS + body):
            try:
                read(data)
            except MalformedError as error:
                raised.append(error)
    assert all(str(error) for error in raised)


def test_messages_past_their_bounds_are_refused() -> None:
    head = write_part(Part(kind=Kind.POLICY, size=1))
    with pytest.raises(MalformedError, match="kind"):
        read_part(b"\x09" + head[1:])
    with pytest.raises(MalformedError, match="at most"):
        read_part(head + bytes(PART_BYTES_MAX + 1))
    with pytest.raises(MalformedError, match="at most"):
        read_part_request(write_part_request(PartRequest(digest=DIGEST, length=PART_BYTES_MAX + 1)))
    with pytest.raises(MalformedError, match="1 to 16 digests"):
        read_adverts_request(write_adverts_request([DIGEST] * (DIGESTS_MAX + 1)))
    with pytest.raises(MalformedError, match="1 to 16 digests"):
        read_adverts_request(wire.ADVERTS)
    with pytest.raises(MalformedError, match="at most"):
        read_adverts(bytes(2 * ADVERT_BYTES_MAX + 1), 2)


# --- advertisements ---------------------------------------------------------------------------------------------


def stored(digest: bytes = DIGEST, size: int = 1_000) -> StoredObject:
    return StoredObject(digest=digest, kind=Kind.PAYLOAD, size=size)


def test_an_advert_is_the_same_for_a_day_and_good_for_one_to_two_days() -> None:
    maker = AdvertMaker(NODE.key, "https://node.example/")
    day_ms = 1_000 * DAY_S
    first, last = maker.make(stored(), 7 * day_ms), maker.make(stored(), 8 * day_ms - 1)
    assert first is not None
    assert first == last == AdvertMaker(NODE.key, "https://node.example").make(stored(), 7 * day_ms)
    advert = check_uhrp_advert(first, allow_local_urls=False)
    assert (advert.identity, advert.digest, advert.size) == (NODE.identity, DIGEST, 1_000)
    assert advert.url == f"https://node.example/uhrp/{uhrp_url(DIGEST)}"
    assert advert.expires_s == 9 * DAY_S
    later = maker.make(stored(), 8 * day_ms)
    assert later is not None
    assert check_uhrp_advert(later, allow_local_urls=False).expires_s == 10 * DAY_S


def test_adverts_of_so_many_objects_are_kept() -> None:
    maker = AdvertMaker(NODE.key, "https://node.example")
    for number in range(ADVERTS_MAX + 10):
        maker.make(stored(number.to_bytes(32, "big")), 0)
    assert len(maker._recent) == ADVERTS_MAX
