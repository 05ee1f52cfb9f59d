"""From bytes as they come to pieces of whole lines, within bounds whatever comes. Pure; no I/O.

Lines are numbered from 1, blank ones too. A line that is too long is not kept: its number is.
"""

import attrs

BLANKS = b" \t\r"


@attrs.frozen(kw_only=True)
class Piece:
    """Lines that are taken in together.

    Attributes:
        first, last: The numbers of all lines that the piece stands for, blank ones included.
        lines: Those that say something, in their order; ``numbers`` are theirs.
        too_long: The numbers of those that were not kept.
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
    """Feed it bytes, take pieces."""

    def __init__(self, *, line_bytes_max: int, piece_bytes_max: int, piece_lines_max: int) -> None:
        """``piece_bytes_max``: of a piece's body, unless one line alone has more."""
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
        """How many lines have ended."""
        return self._number

    @property
    def held(self) -> int:
        """Bytes kept for pieces to come."""
        return self._bytes + len(self._partial)

    @property
    def has_lines(self) -> bool:
        """Whether ``flush`` would give a piece."""
        return bool(self._lines or self._too_long)

    def feed(self, data: bytes) -> list[Piece]:
        """Take bytes in. Returns the pieces that they fill."""
        *ended, rest = data.split(b"\n")
        pieces: list[Piece] = []
        for end in ended:
            pieces += self._end(end)
        self._grow(rest)
        return pieces

    def flush(self) -> Piece | None:
        """The whole lines so far, if any."""
        return self._piece(self._number) if self.has_lines else None

    def finish(self) -> list[Piece]:
        """The last pieces: nothing more comes, and a line that has no end has one now."""
        pieces = self._end(b"") if self._partial or self._skips else []
        last = self.flush()
        return pieces if last is None else [*pieces, last]

    def _end(self, end: bytes) -> list[Piece]:
        """A line is whole."""
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
