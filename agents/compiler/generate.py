"""From a policy to a generated function over many events, which is the same as its rules one by one.

The code has a stage for each stage of a policy: raw values of all events, leaf by leaf; their normalized values, with
what is checked of each; rules over several values; the past, event by event; text. Each stage ends early with the
events of which anything is unusual, and is run again without them.
"""

from collections.abc import Callable, Iterable
from itertools import islice, repeat
from typing import Any, Final

import attrs
import orjson

from agents.compiler.cells import UNUSUAL, Cells, Column, Memos, Wanted
from agents.compiler.columns import Columns, passes_whole
from agents.compiler.layout import Layout, Leaf, plan
from agents.compiler.past import write_comparison
from agents.compiler.rebuilding import write_row
from agents.compiler.rules import Decision, Decisions
from agents.compiler.source import Environment, Lines, UncoveredError, run
from agents.compiler.sources import write_sources
from agents.compiler.texts import Piece, TextPlan, join
from agents.expressions import AbsentValueError, EvaluationError
from agents.paths import Segments, pointer
from agents.policy import CompiledPolicy
from agents.reading import PLAIN

KEPT: Final = frozenset({str, int})  # types of parts of keys; True is no 1 among them


@attrs.frozen(kw_only=True)
class Normalized:
    """What became of events of which nothing is unusual.

    Attributes:
        encoded: Canonical normalized data of each.
        level: The highest that the policy asks for, for any of them; 0 for none.
        columns: Those that ``compare`` takes.
    """

    encoded: list[bytes]
    level: int
    columns: tuple[Column, ...]


@attrs.frozen(kw_only=True)
class Generated:
    """A policy as code.

    Attributes:
        normalize: From events to what became of them, or to the indexes of those that are unusual.
        compare: From the history, two indexes and columns to the index of the first event between them that does not
            follow those before it, or to the second index; None where no rule is about the past.
        text: The code.
    """

    normalize: Callable[[Any], Normalized | set[int]]
    compare: Callable[..., int] | None
    text: str


def generate(policy: CompiledPolicy) -> Generated:
    """The code of a policy.

    Raises:
        UncoveredError: The policy is left to the interpreter; the text says why.
    """
    layout = plan(policy)
    columns, environment = Columns(layout), Environment()
    functions, body = Lines(), Lines()
    environment.objects |= RUNTIME
    decisions = Decisions(layout, columns, environment, functions)
    rules, levels = list(decisions.rules()), list(decisions.levels())
    compared: tuple[str, ...] = ()
    if policy.watches:
        looking_back = [rule for rule in rules if rule.looks_back]
        compared = write_comparison(layout, columns, environment, functions, looking_back)
    row = write_row(layout, columns, environment, functions) if columns.needs_row else ""
    write_sources(layout.leaves, columns, environment, body)
    pieces = write_leaves(layout, columns, environment, body)
    if row:
        body.add(f"row = {row}")
        if layout.targets and not layout.closed:
            body.add("if None in row: return unusual(None, row)")
    checks = [rule.over_columns() for rule in rules if not rule.looks_back]
    if checks:
        body.add(f"failed = failures({', '.join(checks)})")
        body.add("if failed: return failed")
    write_text(layout, pieces, body)
    body.add(f"level = {level_of(levels)}")
    body.add(
        f"return Normalized(encoded=encoded, level=level, columns=({''.join(f'{each}, ' for each in compared)}))"
    )
    with functions.block("def normalize(rows):"):
        functions.add("data, count = rows.data, len(rows.data)")
        functions.add("event_type, external_id, timestamp = rows.event_types, rows.external_ids, rows.timestamps")
        functions.room_for(body)
        functions.extend(body)
    made = run(functions.text(), environment)
    return Generated(normalize=made["normalize"], compare=made.get("compare"), text=functions.text())


def write_leaves(layout: Layout, columns: Columns, environment: Environment, body: Lines) -> list[Piece]:
    """Write the code from raw values to texts and values; the pieces of an event's text, where leaves make it."""
    memos = Memos()
    environment.objects["memos"] = memos
    texts: dict[Segments, Piece] = {}
    for path, leaf in layout.leaves.items():
        if leaf.source:
            texts[path] = columns.text(path)
        else:
            (texts[path],) = constant_text(leaf, layout, memos)
    writing = TextPlan(layout.leaves, texts)
    pieces = writing.object((), b"", b"", or_nothing=False) if layout.closed else []
    body.add("memos.unusual = False")
    made: list[str] = []
    for path, leaf in layout.leaves.items():
        if not leaf.source:
            continue
        before, after = writing.around.get(path, (b"", b""))
        has_value = path in columns.valued or not layout.closed
        if not layout.closed and leaf.passes and not leaf.is_checked:
            body.add(f"{columns.value(path).code} = {columns.raw(path)}")
            continue
        body.comment(pointer(path))
        wanted = Wanted(text=layout.closed, value=has_value, before=before, after=after)
        cells = environment.name("cells", Cells(leaf, wanted, memos, layout.schema))
        names = [columns.text(path)] * layout.closed + [columns.value(path).code] * has_value
        body.add(f"{', '.join(names)} = {cells}({columns.raw(path)})")
        made.append(names[0])
    if made:
        body.add(f"if memos.unusual: return unusual(UNUSUAL, {', '.join(made)})")
    for line in writing.lines:
        body.add(line)
    return pieces


def constant_text(leaf: Leaf, layout: Layout, memos: Memos) -> Any:
    """The text of a constant, as the only one of a column."""
    cells = Cells(leaf, Wanted(text=layout.closed, value=not layout.closed), memos, layout.schema)([leaf.default])
    if cells[0] is UNUSUAL:
        raise UncoveredError("the rules refuse a constant of the mapping")
    return cells


def write_text(layout: Layout, pieces: list[Piece], body: Lines) -> None:
    if layout.closed:
        body.add(f"encoded = list({join(pieces)})")
    elif passes_whole(layout):
        body.add("encoded = rows.data_texts()")
    else:
        body.add("encoded = list(map(dumps, row, repeat(None), repeat(PLAIN)))")


def level_of(levels: Iterable[tuple[int, Decision]]) -> str:
    """Code for the highest level that any event asks for."""
    return " or ".join([*(f"any({asked.over_columns()}) and {level}" for level, asked in levels), "0"])


def unusual(mark: Any, *columns: Column) -> set[int]:
    """The indexes of the events of which a column has a mark."""
    return {index for column in columns for index, cell in enumerate(column) if cell is mark}


def failures(*columns: Iterable[bool]) -> set[int]:
    """The indexes of the events for which not all rules hold."""
    found: set[int] = set()
    for column in columns:
        holds = list(column)
        if not all(holds):
            found.update(index for index, held in enumerate(holds) if not held)
    return found


RUNTIME: Final[dict[str, Any]] = {
    "AbsentValueError": AbsentValueError,
    "EvaluationError": EvaluationError,
    "KEPT": KEPT,
    "Normalized": Normalized,
    "PLAIN": PLAIN,
    "UNUSUAL": UNUSUAL,
    "dumps": orjson.dumps,
    "failures": failures,
    "islice": islice,
    "repeat": repeat,
    "unusual": unusual,
}
