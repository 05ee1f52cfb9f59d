"""Split a stream of bytes into pieces of whole lines, in bounded memory. Pure; no I/O.

Lines are numbered from 1, blank ones included. Of a line that is too long only the number is kept.
"""

import re
from typing import Final

import attrs

BLANKS: Final = b" \t\r"
BLANK_STARTS: Final = frozenset({b"\n", b" ", b"\t", b"\r"})
_BLANK: Final = re.compile(rb"[ \t\r\n]*")


@attrs.frozen(kw_only=True)
class Piece:
    """Lines that are admitted together.

    Attributes:
        first, last: The first and last number of the lines that the piece covers, blank ones included.
        lines: Those that are not blank, in order. numbers: Theirs.
        too_long: The numbers of those that were too long.
    """

    first: int
    last: int
    lines: tuple[bytes, ...]
    numbers: tuple[int, ...]
    too_long: tuple[int, ...]

    @property
    def body(self) -> bytes:
        return b"\n".join(self.lines)


class LineGatherer:
    """Takes bytes with ``feed`` and returns the pieces that they complete; ``finish`` returns the last."""

    def __init__(self, *, line_bytes_max: int, piece_bytes_max: int, piece_lines_max: int) -> None:
        """``piece_bytes_max`` bounds the body of a piece, unless one line alone is longer."""
        self._line_bytes_max = line_bytes_max
        self._piece_bytes_max = piece_bytes_max
        self._piece_lines_max = piece_lines_max
        self._partial = bytearray()
        self._skips = False
        self._number = 0
        self._first = 1
        self._lines: list[bytes] = []
        self._numbers: list[int] = []
        self._too_long: list[int] = []
        self._bytes = 0

    @property
    def number(self) -> int:
        """How many lines are complete."""
        return self._number

    @property
    def held(self) -> int:
        """Bytes in memory that no piece has yet."""
        return self._bytes + len(self._partial)

    @property
    def has_lines(self) -> bool:
        """Whether ``flush`` would return a piece."""
        return bool(self._lines or self._too_long)

    def feed(self, data: bytes) -> list[Piece]:
        """Add bytes. Returns the pieces that they complete."""
        pieces: list[Piece] = []
        place = self._skip_blank_lines(data, 0)
        while (end := data.find(b"\n", place)) >= 0:
            pieces += self._end(data[place:end])
            place = self._skip_blank_lines(data, end + 1)
        self._grow(data[place:])
        return pieces

    def _skip_blank_lines(self, data: bytes, place: int) -> int:
        """Count blank lines from ``place`` on, all at once: a compressed part may hold nothing else."""
        if self._partial or self._skips or data[place : place + 1] not in BLANK_STARTS:
            return place
        found = _BLANK.match(data, place, place + self._line_bytes_max)  # so none of them is too long
        assert found is not None, "the pattern matches the empty string too"
        lines = data.count(b"\n", place, found.end())
        self._number += lines
        return data.rfind(b"\n", place, found.end()) + 1 if lines else place

    def flush(self) -> Piece | None:
        """The complete lines so far, if any, as a piece."""
        return self._piece(self._number) if self.has_lines else None

    def finish(self) -> list[Piece]:
        """The last pieces. The end of the stream ends the last line."""
        pieces = self._end(b"") if self._partial or self._skips else []
        last = self.flush()
        return pieces if last is None else [*pieces, last]

    def _end(self, end: bytes) -> list[Piece]:
        """Complete the current line."""
        self._grow(end)
        line, self._partial = bytes(self._partial), bytearray()
        skipped, self._skips = self._skips, False
        pieces = []
        if self._bytes + len(line) >= self._piece_bytes_max and self._lines and not skipped:
            pieces.append(self._piece(self._number))
        self._number += 1
        if skipped:
            self._too_long.append(self._number)
        elif line.strip(BLANKS):
            self._lines.append(line)
            self._numbers.append(self._number)
            self._bytes += len(line) + 1
        if len(self._lines) + len(self._too_long) >= self._piece_lines_max:
            pieces.append(self._piece(self._number))
        return pieces

    def _grow(self, data: bytes) -> None:
        if self._skips:
            return
        self._partial += data
        if len(self._partial) > self._line_bytes_max:
            self._partial.clear()
            self._skips = True

    def _piece(self, last: int) -> Piece:
        piece = Piece(
            first=self._first,
            last=last,
            lines=tuple(self._lines),
            numbers=tuple(self._numbers),
            too_long=tuple(self._too_long),
        )
        self._first = last + 1
        self._lines, self._numbers, self._too_long, self._bytes = [], [], [], 0
        return piece
