"""Generated code where it most likely differs from the interpreter, what policies put into it, and its bounds."""

import ast
import csv
import gzip
import json
import lzma
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from agents import roles
from agents.compiler import execution
from agents.compiler.cells import Memos
from agents.compiler.generate import Generated, generate
from agents.compiler.layout import LEAVES_MAX
from agents.compiler.source import CODE_CHARS_MAX, Environment, UncoveredError
from agents.compiler.source import run as run_code
from agents.functions import Function, Functions
from agents.interpreter import program
from agents.policy import policy_document
from agents.roles import BatchOutput
from protocols.identifiers import record_line
from protocols.limits import POLICY_BYTES_MAX

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "configs" / "samples"
DIGEST = "ab" * 32
HOSTILE = [
    '"',
    "'",
    "\\",
    "'''",
    '"""',
    "\n",
    "\r",
    "\x0c",
    "\u2028",
    "{0}",
    "%s",
    "%b",
    "# x",
    "\\N{DIGIT ONE}",
    "a\nb",
    "__class__",
]
HOSTILE += [
    "');import os;('",
    "\\'+exec('1')+\\'",
    "\x00",
    "import",
    "True",
    "0",
    "-1",
    "ABSENT",
    "row",
    "\U0001f600",
    "ü",
]
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 0.5, 1e21, 1e-7, 5e-324, 2**53 - 1, -(2**53) + 1, "", "0", "-0", "1", "1.0",
    "1e400", "-0.0", "9007199254740993", "NaN", "Infinity", "true",
    "2013-01-01T05:00:00Z", "2013-01-01T05:00:00.0Z", "\ufb01",
    "2016-12-31T23:59:60Z", [], {}, [1], [[1, 2], [3]], [{"b": 1}, {"b": "x"}], [{"b": None}, {}], {"b": None},
    {"b": 1}, {"b": {"c": [1]}}, {"\U0001f600": 1, "\ufb33": 2}, "x" * 65, "x" * 129, [0] * 10_001, list(range(300)),
]  # fmt: skip
SHALLOW: dict[str, Any] = {"b": 1}


def nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"b": value}
    return value


def line(data: Any, number: int = 0) -> bytes:
    return record_line(data=data, event_type="t", external_id=str(number), previous=None, timestamp=None)


def outputs(policy: bytes, batches: Sequence[Sequence[bytes]], functions: Functions = ()) -> list[BatchOutput]:
    """What generated code makes of batches, which is what the interpreter makes of them."""
    found: list[list[BatchOutput]] = []
    for function in (roles.execute, roles.interpret):
        context, made = b"{}", []
        for lines in batches:
            payload = b"\n".join(lines)
            made.append(
                function(
                    network="n", source_id="s", payload=payload, policy=policy, context=context, functions=functions
                )
            )
            context = made[-1].context_out
        found.append(made)
    compiled, interpreted = found
    assert compiled == interpreted
    assert execution.FAILED not in str(execution.compiled(policy, functions).uncovered)
    return compiled


def alike(policy: Any, *events: Any, functions: Functions = (), is_covered: bool = True) -> None:
    """All events in one batch, each in a batch of its own, and all once more, when memos know them."""
    document = policy_document(policy, functions)
    lines = [line(data, number) for number, data in enumerate(events)]
    outputs(document, [lines, *([each] for each in lines), lines], functions)
    found = execution.compiled(document, functions)
    assert (found.code is not None) is is_covered, found.uncovered


def code_of(policy: Any) -> Generated:
    return generate(program(policy_document(policy)).policy)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code runs for the first event that comes, and for each alone."""
    monkeypatch.setattr(execution, "EVENTS_MIN", 0)
    monkeypatch.setattr(execution, "ROWS_MIN", 1)
    monkeypatch.setattr(execution, "RESTS_MAX", 0)
    execution.compiled.cache_clear()


# --- equal to the interpreter ------------------------------------------------------------------------------------

CASES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "elements of what is no array": {
        "mapping": {"fields": [{"from": "a", "to": "a", "each": [{"from": "b", "to": "c"}]}], "unmapped": "drop"}
    },
    "elements by default": {
        "mapping": {
            "fields": [{"from": "a", "to": "a", "default": None, "each": [{"from": "b", "to": "c"}]}],
            "unmapped": "drop",
        }
    },
    "a field that is kept has the name of one that is mapped": {
        "mapping": {"fields": [{"from": "x", "to": "a"}], "unmapped": "keep"},
        "coercion": [{"field": "a", "type": "number"}],
        "bounds": [{"field": "a", "max": 0}],
    },
    "a field that is kept has members that are mapped": {
        "mapping": {"fields": [{"from": "x", "to": "a.c"}], "unmapped": "keep"},
        "coercion": [{"field": "a.b", "type": "string"}],
        "rules": [{"name": "r", "check": "data.a.b == '1'"}],
    },
    "a constant that must grow": {
        "mapping": {"fields": [{"value": 1, "to": "a"}, {"from": "a", "to": "b"}], "unmapped": "drop"},
        "monotonic": [{"field": "a", "key": ["b"]}, {"field": "b", "key": ["a"]}],
    },
    "a constant that must grow, among others": {
        "mapping": {"fields": [{"value": "x", "to": "c"}]},
        "monotonic": [{"field": "c", "key": []}],
    },
    "units": {"coercion": [{"field": "a", "type": "number", "unit": {"from": "degF", "to": "degC"}}]},
    "numbers": {
        "coercion": [{"field": "a", "type": "number", "nullValues": ["", 0]}],
        "bounds": [{"field": "a", "max": 1}],
    },
    "integers": {
        "coercion": [{"field": "a", "type": "integer"}],
        "schema": {"properties": {"a": {"type": "integer"}}},
    },
    "truths": {"coercion": [{"field": "a", "type": "boolean"}], "rules": [{"name": "r", "check": "data.a == true"}]},
    "times": {
        "coercion": [{"field": "a", "type": "timestamp"}],
        "monotonic": [{"field": "a", "strict": False, "key": []}],
    },
    "decimals": {"coercion": [{"field": "a", "type": "decimal", "scale": 1, "rounding": "half-even"}]},
    "texts": {"coercion": [{"field": "a", "type": "string", "unicode": "NFKC", "trim": True}]},
    "what must be there": {"required": ["a", {"field": "a.b", "when": "data.a != 1"}], "schema": {"required": ["a"]}},
    "what is allowed": {"allowed": [{"field": "a", "values": [1, "1", True, None, 0.5]}]},
    "1 is not true": {"rules": [{"name": "r", "check": "data.a == 1 && data.a != true && data.a in [1, 0.5, '1']"}]},
    "order": {
        "rules": [
            {"name": "r", "check": "data.a < 1", "severity": "warning"},
            {"name": "s", "check": "'0' <= data.a"},
        ]
    },
    "work": {"rules": [{"name": "r", "check": "1 / data.a + 9007199254740991 * data.a % 7 > -data.a"}]},
    "absent is like null": {
        "rules": [{"name": "r", "when": "data.none == null", "check": "data.a == null || has(data.a)"}]
    },
    "loops": {
        "rules": [{"name": "r", "check": "data.a.map(v, v + 1).filter(w, w > 1).all(u, data.a.exists(x, x < u))"}]
    },
    "deep loops": {
        "rules": [{"name": "r", "check": "data.a.all(v, v.all(w, w.all(x, x.all(y, y.all(z, z == 1)))))"}]
    },
    "memory": {
        "memory": {"key": ["a.b"], "keep": ["a"]},
        "rules": [
            {"name": "r", "when": "has(last.a)", "check": "last.a == data.a"},
            {"name": "s", "check": "data.a > last.a"},
        ],
    },
    "steps, rates, duplicates": {
        "steps": [{"field": "a", "max": 1, "key": []}],
        "rates": [{"time": "a", "count": 2, "seconds": 1, "key": []}],
        "duplicates": [{"fields": ["a"], "key": ["a.b"], "events": 2, "severity": "info"}],
    },
    "levels": {
        "certification": {
            "levels": [{"when": "data.a > 0", "level": "enhanced"}, {"when": "data.a.b", "level": "critical"}],
            "rules": [{"name": "r", "check": "size(data) == 1 || data.a[0] == 1"}],
        }
    },
}


@pytest.mark.parametrize("name", CASES)
def test_cases(name: str) -> None:
    events: list[Any] = [{"a": value} for value in VALUES]
    events += [{"x": value} for value in VALUES[:8]] + [{"a": value, "x": 1} for value in VALUES[:8]]
    events += [
        None,
        1,
        "x",
        [],
        {},
        {"a": nested(30)},
        {"a": nested(31)},
        {"a": nested(60)},
        {"a": 1, "\U0001f600": 1},
    ]
    alike(CASES[name], *events)


@pytest.mark.parametrize("depth", range(50, 63))
def test_what_a_mapping_makes_too_deep(depth: int) -> None:
    fields = [{"from": "a", "to": "a.b.c.d.e.f.g.h"}]
    for unmapped in ("keep", "drop"):
        alike({"mapping": {"fields": fields, "unmapped": unmapped}}, {"a": nested(depth)}, {"a": 1}, {})


def raising(value: Any) -> Any:
    if value == 1:
        raise SystemExit
    if value == 2:
        return float("nan")
    return value


@pytest.mark.parametrize("check", ["acme.f(data.a)", "acme.f(data.a) == 3", "[1, data.a].exists(v, acme.f(v) == 3)"])
def test_functions_of_an_operator(check: str) -> None:
    functions = (Function(name="acme.f", version="1.0", hash=DIGEST, call=raising),)
    rules = [{"name": "r", "check": check}, {"name": "s", "when": check, "check": "data.a < 3"}]
    policy = {
        "functions": [{"name": "acme.f", "version": "1.0", "hash": DIGEST}],
        "rules": rules,
        "required": [{"field": "b", "when": check}],
        "certification": {"levels": [{"when": check, "level": "critical"}]},
    }
    alike(policy, *({"a": value} for value in [1, 2, 3, True, None, "x", [1]]), {}, None, functions=functions)


def test_the_start_of_a_policy_and_ends_of_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever runs in the interpreter because it is early, few, or follows much that is unusual."""
    monkeypatch.undo()
    policy = policy_document({"bounds": [{"field": "a", "max": 5}], "monotonic": [{"field": "b", "key": []}]})
    lines = [line({"a": number % 11, "b": number // 2}, number) for number in range(1_500)]
    outputs(policy, [lines[:1], lines[1:8], lines[8:300], lines[300:307], lines[307:], lines[:2]])
    assert execution.compiled(policy, ()).code is not None


def samples() -> Iterator[tuple[str, bytes, list[bytes]]]:
    for file in sorted(SAMPLES.glob("*.jsonl")):
        events = [json.loads(text) for text in file.read_text("utf-8").splitlines()]
        yield (
            file.stem,
            (ROOT / f"configs/policies/{file.stem}.json").read_bytes(),
            [
                record_line(
                    data=event["data"],
                    event_type=event["eventType"],
                    external_id=event["externalId"],
                    previous=None,
                    timestamp=event.get("timestamp"),
                )
                for event in events
            ],
        )
    recorded = json.loads(lzma.decompress((ROOT / "tests/node/vectors/github-deliveries.json.xz").read_bytes()))
    for kind, deliveries in sorted(recorded.items()):
        file = ROOT / f"configs/policies/github-{kind}.json"
        if file.exists():
            yield (
                f"github-{kind} recorded",
                file.read_bytes(),
                [line(data, number) for number, data in enumerate(deliveries)],
            )


@pytest.mark.parametrize(("name", "policy", "lines"), [pytest.param(*each, id=each[0]) for each in samples()])
def test_samples(name: str, policy: bytes, lines: list[bytes]) -> None:
    document = policy_document(json.loads(policy))
    outputs(document, [lines, lines[: len(lines) // 2], lines])
    for each in lines:
        outputs(document, [[each]])
    assert execution.compiled(document, ()).code is not None


@pytest.mark.parametrize("as_text", [False, True])
def test_the_weather_year(as_text: bool) -> None:
    with gzip.open(SAMPLES / "nyc-weather-2013.csv.gz", "rt", encoding="utf-8") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))

    def value(name: str, text: str) -> Any:
        if as_text or name in ("origin", "time_hour"):
            return text
        return None if text == "NA" else float(text)

    lines = [
        record_line(
            data={name: value(name, text) for name, text in row.items()},
            event_type="weather.observation",
            external_id=f"{row['origin']}-{row['time_hour']}",
            previous=None,
            timestamp=row["time_hour"],
        )
        for row in rows
    ]
    policy = policy_document(json.loads((ROOT / "configs/policies/weather.json").read_bytes()))
    outputs(policy, [lines[start : start + 2_000] for start in range(0, len(lines), 2_000)])
    assert execution.compiled(policy, ()).code is not None


# --- what policies put into code ---------------------------------------------------------------------------------


def is_writable(text: str) -> bool:
    """Whether an expression can have a text as a literal that JSON writes."""
    return not any(letter < " " and letter not in "\n\r\t" for letter in text)


def hostile_policy(text: str, written: str) -> dict[str, Any]:
    """A policy with a text wherever one may stand, and another in its expressions."""
    path = "/" + text.replace("~", "~0").replace("/", "~1")
    name, written = f"n{text[:9]}", json.dumps(written, ensure_ascii=False)
    return {
        "tables": {text: {text: text}, "t": {text: {text: 1}}},
        "mapping": {
            "fields": [
                {"from": path, "to": path + path, "default": text},
                {"from": path + path, "to": path + "/z", "each": [{"from": path, "to": path, "default": text}],
                 "columns": [text]},
                {"value": text, "to": f"{path}x"},
            ]
        },
        "coercion": [{"field": f"{path}x", "type": "string", "nullValues": [text]},
                     {"each": path + "y", "type": "number"}],
        "required": [path, {"field": path + path, "when": f"data[{written}] == {written}"}],
        "schema": {"properties": {text: {"$ref": "#/$defs/x", "title": text}},
                   "$defs": {"x": {"not": {"const": text}}}},
        "bounds": [{"field": path + "b", "min": 1}],
        "allowed": [{"field": path + path, "values": [text]}],
        "rules": [{"name": name, "check": f"data[{written}] == {written} || {written} in [{written}, 'y']",
                   "message": text, "field": path}],
        "monotonic": [{"field": path + path, "key": [path, path + "x"]}],
    }  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("unmapped", ["keep", "drop"])
def test_texts_of_a_policy_are_literals(text: str, unmapped: str) -> None:
    policy = hostile_policy(text, text if is_writable(text) else "x")
    policy["mapping"]["unmapped"] = unmapped
    events = [
        {},
        {text: text},
        {text: {text: text}},
        {text: {text: [[text], {text: 1}]}},
        {text + "x": [1], text + "y": [1]},
    ]
    document = policy_document(policy)
    outputs(document, [[line(data, number) for number, data in enumerate(events)]])
    found = execution.compiled(document, ())
    if found.code is None:
        assert found.uncovered == "it maps to a name that sorts in its own way"
        return
    assert found.code.text.isascii()
    tree = ast.parse(found.code.text)
    assert {type(part).__name__ for part in tree.body} == {"FunctionDef"}
    names = {part.id for part in ast.walk(tree) if isinstance(part, ast.Name)}
    attributes = {part.attr for part in ast.walk(tree) if isinstance(part, ast.Attribute)}
    plain = hostile_policy("ü", "ü" if is_writable(text) else "x")
    plain["mapping"]["unmapped"] = unmapped
    expected = ast.parse(code_of(plain).text)
    assert names == {part.id for part in ast.walk(expected) if isinstance(part, ast.Name)}
    assert attributes == {part.attr for part in ast.walk(expected) if isinstance(part, ast.Attribute)}


# --- bounds ------------------------------------------------------------------------------------------------------


def rules_of(check: Callable[[int], str], count: int) -> dict[str, Any]:
    return {"rules": [{"name": str(number), "check": check(number)} for number in range(count)]}


DEEP = "data.a"
for _ in range(15):
    DEEP = f"true?true||true&&({DEEP}):true"
LARGE: dict[str, dict[str, Any]] = {
    "many fields": rules_of(lambda rule: "||".join(f"has(data.a{rule}_{field})" for field in range(60)), 230),
    "many sets": rules_of(lambda rule: "||".join(["''in['']"] * 25), 256),
    "much code": rules_of(lambda rule: "[" + ",".join(["data.a"] * 120) + "]==1", 256),
    "deep code": rules_of(lambda rule: DEEP, 100),
    "long names": {
        "mapping": {
            "fields": [
                {"from": f"/s{field}", "to": "/" + "/".join(f"{'n' * 110}{field}{part}" for part in range(8))}
                for field in range(256)
            ],
            "unmapped": "drop",
        }
    },
}


@pytest.mark.parametrize("name", LARGE)
def test_the_code_of_the_largest_policies_is_bounded(name: str) -> None:
    document = policy_document(LARGE[name])
    assert len(document) > POLICY_BYTES_MAX // 10
    outputs(document, [[line({"a": number}, number) for number in range(9)]])
    found = execution.compiled(document, ())
    if found.code is None:
        assert "more than" in str(found.uncovered)
    else:
        assert len(found.code.text) <= CODE_CHARS_MAX


def test_the_number_of_fields_is_bounded() -> None:
    fields = " || ".join(f"has(data.f{number})" for number in range(10))
    assert code_of(rules_of(lambda rule: fields.replace(".f", f".g{rule}_"), LEAVES_MAX // 10))
    with pytest.raises(UncoveredError, match="fields"):
        code_of(rules_of(lambda rule: fields.replace(".f", f".g{rule}_"), LEAVES_MAX // 10 + 1))


def test_names_of_objects() -> None:
    environment = Environment()
    first, second = object(), object()
    assert [environment.name("x", each) for each in (first, second, first, second)] == ["x", "x_1", "x", "x_1"]
    assert environment.name("x_1", first) == "x_1_1"


def test_code_that_python_refuses_is_left_to_the_interpreter() -> None:
    with pytest.raises(UncoveredError, match="Python refuses"):
        run_code("def normalize(:", Environment())


def test_memos_are_bounded_together() -> None:
    memos, one, other = Memos(bytes_max=1_000), {"a": 1}, {"b"}
    memos.share(one)
    memos.share(other)
    memos.spend(600)
    assert (one, other) == ({"a": 1}, {"b"})
    memos.spend(600)
    assert (one, other) == ({}, set())


def test_few_events_are_worth_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    policy = policy_document({"required": ["a"]})
    lines = [line({"a": number}, number) for number in range(300)]
    outputs(policy, [lines[:250]])
    assert execution.compiled(policy, ()).code is None
    outputs(policy, [lines])
    assert execution.compiled(policy, ()).code is not None


def test_a_fault_of_generated_code_is_the_interpreter_s_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> Any:
        raise KeyError("a fault")

    policy = policy_document({"bounds": [{"field": "a", "min": 0, "max": 2}]})
    payload = b"\n".join(line({"a": number % 4}, number) for number in range(40))
    given: dict[str, Any] = {"network": "n", "source_id": "s", "payload": payload, "policy": policy, "context": b"{}"}
    wanted = roles.interpret(**given)
    made = execution.compiled(policy, ())
    assert roles.execute(**given) == wanted
    assert made.code is not None
    monkeypatch.setattr(roles, "run_batch", fail)
    assert roles.execute(**given) == wanted
    assert execution.FAILED in str(made.uncovered)
    execution.compiled.cache_clear()
