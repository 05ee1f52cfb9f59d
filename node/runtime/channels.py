"""Taking from a channel what waits in it, so that work can be done in groups."""

from collections.abc import Iterator
from typing import TypeVar

import trio

T = TypeVar("T")


def waiting(channel: trio.MemoryReceiveChannel[T]) -> Iterator[T]:
    """Take what waits in a channel, one by one as they are asked for; ends when nothing waits any more."""
    while True:
        try:
            item = channel.receive_nowait()
        except trio.WouldBlock:
            return
        yield item
