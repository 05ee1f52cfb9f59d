"""A least-recently-used cache bounded by the bytes of its values: payloads and outputs of batches in progress.

All of it can be fetched or computed again: a coordinator's payload from its database, an agent's from the coordinator
that asks again, outputs by running the roles once more. Eviction costs time and never loses a batch.
"""

from collections import OrderedDict
from collections.abc import Sized
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V", bound=Sized)


class BytesCache(Generic[K, V]):
    """Evicts the least recently used entries past ``bytes_max``. The newest entry stays, whatever its size.

    A value counts with its length, a tuple with the lengths of its parts.
    """

    def __init__(self, bytes_max: int) -> None:
        self._entries: OrderedDict[K, V] = OrderedDict()
        self._bytes_max = bytes_max
        self._bytes = 0

    def put(self, key: K, value: V) -> None:
        self.drop(key)
        self._entries[key] = value
        self._bytes += _size(value)
        while self._bytes > self._bytes_max and len(self._entries) > 1:
            _, oldest = self._entries.popitem(last=False)
            self._bytes -= _size(oldest)

    def get(self, key: K) -> V | None:
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def drop(self, key: K) -> None:
        value = self._entries.pop(key, None)
        if value is not None:
            self._bytes -= _size(value)

    @property
    def size_bytes(self) -> int:
        return self._bytes


def _size(value: Sized) -> int:
    return sum(map(len, value)) if isinstance(value, tuple) else len(value)
