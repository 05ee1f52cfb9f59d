"""Generated code gives the bytes of the interpreter, for any policy and any records."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents import roles
from agents.compiler import execution
from agents.compiler.source import REFUSED
from agents.functions import MissingFunctionError
from agents.policy import policy_document
from agents.roles import BatchOutput
from protocols.errors import InvalidPolicyError, MalformedError
from tests.agents import policy_strategies as made

SETTINGS = settings(
    deadline=None,
    max_examples=int(os.environ.get("COMPILER_EXAMPLES", "200")),
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.filter_too_much,
        HealthCheck.function_scoped_fixture,
        HealthCheck.data_too_large,
    ],
)
BATCHES = st.lists(st.lists(made.lines(), min_size=1, max_size=12), min_size=1, max_size=3)


@pytest.fixture(autouse=True, scope="module")
def small_runs() -> Iterator[None]:
    """Few events are run together, so that few events have all that there is at the ends of runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execution, "EVENTS_MIN", 0)
        patch.setattr(execution, "ROWS_MIN", 1)
        patch.setattr(execution, "ROWS_MAX", 7)
        patch.setattr(execution, "RESTS_MAX", 0)
        yield


def outputs(function: Any, policy: bytes, batches: Sequence[bytes]) -> list[BatchOutput | str]:
    found: list[BatchOutput | str] = []
    context = b"{}"
    for payload in batches:
        try:
            output = function(network="n", source_id="s", payload=payload, policy=policy, context=context)
        except MalformedError as error:
            found.append(str(error))
            continue
        context = output.context_out
        found.append(output)
    return found


def assert_alike(value: Any, batches: Sequence[Sequence[bytes]]) -> None:
    try:
        policy = policy_document(value)
    except (InvalidPolicyError, MissingFunctionError):
        return
    payloads = [b"\n".join(lines) for lines in batches]
    execution.compiled.cache_clear()
    compiled = outputs(roles.execute, policy, payloads)
    interpreted = outputs(roles.interpret, policy, payloads)
    assert compiled == interpreted
    assert REFUSED not in str(execution.compiled(policy, ()).uncovered)
    assert outputs(roles.execute, policy, payloads) == interpreted, "with memos that know the values"
    assert execution.FAILED not in str(execution.compiled(policy, ()).uncovered)


@SETTINGS
@given(made.POLICIES, BATCHES)
def test_rules_about_events_alone(policy: dict[str, Any], batches: list[list[bytes]]) -> None:
    assert_alike(policy, batches)


@SETTINGS
@given(made.STATEFUL, BATCHES)
def test_rules_about_the_past(policy: dict[str, Any], batches: list[list[bytes]]) -> None:
    assert_alike(policy, batches)


@SETTINGS
@given(made.REMEMBERING, BATCHES)
def test_rules_that_remember(policy: dict[str, Any], batches: list[list[bytes]]) -> None:
    assert_alike(policy, batches)


@SETTINGS
@given(made.CONDITIONS, made.CONDITIONS, BATCHES)
def test_expressions(when: str, check: str, batches: list[list[bytes]]) -> None:
    rules = [{"name": "one", "check": check}, {"name": "two", "when": when, "check": check}]
    assert_alike({"tables": {"t": {"EWR": {"high": 45}, "ok": {}}}, "rules": rules}, batches)
