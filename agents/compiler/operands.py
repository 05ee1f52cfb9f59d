"""What is known of a value while code for it is generated: its name there, and which JSON types it may have."""

from typing import Any, Final

import attrs

from agents.compiler.source import Environment, Lines
from agents.paths import ABSENT

NULL, MISSING, BOOLEAN, NUMBER, STRING, ARRAY, OBJECT = (
    "null",
    "absent",
    "boolean",
    "number",
    "string",
    "array",
    "object",
)
NOTHING: Final = frozenset({NULL, MISSING})
SCALAR: Final = frozenset({NULL, BOOLEAN, NUMBER, STRING})
ANY: Final = frozenset({*SCALAR, MISSING, ARRAY, OBJECT})
CLASSES: Final = {BOOLEAN: ("bool",), NUMBER: ("float", "int"), STRING: ("str",), ARRAY: ("list",), OBJECT: ("dict",)}
NAMES: Final = {bool: BOOLEAN, int: NUMBER, float: NUMBER, str: STRING, list: ARRAY, dict: OBJECT, type(None): NULL}


@attrs.frozen
class Operand:
    """A value in generated code.

    Attributes:
        code: A name or a literal: naming it costs nothing and has no effect.
        kinds: The types that it may have, ``absent`` among them.
    """

    code: str
    kinds: frozenset[str] = ANY

    @property
    def is_literal(self) -> bool:
        return not self.code.isidentifier() or self.code in ("None", "True", "False", "ABSENT")


def kind_of(value: Any) -> str:
    return MISSING if value is ABSENT else NAMES[type(value)]


class Function:
    """The body of a generated function over values, whose checks end it where a value does not fit.

    Attributes:
        reads: The parameters that its code names, in the order of their first use.
    """

    def __init__(self, lines: Lines, environment: Environment) -> None:
        self.lines = lines
        self.environment = environment
        self.reads: dict[str, None] = {}
        self._temporaries = 0
        self._absent = self._error = ""

    def ends(self, *, absent: bool, error: bool) -> None:
        """Say what it returns where a value is absent or null, and where types do not fit."""
        self._absent, self._error = f"return {absent}", f"return {error}"

    def parameter(self, operand: Operand) -> Operand:
        if not operand.is_literal:
            self.reads[operand.code] = None
        return operand

    def variable(self) -> str:
        self._temporaries += 1
        return f"t{self._temporaries}"

    def assign(self, code: str, kinds: frozenset[str] = ANY) -> Operand:
        name = self.variable()
        self.lines.add(f"{name} = {code}")
        return Operand(name, kinds)

    def constant(self, wanted: str, value: Any) -> str:
        return self.environment.name(wanted, value)

    def present(self, *operands: Operand) -> tuple[Operand, ...]:
        """The operands, none of them null or absent."""
        tests = []
        for operand in operands:
            tests += [f"{operand.code} is None"] if NULL in operand.kinds else []
            tests += [f"{operand.code} is ABSENT"] if MISSING in operand.kinds else []
        if tests:
            self.lines.add(f"if {' or '.join(tests)}: {self._absent}")
        return tuple(Operand(operand.code, operand.kinds - NOTHING) for operand in operands)

    def of(self, kinds: frozenset[str], operand: Operand) -> Operand:
        """The operand, of one of the kinds: otherwise it is absent, or an error."""
        (operand,) = self.present(operand)
        if not operand.kinds & kinds:
            self.lines.add(self._error)
        elif not operand.kinds <= kinds:
            tests = [f"{operand.code}.__class__ is not {name}" for kind in sorted(kinds) for name in CLASSES[kind]]
            self.lines.add(f"if {' and '.join(tests)}: {self._error}")
        return Operand(operand.code, operand.kinds & kinds or kinds)

    def fail_where(self, test: str) -> None:
        self.lines.add(f"if {test}: {self._error}")
