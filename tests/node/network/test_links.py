"""Credit: an honest sender is never at fault, a receiver never holds more than the window."""

import os
import random

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from node.network.p2p.config import TransportConfig
from node.network.p2p.faults import IGNORE_S, STRIKES_MAX, STRIKES_WITHIN_S, Faults
from node.network.p2p.links import FRAME_COST, QUEUE_FRAMES_MAX, WINDOW, Intake, Link, Outbox
from protocols.framing import Frame, FrameKind, FrameReader, encode_frame

BODY = os.urandom(3 * 1024 * 1024)


@given(st.lists(st.tuples(st.integers(0, len(BODY)), st.booleans()), max_size=40))
def test_an_honest_sender_stays_within_its_credit_and_all_arrives_in_order(
    steps: list[tuple[int, bool]],
) -> None:
    outbox, intake, reader = Outbox(), Intake(), FrameReader()
    waiting: list[Frame] = []
    arrived: list[bytes] = []
    credits_waiting: list[Frame] = []

    def exchange(receiver_takes: bool) -> None:
        while data := outbox.take():
            for frame in reader.feed(data):
                assert intake.receive(frame), "the sender has overdrawn"
                waiting.append(frame)
        while receiver_takes and waiting:
            frame = waiting.pop(0)
            arrived.append(frame.body)
            credit = intake.take(frame)
            if credit is not None:
                credits_waiting.extend(FrameReader().feed(credit))
        while receiver_takes and credits_waiting:
            assert outbox.credit(credits_waiting.pop(0))

    for size, receiver_takes in steps:
        outbox.put(encode_frame(FrameKind.ONEWAY, BODY[:size]))
        exchange(receiver_takes)
        assert sum(frame.wire_bytes + FRAME_COST for frame in waiting) <= WINDOW
    for _ in range(len(steps) + 1):
        exchange(True)
    assert [len(body) for body in arrived] == [size for size, _ in steps]
    assert not len(outbox)


def test_who_sends_past_the_credit_is_found_out() -> None:
    intake = Intake()
    frame = Frame(kind=FrameKind.ONEWAY, body=b"", wire_bytes=0)
    allowed = WINDOW // FRAME_COST
    assert all(intake.receive(frame) for _ in range(allowed))
    assert not intake.receive(frame)


@pytest.mark.parametrize("body", [b"", b"\0" * 7, (1).to_bytes(8, "big")])
def test_credit_for_what_was_not_sent_is_refused(body: bytes) -> None:
    assert not Outbox().credit(Frame(kind=FrameKind.CREDIT, body=body))


async def test_a_full_outbox_makes_room_as_it_is_taken_from() -> None:
    outbox = Outbox()
    for _ in range(QUEUE_FRAMES_MAX):
        outbox.put(b"frame")
    assert outbox.full()
    assert not outbox.full(urgent=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.room)
        await trio.testing.wait_all_tasks_blocked()
        outbox.take()
    assert not outbox.full()


def test_answers_overtake_work_that_waits_for_credit() -> None:
    outbox = Outbox()
    for _ in range(WINDOW // len(BODY) + 1):
        outbox.put(BODY)
    while outbox.take():
        pass
    assert len(outbox) == 1
    outbox.put(b"answer", urgent=True)
    assert outbox.take() == b"answer"
    assert outbox.take() == b""


def test_strikes_add_up_fade_and_are_served() -> None:
    now = 0.0
    faults = Faults(lambda: now)
    peer, other = b"\2" * 33, b"\3" * 33
    for _ in range(STRIKES_MAX - 1):
        assert not faults.strike(peer)
    assert faults.count(peer) == STRIKES_MAX - 1
    now += STRIKES_WITHIN_S + 1
    assert faults.count(peer) == 0
    assert not faults.strike(peer), "the old ones have faded"
    assert [faults.strike(other) for _ in range(STRIKES_MAX)] == [False] * (STRIKES_MAX - 1) + [True]
    assert faults.ignored(other)
    assert not faults.ignored(peer)
    now += IGNORE_S
    assert not faults.ignored(other)


async def test_a_peer_away_for_long_is_called_every_few_seconds() -> None:
    """It may come back without calling anybody, so as the settings stand nobody waits longer than this for it."""
    redial_s_max = attrs.fields(TransportConfig).redial_s_max.default
    assert redial_s_max is not None
    link, rng = Link(b"\2" * 33), random.Random(1)
    link.failures = 1_000
    pauses = [link.redial_s(redial_s_max, rng) for _ in range(200)]
    assert max(pauses) <= 5.0
    assert max(pauses) - min(pauses) > 1.0, "peers that lost the same node do not call it in step"
