"""Tables in Markdown, as benchmarks print them."""

from collections.abc import Sequence
from typing import Any


def markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table; numbers of thousands are grouped, what is None is left out."""

    def text(value: Any) -> str:
        return "" if value is None else f"{value:,}" if isinstance(value, int | float) else str(value)

    lines = [columns, ["---"] * len(columns), *([text(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
