"""Policies and outputs asked of peers, and peers' requests answered: what does not fit its hash is not kept."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from node.network.content_exchange import (
    BATCH_ID_BYTES_MAX,
    OUTPUTS,
    POLICIES_MAX,
    POLICY,
    ContentExchange,
    answer_outputs,
)
from node.network.membership import StrangerError
from node.network.requests import ABSENT, PRESENT, RequestTable
from protocols.envelope import digest
from protocols.limits import POLICY_BYTES_MAX
from protocols.messages import IdentityKey
from tests.node.memory_transport import MemoryNetwork

SELF, PEER = b"\x02" + bytes(32), b"\x03" + bytes(32)
DOCUMENT = b'{"mappingPolicy":{}}'
HASH = digest(DOCUMENT)


class Store:
    """The policies of one node."""

    def __init__(self, *documents: bytes) -> None:
        self.documents = {digest(each): each for each in documents}
        self.reads = 0

    async def find(self, policy_hash: bytes) -> bytes | None:
        await trio.lowlevel.checkpoint()
        self.reads += 1
        return self.documents.get(policy_hash)

    async def keep(self, policy_hash: bytes, document: bytes, sender: IdentityKey) -> None:
        self.documents[policy_hash] = document


class Exchange:
    """A node that asks, and what it has."""

    def __init__(self, *documents: bytes) -> None:
        self.network = MemoryNetwork()
        self.store = Store(*documents)
        self.content = ContentExchange(
            transport=self.network.join(SELF),  # type: ignore[arg-type]  # as much of one as asking takes
            find_policy=self.store.find,
            keep_policy=self.store.keep,
        )

    def peer_answers(self, answer: bytes) -> None:
        async def answering(sender: IdentityKey, body: bytes) -> bytes:
            return answer

        self.network.answers[PEER] = answering


# --- asking --------------------------------------------------------------------------------------------------


async def test_a_policy_of_this_node_is_asked_of_nobody() -> None:
    here = Exchange(DOCUMENT)
    assert await here.content.policy(HASH, PEER) == DOCUMENT
    assert await here.content.policy(HASH, PEER) == DOCUMENT
    assert (here.network.asked, here.store.reads) == ([], 1)


async def test_a_policy_of_a_peer_is_kept() -> None:
    here = Exchange()
    here.peer_answers(PRESENT + DOCUMENT)
    assert await here.content.policy(HASH, PEER) == DOCUMENT
    assert here.store.documents == {HASH: DOCUMENT}
    assert await here.content.policy(HASH, PEER) == DOCUMENT
    assert here.network.asked == [(PEER, POLICY + HASH)]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        ABSENT,
        ABSENT + DOCUMENT,
        PRESENT,
        PRESENT + DOCUMENT[:-1],
        PRESENT + DOCUMENT + b" ",
        PRESENT + b'{"mappingPolicy":{"required":["a"]}}',
        b"\2" + DOCUMENT,
    ],
)
async def test_another_document_than_the_one_of_the_hash_is_not_kept(answer: bytes) -> None:
    here = Exchange()
    here.peer_answers(answer)
    assert await here.content.policy(HASH, PEER) is None
    assert here.store.documents == {}
    here.peer_answers(PRESENT + DOCUMENT)
    assert await here.content.policy(HASH, PEER) == DOCUMENT, "it is asked for again"


async def test_a_policy_past_its_bound_is_not_kept() -> None:
    document = b"x" * (POLICY_BYTES_MAX + 1)
    here = Exchange()
    here.peer_answers(PRESENT + document)
    assert await here.content.policy(digest(document), PEER) is None
    assert here.store.documents == {}


async def test_a_node_that_is_away_or_this_node_itself_has_no_more() -> None:
    here = Exchange()
    assert await here.content.policy(HASH, PEER) is None
    assert await here.content.policy(HASH, SELF) is None
    assert [peer for peer, _ in here.network.asked] == [PEER], "a node does not ask itself"
    assert here.content.identity == SELF


async def test_policies_in_memory_are_bounded() -> None:
    documents = [str(number).encode() for number in range(POLICIES_MAX + 1)]
    here = Exchange(*documents)
    for document in documents:
        await here.content.policy(digest(document), SELF)
    reads = here.store.reads
    await here.content.policy(digest(documents[-1]), SELF)
    assert here.store.reads == reads
    await here.content.policy(digest(documents[0]), SELF)
    assert here.store.reads == reads + 1, "the oldest made room"


@pytest.mark.parametrize("answer", [b"", ABSENT, PRESENT, PRESENT + b"abc"])
async def test_outputs_that_are_absent_or_cut_short(answer: bytes) -> None:
    here = Exchange()
    here.peer_answers(answer)
    assert await here.content.outputs("batch_1", PEER) is None


@given(st.binary(min_size=4, max_size=100))
async def test_any_answer_splits_into_two_parts(data: bytes) -> None:
    here = Exchange()
    here.peer_answers(PRESENT + data)
    found = await here.content.outputs("batch_1", PEER)
    assert found is not None
    assert b"".join(found) == data[4:]


# --- answering -----------------------------------------------------------------------------------------------


@given(st.binary(max_size=50), st.binary(max_size=50))
async def test_outputs_arrive_as_they_were_found(leaves: bytes, normalized: bytes) -> None:
    async def none(batch_id: str) -> None:
        return None

    async def find(batch_id: str) -> tuple[bytes, bytes] | None:
        return (leaves, normalized) if batch_id == "batch_1" else None

    table = RequestTable()
    table.serve({OUTPUTS: answer_outputs(none, find)}, admits=lambda sender: True)
    here = Exchange()
    here.network.answers[PEER] = table.answer
    assert await here.content.outputs("batch_1", PEER) == (leaves, normalized)
    assert await here.content.outputs("batch_2", PEER) is None


@pytest.mark.parametrize("key", [b"\xff\xfe", b"x" * (BATCH_ID_BYTES_MAX + 1), b""])
async def test_a_batch_id_that_is_none_finds_nothing(key: bytes) -> None:
    asked: list[str] = []

    async def find(batch_id: str) -> tuple[bytes, bytes] | None:
        asked.append(batch_id)
        return None

    assert await answer_outputs(find)(OUTPUTS + key) == b""
    assert all(len(each) <= BATCH_ID_BYTES_MAX for each in asked)


@pytest.mark.parametrize(
    ("key", "found"), [(HASH, DOCUMENT), (HASH[:-1], b""), (HASH + b"\0", b""), (bytes(32), b""), (b"", b"")]
)
async def test_a_policy_is_given_by_its_whole_hash(key: bytes, found: bytes) -> None:
    assert await Exchange(DOCUMENT).content.answer_policy(POLICY + key) == found


def answering(document: bytes) -> Callable[[bytes], Awaitable[bytes]]:
    async def answer(body: bytes) -> bytes:
        return document

    return answer


async def test_requests_go_to_the_part_that_their_tag_names() -> None:
    table = RequestTable()
    assert await table.answer(PEER, b"A") == ABSENT, "before the node is there"
    table.serve({b"A": answering(b"a"), b"B": answering(b"")}, admits=lambda sender: sender == PEER)
    assert await table.answer(PEER, b"A and more") == PRESENT + b"a"
    for body in (b"B", b"C", b"", b"\xff" * 100):
        assert await table.answer(PEER, body) == ABSENT
    with pytest.raises(StrangerError):
        await table.answer(SELF, b"A")


@pytest.mark.parametrize("answerers", [{b"": answering(b"")}, {b"AB": answering(b"")}])
def test_a_tag_is_one_byte(answerers: dict[bytes, Any]) -> None:
    with pytest.raises(AssertionError):
        RequestTable().serve(answerers, admits=lambda sender: True)


def test_the_table_is_filled_once() -> None:
    table = RequestTable()
    table.serve({b"A": answering(b"a")}, admits=lambda sender: True)
    with pytest.raises(AssertionError):
        table.serve({b"B": answering(b"b")}, admits=lambda sender: True)
