"""Messages leave in the order of the commits, signed, with payloads; one that cannot arrive delays no other."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio

from node.network.sender import QUEUE_MAX, Sender
from node.network.transport import PeerUnreachableError
from protocols.effects import Publish, Send
from protocols.envelope import open_frame
from protocols.messages import BatchQuery, IdentityKey, Message, Signed
from tests.network_of_keys import AGENTS, NETWORK
from tests.node.running import until

SELF, PEER, GONE = AGENTS[:3]


def query(number: int) -> BatchQuery:
    return BatchQuery(network=NETWORK, batch_id=f"batch_{number}")


class Wire:
    """A transport that keeps what it is given; one peer cannot be reached."""

    def __init__(self) -> None:
        self.sent: list[tuple[IdentityKey, bytes]] = []
        self.published: list[tuple[str, bytes]] = []

    async def send(self, peer: IdentityKey, frame: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if peer == GONE.identity:
            raise PeerUnreachableError("it is away")
        self.sent.append((peer, frame))

    async def publish(self, topic: str, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.published.append((topic, data))


@attrs.define
class Leaving:
    sender: Sender
    wire: Wire
    to_self: list[Signed[Message]]
    counted: list[tuple[str, str, int]]

    async def put(self, *effects: Send | Publish) -> None:
        for effect in effects:
            await self.sender.handlers[type(effect)](effect)

    def sent(self) -> list[tuple[IdentityKey, Message, bytes]]:
        opened = [(peer, *open_frame(frame, NETWORK)) for peer, frame in self.wire.sent]
        assert {signed.signer for _, signed, _ in opened} <= {SELF.identity}
        return [(peer, signed.message, attachment) for peer, signed, attachment in opened]


@asynccontextmanager
async def leaving(*, runs: bool = True) -> AsyncIterator[Leaving]:
    wire: Any = Wire()
    to_self: list[Signed[Message]] = []
    counted: list[tuple[str, str, int]] = []

    async def payload(batch_id: str) -> bytes | None:
        await trio.lowlevel.checkpoint()
        return b"payload" if batch_id == "batch_1" else None

    sender = Sender(SELF, wire, payload, to_self.append, lambda *sent: counted.append(sent))
    async with trio.open_nursery() as nursery:
        if runs:
            nursery.start_soon(sender.run)
        yield Leaving(sender=sender, wire=wire, to_self=to_self, counted=counted)
        nursery.cancel_scope.cancel()


async def test_messages_leave_signed_and_in_order() -> None:
    async with leaving() as at:
        await at.put(*(Send(to=PEER.identity, message=query(number)) for number in range(20)))
        await until(lambda: len(at.wire.sent) == 20)
        assert at.sent() == [(PEER.identity, query(number), b"") for number in range(20)]


async def test_a_payload_is_attached_where_it_is_here() -> None:
    async with leaving() as at:
        await at.put(
            Send(to=PEER.identity, message=query(1), payload_of="batch_1"),
            Send(to=PEER.identity, message=query(2), payload_of="batch_2"),
        )
        await until(lambda: len(at.wire.sent) == 2)
        assert [attachment for _, _, attachment in at.sent()] == [b"payload", b""]


async def test_messages_to_this_node_skip_the_network() -> None:
    async with leaving() as at:
        await at.put(Send(to=SELF.identity, message=query(1), payload_of="batch_1"), Publish(message=query(2)))
        await until(lambda: len(at.wire.published) == 1)
        assert [signed.message for signed in at.to_self] == [query(1), query(2)], "what is published comes back, too"
        assert at.wire.sent == []
        topic, frame = at.wire.published[0]
        assert (topic, open_frame(frame, NETWORK)[0].message) == ("jobs", query(2))


async def test_a_peer_that_is_away_holds_up_nobody() -> None:
    async with leaving() as at:
        await at.put(*(Send(to=agent.identity, message=query(1)) for agent in (GONE, PEER, GONE, PEER)))
        await until(lambda: len(at.wire.sent) == 2)
        assert [carrier for carrier, _, _ in at.counted] == ["stream", "stream"], "what did not leave is not counted"
        assert at.counted[0][1:] == ("BatchQuery", len(at.wire.sent[0][1]))


async def test_the_driver_waits_while_the_queue_is_full() -> None:
    async with leaving(runs=False) as at:
        effect = Send(to=PEER.identity, message=query(1))
        for _ in range(QUEUE_MAX):
            await at.put(effect)
        with pytest.raises(trio.TooSlowError), trio.fail_after(0.05):
            await at.put(effect)


@pytest.mark.parametrize("batch_id", ["", "\U0010ffff" * 512])
async def test_a_message_under_an_id_that_cannot_be_signed_holds_up_nobody(batch_id: str) -> None:
    """Peers choose ids: one of 512 characters beyond U+FFFF is well-formed, and too long for a key id."""
    async with leaving() as at:
        unsignable = BatchQuery(network=NETWORK, batch_id=batch_id)
        await at.put(Send(to=PEER.identity, message=unsignable), Publish(message=unsignable))
        await at.put(Send(to=PEER.identity, message=query(1)))
        await until(lambda: len(at.wire.sent) == 1)
        assert at.sent() == [(PEER.identity, query(1), b"")]
        assert at.wire.published == []
