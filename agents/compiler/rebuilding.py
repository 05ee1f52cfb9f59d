"""Code that makes the normalized data of an event as an object, from the values of its leaves."""

from agents.compiler.cells import is_plain_name
from agents.compiler.columns import Columns, passes_whole
from agents.compiler.layout import Layout
from agents.compiler.operands import MISSING, Operand
from agents.compiler.source import Environment, Lines, UncoveredError, literal
from agents.paths import Segments, replaced


def write_row(layout: Layout, columns: Columns, environment: Environment, functions: Lines) -> str:
    """Write the function that makes the object, where one is needed; code for the column of the objects.

    The function returns None where a field that is kept has the name of a mapped one, even of one that is absent:
    what is known of the mapped one does not hold for it.
    """
    if passes_whole(layout):
        return "data"
    values = {path: columns.value(path) for path, leaf in layout.leaves.items() if not leaf.passes}
    taken = [operand.code for operand in values.values() if not operand.is_literal]
    if not layout.closed:
        taken.insert(0, "event")
    lines = Lines()
    if layout.closed:
        lines.add("row = {}")
        for path, value in values.items():
            write_new(path, value, lines)
    else:
        write_kept(layout, lines)
        for path, value in values.items():
            write_change(layout, path, value, environment, lines)
    lines.add("return row")
    with functions.block(f"def object_of({', '.join(taken)}):"):
        functions.extend(lines)
    return f"list(map(object_of, {', '.join('data' if name == 'event' else name for name in taken)}))"


def write_kept(layout: Layout, lines: Lines) -> None:
    """What passes beside the leaves: a copy of the data without the fields that the mapping reads."""
    lines.add("row = event.copy()")
    for name in sorted(layout.used):
        if not stays_in_place(layout, (name,)):
            lines.add(f"row.pop({literal(name)}, None)")


def write_change(layout: Layout, path: Segments, value: Operand, environment: Environment, lines: Lines) -> None:
    """Put a leaf's value where it belongs among what is kept."""
    if path not in layout.targets:  # a coerced field of the data
        if len(path) == 1:
            write_new(path, value, lines)
            return
        environment.objects["replaced"] = replaced
        with lines.block(f"if {value.code} is not ABSENT:"):
            lines.add(f"row = replaced(row, ({', '.join(map(literal, path))}), {value.code})")
        return
    if not all(map(is_plain_name, path)):
        raise UncoveredError("it maps to a name that sorts in its own way")
    if path[0] not in layout.used:
        lines.add(f"if {literal(path[0])} in event: return None")
    write_new(path, value, lines)


def stays_in_place(layout: Layout, path: Segments) -> bool:
    """Whether a top-level field is mapped to itself, and neither its source nor its target is anything else's."""
    sources = [leaf for leaf in layout.leaves.values() if leaf.source[1:2] == path[:1] and not leaf.passes]
    targets = [target for target in layout.targets if target[0] == path[0]]
    return len(sources) == 1 and targets == [path] == [sources[0].path] and sources[0].source == ("data", *path)


def write_new(path: Segments, value: Operand, lines: Lines) -> None:
    """Set a member that no object of the event has in it."""
    place = "row" + "".join(f".setdefault({literal(name)}, {{}})" for name in path[:-1])
    change = f"{place}[{literal(path[-1])}] = {value.code}"
    if value.code != "ABSENT":
        lines.add(f"if {value.code} is not ABSENT: {change}" if MISSING in value.kinds else change)
