"""Text of generated Python: lines with their indentation, and the objects that it refers to by name.

What a policy says enters the text as literals alone (``literal``), and as comments that ``ascii`` has made one line
of. Everything else that the text names is an object of its environment.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, Final

from agents.paths import ABSENT

CODE_CHARS_MAX: Final = 262_144
COMMENT_CHARS_MAX: Final = 80


class UncoveredError(Exception):
    """A policy, or a rule of it, that is left to the interpreter; the text says why."""


class Environment:
    """The objects that generated code refers to; each has one name."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {"ABSENT": ABSENT}

    def name(self, wanted: str, value: Any) -> str:
        """The name of an object: the wanted one, with a number where another object has it."""
        name, number = wanted, 0
        while self.objects.setdefault(name, value) is not value:
            number += 1
            name = f"{wanted}_{number}"
        return name


class Lines:
    """Lines of code, built from the top down."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._depth = 0
        self._chars = 0

    def add(self, text: str) -> None:
        self._chars += len(text)
        self._lines.append("    " * self._depth + text)

    def comment(self, text: str) -> None:
        shown = ascii(text)[1:-1]
        self.add("# " + (shown if len(shown) <= COMMENT_CHARS_MAX else shown[:COMMENT_CHARS_MAX] + "..."))

    @contextlib.contextmanager
    def block(self, header: str) -> Iterator[None]:
        self.add(header)
        self._depth += 1
        yield
        self._depth -= 1

    def room_for(self, other: "Lines") -> None:
        """Refuse lines that would make these more than ``CODE_CHARS_MAX``."""
        if self._chars + other._chars > CODE_CHARS_MAX:
            raise UncoveredError(f"its code has more than {CODE_CHARS_MAX} characters")

    def extend(self, other: "Lines") -> None:
        """Add the lines of another, at the current depth."""
        for line in other._lines:
            self.add(line)

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"


def literal(value: Any) -> str:
    """A scalar as Python source, in ASCII."""
    if value is ABSENT:
        return "ABSENT"
    assert value is None or type(value) in (bool, int, float, str, bytes)
    return ascii(value)


def run(text: str, environment: Environment) -> dict[str, Any]:
    """Execute generated code; what it defines, by name."""
    names = dict(environment.objects)
    exec(compile(text, "<policy>", "exec"), names)  # noqa: S102  # its text comes from the emitters alone
    return names
