"""The same bytes on another Python, in other processes, and for a million numbers."""

import json
import math
import random
import shutil
import struct
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import rfc8785

from agents.interpreter import program
from agents.policy import policy_document
from protocols.canonical import canonical_json

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("attrs", "jiter", "jsonschema-rs", "orjson", "rfc8785")
DOUBLES = 1_000_000
AT_ONCE = 1_000

# Every ready policy over its samples, twice in a row, in one process or in several.
PROGRAM = """
import hashlib, json, sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from agents.policy import policy_document
from agents.roles import execute
from protocols.identifiers import record_line

def run(name):
    policy = policy_document(json.loads(Path(f"configs/policies/{name}.json").read_bytes()))
    lines = []
    for text in Path(f"configs/samples/{name}.jsonl").read_text("utf-8").splitlines():
        event = json.loads(text)
        lines.append(record_line(data=event["data"], event_type=event["eventType"], external_id=event["externalId"],
                                 previous=None, timestamp=event.get("timestamp")))
    context, digest = b"{}", hashlib.sha256()
    for _ in range(2):
        output = execute(network="n", source_id="s", payload=b"\\n".join(lines), policy=policy, context=context)
        context = output.context_out
        digest.update(output.output_root + output.normalized_root + output.leaves + output.normalized + context)
    return name, digest.hexdigest()

if __name__ == "__main__":
    names = sorted(file.stem for file in Path("configs/samples").glob("*.jsonl"))
    if len(sys.argv) > 1:
        with ProcessPoolExecutor(int(sys.argv[1])) as pool:
            found = dict(pool.map(run, names))
    else:
        found = dict(map(run, names))
    print(json.dumps(found, sort_keys=True))
"""


def digests(python: str, program_file: Path, *arguments: str) -> dict[str, str]:
    done = subprocess.run(
        [python, str(program_file), *arguments],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


def other_python() -> str | None:
    """An interpreter of another minor version, 3.12 or later."""
    names = ("python3.13", "python3.12", "python3.14")
    known = [python for name in names if (python := shutil.which(name)) is not None]
    known += [str(file) for file in sorted(Path.home().glob(".pyenv/versions/3.1[2-9].*/bin/python"), reverse=True)]
    works = (subprocess.run([python, "-c", "import venv"], capture_output=True).returncode == 0 for python in known)
    return next((python for python, starts in zip(known, works, strict=True) if starts), None)


@pytest.fixture
def program_file(tmp_path: Path) -> Path:
    file = tmp_path / "run_samples.py"
    file.write_text(PROGRAM)
    return file


def test_the_number_of_processes_does_not_matter(program_file: Path) -> None:
    alone = digests(sys.executable, program_file)
    assert len(alone) == 6
    assert digests(sys.executable, program_file, "1") == alone
    assert digests(sys.executable, program_file, "4") == alone


@pytest.mark.slow
def test_another_python_gives_the_same_bytes(program_file: Path, tmp_path: Path) -> None:
    python = other_python()
    if python is None:
        pytest.skip("there is no other Python on this machine")
    subprocess.run([python, "-m", "venv", str(tmp_path / "venv")], check=True, capture_output=True)
    other = str(tmp_path / "venv" / "bin" / "python")
    wanted = [f"{name}=={version(name)}" for name in PACKAGES]
    installed = subprocess.run([other, "-m", "pip", "install", "--quiet", *wanted], capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"the packages of the agents are not to be had for it: {installed.stderr.strip()[-200:]}")
    assert digests(other, program_file) == digests(sys.executable, program_file)


def numbers() -> list[float]:
    rng = random.Random(8785)
    found: list[float] = []
    while len(found) < DOUBLES:
        values = struct.unpack(f"<{AT_ONCE}d", rng.randbytes(8 * AT_ONCE))
        found += [value for value in values if math.isfinite(value)]
    return found[:DOUBLES]


@pytest.mark.slow
def test_a_million_doubles_are_written_as_the_reference_writes_them() -> None:
    """Wherever canonical bytes are made: in a document, and by a policy's own encoder of its fields."""
    fields = [f"f{index}" for index in range(10)]
    mapped = {"mapping": {"fields": [{"from": name, "to": name} for name in fields], "unmapped": "drop"}}
    rules = program(policy_document(mapped))
    values = numbers()
    for start in range(0, DOUBLES, AT_ONCE):
        part = values[start : start + AT_ONCE]
        assert canonical_json(part) == rfc8785.dumps(part)
    for start in range(0, DOUBLES // 10, len(fields)):
        data: dict[str, Any] = dict(zip(fields, values[start : start + len(fields)], strict=True))
        record = {"data": data, "eventType": "t", "externalId": None, "previous": None, "timestamp": None}
        _, encoded, _ = rules.normalize(record)
        assert encoded == rfc8785.dumps(data)
