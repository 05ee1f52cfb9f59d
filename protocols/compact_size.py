"""Bitcoin's binary forms: CompactSize numbers, and a reader that no claimed count or length can make wasteful.

A CompactSize is one byte up to 252, or ``fd``, ``fe``, ``ff`` and 2, 4 or 8 bytes, little-endian. Nodes refuse, and
the official SDK never writes, a longer form than needed: so one value has one form here, and a transaction one txid.
"""

import struct
from typing import Final

from protocols.errors import MalformedError
from protocols.limits import LIST_ITEMS_MAX

COMPACT_SIZE_MAX: Final = 2**64 - 1
UINT16, UINT32, UINT64 = struct.Struct("<H"), struct.Struct("<I"), struct.Struct("<Q")
LONG_FORMS: Final = {0xFD: (UINT16, 0xFD), 0xFE: (UINT32, 0x1_0000), 0xFF: (UINT64, 0x1_0000_0000)}


def write_compact_size(value: int) -> bytes:
    """The one form of a number from 0 to ``COMPACT_SIZE_MAX``."""
    if value < 0xFD:
        return value.to_bytes(1, "little")
    if value <= 0xFFFF:
        return b"\xfd" + value.to_bytes(2, "little")
    if value <= 0xFFFF_FFFF:
        return b"\xfe" + value.to_bytes(4, "little")
    return b"\xff" + value.to_bytes(8, "little")


def write_sized(data: bytes) -> bytes:
    """The length of ``data`` as a CompactSize, then ``data``."""
    return write_compact_size(len(data)) + data


def read_compact_size(data: bytes) -> int:
    """The number that ``data`` is, as a whole.

    Raises:
        MalformedError: too short, too long, or not the shortest form.
    """
    reader = ByteReader(data)
    value = reader.compact_size()
    reader.finish()
    return value


class ByteReader:
    """Reads bytes from front to back, each once; missing or excess bytes raise MalformedError.

    Lists cost memory far beyond their bytes, so all lists read from one input share ``items_max``.
    """

    __slots__ = ("_at", "_data", "_items_left")

    def __init__(self, data: bytes, *, items_max: int = LIST_ITEMS_MAX) -> None:
        self._data = data
        self._at = 0
        self._items_left = items_max

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        start, end = self._at, self._at + size
        if end > len(self._data):
            raise MalformedError(f"expected {size} bytes at byte {start}, of {len(self._data)}")
        self._at = end
        return self._data[start:end]

    def byte(self) -> int:
        at = self._at
        if at >= len(self._data):
            raise MalformedError(f"expected a byte after {at}")
        self._at = at + 1
        return self._data[at]

    def uint32(self) -> int:
        return self._number(UINT32)

    def uint64(self) -> int:
        return self._number(UINT64)

    def compact_size(self) -> int:
        first = self.byte()
        if first < 0xFD:
            return first
        form, least = LONG_FORMS[first]
        value = self._number(form)
        if value < least:
            raise MalformedError(f"{value} must be in its shortest form at byte {self._at}")
        return value

    def sized(self) -> bytes:
        """A CompactSize, and as many bytes."""
        return self.take(self.compact_size())

    def count(self, *, bytes_each: int) -> int:
        """The CompactSize length of a list whose items take at least ``bytes_each`` bytes each."""
        count = self.compact_size()
        if count > self._items_left or count * bytes_each > len(self._data) - self._at:
            raise MalformedError(f"the count of {count} items at byte {self._at} exceeds the data")
        self._items_left -= count
        return count

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._data) - self._at)

    def finish(self) -> None:
        """Require that no bytes are left."""
        if self._at != len(self._data):
            raise MalformedError(f"{len(self._data) - self._at} bytes are left over")

    def _number(self, form: struct.Struct) -> int:
        (value,) = form.unpack(self.take(form.size))
        assert isinstance(value, int)
        return value
