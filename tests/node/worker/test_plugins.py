"""An operator's packages: found without running them, loaded when a policy names them, harmless when they fail."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agents.functions import MissingFunctionError
from node.runtime.workers import Workers
from node.worker import compute, plugins
from protocols.errors import InvalidPolicyError
from protocols.identifiers import record_line
from tests.node.operator_packages import MISBEHAVING, declared, install, rule_policy


def marking(marker: Path) -> str:
    return f"open({str(marker)!r}, 'a').write('imported')\ndef f(value):\n    return True\n"


def test_the_catalogue_imports_nothing(site: Path) -> None:
    marker = site / "marker"
    entry = install(site, "marking", marking(marker))
    assert declared(entry) in plugins.catalogue()
    assert not marker.exists()
    assert "marking" not in sys.modules
    assert [function.name for function in plugins.functions_for(rule_policy(entry))] == ["acme.marking"]
    assert marker.read_text() == "imported"


def test_a_module_within_a_package_is_found_without_importing_the_package(site: Path) -> None:
    marker = site / "marker"
    entry = install(site, "outer.inner", "def f(value):\n    return True\n")
    (site / "outer" / "__init__.py").write_text(marking(marker))
    assert declared(entry) in plugins.catalogue()
    assert not marker.exists()
    (loaded,) = plugins.functions_for(rule_policy(entry))
    assert loaded.call(1) is True


def test_only_the_functions_that_a_policy_names_are_loaded(site: Path) -> None:
    marker = site / "marker"
    install(site, "marking", marking(marker))
    entry = install(site, "calm", "def f(value):\n    return value\n")
    assert [function.name for function in plugins.functions_for(rule_policy(entry))] == ["acme.calm"]
    assert plugins.functions_for(b"{}") == ()
    assert plugins.functions_for(b'{"rules":[{"check":"data.x == \\"functions\\"","name":"r"}]}') == ()
    assert not marker.exists()


def test_a_wrong_policy_loads_nothing(site: Path) -> None:
    marker = site / "marker"
    entry = install(site, "marking", marking(marker))
    with pytest.raises(InvalidPolicyError):
        plugins.functions_for(rule_policy(entry).replace(b'"rules"', b'"ruled"'))
    assert not marker.exists()


@pytest.mark.parametrize(
    "source",
    [
        "raise ValueError('at import')",
        "raise SystemExit(1)",
        "raise KeyboardInterrupt",
        "def f(value)",
        "import a_module_that_is_not_there",
        "f = 5",
        "def g(value):\n    return True",
    ],
)
def test_what_cannot_be_loaded_is_missing(site: Path, source: str) -> None:
    entry = install(site, "broken", source)
    other = install(site, "calm", "def f(value):\n    return True\n")
    assert declared(entry) in plugins.catalogue()
    assert plugins.functions_for(rule_policy(entry)) == ()
    assert len(plugins.functions_for(rule_policy(other))) == 1


def test_metadata_that_cannot_be_used_declares_nothing(site: Path) -> None:
    entry = install(site, "calm", "def f(value):\n    return True\n")
    install(site, "gone", "def f(value):\n    return True\n")
    (site / "gone.py").unlink()
    install(site, "builtin", "")
    (site / "builtin-1.0.dist-info" / "entry_points.txt").write_text("[overlay_node.functions]\nacme.s = sys:exit\n")
    install(site, "garbled", "")
    (site / "garbled-1.0.dist-info" / "entry_points.txt").write_text("[overlay_node.functions]\nacme.g = ::\n")
    install(site, "unreadable", "")
    (site / "unreadable.py").unlink()
    (site / "unreadable.py").mkdir()
    names = [function.name for function in plugins.catalogue() if function.name.startswith("acme.")]
    assert names == [entry["name"]]


def test_other_code_under_the_same_name_and_version_is_another_function(site: Path) -> None:
    entry = install(site, "calm", "def f(value):\n    return True\n")
    (site / "calm.py").write_text("def f(value):\n    return False\n")
    assert declared(entry) not in plugins.catalogue()
    assert plugins.functions_for(rule_policy(entry)) == ()


def test_a_callable_object_need_not_be_hashable(site: Path) -> None:
    source = "class F:\n    __hash__ = None\n    def __call__(self, value):\n        return True\nf = F()\n"
    entry = install(site, "calm", source)
    run = compute.run_roles(policy=rule_policy(entry), **batch("yes"), keep_outputs=True)
    assert run.findings.valid == 1


def batch(*values: str) -> dict[str, Any]:
    lines = [
        record_line(data={"v": value}, event_type="t", external_id=str(index), previous=None, timestamp=None)
        for index, value in enumerate(values)
    ]
    return {"network": "n", "source_id": "s", "packed": compute.pack(b"\n".join(lines)), "context": b"{}"}


async def test_in_a_worker_what_a_function_raises_is_an_issue_of_its_event(site: Path) -> None:
    entry = install(site, "misbehaving", MISBEHAVING)
    values = ("yes", "key", "exit", "interrupt", "odd", "yes")
    call = partial(compute.run_roles, policy=rule_policy(entry), keep_outputs=True, **batch(*values))
    async with Workers(1) as workers:
        run = await workers.execute(call)
        again = await workers.execute(call)
    leaves = [json.loads(line) for line in run.leaves.split(b"\n")]
    assert [leaf["status"] for leaf in leaves] == ["valid", *["invalid"] * 4, "valid"]
    assert [leaf["issues"][0]["found"]["error"] for leaf in leaves if leaf["issues"]] == [
        "acme.misbehaving() raised KeyError",
        "acme.misbehaving() raised SystemExit",
        "acme.misbehaving() raised KeyboardInterrupt",
        "acme.misbehaving() returned what is not a JSON value",
    ]
    assert again.findings == run.findings


async def test_in_a_worker_a_function_that_is_gone_is_missing(site: Path) -> None:
    entry = install(site, "broken", "raise SystemExit(1)")
    call = partial(compute.run_roles, policy=rule_policy(entry), keep_outputs=False, **batch("yes"))
    async with Workers(1) as workers:
        with pytest.raises(MissingFunctionError) as missing:
            await workers.execute(call)
    assert missing.value.fields == entry
