"""What waits in a channel is taken in groups."""

from itertools import islice

import trio

from node.runtime.channels import waiting


async def test_what_waits_is_taken_in_its_order() -> None:
    send, receive = trio.open_memory_channel[int](10)
    for number in range(5):
        send.send_nowait(number)
    assert list(waiting(receive)) == [0, 1, 2, 3, 4]
    assert list(waiting(receive)) == []


async def test_no_more_is_taken_than_is_asked_for() -> None:
    send, receive = trio.open_memory_channel[int](10)
    for number in range(5):
        send.send_nowait(number)
    assert list(islice(waiting(receive), 2)) == [0, 1]
    assert list(islice(waiting(receive), 0)) == []
    assert receive.statistics().current_buffer_used == 3
