"""Code that writes normalized data as canonical JSON, from columns of the texts of its leaves."""

from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

import orjson

from agents.compiler.layout import Leaf
from agents.compiler.operands import MISSING
from agents.compiler.source import literal
from agents.paths import Segments

Piece: TypeAlias = bytes | str
"""A constant, or the name of a column of texts."""

SEPARATOR: Final = b","


class TextPlan:
    """Writes objects within objects. Where a member is always there, commas stand on the side away from it.

    Attributes:
        around: What stands before and after the text of each leaf that can be absent.
        lines: Code that must run before, in which objects are written that can be absent.
    """

    def __init__(self, leaves: Mapping[Segments, Leaf], columns: Mapping[Segments, Piece]) -> None:
        """``columns``: the column of texts of each leaf, or its text where that is constant."""
        self._leaves = leaves
        self._columns = columns
        self.around: dict[Segments, tuple[bytes, bytes]] = {}
        self.lines: list[str] = []

    def object(self, path: Segments, before: bytes, after: bytes, *, or_nothing: bool) -> list[Piece]:
        """The pieces of the object at a path, with what stands around it.

        Args:
            or_nothing: There is no object where it has no members.
        """
        names = {leaf[len(path)] for leaf in self._leaves if leaf[: len(path)] == path}
        members = sorted(names, key=lambda name: name.encode("utf-16-be"))
        first = next((index for index, name in enumerate(members) if self._is_certain((*path, name))), None)
        pieces: list[Piece] = []
        for index, name in enumerate(members):
            leads = first is not None and index < first
            head = (b"" if leads or index == first else SEPARATOR) + orjson.dumps(name) + b":"
            pieces += self._member((*path, name), head, SEPARATOR if leads else b"")
        if first is not None:
            return [before + b"{", *pieces, b"}" + after]
        column = f"object{len(self.lines)}"
        written = f"b'%b%b%b' % ({literal(before + b'{')}, text[1:], {literal(b'}' + after)})"
        nothing = " if text else b''" if or_nothing else ""
        self.lines.append(f"{column} = [{written}{nothing} for text in {join(pieces)}]")
        return [column]

    def _member(self, path: Segments, head: bytes, tail: bytes) -> list[Piece]:
        if path not in self._leaves:
            return self.object(path, head, tail, or_nothing=True)
        column = self._columns[path]
        if self._is_certain(path):
            return [head, column, tail]
        if isinstance(column, bytes):
            return [head + column + tail] if column else []
        self.around[path] = (head, tail)
        return [column]

    def _is_certain(self, path: Segments) -> bool:
        """Whether a usual event always has a member."""
        leaf = self._leaves.get(path)
        if leaf is not None:
            return MISSING not in leaf.kinds
        return any(self._is_certain(inner) for inner in self._leaves if inner[: len(path)] == path)


def join(pieces: Iterable[Piece]) -> str:
    """Code for an iterator over the texts that pieces make of each event."""
    merged: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, bytes) and merged and isinstance(merged[-1], bytes):
            merged[-1] += piece
        elif piece:
            merged.append(piece)
    columns = [f"repeat({literal(piece)}, count)" if isinstance(piece, bytes) else piece for piece in merged]
    return f"map(b''.join, zip({', '.join(columns)}))"
