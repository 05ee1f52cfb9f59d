"""Every answer is as the description has it: schemathesis, with all its checks, as each kind of caller.

Slow, and derandomized: the same requests every time. ``SCHEMA_EXAMPLES=200 SCHEMA_SEED=7`` makes a longer run with
other requests. What deviates from its defaults stands in ``schemathesis.toml``, with reasons, and what no schema
expresses in ``rules_in_words.py``. WebSockets are not part of OpenAPI and have their own tests.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import pytest

from node.calling import SignedRequests
from protocols.keys import PrivateKey
from tests.node.described_answers import description
from tests.node.node_process import ROOT, RunningNode, counted, environment, running_process
from tests.schema.seeding import Send, plant

SECRETS: Final = {"reader": b"\1" * 32, "owner": b"\2" * 32, "operator": b"\3" * 32}
NODE_SECRET: Final = b"\7" * 32
PUBLIC: Final = "events,stream,network,lookup,objects"  # others need a role, so that callers differ
RUN_S: Final = 3_000.0
LINE_MAX: Final = 1_000
EXAMPLES: Final = os.environ.get("SCHEMA_EXAMPLES", "5")
SEED: Final = os.environ.get("SCHEMA_SEED")
UNREACHED: Final = {
    "GET /overlay/dead-letters/{batchId}": "no batch is dead on a node that certifies all of its own",
    "POST /overlay/dead-letters/{batchId}/replay": "the same",
    "GET /openapi.json": "it is read first, and not again",
}
"""Operations that no request of the run succeeds at, with the reason."""

pytestmark = pytest.mark.slow


@pytest.fixture
def node(tmp_path: Path, postgres_url: str) -> Iterator[RunningNode]:
    key = tmp_path / "identity.key"
    key.write_text(NODE_SECRET.hex())
    key.chmod(0o600)
    keys = {f"overlay_{name}_keys": PrivateKey(secret).identity.hex() for name, secret in SECRETS.items()}
    settings = {"overlay_public_reads": PUBLIC, "event_stream_heartbeat_interval_ms": "100", **keys}
    with running_process(environment(tmp_path, postgres_url, **settings)) as started:
        started.until("node.ready")
        assert started.process.stderr is not None
        with (tmp_path / "node.log").open("w") as log:  # read on, or the node would wait for it
            reading = threading.Thread(target=shutil.copyfileobj, args=(started.process.stderr, log), daemon=True)
            reading.start()
            yield started
            started.process.kill()
            reading.join()


def sender(node: RunningNode, secret: bytes | None) -> Send:
    ready = node.lines[-1]
    auth = None if secret is None else SignedRequests(PrivateKey(secret), bytes.fromhex(ready["identity"]))
    client = httpx.Client(base_url=ready["url"], auth=auth, timeout=60)
    return lambda method, path, document: client.request(method, path, json=document)


@pytest.mark.parametrize("caller", ["anonymous", *SECRETS])
def test_every_answer_is_as_described(node: RunningNode, tmp_path: Path, caller: str) -> None:
    secret = SECRETS.get(caller)
    identity = None if secret is None else PrivateKey(secret).identity.hex()
    known = plant(
        sender(node, SECRETS["operator"]), sender(node, secret), identity, may_create=caller in ("owner", "operator")
    )
    report = tmp_path / "report.ndjson"
    told = {
        "PYTHONPATH": str(ROOT),
        "SCHEMA_NODE": node.lines[-1]["identity"],
        "SCHEMA_CALLER": "" if secret is None else secret.hex(),
        "SCHEMA_OPERATOR": SECRETS["operator"].hex(),
        "SCHEMA_KNOWN": json.dumps(known),
    }
    command = [
        *(Path(sys.executable).with_name("schemathesis"), "--config-file", ROOT / "tests/schema/schemathesis.toml"),
        *("--no-color", "run", f"{node.lines[-1]['url']}/openapi.json", "--max-examples", EXAMPLES),
        *(["--generation-deterministic"] if SEED is None else ["--seed", SEED]),
        *("--report", "ndjson", "--report-ndjson-path", report),
    ]
    ended = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, **told},
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert ended.returncode == 0, readable(ended.stdout) + ended.stderr[-2_000:]
    assert node.process.poll() is None, "the node is still there"
    with node.client() as client:
        assert not [name for name, count in counted(client).items() if "quarantined" in name and count]
    if caller == "operator":
        assert described() - reached(report) == set(UNREACHED)


def readable(output: str) -> str:
    """The failures and the summary, without the middle of lines that no screen has."""
    lines = output.partition("= FAILURES =")[2].splitlines() or output.splitlines()
    return "\n".join(line if len(line) < LINE_MAX else f"{line[:LINE_MAX]} ..." for line in lines if line.strip())


def described() -> set[str]:
    """All operations."""
    return {f"{method.upper()} {path}" for path, methods in description()["paths"].items() for method in methods}


def reached(report: Path) -> set[str]:
    """The operations that some request of a run succeeded at."""
    found = set()
    for line in report.read_text().splitlines():
        recorder = json.loads(line).get("ScenarioFinished", {}).get("recorder", {})
        for number, interaction in recorder.get("interactions", {}).items():
            case, answer = recorder["cases"][number]["value"], interaction.get("response")
            if (
                answer is not None
                and answer["status_code"] < 400
                and interaction["request"]["method"] == case["method"]
            ):
                found.add(f"{case['method']} {case['path']}")
    return found
