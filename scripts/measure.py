"""Prints how large the code is where size costs readers, and fails past the limits that this project keeps.

Packages of the node are counted as units; an import counts as upward when it points from a unit to one that
``pyproject.toml`` lists above it.
"""

import ast
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import attrs

ROOT: Final = Path(__file__).resolve().parent.parent
CODE: Final = ("protocols", "agents", "storage", "node")
FUNCTION_LINES_MAX: Final = 60
MODULE_LINES_MAX: Final = 500
CLASS_METHODS_MAX: Final = 15
LARGE_CLASSES_MAX: Final = 5
TOP_MODULES_MAX: Final = 14
TESTS_TO_CODE_MIN: Final = 0.85

Function = ast.FunctionDef | ast.AsyncFunctionDef


@attrs.frozen(kw_only=True)
class Module:
    """A source file: its dotted name, its lines, its syntax tree."""

    name: str
    path: Path
    lines: int
    tree: ast.Module


@attrs.frozen(kw_only=True)
class Row:
    """One figure, the limit it must keep, and the places that it counts."""

    what: str
    figure: float
    limit: str
    holds: bool
    places: tuple[str, ...] = ()


def modules_of(root: Path, packages: Sequence[str]) -> dict[str, Module]:
    found = {}
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
            text = path.read_text(encoding="utf-8")
            found[name] = Module(name=name, path=path, lines=text.count("\n"), tree=ast.parse(text))
    return found


def imports_of(module: Module, known: dict[str, Module]) -> Iterator[str]:
    """Modules of ``known`` that a module imports, those for type checking alone too."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                name = inner if inner in known else node.module
                if name in known:
                    yield name


def cycles(known: dict[str, Module]) -> list[tuple[str, ...]]:
    """Groups of modules that import each other in a circle (Tarjan's strongly connected components)."""
    arrows = {name: sorted({*imports_of(module, known)} - {name}) for name, module in known.items()}
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[tuple[str, ...]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in arrows[name]:
            if target not in index:
                visit(target)
            if target in stack:
                low[name] = min(low[name], low[target])
        if low[name] == index[name]:
            group = [*stack[stack.index(name) :]]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(tuple(sorted(group)))

    for name in arrows:
        if name not in index:
            visit(name)
    return found


def layers_of_node() -> list[str]:
    """The units of ``node`` from top to bottom, as its import contract lists them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    layers = next(each["layers"] for each in contracts if each.get("containers") == ["node"])
    return [str(layer) for layer in layers]


def upward_imports(known: dict[str, Module], layers: Sequence[str]) -> list[str]:
    place = {layer: number for number, layer in enumerate(layers)}

    def unit(name: str) -> int | None:
        parts = name.split(".")
        return place.get(parts[1]) if parts[0] == "node" and len(parts) > 1 else None

    found = []
    for name, module in known.items():
        for target in imports_of(module, known):
            here, there = unit(name), unit(target)
            if here is not None and there is not None and there < here:
                found.append(f"{name} -> {target}")
    return found


def long_functions(known: dict[str, Module]) -> list[str]:
    found = []
    for name, module in known.items():
        for node in ast.walk(module.tree):
            if isinstance(node, Function) and node.end_lineno is not None:
                lines = node.end_lineno - node.lineno + 1
                if lines > FUNCTION_LINES_MAX:
                    found.append(f"{name}.{node.name}: {lines} lines")
    return found


def large_classes(known: dict[str, Module]) -> list[str]:
    found = []
    for name, module in known.items():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                methods = sum(isinstance(each, Function) for each in node.body)
                if methods > CLASS_METHODS_MAX:
                    found.append(f"{name}.{node.name}: {methods} methods")
    return found


def rows() -> list[Row]:
    code, tests = modules_of(ROOT, CODE), modules_of(ROOT, ["tests"])
    every = {**code, **modules_of(ROOT, ["scripts"]), **tests}
    top = [name for name in code if name.startswith("node.") and name.count(".") == 1]
    top_modules = [name for name in top if code[name].path.name != "__init__.py"]
    up, circles = upward_imports(code, layers_of_node()), cycles(code)
    functions, classes = long_functions(every), large_classes(code)
    files = [f"{name}: {module.lines} lines" for name, module in every.items() if module.lines > MODULE_LINES_MAX]
    ratio = sum(each.lines for each in tests.values()) / sum(each.lines for each in code.values())

    def at_most(what: str, places: Sequence[str], limit: int) -> Row:
        return Row(
            what=what,
            figure=len(places),
            limit=f"at most {limit}",
            holds=len(places) <= limit,
            places=tuple(places),
        )

    return [
        at_most("modules at the top level of node", top_modules, TOP_MODULES_MAX),
        at_most("imports in node that point upward", up, 0),
        at_most("import cycles", [" <-> ".join(circle) for circle in circles], 0),
        at_most(f"functions over {FUNCTION_LINES_MAX} lines", functions, 0),
        at_most(f"classes over {CLASS_METHODS_MAX} methods", classes, LARGE_CLASSES_MAX),
        at_most(f"modules over {MODULE_LINES_MAX} lines", files, 0),
        Row(
            what="lines of tests per line of code",
            figure=round(ratio, 3),
            limit=f"at least {TESTS_TO_CODE_MIN}",
            holds=ratio >= TESTS_TO_CODE_MIN,
        ),
    ]


def main() -> int:
    found = rows()
    for row in found:
        print(f"{'ok  ' if row.holds else 'FAIL'}  {row.what}: {row.figure:g} ({row.limit})")
        if not row.holds:
            for place in row.places:
                print(f"        {place}")
    return 0 if all(row.holds for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
