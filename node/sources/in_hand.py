"""Records of sources that are being taken in, marked so that they are known after the process died of one.

A record can reach a fault that ends the whole process, as in a library written in C. Its source would deliver it
again at every start. So the records in hand are marked in a file that outlives the process. After an end by a fault
of its own, a source that had records in hand is read one record at a time; after the second such end, the record in
hand is the one, and its source is disabled.

A mark is a small file, written without waiting for the disk: it has to outlive the process, not the machine. Where it
cannot be written, as on a full disk, records are taken all the same.
"""

import hashlib
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs
import structlog

from node.worker.parsing.bodies import RawEvent

log = structlog.get_logger(__name__)

HEAD: Final = struct.Struct("<IIIHH")  # records, deaths, careful, bytes of the id and of the sample
SAMPLE_BYTES: Final = 256
MARK_BYTES_MAX: Final = 4_096
MARKS_MAX: Final = 100_000


@attrs.frozen(kw_only=True)
class Culprit:
    """A source whose records ended the process twice. ``sample``: the first bytes of the record in hand."""

    source_id: str
    sample: bytes


@attrs.define(kw_only=True)
class Mark:
    """What one source has in hand.

    Attributes:
        records: In hand now. sample: the first bytes of the first of them.
        deaths: Ends of the process with records in hand, since the source was found harmless.
        careful: So many records are still to be taken one at a time.
    """

    source_id: str
    records: int = 0
    deaths: int = 0
    careful: int = 0
    sample: bytes = b""

    def to_bytes(self) -> bytes:
        name = self.source_id.encode()
        head = HEAD.pack(self.records, self.deaths, self.careful, len(name), len(self.sample))
        return head + name + self.sample

    @staticmethod
    def from_bytes(data: bytes) -> "Mark":
        """Raises ValueError where it is no mark, or half of one."""
        try:
            records, deaths, careful, name_bytes, sample_bytes = HEAD.unpack_from(data)
        except struct.error as error:
            raise ValueError("it is too short") from error
        name = data[HEAD.size :][:name_bytes]
        sample = data[HEAD.size + name_bytes :][:sample_bytes]
        if len(name) + len(sample) < name_bytes + sample_bytes:
            raise ValueError("it is cut off")
        return Mark(source_id=name.decode(), records=records, deaths=deaths, careful=careful, sample=sample)

    def died(self) -> None:
        """Count an end of the process with records in hand."""
        self.deaths += 1
        self.careful, self.records = self.records, 0

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
        """
        self._directory = directory
        self._marks: dict[str, Mark] = {}
        self._files: dict[str, int] = {}  # descriptors, by source
        self._is_failing = False
        self.culprits: list[Culprit] = []
        for mark in _read_marks(directory):
            self._marks[mark.source_id] = mark
            if mark.records:
                if crashed:
                    mark.died()
                self.clear(mark.source_id)
            if mark.deaths > 1:
                self.culprits.append(Culprit(source_id=mark.source_id, sample=mark.sample))

    def is_careful(self, source_id: str) -> bool:
        """Whether the records of a source are to be taken one at a time."""
        mark = self._marks.get(source_id)
        return mark is not None and mark.careful > 0

    @contextmanager
    def holding(self, source_id: str, events: Sequence[RawEvent]) -> Iterator[None]:
        """Mark events as being in hand."""
        mark = self._marks.setdefault(source_id, Mark(source_id=source_id))
        mark.records, mark.sample = len(events), events[0].data[:SAMPLE_BYTES]
        self._write(mark)
        try:
            yield
        except Exception:  # but not where it is cancelled: the node may be ending because of these very events
            self.clear(source_id)
            raise
        if mark.careful:
            mark.passed()
        self.clear(source_id)

    def forgive(self, source_id: str) -> None:
        """A source was disabled for what it did."""
        self._marks[source_id] = Mark(source_id=source_id)
        self._write(self._marks[source_id])

    def clear(self, source_id: str) -> None:
        """Nothing of a source is in hand."""
        if (mark := self._marks.get(source_id)) is not None:
            mark.records = 0
            self._write(mark)

    def _write(self, mark: Mark) -> None:
        try:
            if mark.source_id not in self._files:
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                path = self._directory / _file_name(mark.source_id)
                self._files[mark.source_id] = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.pwrite(self._files[mark.source_id], mark.to_bytes(), 0)
        except OSError as error:
            if not self._is_failing:
                log.warning("records_in_hand.not_marked", why=str(error))
            self._is_failing = True
        else:
            self._is_failing = False


def _file_name(source_id: str) -> str:
    return hashlib.sha256(source_id.encode()).hexdigest()


def _read_marks(directory: Path) -> Iterator[Mark]:
    """The marks that can be read. What is no mark is left alone."""
    try:
        paths = sorted(directory.iterdir())[:MARKS_MAX]
    except OSError:
        return  # there are none yet
    for path in paths:
        try:
            with path.open("rb") as file:
                mark = Mark.from_bytes(file.read(MARK_BYTES_MAX))
        except (OSError, ValueError):
            continue
        if path.name == _file_name(mark.source_id):
            yield mark
