"""Every example of the policy guide is run: policies with events and results, the package, the commands."""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from agents.policy import SECTIONS, policy_document, policy_facts
from node.worker import plugins
from node.worker.policy_files import read_policy
from node.worker.policy_trials import Tried, try_policy

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "agents" / "README.md").read_text("utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EVENT = re.compile(r"(?P<data>.+?) +-> (?P<status>valid|invalid)(?: (?P<after>[\[{].*?[\]}]))?(?P<rest>(?:; .*)?)")


@attrs.frozen
class Example:
    """A policy with the lines of its events; ``lines`` is empty where the guide shows none."""

    policy: str
    lines: tuple[str, ...]


def blocks() -> list[tuple[str, str]]:
    return [(match[1], match[2]) for match in BLOCK.finditer(GUIDE)]


def examples() -> Iterator[Example]:
    found = blocks()
    for index, (language, text) in enumerate(found):
        if language == "yaml":
            follows = found[index + 1] if index + 1 < len(found) else ("", "")
            yield Example(text, tuple(follows[1].splitlines()) if follows[0] == "text" else ())


EXAMPLES = list(examples())


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Install the guide's package. Returns the hash of its module."""
    (source,) = (text for language, text in blocks() if language == "python")
    (project,) = (text for language, text in blocks() if language == "toml")
    name, module = re.findall(r'^"(.+)" = "(.+)"$', project, re.MULTILINE)[0]
    (tmp_path / f"{module.partition(':')[0]}.py").write_text(source)
    info = tmp_path / "acme_rules-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-rules\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[overlay_node.functions]\n{name} = {module}\n")
    monkeypatch.syspath_prepend(tmp_path)
    plugins.forget()
    yield hashlib.sha256(source.encode()).hexdigest()
    plugins.forget()
    sys.modules.pop("acme_rules", None)


def parsed(line: str) -> tuple[Any, str, Any, list[str], str | None]:
    """The data of an event, and its result: status, normalized data, issues, level."""
    match = EVENT.fullmatch(line)
    assert match is not None, f"not an event with its result: {line}"
    parts = [part for part in match["rest"].split("; ") if part]
    level = next((part.removeprefix("level ") for part in parts if part.startswith("level ")), None)
    issues = [part for part in parts if not part.startswith("level ")]
    data = json.loads(match["data"])
    after = ... if match["after"] is None else json.loads(match["after"])
    return data, match["status"], after, issues, level


def as_shown(tried: Tried) -> list[str]:
    return sorted(f"{issue['severity']} {issue['rule']} at {issue['path'] or '(event)'}" for issue in tried.issues)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.policy.split(":")[0])
def test_an_example_does_what_the_guide_shows(example: Example, package: str) -> None:
    value = read_policy(example.policy.replace("HASH", package).encode(), yaml=True)
    document = policy_document(value, plugins.catalogue())
    wanted = [parsed(line) for line in example.lines]
    events = [
        {"externalId": str(index), "eventType": "reading", "data": data} for index, (data, *_) in enumerate(wanted)
    ]
    tried, _ = try_policy(document, events)
    for line, (data, status, after, issues, level), each in zip(example.lines, wanted, tried, strict=True):
        assert (each.status, as_shown(each), each.level) == (status, sorted(issues), level), line
        if status == "valid":
            assert each.after == (data if after is ... else after), line


def test_the_guide_shows_every_section_of_a_policy() -> None:
    shown: set[str] = set().union(*(read_policy(each.policy.encode(), yaml=True) for each in EXAMPLES))  # type: ignore[arg-type]
    assert set(SECTIONS) - shown == {"version"}


def test_what_certification_says_beside_levels() -> None:
    (example,) = (each for each in EXAMPLES if each.policy.startswith("certification"))
    facts = policy_facts(policy_document(read_policy(example.policy.encode(), yaml=True)))
    assert (facts.level, facts.strictest_level, facts.retention_days) == ("basic", "critical", 400)
    (example,) = (each for each in EXAMPLES if each.policy.startswith("onConflict"))
    facts = policy_facts(policy_document(read_policy(example.policy.encode(), yaml=True)))
    assert (facts.on_conflict, facts.is_volatile) == ("reject", True)


def test_what_a_function_raises_is_what_the_guide_says(package: str) -> None:
    (example,) = (each for each in EXAMPLES if each.policy.startswith("functions"))
    value = read_policy(example.policy.replace("HASH", package).encode(), yaml=True)
    event = {"externalId": "e", "eventType": "t", "data": {"value": "nine"}}
    (tried,), _ = try_policy(policy_document(value, plugins.catalogue()), [event])
    assert f"`{tried.issues[0]['found']['error']}`" in GUIDE


def commands() -> Iterator[tuple[list[str], str]]:
    """Each command of the guide's consoles, with the line that it prints."""
    for language, text in blocks():
        if language == "console":
            lines = text.splitlines()
            yield from ((lines[at].split()[2:], lines[at + 1]) for at in range(0, len(lines), 2))


@pytest.mark.parametrize(("arguments", "printed"), list(commands()), ids=lambda part: str(part[1]))
def test_a_command_prints_what_the_guide_shows(arguments: list[str], printed: str) -> None:
    done = subprocess.run([sys.executable, "-m", "node", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert printed in done.stdout


def test_the_guide_names_every_module() -> None:
    table = GUIDE.rpartition("## How it is built")[2]
    named = set(re.findall(r"`(\w+)`", table))
    modules = {file.stem for file in (ROOT / "agents").glob("*.py")} - {"__init__"}
    assert modules <= named
