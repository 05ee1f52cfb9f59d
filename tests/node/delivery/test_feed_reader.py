"""A client's way from stored batches to the live feed: from every cursor, at the edges of batches and pages."""

from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
import trio

from node.delivery import feed_reader
from node.delivery.criteria import read_criteria
from node.delivery.cursor import WHOLE_BATCH, Cursor, read_cursor
from node.delivery.feed import Feed
from node.delivery.feed_reader import FeedReader
from tests.node.delivery.webhooks import certify
from tests.node.running import Running, running

SIZES = (3, 1, 2)
EVERYTHING = ["1.1", "1.2", "1.3", "2.1", "3.1", "3.2"]


@pytest.fixture
async def node(postgres_url: str) -> AsyncIterator[Running]:
    """Three batches are certified."""
    async with running(postgres_url) as started:
        await started.source(overlayTopics=["t.one"])
        for size in SIZES:
            await certify(started, size)
        yield started


async def taken(reader: FeedReader, count: int) -> list[str]:
    """The cursors of the next messages."""
    found: list[str] = []
    with trio.fail_after(20):
        async with aclosing(reader.chunks(0.05)) as chunks:
            while len(found) < count:
                chunk = await anext(chunks)
                found += [] if chunk is None else [str(message.cursor) for message in chunk.messages]
    return found


@pytest.mark.parametrize("start", ["0", "0.5", "1.0", "1.1", "1.2", "1.3", "1", "2.0", "2.1", "2", "3.0", "3.1"])
async def test_a_reader_begins_after_its_cursor(node: Running, start: str) -> None:
    cursor = read_cursor(start)
    expected = [each for each in EVERYTHING if read_cursor(each) > cursor]
    reader = FeedReader(node.database, node.feed, read_criteria({}), cursor)
    assert await taken(reader, len(expected)) == expected
    assert reader.cursor >= Cursor(3, 2)
    reader.close()


@pytest.mark.parametrize("start", ["3.2", "3"])
async def test_at_the_end_of_the_feed_only_what_comes_is_read(node: Running, start: str) -> None:
    reader = FeedReader(node.database, node.feed, read_criteria({}), read_cursor(start))
    async with aclosing(reader.chunks(0.05)) as chunks:
        with trio.fail_after(20):
            while not reader.is_live:
                assert await anext(chunks) is None
            await certify(node, 2)
            while (chunk := await anext(chunks)) is None:
                pass
        assert [str(message.cursor) for message in chunk.messages] == ["4.1", "4.2"]
    reader.close()


@pytest.mark.parametrize("page", [1, 2, 3, 4])
async def test_pages_have_no_seams(node: Running, page: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches fill the last page exactly, or leave room in it."""
    monkeypatch.setattr(feed_reader, "PAGE_BATCHES", page)
    reader = FeedReader(node.database, node.feed, read_criteria({}), Cursor(0, 0))
    assert await taken(reader, len(EVERYTHING)) == EVERYTHING
    reader.close()


async def test_what_is_sealed_between_the_past_and_the_present_comes_once(
    node: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_reader, "PAGE_BATCHES", 1)
    reader = FeedReader(node.database, node.feed, read_criteria({}), Cursor(0, 0))
    found: list[str] = []
    moments = {3, 4, 6, 7}  # messages read: while it reads pages, and as it becomes live
    async with aclosing(reader.chunks(0.05)) as chunks:
        with trio.fail_after(20):
            while len(found) < len(EVERYTHING) + 4:
                chunk = await anext(chunks)
                found += [] if chunk is None else [str(message.cursor) for message in chunk.messages]
                if len(found) in moments:
                    moments.remove(len(found))
                    await certify(node, 1)
    reader.close()
    assert found == [*EVERYTHING, "4.1", "5.1", "6.1", "7.1"]


async def test_batches_without_a_wanted_event_move_the_cursor(node: Running) -> None:
    reader = FeedReader(node.database, node.feed, read_criteria({"expression": "data.v > 99"}), Cursor(0, 0))
    async with aclosing(reader.chunks(0.05)) as chunks:
        with trio.fail_after(20):
            while not reader.is_live:
                assert await anext(chunks) is None
            await certify(node, 5)
            while reader.cursor < Cursor(4, 5):
                assert await anext(chunks) is None
    reader.close()


async def test_a_reader_that_is_too_slow_ends_and_its_cursor_goes_on(postgres_url: str) -> None:
    async with running(postgres_url, feed=Feed(buffer_bytes_max=600)) as node:
        await node.source()
        reader = FeedReader(node.database, node.feed, read_criteria({}), None)
        reader.open()
        for _ in range(6):
            await certify(node, 2)
        while node.feed.handed.sequence < 6:
            await trio.sleep(0.01)
        found: list[str] = []
        with trio.fail_after(20):
            async with aclosing(reader.chunks(0.05)) as chunks:
                async for chunk in chunks:
                    found += [] if chunk is None else [str(message.cursor) for message in chunk.messages]
        assert 0 < len(found) < 12
        again = FeedReader(node.database, node.feed, read_criteria({}), reader.cursor)
        found += await taken(again, 12 - len(found))
        again.close()
    assert found == [f"{sequence}.{position}" for sequence in range(1, 7) for position in (1, 2)]


async def test_a_reader_of_what_comes_is_fixed_when_it_is_opened(node: Running) -> None:
    reader = FeedReader(node.database, node.feed, read_criteria({}), None)
    assert reader.cursor == Cursor(0, 0)
    reader.open()
    assert reader.cursor == Cursor(3, 2)
    await certify(node, 1)
    assert await taken(reader, 1) == ["4.1"]
    assert node.feed.stats.subscriptions == 1
    reader.close()
    reader.close()
    assert node.feed.stats.subscriptions == 0


async def test_a_cursor_past_the_end_gets_nothing_of_before(node: Running) -> None:
    reader = FeedReader(node.database, node.feed, read_criteria({}), Cursor(3, WHOLE_BATCH))
    await certify(node, 1)
    assert await taken(reader, 1) == ["4.1"]
    reader.close()
