"""Messages between an MQTT broker and the node: bounds, batches, and their order."""

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from node.sources.mqtt import codec, waiting
from node.sources.mqtt.codec import BrokenProtocolError, PacketReader, Published
from node.sources.mqtt.waiting import BATCH_BYTES_MAX, BATCH_MESSAGES_MAX, WAITING_BYTES_MAX, MessageQueue


def message(number: int, size: int = 1, qos: int = 1) -> Published:
    return Published(topic="t", payload=b"x" * size, qos=qos, packet_id=number, properties={})


def ids(batch: list[Published]) -> list[int]:
    return [each.packet_id for each in batch]


async def test_messages_that_come_together_are_one_batch_in_their_order() -> None:
    queue = MessageQueue(100)
    for number in range(1, 6):
        queue.put(message(number))
    assert ids(await queue.gather()) == [1, 2, 3, 4, 5]


async def test_a_batch_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    queue = MessageQueue(100)
    found: list[list[int]] = []

    async def gather() -> None:
        found.append(ids(await queue.gather()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(gather)
        await trio.sleep(60)
        assert found == []
        queue.put(message(1))
        await trio.sleep(waiting.GATHER_S / 2)
        queue.put(message(2))
    assert found == [[1, 2]], "what follows at once is of the same batch"


async def test_a_batch_has_bounds_and_the_rest_is_the_next_one() -> None:
    queue = MessageQueue(10 * BATCH_MESSAGES_MAX)
    for number in range(BATCH_MESSAGES_MAX + 5):
        queue.put(message(number))
    assert len(await queue.gather()) == BATCH_MESSAGES_MAX
    assert ids(await queue.gather()) == list(range(BATCH_MESSAGES_MAX, BATCH_MESSAGES_MAX + 5))
    for number in range(3):
        queue.put(message(number, size=BATCH_BYTES_MAX))
    assert [ids(await queue.gather()) for _ in range(3)] == [[0], [1], [2]]


@pytest.mark.parametrize(("messages_max", "size"), [(3, 1), (1_000, WAITING_BYTES_MAX // 3 + 1)])
async def test_nothing_more_is_read_while_the_queue_is_full(messages_max: int, size: int) -> None:
    queue = MessageQueue(messages_max)
    has_room = trio.Event()

    async def wait() -> None:
        await queue.wait_for_room()
        has_room.set()

    for number in range(3):
        assert not queue.is_full
        queue.put(message(number, size=size))
    assert queue.is_full
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert not has_room.is_set()
        await queue.gather()
        with trio.fail_after(5):
            await has_room.wait()


@given(sizes=st.lists(st.sampled_from([0, 1, 1_000, BATCH_BYTES_MAX // 2, BATCH_BYTES_MAX + 1]), max_size=5))
def test_every_message_is_gathered_once_and_in_order(sizes: list[int]) -> None:
    async def gather_all() -> list[int]:
        queue, found = MessageQueue(10_000), list[int]()
        for number, size in enumerate(sizes):
            queue.put(message(number, size=size))
        while len(found) < len(sizes):
            found += ids(await queue.gather())
        return found

    assert trio.run(gather_all, clock=trio.testing.MockClock(autojump_threshold=0)) == list(range(len(sizes)))


# --- packets that stand at a boundary ---------------------------------------------------------------------------


@pytest.mark.parametrize("length", [3, 127, 128, 16_383, 16_384, 1_000_000])
def test_lengths_at_the_ends_of_their_encodings(length: int) -> None:
    """MQTT 5, section 1.5.5."""
    topic = b"\x00\x01t"
    body = topic + b"x" * (length - len(topic))
    packet = codec._packet(codec.PUBLISH << 4, body)
    assert len(packet) == 1 + len(codec._length(len(body))) + len(body)
    (found,) = PacketReader(4).feed(packet)
    assert isinstance(found, Published)
    assert len(found.payload) == len(body) - len(topic)


@pytest.mark.parametrize(
    ("packet", "words"),
    [
        (b"\x30\xff\xff\xff\xff\x01", "the length of a packet"),
        (b"\x36\x05\x00\x01t\x00\x01", "QoS 3"),
        (b"\x32\x05\x00\x01t\x00\x00", "packet identifier 0"),
        (b"\x30\x03\x00\x09t", "too short"),
        (b"\x30\x00", "too short"),
        (b"\x80\x00", "type 8"),
        (b"\x10\x00", "type 1"),
        (b"\x90\x01\x00", "too short"),
        (b"\x20\x80\x80\x40", "at most"),
    ],
)
@pytest.mark.parametrize("version", [4, 5])
def test_violations_are_named(packet: bytes, words: str, version: codec.Version) -> None:
    with pytest.raises(BrokenProtocolError, match=words):
        PacketReader(version).feed(packet)


@pytest.mark.parametrize(
    ("properties", "words"),
    [
        (b"\x01\x7f", "unknown identifier 0x7f"),
        (b"\x03\x02\x00\x00", "properties are too short"),
        (b"\x05\x26\x00\x01a\x00", "too short"),
        (b"\xff\xff\xff\xff\x01", "the length of properties"),
    ],
)
def test_violations_in_properties_are_named(properties: bytes, words: str) -> None:
    body = b"\x00\x01t" + properties
    with pytest.raises(BrokenProtocolError, match=words):
        PacketReader(5).feed(b"\x30" + bytes((len(body),)) + body)


def test_acknowledgements_are_by_quality_and_in_order() -> None:
    batch = [message(1, qos=1), message(0, qos=0), message(2, qos=2), message(0x1234, qos=1)]
    assert codec.acknowledge(batch) == b"\x40\x02\x00\x01" + b"\x50\x02\x00\x02" + b"\x40\x02\x12\x34"
    assert codec.acknowledge([message(0, qos=0)]) == b""


def test_only_the_first_user_property_of_a_name_counts_whatever_its_case() -> None:
    pair = b"\x26\x00\x01%b\x00\x01%b"
    properties = pair % (b"A", b"1") + pair % (b"a", b"2") + pair % (b"\xff", b"3")
    body = b"\x00\x01t" + bytes((len(properties),)) + properties + b"data"
    (found,) = PacketReader(5).feed(b"\x30" + bytes((len(body),)) + body)
    assert isinstance(found, Published)
    assert found.properties == {"a": "1", "\ufffd": "3"}
    assert found.payload == b"data"
