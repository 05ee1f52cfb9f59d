"""Code that reads the raw values of leaves out of many records."""

from collections.abc import Mapping
from operator import itemgetter
from typing import Any, Final

from agents.compiler.columns import Columns
from agents.compiler.layout import Leaf
from agents.compiler.source import Environment, Lines, literal
from agents.paths import ABSENT, Segments, read

ENVELOPE: Final = {"eventType": "event_type", "externalId": "external_id", "timestamp": "timestamp"}


def member(value: Any, name: str, default: Any) -> Any:
    """The member of anything but an object, by the paths of a mapping: of an array it may be an element."""
    found = read(value, (name,))
    return default if found is ABSENT else found


def write_sources(leaves: Mapping[Segments, Leaf], columns: Columns, environment: Environment, lines: Lines) -> None:
    """Write code that makes the column of raw values of each leaf that has a source."""
    top: dict[str, tuple[str, Any]] = {}
    parents: dict[Segments, str] = {}
    nested: list[tuple[str, Segments, Any]] = []
    for path, leaf in leaves.items():
        column = columns.raw(path)
        if len(leaf.source) == 1:
            lines.add(f"{column} = {ENVELOPE[leaf.source[0]]}")
        elif len(leaf.source) == 2:
            top[column] = (leaf.source[1], leaf.default)
        elif leaf.source:
            nested.append((column, leaf.source[1:], leaf.default))
    for _, source, _ in nested:
        for length in range(1, len(source)):
            parents.setdefault(source[:length], f"part{len(parents)}")
    top |= {column: (source[0], ABSENT) for source, column in parents.items() if len(source) == 1}
    write_top(top, environment, lines)
    inner = [(column, source, ABSENT) for source, column in parents.items() if len(source) > 1] + nested
    environment.objects["member"] = member
    for column, source, default in inner:
        name = literal(source[-1])
        found = f"part.get({name}, {literal(default)})"
        other = f"member(part, {name}, {literal(default)})"
        parent = parents[source[:-1]]
        lines.add(f"{column} = [{found} if part.__class__ is dict else {other} for part in {parent}]")


def write_top(top: Mapping[str, tuple[str, Any]], environment: Environment, lines: Lines) -> None:
    """Top-level fields: all at once where every event has all of them."""
    apart = [
        f"{column} = [event.get({literal(name)}, {literal(default)}) for event in data]"
        for column, (name, default) in top.items()
    ]
    if len(top) < 2:
        for line in apart:
            lines.add(line)
        return
    fields = environment.name("fields", itemgetter(*(name for name, _ in top.values())))
    with lines.block("try:"):
        lines.add(f"{', '.join(top)} = zip(*map({fields}, data))")
    with lines.block("except KeyError:"):
        for line in apart:
            lines.add(line)
