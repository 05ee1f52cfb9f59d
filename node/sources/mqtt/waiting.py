"""Messages between the broker and the node: how many may wait, and how they become batches.

The bounds are enforced here, by not reading on: a broker may exceed the receive maximum that it was sent (Mosquitto
2.0.11 does when it gets many acknowledgements at once), and MQTT 3.1.1 has none.
"""

from collections import deque
from typing import Final

import trio

from node.sources.mqtt.codec import Published

GATHER_S: Final = 0.005
BATCH_MESSAGES_MAX: Final = 1_000
BATCH_BYTES_MAX: Final = 4 * 1024 * 1024
WAITING_BYTES_MAX: Final = 16 * 1024 * 1024  # exceeded by what one read from the connection holds, at most


class MessageQueue:
    """Messages in the order in which they came. One task puts them in, one takes them out."""

    def __init__(self, messages_max: int) -> None:
        self._messages_max = messages_max
        self._messages: deque[Published] = deque()
        self._bytes = 0
        self._parked = trio.lowlevel.ParkingLot()

    @property
    def is_full(self) -> bool:
        return len(self._messages) >= self._messages_max or self._bytes >= WAITING_BYTES_MAX

    def put(self, message: Published) -> None:
        self._messages.append(message)
        self._bytes += len(message.payload)
        self._parked.unpark_all()

    async def wait_for_room(self) -> None:
        """Returns once more messages may be read."""
        while self.is_full:
            await self._parked.park()

    async def gather(self) -> list[Published]:
        """Wait for messages, a moment longer for those that follow at once, and take them."""
        while not self._messages:
            await self._parked.park()
        with trio.move_on_after(GATHER_S):
            while not self._is_batch:
                await self._parked.park()
        taken: list[Published] = []
        size = 0
        while self._messages and len(taken) < BATCH_MESSAGES_MAX and size < BATCH_BYTES_MAX:
            taken.append(self._messages.popleft())
            size += len(taken[-1].payload)
        self._bytes -= size
        self._parked.unpark_all()
        return taken

    @property
    def _is_batch(self) -> bool:
        return self.is_full or len(self._messages) >= BATCH_MESSAGES_MAX or self._bytes >= BATCH_BYTES_MAX
