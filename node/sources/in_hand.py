"""Records of sources that are being taken in, marked so that they are known after the process died of one.

A record can reach a fault that ends the whole process, as in a library written in C. Its source would deliver it
again at every start. So the records in hand are marked in a file that outlives the process. After an end by a fault
of its own, a source that had records in hand is read one record at a time; after the second such end, the record in
hand is the one, and its source is disabled.

A mark is a page of a file that is mapped into memory: setting it costs no system call.
"""

import hashlib
import mmap
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import attrs

from node.worker.parsing.bodies import RawEvent

HEAD: Final = struct.Struct("<IIIH")  # records in hand, deaths, records to take one at a time, bytes of the sample
SAMPLE_BYTES: Final = 256
SIZE: Final = mmap.PAGESIZE
ID_BYTES_MAX: Final = 1_024


@attrs.frozen(kw_only=True)
class Culprit:
    """A source whose records ended the process twice. ``sample``: the first bytes of the record in hand."""

    source_id: str
    sample: bytes


class Mark:
    """What one source has in hand."""

    def __init__(self, path: Path, source_id: str) -> None:
        """Open the file of a source's mark, made where there is none."""
        self.source_id = source_id
        with path.open("r+b" if path.exists() else "x+b") as file:
            file.truncate(SIZE)
            self._page = mmap.mmap(file.fileno(), SIZE)
        self.records, self.deaths, self.careful, length = HEAD.unpack_from(self._page)
        self.sample = bytes(self._page[HEAD.size : HEAD.size + min(length, SAMPLE_BYTES)])
        name = source_id.encode()
        struct.pack_into(f"<H{len(name)}s", self._page, SIZE - ID_BYTES_MAX, len(name), name)

    @staticmethod
    def source_in(path: Path) -> str | None:
        """The source that a file belongs to; None where it is not such a file."""
        page = path.read_bytes()
        if len(page) != SIZE:
            return None
        (length,) = struct.unpack_from("<H", page, SIZE - ID_BYTES_MAX)
        with suppress(UnicodeDecodeError):
            return page[SIZE - ID_BYTES_MAX + 2 :][:length].decode() or None
        return None

    def forgive(self) -> None:
        """Begin anew."""
        self.deaths = self.careful = 0
        self.put(0, b"")

    def put(self, records: int, sample: bytes) -> None:
        """Mark records as being in hand; none of them: they are on disk, or refused."""
        self.records = records
        HEAD.pack_into(self._page, 0, records, self.deaths, self.careful, len(sample))
        self._page[HEAD.size : HEAD.size + len(sample)] = sample

    def died(self) -> bool:
        """Count an end of the process with records in hand. Whether it is the second."""
        self.deaths += 1
        self.careful = self.records
        self.put(0, self.sample)
        return bool(self.deaths > 1)

    def passed(self) -> None:
        """A record that was taken by itself did no harm; once all of them did none, the death had another cause."""
        self.careful -= 1
        if not self.careful:
            self.deaths = 0


class RecordsInHand:
    """The marks of all sources.

    Attributes:
        culprits: Sources to be disabled.
    """

    def __init__(self, directory: Path, *, crashed: bool) -> None:
        """Read the marks that the last process left.

        Args:
            crashed: It ended by a fault of its own: what it had in hand is counted against the sources.

        Raises:
            OSError: The directory cannot be read.
        """
        self._directory = directory
        self._marks: dict[str, Mark] = {}
        self.culprits: list[Culprit] = []
        for path in directory.iterdir() if directory.exists() else ():
            source_id = Mark.source_in(path)
            if source_id is None:
                continue
            mark = self._marks[source_id] = Mark(path, source_id)
            if mark.deaths > 1 or (crashed and mark.records and mark.died()):
                self.culprits.append(Culprit(source_id=source_id, sample=mark.sample))
            elif mark.records:
                mark.put(0, b"")

    def is_careful(self, source_id: str) -> bool:
        """Whether the records of a source are to be taken one at a time."""
        mark = self._marks.get(source_id)
        return mark is not None and mark.careful > 0

    @contextmanager
    def holding(self, source_id: str, events: Sequence[RawEvent]) -> Iterator[None]:
        """Mark events as being in hand."""
        mark = self._mark(source_id)
        mark.put(len(events), events[0].data[:SAMPLE_BYTES])
        try:
            yield
        except Exception:  # but not where it is cancelled: the node may be ending because of these very events
            mark.put(0, b"")
            raise
        if mark.careful:
            mark.passed()
        mark.put(0, b"")

    def forgive(self, source_id: str) -> None:
        """A source was disabled for what it did."""
        self._mark(source_id).forgive()

    def clear(self, source_id: str) -> None:
        """A source is read anew: nothing of it is in hand."""
        if (mark := self._marks.get(source_id)) is not None:
            mark.put(0, b"")

    def _mark(self, source_id: str) -> Mark:
        mark = self._marks.get(source_id)
        if mark is None:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            name = hashlib.sha256(source_id.encode()).hexdigest()
            mark = self._marks[source_id] = Mark(self._directory / name, source_id)
        return mark
