"""The columns that generated code works on: what it calls them, and which of them it needs."""

from typing import Any, Final

from agents.compiler.layout import Layout
from agents.compiler.operands import MISSING, NULL, OBJECT, STRING, Operand, kind_of
from agents.compiler.source import literal
from agents.paths import Segments

ROW: Final = Operand("row", frozenset({OBJECT}))
OTHERS: Final = {
    ("event", "type"): Operand("event_type", frozenset({STRING})),
    ("event", "externalId"): Operand("external_id", frozenset({NULL, STRING})),
    ("event", "timestamp"): Operand("timestamp", frozenset({NULL, STRING})),
    ("last",): Operand("last"),
}


class Columns:
    """The columns of a layout, and the objects that are the same for all events.

    Attributes:
        valued: Paths of the leaves whose values are needed, not their texts alone.
        needs_row: The normalized data of each event are needed as an object.
        others: By what expressions call it, what else has a column.
        constants: By name.
    """

    def __init__(self, layout: Layout) -> None:
        self.valued: set[Segments] = set()
        self.needs_row = not layout.closed and not passes_whole(layout)
        self.others = OTHERS
        self.constants: dict[str, Any] = {"tables": layout.policy.tables}
        self._layout = layout
        self._numbers = {path: number for number, path in enumerate(layout.leaves)}

    def raw(self, path: Segments) -> str:
        return f"raw{self._numbers[path]}"

    def text(self, path: Segments) -> str:
        return f"text{self._numbers[path]}"

    def value(self, path: Segments) -> Operand:
        """The normalized value of a leaf."""
        leaf = self._layout.leaves[path]
        if not leaf.source:
            return Operand(literal(leaf.default), frozenset({kind_of(leaf.default)}))
        self.valued.add(path)
        return Operand(f"value{self._numbers[path]}", leaf.kinds)

    def data(self, path: Segments) -> tuple[Operand, Segments]:
        """What the value at a path of the normalized data is read from, and the rest of the path."""
        found = self._layout.find(path)
        if found is not None:
            leaf, rest = found
            return self.value(leaf.path), rest
        if self._layout.is_absent(path):
            return Operand("ABSENT", frozenset({MISSING})), ()
        self.need_row()
        return ROW, path

    def need_row(self) -> None:
        self.needs_row = True


def passes_whole(layout: Layout) -> bool:
    """Whether normalized data are the data as they came."""
    return layout.policy.mapping is None and all(leaf.passes for leaf in layout.leaves.values())
