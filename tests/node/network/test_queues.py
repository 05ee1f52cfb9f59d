"""The bounded queues between a node and its peers: nothing grows past its bound, nothing taken in is lost."""

from collections import deque

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from node.network.p2p.inbound import (
    INBOUND_FRAMES_MAX,
    INLINE_BYTES_MAX,
    InboundQueue,
    encode_large,
    open_large,
)
from node.network.p2p.links import QUEUE_BYTES_MAX, QUEUE_FRAMES_MAX, REDIAL_S_FIRST, Link
from node.network.p2p.peer_links import ROOM_WAIT_S, queue_frame
from node.network.transport import InboundFrame, PeerUnreachableError
from protocols.framing import FrameKind, FrameReader
from tests.network_of_keys import AGENTS

PEER = AGENTS[0].identity


def frame(data: bytes) -> InboundFrame:
    return InboundFrame(sender=PEER, frame=data)


# --- in ------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.booleans(), st.integers(min_value=0, max_value=40)), max_size=200))
async def test_frames_leave_in_their_order_whatever_the_pace(steps: list[tuple[bool, int]]) -> None:
    queue = InboundQueue()
    waiting: deque[bytes] = deque()
    for number, (offers, size) in enumerate(steps):
        data = number.to_bytes(4, "big") + bytes(size)
        if offers and queue.offer(frame(data)):
            waiting.append(data)
        elif waiting:
            assert queue.channel.receive_nowait().frame == waiting.popleft()
    while waiting:
        assert queue.channel.receive_nowait().frame == waiting.popleft()
    with pytest.raises(trio.WouldBlock):
        queue.channel.receive_nowait()


async def test_frames_in_the_queue_are_bounded_in_number() -> None:
    queue = InboundQueue()
    taken = [queue.offer(frame(b"")) for _ in range(INBOUND_FRAMES_MAX + 3)]
    assert taken == [True] * INBOUND_FRAMES_MAX + [False] * 3
    queue.channel.receive_nowait()
    assert queue.offer(frame(b"")), "there is room again"
    assert not queue.offer(frame(b""))


async def test_frames_in_the_queue_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.network.p2p.inbound.INBOUND_BYTES_MAX", 100)
    queue = InboundQueue()
    assert queue.offer(frame(bytes(60)))
    assert queue.offer(frame(bytes(60))), "the last one may pass the bound"
    assert not queue.offer(frame(b""))
    queue.channel.receive_nowait()
    assert queue.offer(frame(b"")), "what was taken does not count any more"
    queue.channel.receive_nowait()
    queue.channel.receive_nowait()
    assert queue.offer(frame(bytes(99)))


@pytest.mark.parametrize("size", [0, 10, INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1])
async def test_large_bodies_come_back_as_they_were(size: int) -> None:
    body = bytes(size)
    encoded = await encode_large(FrameKind.REQUEST, body, 7)
    (read,) = FrameReader().feed(encoded)
    assert (read.kind, read.request_id) == (FrameKind.REQUEST, 7)
    assert await open_large(read) == body
    assert len(encoded) < max(100, size), "zeros compress"


# --- out -----------------------------------------------------------------------------------------------------


async def filled() -> Link:
    link = Link(PEER)
    while not link.outbox.full():
        await queue_frame(link, b"x")
    assert len(link.outbox) == QUEUE_FRAMES_MAX
    return link


async def test_a_sender_waits_for_room_and_then_gives_up(autojump_clock: trio.testing.MockClock) -> None:
    link = await filled()
    started = trio.current_time()
    with pytest.raises(PeerUnreachableError, match="takes no more"):
        await queue_frame(link, b"y")
    assert trio.current_time() - started == pytest.approx(ROOM_WAIT_S)
    with pytest.raises(PeerUnreachableError):
        await queue_frame(link, b"y")
    assert trio.current_time() - started == pytest.approx(ROOM_WAIT_S), "the next sender does not wait"


async def test_a_sender_that_waits_goes_on_when_there_is_room(autojump_clock: trio.testing.MockClock) -> None:
    link = await filled()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(queue_frame, link, b"waited")
        await trio.testing.wait_all_tasks_blocked()
        assert link.outbox.take()
    assert not link.stuck
    sent = b""
    while taken := link.outbox.take():
        sent += taken
    assert sent.endswith(b"waited")


async def test_a_peer_that_drained_is_waited_for_again(autojump_clock: trio.testing.MockClock) -> None:
    link = await filled()
    with pytest.raises(PeerUnreachableError):
        await queue_frame(link, b"y")
    assert link.stuck
    while len(link.outbox) > QUEUE_FRAMES_MAX // 2:
        link.outbox.take()
    await queue_frame(link, b"y")
    assert not link.stuck


async def test_answers_pass_a_peer_that_takes_no_work(autojump_clock: trio.testing.MockClock) -> None:
    link = await filled()
    with pytest.raises(PeerUnreachableError):
        await queue_frame(link, b"work")
    await queue_frame(link, b"answer", urgent=True)
    assert link.outbox.take().startswith(b"answer")
    for _ in range(QUEUE_FRAMES_MAX):
        if link.outbox.full(urgent=True):
            break
        await queue_frame(link, b"answer", urgent=True)
    with pytest.raises(PeerUnreachableError):
        await queue_frame(link, b"answer", urgent=True)


async def test_a_queue_is_bounded_in_bytes_too() -> None:
    link = Link(PEER)
    link.outbox.put(bytes(QUEUE_BYTES_MAX))
    assert link.outbox.full()
    assert not link.outbox.full(urgent=True)
    assert link.outbox.clear() == 1
    assert not link.outbox.full()


# --- links ---------------------------------------------------------------------------------------------------


async def test_addresses_take_turns_and_new_ones_begin_anew() -> None:
    link = Link(PEER)
    assert link.next_address() is None
    link.learn(["a", "b", "a"], 3)
    assert [link.next_address() for _ in range(3)] == ["a", "b", "a"]
    link.failures = 5
    link.learn(["a", "b"], 3)
    assert link.failures == 5, "nothing changed"
    link.learn(["c", "d", "e"], 2)
    assert (link.addresses, link.failures) == (("c", "d"), 0)
    link.learn([], 2)
    assert link.addresses == ("c", "d")


async def test_a_pause_ends_when_something_is_to_send(autojump_clock: trio.testing.MockClock) -> None:
    link = Link(PEER)
    started = trio.current_time()
    await link.pause(10.0)
    assert trio.current_time() - started == pytest.approx(10.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.pause, 1_000.0)
        await trio.testing.wait_all_tasks_blocked()
        await queue_frame(link, b"x")
    assert trio.current_time() - started == pytest.approx(10.0)
    link.connected_since_ms = 1
    link.want()
    await link.pause(5.0)
    assert trio.current_time() - started == pytest.approx(15.0), "a connected one needs no attempt"


@given(st.integers(min_value=0, max_value=10_000), st.floats(min_value=1.0, max_value=60.0), st.randoms())
async def test_redials_slow_down_within_a_bound(failures: int, longest_s: float, rng: object) -> None:
    link = Link(PEER)
    link.failures = failures
    delay_s = link.redial_s(longest_s, rng)  # type: ignore[arg-type]
    assert REDIAL_S_FIRST / 2 <= delay_s <= longest_s
    if failures > 16:
        assert delay_s >= longest_s / 2
