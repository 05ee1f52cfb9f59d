"""Peers' requests: answered by tag, by members only, and alike whether garbage or absent."""

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from node.network.content_exchange import OUTPUTS, POLICY, ContentExchange, answer_outputs
from node.network.membership import StrangerError
from node.network.quotas import REQUESTS
from node.network.requests import ABSENT, PRESENT, RequestTable, TooManyRequestsError
from protocols.canonical import sha256
from protocols.messages import IdentityKey
from tests.node.certified_batches import AGENT, NODE
from tests.node.memory_transport import MemoryNetwork, MemoryTransport

DOCUMENT = b'{"a":1}'
LEAVES, NORMALIZED = b"leaf\nleaf", b"{}\n{}"


def everybody(sender: IdentityKey) -> bool:
    return True


async def echo(body: bytes) -> bytes:
    return body[1:]


async def test_a_table_that_is_not_filled_has_nothing() -> None:
    assert await RequestTable().answer(AGENT.identity, b"Xabc") == ABSENT


async def test_a_request_goes_to_the_answerer_of_its_first_byte() -> None:
    table = RequestTable()
    table.serve({b"X": echo}, admits=everybody)
    assert await table.answer(AGENT.identity, b"Xabc") == PRESENT + b"abc"
    assert await table.answer(AGENT.identity, b"X") == ABSENT, "an empty answer is no document"
    assert await table.answer(AGENT.identity, b"Yabc") == ABSENT
    assert await table.answer(AGENT.identity, b"") == ABSENT


async def test_strangers_get_no_answer() -> None:
    table = RequestTable()
    table.serve({b"X": echo}, admits=lambda sender: sender == NODE.identity)
    with pytest.raises(StrangerError):
        await table.answer(AGENT.identity, b"Xabc")
    assert await table.answer(NODE.identity, b"Xabc") == PRESENT + b"abc"


def test_a_table_is_filled_once_and_by_single_bytes() -> None:
    table = RequestTable()
    with pytest.raises(AssertionError, match="one byte"):
        table.serve({b"XY": echo}, admits=everybody)
    table.serve({b"X": echo}, admits=everybody)
    with pytest.raises(AssertionError, match="once"):
        table.serve({b"Y": echo}, admits=everybody)


async def test_a_peer_that_asks_too_often_is_refused_until_later(autojump_clock: object) -> None:
    table = RequestTable()
    table.serve({b"X": echo}, admits=everybody)
    for _ in range(int(REQUESTS.burst)):
        assert await table.answer(AGENT.identity, b"Xa") == PRESENT + b"a"
    with pytest.raises(TooManyRequestsError):
        await table.answer(AGENT.identity, b"Xa")
    assert await table.answer(NODE.identity, b"Xa") == PRESENT + b"a", "another peer is answered"
    await trio.sleep(1)
    assert await table.answer(AGENT.identity, b"Xa") == PRESENT + b"a"


class Holder:
    """A node that stores policies and outputs, and one that asks it."""

    def __init__(self) -> None:
        self.network = MemoryNetwork()
        self.policies = {sha256(DOCUMENT): DOCUMENT}
        self.kept: dict[bytes, bytes] = {}
        table = RequestTable()
        holder = self.exchange(MemoryTransport(AGENT.identity, self.network), self.policies)
        answer = answer_outputs(self.nothing, self.outputs)
        table.serve({POLICY: holder.answer_policy, OUTPUTS: answer}, admits=everybody)
        self.network.join(AGENT.identity, table.answer)
        self.asker = self.exchange(MemoryTransport(NODE.identity, self.network), self.kept)

    def exchange(self, transport: MemoryTransport, stored: dict[bytes, bytes]) -> ContentExchange:
        async def find(policy_hash: bytes) -> bytes | None:
            return stored.get(policy_hash)

        async def keep(policy_hash: bytes, document: bytes, sender: IdentityKey) -> None:
            stored[policy_hash] = document

        return ContentExchange(
            transport=transport,  # type: ignore[arg-type]  # as much of one as asking takes
            find_policy=find,
            keep_policy=keep,
        )

    async def nothing(self, batch_id: str) -> tuple[bytes, bytes] | None:
        return None

    async def outputs(self, batch_id: str) -> tuple[bytes, bytes] | None:
        return (LEAVES, NORMALIZED) if batch_id == "batch_1" else None


async def test_a_policy_is_had_of_a_peer_once_and_kept() -> None:
    holder = Holder()
    wanted = sha256(DOCUMENT)
    assert await holder.asker.policy(wanted, NODE.identity) is None, "this node itself is not asked"
    for _ in range(3):
        assert await holder.asker.policy(wanted, AGENT.identity) == DOCUMENT
    assert holder.kept == {wanted: DOCUMENT}
    assert len(holder.network.asked) == 1


async def test_a_policy_of_another_hash_is_not_kept() -> None:
    holder = Holder()
    wanted = sha256(b"another")
    holder.policies[wanted] = DOCUMENT  # the peer lies
    assert await holder.asker.policy(wanted, AGENT.identity) is None
    assert holder.kept == {}


async def test_outputs_come_apart_as_they_were_put_together() -> None:
    holder = Holder()
    assert await holder.asker.outputs("batch_1", AGENT.identity) == (LEAVES, NORMALIZED)
    assert await holder.asker.outputs("batch_2", AGENT.identity) is None
    assert await holder.asker.outputs("batch_1", NODE.identity) is None, "nobody answers there"
    assert await holder.asker.outputs("b" * 200, AGENT.identity) is None


@given(leaves=st.binary(max_size=50), normalized=st.binary(max_size=50))
async def test_outputs_of_any_bytes_arrive_whole(leaves: bytes, normalized: bytes) -> None:
    async def find(batch_id: str) -> tuple[bytes, bytes]:
        return leaves, normalized

    network = MemoryNetwork()
    table = RequestTable()
    table.serve({OUTPUTS: answer_outputs(find)}, admits=everybody)
    network.join(AGENT.identity, table.answer)
    asker = Holder().exchange(MemoryTransport(NODE.identity, network), {})
    assert await asker.outputs("batch_1", AGENT.identity) == (leaves, normalized)


@pytest.mark.parametrize(
    "body", [b"P", b"P" + bytes(31), b"P" + bytes(33), b"P" + bytes(32), b"O", b"O\xff\xfe", b"\0"]
)
async def test_garbage_is_answered_like_an_absent_document(body: bytes) -> None:
    holder = Holder()
    assert await holder.network.answers[AGENT.identity](NODE.identity, body) == ABSENT
