"""Text of generated Python: lines with their indentation, and the objects that it refers to by name.

What a policy says enters the text as literals alone (``literal``), and as comments that ``ascii`` has made one line
of. Everything else that the text names is an object of its environment.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from agents.paths import ABSENT

CODE_CHARS_MAX: Final = 262_144
COMMENT_CHARS_MAX: Final = 80
REFUSED: Final = "Python refuses its code"


class UncoveredError(Exception):
    """A policy, or a rule of it, that is left to the interpreter; the text says why."""


class Environment:
    """The objects that generated code refers to; each has one name."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {"ABSENT": ABSENT}
        self._names: dict[tuple[str, int], str] = {}
        self._numbers: Counter[str] = Counter()

    def name(self, wanted: str, value: Any) -> str:
        """The name of an object: the wanted one, with a number where another object has it."""
        known = (wanted, id(value))  # of an object that stays: it is among those kept here
        name = self._names.get(known, wanted)
        while self.objects.setdefault(name, value) is not value:
            self._numbers[wanted] += 1
            name = f"{wanted}_{self._numbers[wanted]}"
        self._names[known] = name
        return name


class Lines:
    """Lines of code, built from the top down."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._depth = 0
        self._chars = 0

    def add(self, text: str) -> None:
        line = "    " * self._depth + text
        self._chars += len(line)
        self._lines.append(line)

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
    """Execute generated code; what it defines, by name.

    Raises:
        UncoveredError: This Python does not take the code: how deep it may be nested depends on the Python and on its
            stack.
    """
    names = dict(environment.objects)
    try:
        code = compile(text, "<policy>", "exec")
    except (MemoryError, RecursionError, SyntaxError) as error:
        raise UncoveredError(f"{REFUSED}: {error}") from error
    exec(code, names)  # noqa: S102  # its text comes from the emitters alone
    return names
