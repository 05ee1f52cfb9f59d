"""The live feed at its bounds: order, gaps, slow subscribers, full buffers, batches without events for anybody."""

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from node.delivery import batch_order, encodings
from node.delivery.batch_order import GAP_S, ROUND_BATCHES_MAX, BatchOrder
from node.delivery.criteria import read_criteria
from node.delivery.cursor import START, Cursor
from node.delivery.feed import EXPRESSIONS_MAX, Feed, TooManyExpressionsError
from node.delivery.filters import Filter
from node.delivery.subscriber import BUFFER_CHUNKS_MAX, Sink, Subscriber, SubscriberGroups
from tests.node.delivery.certified_results import chunk, result

# --- the order of batches ------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.permutations(range(1, 9)))
def test_batches_published_in_any_order_are_taken_in_order(order: list[int]) -> None:
    made = {sequence: result(sequence, 1) for sequence in order}

    async def take() -> list[int]:
        queue = BatchOrder()
        queue.begin(1)
        found: list[int] = []
        for sequence in order:
            assert queue.add(made[sequence])
            with trio.move_on_after(0):
                await trio.lowlevel.checkpoint()
        while len(found) < len(order):
            taken = await queue.take()
            assert taken.missing_before is None
            found += [each.sequence for each in taken.batches]
        return found

    assert trio.run(take, clock=MockClock(autojump_threshold=0)) == sorted(order)


async def test_a_batch_that_does_not_come_is_waited_for_and_then_reported(autojump_clock: MockClock) -> None:
    queue = BatchOrder()
    queue.begin(1)
    queue.add(result(2))
    started_s = trio.current_time()
    assert (await queue.take()).batches == (), "the first batch may still come"
    taken = await queue.take()
    assert trio.current_time() - started_s == pytest.approx(GAP_S)
    assert ([each.sequence for each in taken.batches], taken.missing_before) == ([2], 2)
    queue.add(result(1))
    queue.add(result(3))
    taken = await queue.take()
    assert [each.sequence for each in taken.batches] == [3], "one that comes too late is left out"


async def test_without_a_beginning_the_first_batch_is_the_beginning() -> None:
    queue = BatchOrder()
    queue.add(result(41))
    assert [each.sequence for each in (await queue.take()).batches] == [41]


async def test_rounds_and_what_waits_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_order, "PENDING_MAX", ROUND_BATCHES_MAX + 10)
    queue = BatchOrder()
    queue.begin(1)
    made = result(1, 1)
    for sequence in range(1, ROUND_BATCHES_MAX + 11):
        assert queue.add(result(sequence, 1))
    assert not queue.add(made), "it never waits"
    assert len((await queue.take()).batches) == ROUND_BATCHES_MAX


# --- one subscriber ------------------------------------------------------------------------------------------------


def subscriber(bytes_max: int = 100, sink: Sink | None = None) -> Subscriber:
    return Subscriber(Filter(), bytes_max, START, sink)


def test_a_buffer_takes_exactly_its_bytes() -> None:
    full = subscriber(bytes_max=100)
    for number in range(1, 6):
        full.offer(chunk((number, 1), (number, 2), size=10))
        assert not full.overflowed
    full.offer(chunk((6, 1), size=1))
    assert full.overflowed
    assert full.is_cut_off
    assert full.cursor == Cursor(5, 2), "it goes on from what it was handed"
    assert [full.pop() is not None for _ in range(6)] == [True] * 5 + [False], "what it holds can still be read"
    full.offer(chunk((7, 1)))
    assert full.is_empty, "one that is cut off gets nothing more"


def test_one_chunk_may_be_longer_than_the_buffer() -> None:
    """Else a batch that is longer could never be delivered."""
    small = subscriber(bytes_max=10)
    small.offer(chunk((1, 1), size=1_000))
    assert not small.overflowed
    small.offer(chunk((2, 1), size=1))
    assert small.overflowed


def test_a_buffer_takes_a_bounded_number_of_chunks() -> None:
    many = subscriber(bytes_max=10**9)
    for number in range(1, BUFFER_CHUNKS_MAX + 1):
        many.offer(chunk((number, 1)))
    assert not many.overflowed
    many.offer(chunk((BUFFER_CHUNKS_MAX + 1, 1)))
    assert many.overflowed


def test_room_that_was_read_is_room_again() -> None:
    steady = subscriber(bytes_max=100)
    for number in range(1, 200):
        steady.offer(chunk((number, 1), size=100))
        assert not steady.overflowed
        assert steady.pop() is not None


def test_what_was_handed_over_before_is_not_handed_over_again() -> None:
    late = Subscriber(Filter(), 100, Cursor(2, 1))
    late.offer(chunk((1, 1), (1, 2)))
    assert late.is_empty
    late.offer(chunk((2, 1), (2, 2)))
    late.offer(chunk((2, 2)))
    found = late.pop()
    assert found is not None
    assert [message.cursor for message in found.messages] == [Cursor(2, 2)]
    assert late.pop() is None


async def test_a_sink_is_written_to_only_while_its_client_waits_with_an_empty_buffer() -> None:
    written: list[bytes] = []
    takes = True

    def try_write(data: bytes) -> bool:
        if takes:
            written.append(data)
        return takes

    direct = subscriber(sink=Sink(encoding=encodings.sse, try_write=try_write))
    first, second, third = chunk((1, 1)), chunk((2, 1)), chunk((3, 1))
    direct.offer(first)
    assert written == [], "nobody waits: the client still writes what came before"
    async with trio.open_nursery() as nursery:
        await direct.wait()
        assert direct.pop() is first
        nursery.start_soon(direct.wait)
        await wait_all_tasks_blocked()
        direct.offer(second)
        assert written == [encodings.sse(second)]
        assert direct.cursor == second.last
        takes = False
        direct.offer(third)
        assert direct.pop() is third, "what a sink does not take waits in the buffer"
        assert direct.cursor == third.last


async def test_waiting_ends_with_a_chunk_with_a_wake_and_with_being_cut_off() -> None:
    for stir in (lambda each: each.offer(chunk((1, 1))), Subscriber.wake, Subscriber.miss):
        waiting = subscriber()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waiting.wait)
            await wait_all_tasks_blocked()
            stir(waiting)
    missed = subscriber()
    missed.miss()
    with trio.fail_after(1):
        await missed.wait()
    assert missed.is_cut_off


def test_groups_count_and_forget() -> None:
    groups = SubscriberGroups()
    one, other = subscriber(), subscriber()
    groups.add(one)
    groups.add(other)
    assert (len(groups), set(groups.members(Filter()))) == (2, {one, other})
    groups.remove(one)
    groups.remove(one)
    assert (len(groups), groups.everyone()) == (1, [other])
    groups.remove(other)
    assert (len(groups), list(groups.filters)) == (0, [])


# --- the feed ------------------------------------------------------------------------------------------------------


async def handed(feed: Feed, *sequences: int, events: int = 2) -> None:
    """Publish batches, and hand them out."""
    for sequence in sequences:
        feed.publish(result(sequence, events, invalid=frozenset({0})))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed.run)
        with trio.fail_after(10):
            while feed.handed.sequence < sequences[-1]:
                await trio.sleep(0.001)
        nursery.cancel_scope.cancel()


def begun(**options: int) -> Feed:
    feed = Feed(**options)
    feed.begin(START, "")
    return feed


def popped(subscriber: Subscriber) -> list[str]:
    found = []
    while (each := subscriber.pop()) is not None:
        found += [str(message.cursor) for message in each.messages]
    return found


async def test_each_gets_what_it_wants_and_equal_filters_share_the_chunk() -> None:
    feed = begun()
    valid = [feed.subscribe(read_criteria({})) for _ in range(2)]
    everything = feed.subscribe(read_criteria({"status": "all"}))
    rejected = feed.subscribe(read_criteria({"status": "invalid"}))
    elsewhere = feed.subscribe(read_criteria({"sourceIds": ["s2"]}))
    await handed(feed, 1, 2)
    first, second = (each.pop() for each in valid)
    assert first is second is not None
    assert popped(everything) == ["1.1", "1.2", "2.1", "2.2"]
    assert popped(rejected) == ["1.1", "2.1"]
    assert popped(elsewhere) == []
    assert feed.handed == Cursor(2, 2)
    assert feed.stats.serialised == 6, "valid events without their verdict, and all four with it"


async def test_a_batch_without_an_event_for_anybody_moves_the_feed_on() -> None:
    feed = begun()
    nobody = feed.subscribe(read_criteria({"expression": "data.v > 99"}))
    await handed(feed, 1, 2, 3)
    assert feed.handed == Cursor(3, 2)
    assert nobody.is_empty
    assert feed.stats.serialised == 0
    assert feed.last_batch == result(3).certificate.statement.batch_id


async def test_nothing_is_computed_while_nobody_subscribes() -> None:
    feed = begun()
    await handed(feed, 1, 2)
    assert (feed.stats.events, feed.stats.serialised, feed.stats.subscriptions) == (4, 0, 0)


async def test_a_slow_subscriber_is_cut_off_and_delays_nobody() -> None:
    feed = begun(buffer_bytes_max=1_000)
    slow, quick = feed.subscribe(Filter()), feed.subscribe(read_criteria({"status": "all"}))
    for sequence in range(1, 11):
        await handed(feed, sequence, events=5)
        assert len(popped(quick)) == 5
    assert slow.overflowed
    assert feed.stats.cut_off == 1
    last = slow.cursor.sequence
    assert 0 < last < 10
    assert popped(slow) == [f"{sequence}.{index}" for sequence in range(1, last + 1) for index in range(2, 6)]


async def test_a_subscriber_gets_what_is_published_after_it_came() -> None:
    feed = begun()
    feed.publish(result(1))
    late = feed.subscribe(Filter())
    assert late.cursor == Cursor(1, 2)
    await handed(feed, 2)
    assert popped(late) == ["2.2"]


async def test_a_gap_cuts_everybody_off_before_the_gap() -> None:
    feed = begun()
    here = feed.subscribe(Filter())
    await handed(feed, 1)
    await handed(feed, 3)
    assert here.missed
    assert popped(here) == ["1.2"]
    assert here.cursor == Cursor(1, 2)


async def test_a_feed_that_is_overrun_cuts_everybody_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_order, "PENDING_MAX", 2)
    feed = begun()
    here = feed.subscribe(Filter())
    for sequence in (1, 2):
        feed.publish(result(sequence))
        assert not here.missed
    feed.publish(result(3))
    assert here.missed


async def test_closing_wakes_everybody() -> None:
    feed = begun()
    subscribers = [feed.subscribe(read_criteria({"sourceIds": [str(number)]})) for number in range(3)]
    async with trio.open_nursery() as nursery:
        for each in subscribers:
            nursery.start_soon(each.wait)
        await wait_all_tasks_blocked()
        feed.close()
    assert feed.closing


def test_only_so_many_expressions_are_evaluated_and_known_ones_cost_nothing_more() -> None:
    feed = begun()
    held = [feed.subscribe(read_criteria({"expression": f"data.v > {n}"})) for n in range(EXPRESSIONS_MAX)]
    feed.subscribe(read_criteria({"expression": "data.v > 0"}))
    feed.subscribe(read_criteria({}))
    with pytest.raises(TooManyExpressionsError):
        feed.subscribe(read_criteria({"expression": "data.v < 0"}))
    feed.unsubscribe(held[1])
    feed.subscribe(read_criteria({"expression": "data.v < 0"}))
