"""Policies: those of the policy guide and the ready ones, with data that each expects, and hostile ones like them."""

import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import attrs
import orjson
from ruamel.yaml import YAML

from scripts.fuzzing.schemas import SchemaValues, spoiled
from scripts.fuzzing.values import Draw

ROOT: Final = Path(__file__).resolve().parents[2]
GUIDE: Final = ROOT / "agents" / "README.md"
READY: Final = ROOT / "configs" / "policies"
SCHEMA: Final = ROOT / "node" / "api" / "policy.schema.json"
BLOCK: Final = re.compile(r"^```yaml\n(.*?)^```$(?:\s*^```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
MAPPING: Final = ("mapping", "coercion", "required")
PATHS: Final = (
    "a",
    "value",
    "a.b",
    "/a/0",
    "/c~1d",
    "@timestamp",
    "@eventType",
    "@externalId",
    "",
    ".",
    "a..b",
    "\u202e",
)
EXPRESSIONS: Final = (
    "data.value > 1", "has(data.a)", "data.a.exists(x, x == 3)", "data.a + data.b == 1", "data['\u202e'] == 'x'",
    "last.value != data.value", "tables.t[data.a].x > 0", "data.a / data.b > 0.5", "data.a.matches('^(a|b)*c$')",
    "event.type == 't'", "data.a[0] in [1, 3]", "size(data) > 0", "1 / 0 == 1", "data.", "true", "1e400 > data.a",
    "data.a.all(x, data.b.all(y, x < y))", "'\\u0000' == data.a", "millis(data.a) > 0", "(((((data.a)))))",
)  # fmt: skip


@attrs.frozen(kw_only=True)
class Example:
    """A policy, and data of events for it."""

    policy: dict[str, Any]
    samples: tuple[Any, ...]


@cache
def examples() -> tuple[Example, ...]:
    """Of every section of the language; those that need a function installed are left out."""
    yaml = YAML(typ="safe", pure=True)
    found = []
    for match in BLOCK.finditer(GUIDE.read_text("utf-8")):
        policy = yaml.load(match[1])
        if "functions" not in policy:
            lines = (match[2] or "").splitlines()
            found.append(Example(policy=policy, samples=tuple(_samples(lines)) or ({"value": 1},)))
    for path in sorted(READY.glob("*.json")):
        found.append(Example(policy=json.loads(path.read_bytes()), samples=({"id": "a", "value": 1},)))
    return tuple(found)


def _samples(lines: Sequence[str]) -> list[Any]:
    return [json.loads(line.partition(" -> ")[0]) for line in lines if " -> " in line]


def at_basic(policy: dict[str, Any]) -> dict[str, Any]:
    """The policy, asking for no more agents than a node alone has."""
    kept = {name: part for name, part in policy.get("certification", {}).items() if name not in ("level", "levels")}
    return {**{name: part for name, part in policy.items() if name != "certification"}, "certification": kept}


def split(policy: dict[str, Any]) -> dict[str, Any]:
    """The members of a source that a policy is given by."""
    return {
        "mappingPolicy": {name: part for name, part in policy.items() if name in MAPPING},
        "validationRules": {name: part for name, part in policy.items() if name not in MAPPING},
    }


def drawn(draw: Draw) -> Any:
    """A policy, plausible or not."""
    if draw.chance(0.6):
        policy: Any = draw.pick(examples()).policy
    else:
        policy = _values().draw(draw, _schema())
    for _ in range(draw.below(3)):
        policy = spoiled(draw, policy)
    return policy


def expression(draw: Draw) -> str:
    return draw.pick(EXPRESSIONS) if draw.chance(0.8) else draw.text(300)


def path(draw: Draw) -> str:
    return draw.pick(PATHS) if draw.chance(0.8) else draw.text()


@cache
def _schema() -> Any:
    return orjson.loads(SCHEMA.read_bytes())


@cache
def _values() -> SchemaValues:
    named = {"check": expression, "when": expression, "field": path, "each": path, "from": path, "to": path}
    return SchemaValues(_schema(), named)
