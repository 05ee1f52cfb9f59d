"""An operator's functions in policies: whatever they raise, return or do is an issue of the event, no more."""

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agents.evaluation import RETURNED_VALUES_MAX
from agents.functions import DeclaredFunction, Function, MissingFunctionError
from agents.policy import compile_policy, policy_document, policy_facts
from agents.roles import BatchOutput, event_level, execute
from protocols.canonical import canonical_json
from protocols.errors import InvalidPolicyError
from protocols.identifiers import record_line

DIGEST = "ab" * 32
DECLARED = [{"name": "acme.f", "version": "1.0", "hash": DIGEST}]


def policy_of(**sections: Any) -> Any:
    return {"functions": DECLARED, **sections}


def run(call: Callable[..., Any], *events: Any, **sections: Any) -> BatchOutput:
    """Run events, given as their data, under a policy that names one function, ``acme.f``."""
    functions = (Function(name="acme.f", version="1.0", hash=DIGEST, call=call),)
    lines = [
        record_line(data=data, event_type="t", external_id=str(index), previous=None, timestamp=None)
        for index, data in enumerate(events)
    ]
    return execute(
        network="n",
        source_id="s",
        payload=b"\n".join(lines),
        policy=policy_document(policy_of(**sections), functions),
        context=b"{}",
        functions=functions,
    )


def checked(call: Callable[..., Any], *events: Any, check: str = "acme.f(data.v) == 1") -> list[Any]:
    """What the rule ``r`` found in each event; None where it holds."""
    output = run(call, *events, rules=[{"name": "r", "check": check}])
    leaves = [json.loads(line) for line in output.leaves.split(b"\n")]
    return [leaf["issues"][0]["found"] if leaf["issues"] else None for leaf in leaves]


class OddError(BaseException):
    def __str__(self) -> str:
        raise RuntimeError("not even its text can be read")


class NamelessMeta(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise RuntimeError("not even its name can be read")


class NamelessError(Exception, metaclass=NamelessMeta):
    pass


def raising(error: BaseException | type[BaseException]) -> Callable[..., Any]:
    def call(value: Any) -> Any:
        if value == "bad":
            raise error
        return 1

    return call


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (KeyError("no such station"), "KeyError"),
        (ValueError("at 0x7f3a"), "ValueError"),
        (TypeError, "TypeError"),
        (ZeroDivisionError, "ZeroDivisionError"),
        (AttributeError, "AttributeError"),
        (RecursionError, "RecursionError"),
        (MemoryError, "MemoryError"),
        (OSError(2, "no file", "/home/someone"), "FileNotFoundError"),
        (StopIteration, "StopIteration"),
        (GeneratorExit, "GeneratorExit"),
        (KeyboardInterrupt, "KeyboardInterrupt"),
        (SystemExit(3), "SystemExit"),
        (BaseExceptionGroup("several", [KeyError("a"), SystemExit(1)]), "BaseExceptionGroup"),
        (OddError(), "OddError"),
        (NamelessError(), "NamelessError"),
        (type("E" * 200, (Exception,), {}), "E" * 64),
    ],
)
def test_whatever_a_function_raises_is_an_issue_that_names_its_type_alone(
    error: BaseException | type[BaseException], name: str
) -> None:
    found = checked(raising(error), {"v": "good"}, {"v": "bad"}, {"v": "good"})
    assert found == [None, {"error": f"acme.f() raised {name}"}, None]


def test_endless_recursion_is_an_issue() -> None:
    def call(value: Any) -> Any:
        return call(value)

    assert checked(call, {"v": 1}) == [{"error": "acme.f() raised RecursionError"}]


def test_the_same_batch_gives_the_same_bytes_though_messages_differ() -> None:
    """Messages hold addresses, paths and counters; an issue is signed, and compared with those of other agents."""
    calls = iter(range(1_000))

    def call(value: Any) -> Any:
        raise LookupError(f"call {next(calls)} for {object()!r}")

    rules = [{"name": "r", "check": "acme.f(data.v)"}]
    outputs = {canonical_json(run(call, {"v": 1}, rules=rules).leaves.decode()) for _ in range(3)}
    assert len(outputs) == 1


class Text(str):
    __slots__ = ()


def deep(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def cyclic() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


NOT_JSON = "acme.f() returned what is not a JSON value"
NO_NUMBER = "a number that JSON cannot hold"


@pytest.mark.parametrize(
    ("result", "why"),
    [
        (object(), NOT_JSON),
        ({1, 2}, NOT_JSON),
        ((1, 2), NOT_JSON),
        (b"bytes", NOT_JSON),
        (Text("a subclass"), NOT_JSON),
        ({1: "a"}, NOT_JSON),
        ({"a": object()}, NOT_JSON),
        ("\ud800", NOT_JSON),
        ({"\ud800": 1}, NOT_JSON),
        (Exception("returned"), NOT_JSON),
        (float("nan"), NO_NUMBER),
        (float("inf"), NO_NUMBER),
        ([float("-inf")], NO_NUMBER),
        (2**53, NO_NUMBER),
        (10**4_000, NO_NUMBER),
        (1e17, NO_NUMBER),
        ("x" * 65_537, "a text of more than 65536 characters"),
        ([0] * RETURNED_VALUES_MAX, "acme.f() returned more than 10000 values"),
        (deep(100), "acme.f() returned a value nested deeper than 64"),
        (cyclic(), "acme.f() returned a value nested deeper than 64"),
    ],
)
def test_what_a_function_returns_beyond_json_is_an_issue(result: Any, why: str) -> None:
    assert checked(lambda value: result, {"v": 1}) == [{"error": why}]


@pytest.mark.parametrize(
    ("result", "check"),
    [
        (True, "acme.f(data.v)"),
        (1.0, "acme.f(data.v) == 1"),
        (1.0, "[5, 6][acme.f(data.v)] == 6"),
        ("x" * 65_536, "size(acme.f(data.v)) == 65536"),
        ({"a": [1, {"b": "c"}]}, "acme.f(data.v).a[1].b == 'c'"),
        ([0] * (RETURNED_VALUES_MAX - 1), "size(acme.f(data.v)) == 9999"),
        (deep(60), "size(acme.f(data.v)) == 1"),
        ("\U0001f321", "size(acme.f(data.v)) == 1"),
        (None, "acme.f(data.v) == null"),
        (None, "acme.f(data.v) > 1"),  # null where a number is needed: the rule skips the event
        ([None, False, 2], "acme.f(data.v)[2] == 2"),
    ],
)
def test_json_values_are_what_a_function_may_return(result: Any, check: str) -> None:
    assert checked(lambda value: result, {"v": 1}, check=check) == [None]


def test_a_function_cannot_change_the_event_that_it_is_shown() -> None:
    def call(value: Any) -> Any:
        value["inner"].append("changed")
        value.clear()
        return 1

    event = {"v": {"inner": [1]}}
    output = run(
        call,
        event,
        rules=[
            {"name": "changes", "check": "acme.f(data.v) == 1"},
            {"name": "sees", "check": "size(data.v.inner) == 1 && data.v.inner[0] == 1"},
        ],
    )
    assert output.valid == 1
    assert json.loads(output.normalized) == event


def test_a_function_cannot_change_the_tables_of_the_policy() -> None:
    def call(table: Any) -> Any:
        table["EWR"]["elevation"] = 9_000
        return 1

    rules = [
        {"name": "changes", "check": "acme.f(tables.stations) == 1"},
        {"name": "sees", "check": "tables.stations.EWR.elevation == 3"},
    ]
    output = run(call, {"v": 1}, {"v": 2}, tables={"stations": {"EWR": {"elevation": 3}}}, rules=rules)
    assert output.valid == 2


def test_what_a_function_returned_does_not_change_afterwards() -> None:
    """It may keep its result and change it in the next call."""
    kept: list[int] = []

    def call(value: Any) -> Any:
        kept.append(value)
        return kept

    assert checked(call, {"v": 1}, check="[acme.f(data.v), acme.f(data.v)].map(l, size(l)) == [1, 2]") == [None]


def test_a_condition_whose_function_fails_applies() -> None:
    """What a condition guards is the stricter choice."""
    required = [{"field": "w", "when": "acme.f(data.v) == 1"}]
    output = run(raising(KeyError), {"v": "bad"}, {"v": "good"}, {"v": "bad", "w": 1}, required=required)
    assert (output.valid, output.invalid) == (1, 2)


def test_a_level_whose_function_fails_is_asked_for() -> None:
    functions = (Function(name="acme.f", version="1.0", hash=DIGEST, call=raising(SystemExit)),)
    levels = [{"when": "acme.f(data.v) == 2", "level": "critical"}]
    policy = policy_document(policy_of(certification={"levels": levels}), functions)
    lines = [
        record_line(data={"v": value}, event_type="t", external_id="e", previous=None, timestamp=None)
        for value in ("good", "bad")
    ]
    assert [event_level(policy, line, functions) for line in lines] == [None, "critical"]


def test_an_exception_keeps_its_severity_and_place() -> None:
    rule = {"name": "r", "check": "acme.f(data.v)", "field": "v", "severity": "warning"}
    output = run(raising(KeyError), {"v": "bad"}, rules=[rule])
    (issue,) = json.loads(output.leaves)["issues"]
    assert (issue["severity"], issue["path"], output.valid) == ("warning", "/v", 1)


# --- declared, and not loaded -------------------------------------------------------------------------------------

CERTIFICATION = {
    "level": "basic",
    "levels": [{"when": "acme.f(data.v)", "level": "critical"}, {"when": "data.v > 1", "level": "enhanced"}],
    "retention": {"days": 30},
}


@pytest.fixture
def no_functions() -> Iterator[None]:
    """Nothing of this test may load a module."""
    before = set(sys.modules)
    yield
    assert not {name for name in set(sys.modules) - before if name.startswith("acme")}


@pytest.mark.usefixtures("no_functions")
def test_facts_of_a_policy_need_none_of_its_functions() -> None:
    value = policy_of(
        certification=CERTIFICATION,
        onConflict="reject",
        volatility="high",
        rules=[{"name": "r", "check": "acme.f(data.v)"}],
        rates=[{"time": "t", "count": 1, "seconds": 1}],
    )
    facts = policy_facts(canonical_json(value))
    assert (facts.level, facts.raised_levels, facts.strictest_level) == (
        "basic",
        ("critical", "enhanced"),
        "critical",
    )
    assert (facts.stateful, facts.on_conflict, facts.is_volatile, facts.retention_days) == (True, "reject", True, 30)
    assert facts.functions == (DeclaredFunction(name="acme.f", version="1.0", hash=DIGEST),)
    assert facts.rule_kinds == ("rule", "rate")
    with pytest.raises(MissingFunctionError):
        compile_policy(canonical_json(value))


def test_facts_of_an_empty_policy() -> None:
    facts = policy_facts(b"{}")
    assert (facts.level, facts.raised_levels, facts.strictest_level) == (None, (), None)
    assert (facts.stateful, facts.on_conflict, facts.retention_days) == (False, "version", None)
    assert (facts.functions, facts.rule_kinds) == ((), ())


def test_a_declaration_is_enough_to_check_a_policy_and_not_to_run_it() -> None:
    declared = (DeclaredFunction(name="acme.f", version="1.0", hash=DIGEST),)
    document = policy_document(policy_of(rules=[{"name": "r", "check": "acme.f(data.v)"}]), declared)
    with pytest.raises(MissingFunctionError):
        compile_policy(document)
    with pytest.raises(MissingFunctionError, match=r"acme\.f 1\.0"):
        policy_document(policy_of(), ())


@pytest.mark.parametrize(
    ("functions", "path"),
    [
        ([*DECLARED, *DECLARED], "/functions/1"),
        ([{"name": "acme.f", "version": "1.0"}], "/functions/0"),
        ([{"name": "acme.f", "version": 1, "hash": DIGEST}], "/functions/0/version"),
        ([{"name": "acme.f", "version": "1.0", "hash": DIGEST, "path": "/tmp"}], "/functions/0/path"),
        ("acme.f", "/functions"),
        ([{"name": f"f{index}", "version": "1", "hash": DIGEST} for index in range(17)], "/functions"),
    ],
)
def test_facts_are_of_checked_policies_alone(functions: Any, path: str) -> None:
    with pytest.raises(InvalidPolicyError) as refused:
        policy_facts(canonical_json({"functions": functions}))
    assert refused.value.fields["path"] == path


def test_an_expression_that_calls_what_is_not_named_is_refused() -> None:
    with pytest.raises(InvalidPolicyError, match="the name 'acme' is not known here"):
        policy_facts(canonical_json({"rules": [{"name": "r", "check": "acme.f(data.v)"}]}))


# --- names, versions and code ---------------------------------------------------------------------------------------


def half(value: float) -> float:
    return value / 2


HALF = Function(name="acme.half", version="1.0", hash="ab" * 32, call=half)
NAMED = {"functions": [{"name": "acme.half", "version": "1.0", "hash": "ab" * 32}]}


def test_a_policy_runs_with_the_very_functions_it_names() -> None:
    policy = policy_document(NAMED | {"rules": [{"name": "r", "check": "acme.half(data.v) < 5"}]}, (HALF,))
    payload = b"\n".join(
        record_line(data={"v": value}, event_type="t", external_id=str(value), previous=None, timestamp=None)
        for value in (9, 10)
    )
    output = execute(network="n", source_id="s", payload=payload, policy=policy, context=b"{}", functions=(HALF,))
    assert (output.valid, output.invalid) == (1, 1)
    with pytest.raises(MissingFunctionError, match=r"acme\.half"):
        execute(network="n", source_id="s", payload=payload, policy=policy, context=b"{}")


@pytest.mark.parametrize("changes", [{"version": "1.1"}, {"hash": "cd" * 32}, {"name": "acme.third"}])
def test_another_version_or_other_code_is_another_function(changes: dict[str, str]) -> None:
    wanted = {"functions": [{**NAMED["functions"][0], **changes}]}
    with pytest.raises(MissingFunctionError):
        policy_document(wanted, (HALF,))
