"""Code for rules about the past, which looks at one event after the other."""

from collections.abc import Sequence
from typing import Any

from agents.compiler.columns import Columns
from agents.compiler.layout import Layout
from agents.compiler.operands import MISSING, NULL, STRING, Operand
from agents.compiler.rules import Decision
from agents.compiler.source import Environment, Lines
from agents.issues import FOUND_CHARS_MAX
from agents.memory import encoded_key, key_part, refusal
from agents.paths import pointer
from agents.rules import MonotonicRule


class Keys(dict[tuple[Any, ...], tuple[bytes, list[Any]]]):
    """Keys as the context has them, encoded and as they are, by their parts: texts, and integers but no booleans."""

    def __missing__(self, parts: tuple[Any, ...]) -> tuple[bytes, list[Any]]:
        self[parts] = found = key_of(parts)
        return found


def key_of(parts: tuple[Any, ...]) -> tuple[bytes, list[Any]]:
    key = [key_part(part) for part in parts]
    return encoded_key(key), key


def write_comparison(
    layout: Layout, columns: Columns, environment: Environment, functions: Lines, decisions: Sequence[Decision]
) -> tuple[str, ...]:
    """Write the function that compares events with those before them.

    It takes the history, the indexes of the event to begin with and of the one to end before, and columns. It returns
    the index of the first event of which anything is wrong, which has not changed the history, or of the end.

    Args:
        decisions: Of the rules that read the past as ``last``.

    Returns:
        The columns that it takes.
    """
    taken: dict[str, None] = dict.fromkeys(
        column for decision in decisions for column in decision.columns if column != "last"
    )
    lines = Lines()
    if decisions:
        columns.need_row()
        taken["row"] = None
        lines.add("last = history.last(row)")
        for decision in decisions:
            lines.add(f"if not {decision.call()}: return index")
    watches = operands_of(layout, columns)
    if watches is None:
        columns.need_row()
        taken["row"] = None
        lines.add("issues = []")
        lines.add("moves = history.look(row, issues)")
        lines.add("if issues: return index")
        lines.add("history.keep(moves)")
    else:
        environment.objects |= {"Keys": Keys, "key_of": key_of, "refusal": refusal}
        for number, watch in enumerate(watches):
            write_look(lines, environment, number, *watch)
            taken |= dict.fromkeys(operand.code for operand in watch[1:] if not operand.is_literal)
        for number, (_, value, *_) in enumerate(watches):
            with lines.block(f"if {is_there(value)}:"):
                lines.add(f"last{number}.pop(key{number}[0], None)")
                lines.add(f"last{number}[key{number}[0]] = (key{number}[1], {value.code})")
    names = ", ".join(taken or ("event_type",))
    with functions.block(f"def compare(history, start, stop, {names}):"):
        for number in range(len(watches or ())):
            functions.add(f"last{number}, keys{number} = history.entries({number}), Keys()")
        functions.add("index = start - 1")
        with functions.block(f"for index, ({names},) in enumerate(islice(zip({names}), start, stop), start):"):
            functions.extend(lines)
        functions.add("return index + 1")
    return tuple(taken or ("event_type",))


def operands_of(layout: Layout, columns: Columns) -> list[tuple[MonotonicRule, Operand, *tuple[Operand, ...]]] | None:
    """Each rule about the past with the value that it compares and those of its key; None if one is no leaf.

    Also None where a rule compares a constant.
    """
    watches: list[Any] = []
    for rule in layout.policy.watches:
        if not isinstance(rule, MonotonicRule) or not all(path in layout.leaves for path in (rule.field, *rule.key)):
            return None
        watches.append((rule, *(columns.data(path)[0] for path in (rule.field, *rule.key))))
        if watches[-1][1].is_literal:
            return None
    return watches


def write_look(
    lines: Lines, environment: Environment, number: int, rule: MonotonicRule, value: Operand, *key: Operand
) -> None:
    """Code that ends the function where a value does not grow."""
    lines.comment(f"{pointer(rule.field)} grows")
    known, refused = f"known{number}", environment.name(f"rule{number}", rule)
    with lines.block(f"if {is_there(value)}:"):
        parts = f"({''.join(f'{part.code}, ' for part in key)})"
        tests = [f"{part.code}.__class__ in KEPT" for part in key if part.kinds != {STRING} and not part.is_literal]
        tests += ["False" for part in key if part.is_literal]
        general = f" if {' and '.join(tests)} else key_of({parts})" if tests else ""
        lines.add(f"key{number} = keys{number}[{parts}]{general}")
        lines.add(f"{known} = last{number}.get(key{number}[0])")
        lines.add(f"{known} = None if {known} is None else {known}[1]")
        cut = ".removesuffix('Z')" if rule.is_timestamp else ""
        sign = "<=" if rule.strict else "<"
        both = (
            f"{value.code}.__class__ is str and {known}.__class__ is str and len({value.code}) <= {FOUND_CHARS_MAX}"
        )
        with lines.block(f"if {both}:"):
            lines.add(f"if {value.code}{cut} {sign} {known}{cut}: return index")
        lines.add(f"elif refusal({refused}, {known}, {value.code}) is not None: return index")


def is_there(value: Operand) -> str:
    """Code for the test that a value is neither null nor absent."""
    tests = [
        f"{value.code} is not {name}" for name, kind in (("None", NULL), ("ABSENT", MISSING)) if kind in value.kinds
    ]
    return " and ".join(tests) or "True"
