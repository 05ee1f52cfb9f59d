"""What is read ahead of a receiver: in order, whole, and never more than its bounds."""

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from node.delivery.cursor import Cursor
from node.delivery.messages import EventMessage
from node.delivery.prefetch import PREFETCH_MIN, Prefetch


def message(position: int, size: int = 1) -> EventMessage:
    return EventMessage(cursor=Cursor(1, position), body=b"x" * size)


async def test_a_delivery_takes_as_much_as_there_is_within_its_bounds() -> None:
    prefetch = Prefetch(events_max=3, bytes_max=100)
    for position in range(1, 6):
        await prefetch.put(message(position, 10))
    assert await prefetch.take() == ([message(each, 10) for each in (1, 2, 3)], Cursor(1, 3))
    assert await prefetch.take() == ([message(each, 10) for each in (4, 5)], Cursor(1, 5))


async def test_bytes_bound_a_delivery_and_one_event_alone_may_be_longer() -> None:
    prefetch = Prefetch(events_max=10, bytes_max=100)
    async with trio.open_nursery() as nursery:

        async def put() -> None:
            for position, size in ((1, 60), (2, 40), (3, 1), (4, 500), (5, 1)):
                await prefetch.put(message(position, size))

        nursery.start_soon(put)
        await wait_all_tasks_blocked()
        sizes: list[list[int]] = []
        while sum(map(len, sizes)) < 5:
            messages, _ = await prefetch.take()
            sizes.append([len(each.body) for each in messages])
            await wait_all_tasks_blocked()
    assert sizes == [[60, 40], [1], [500], [1]]


async def test_a_reader_waits_for_room() -> None:
    prefetch = Prefetch(events_max=1, bytes_max=10**6)
    put = 0

    async def fill() -> None:
        nonlocal put
        while True:
            await prefetch.put(message(put + 1))
            put += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fill)
        await wait_all_tasks_blocked()
        assert put == PREFETCH_MIN
        await prefetch.take()
        await wait_all_tasks_blocked()
        assert put == PREFETCH_MIN + 1
        nursery.cancel_scope.cancel()


async def test_a_cursor_without_messages_is_passed_on_and_later_ones_replace_it() -> None:
    prefetch = Prefetch(events_max=5, bytes_max=100)
    for sequence in (1, 2, 3):
        prefetch.passed(Cursor(sequence, 9))
    assert await prefetch.take() == ([], Cursor(3, 9))
    await prefetch.put(message(1))
    prefetch.passed(Cursor(4, 9))
    assert await prefetch.take() == ([message(1)], Cursor(4, 9))


async def test_taking_waits_for_the_first() -> None:
    prefetch = Prefetch(events_max=5, bytes_max=100)
    with trio.move_on_after(0.01) as patience:
        await prefetch.take()
    assert patience.cancelled_caught
    await prefetch.put(message(1))
    assert (await prefetch.take())[0] == [message(1)]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.one_of(st.integers(1, 60), st.none()), min_size=1, max_size=60),
    st.integers(1, 7),
    st.integers(1, 100),
)
def test_everything_comes_out_once_in_order_and_within_bounds(
    items: list[int | None], events_max: int, bytes_max: int
) -> None:
    """Sizes of messages, or None where only the cursor moves."""

    async def pass_through() -> None:
        prefetch = Prefetch(events_max=events_max, bytes_max=bytes_max)
        taken: list[EventMessage] = []
        last = Cursor(0, 0)

        async def put() -> None:
            for index, size in enumerate(items):
                if size is None:
                    prefetch.passed(Cursor(1, index + 1))
                else:
                    await prefetch.put(message(index + 1, size))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(put)
            with trio.fail_after(5):
                while last.position < len(items):
                    messages, upto = await prefetch.take()
                    assert len(messages) <= events_max
                    assert len(messages) <= 1 or sum(len(each.body) for each in messages) <= bytes_max
                    assert upto > last
                    assert all(each.cursor <= upto for each in messages)
                    taken, last = taken + messages, upto
        wanted = [message(index + 1, size) for index, size in enumerate(items) if size is not None]
        assert taken == wanted

    trio.run(pass_through, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize("events_max", [1, 64, 65, 1_000])
async def test_a_full_delivery_can_be_read_ahead(events_max: int) -> None:
    prefetch = Prefetch(events_max=events_max, bytes_max=10**6)
    with trio.fail_after(5):
        for position in range(1, events_max + 1):
            await prefetch.put(message(position))
        messages, _ = await prefetch.take()
    assert len(messages) == events_max
