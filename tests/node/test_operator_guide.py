"""Every command in ``node/README.md``, run as an operator would, one after the other in one directory."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from node.runtime.settings import Settings
from scripts.network import ROOT, die_with_parent, free_ports
from storage.embedded import EmbeddedPostgres
from tests.conftest import own_database

pytestmark = pytest.mark.slow

GUIDE = (ROOT / "node" / "README.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", GUIDE, flags=re.DOTALL | re.MULTILINE)
CERTIFIED_S = 60.0
KEYGEN, RUN, FIRST_EVENT, READ_BACK, SETTINGS, MEMBER, MARKET, WATCH = BLOCKS


@attrs.frozen(kw_only=True)
class Operator:
    """A directory to work in, and the environment of its shell."""

    directory: Path
    environment: dict[str, str]
    port: int

    def script(self, block: str) -> list[str]:
        return ["bash", "-euo", "pipefail", "-c", block.replace(":8080", f":{self.port}")]

    def run(self, block: str) -> "subprocess.CompletedProcess[str]":
        """Run a block as one script that ends at the first command that fails."""
        return subprocess.run(
            self.script(block),
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture(scope="module")
def operator(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    port, peer_port = free_ports(2)
    plain = {name: text for name, text in os.environ.items() if not name.startswith(("EVENT_", "OVERLAY_", "BRC"))}
    with own_database(postgres) as url:
        yield Operator(
            directory=tmp_path_factory.mktemp("operator"),
            environment=plain
            | {
                "PATH": f"{ROOT / '.venv' / 'bin'}:{plain['PATH']}",
                "DATABASE_URL": url,
                "OVERLAY_HTTP_BIND": f"127.0.0.1:{port}",
                "OVERLAY_P2P_LISTEN": f"/ip4/127.0.0.1/tcp/{peer_port}",
            },
            port=port,
        )


@pytest.fixture(scope="module")
def node(operator: Operator) -> Iterator["subprocess.Popen[str]"]:
    """The node of the guide, ready."""
    made = operator.run(KEYGEN)
    assert re.fullmatch(r"0[23][0-9a-f]{64}\n", made.stdout), made.stderr
    process = subprocess.Popen(
        operator.script(RUN.replace("overlay-node run", "exec overlay-node run")),
        cwd=operator.directory,
        env=operator.environment,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent,
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if json.loads(line)["event"] == "node.ready":
                break
        else:
            raise AssertionError("the node ended before it was ready")
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_the_first_event_is_certified(operator: Operator, node: "subprocess.Popen[str]") -> None:
    ran = operator.run(FIRST_EVENT)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    deadline = time.monotonic() + CERTIFIED_S
    found: list[tuple[str, str, object]] = []
    while found != [("r-1", "certified", {"value": 23.5})]:
        assert time.monotonic() < deadline, found
        listed = operator.run(READ_BACK)
        assert listed.returncode == 0, listed.stderr
        found = [(each["externalId"], each["status"], each["data"]) for each in json.loads(listed.stdout)["events"]]


def test_settings_are_shown_and_refused(operator: Operator) -> None:
    ran = operator.run(SETTINGS)
    assert ran.returncode == 0, ran.stderr
    shown = re.findall(r"^\| `(\w+)`", ran.stdout, flags=re.MULTILINE)
    assert shown == ["OVERLAY_NETWORK", "OVERLAY_OPERATOR", "OVERLAY_BOOTSTRAP", "OVERLAY_OPERATOR_KEYS"]
    assert "EVENT_BATCH_SIZE = 0: should be greater than or equal to 1. Set it to an integer from 1 to" in ran.stderr


def test_a_membership_certificate_is_issued(operator: Operator) -> None:
    ran = operator.run(MEMBER)
    assert ran.returncode == 0, ran.stderr
    certificate = json.loads((operator.directory / "var" / "member.json").read_text())
    assert certificate["certifier"] == ran.stdout.split()[0]
    assert certificate["fields"] == {}


@pytest.mark.parametrize(("block", "shown"), [(MARKET, '"jobs"'), (WATCH, '"deadLetters"')])
def test_the_node_can_be_watched(operator: Operator, node: "subprocess.Popen[str]", block: str, shown: str) -> None:
    ran = operator.run(block)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert shown in ran.stdout


def test_every_setting_that_is_named_exists() -> None:
    named = set(re.findall(r"`((?:OVERLAY|EVENT|DATABASE|LOG|BRC\d+)_[A-Z0-9_]+)[`=]", GUIDE))
    assert named
    assert {name for name in named if name.lower() not in Settings.model_fields} == set()
