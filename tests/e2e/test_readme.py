"""Every command in the README, run as a stranger would, against the network that ``scripts/demo --keep`` leaves.

Paths of the demo's directory, the port and the name of the key file are replaced; all else is run as it stands.
"""

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

from scripts.network import ROOT, die_with_parent, free_ports

pytestmark = pytest.mark.slow

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
TWO_COMMANDS, FIRST_EVENT, VERIFY, OWN_NODE = BLOCKS
DEMO_S = 180.0


@attrs.frozen(kw_only=True)
class Demo:
    """The network of ``scripts/demo --keep``, its first node's port, and what the demo printed."""

    directory: Path
    port: int
    printed: str

    def run(self, block: str, timeout_s: float = 60.0) -> "subprocess.CompletedProcess[str]":
        """Run a block of the README as one shell script that ends at the first command that fails."""
        script = block.replace("var/demo", str(self.directory)).replace(":8080", f":{self.port}")
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )


def _until(process: "subprocess.Popen[str]", line: str) -> str:
    """What a process printed up to a line that contains ``line``."""
    printed = ""
    deadline = time.monotonic() + DEMO_S
    assert process.stdout is not None
    for each in process.stdout:
        printed += each
        if line in each:
            return printed
        assert time.monotonic() < deadline, printed
    raise AssertionError(f"it ended without {line!r}:\n{printed}")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    directory = tmp_path_factory.mktemp("demo")
    directory.chmod(0o755)
    (port,) = free_ports(1)
    command = ["scripts/demo", "--keep", "--rate", "0", "--nodes", "3", "--dir", str(directory), "--port", str(port)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=die_with_parent
    )
    try:
        printed = _until(process, "The network stays up until Ctrl-C")
        found = re.search(r"node-1 +http://127\.0\.0\.1:(\d+)", printed + _until(process, "node-1"))
        assert found is not None
        yield Demo(directory=directory, port=int(found[1]), printed=printed)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def test_the_demo_prints_what_the_readme_shows(demo: Demo) -> None:
    """Times and keys differ from run to run; counts, rules and verdicts do not."""
    for line in (
        "Posting 26,115 readings of 3 stations to 3 nodes ...",
        "26,115 acknowledged = 26,109 certified + 6 invalid; by level: 26,109 enhanced; 0 duplicates;",
        "dissent: none",
        "overlay-event-certificate: VERIFIED",
        "  verdict      rejected at level enhanced",
        "  quorum       2 signatures, 2 needed",
        "  issue        bounds at /windSpeedMps: found 468.659113683, expected {'max': 96.2, 'min': 0}",
    ):
        assert line in README
        assert line in demo.printed
    assert '468.659113683 │ {"max": 96.2, "min": 0} │ wind_speed = 1048.36058' in demo.printed


def test_a_first_event_is_certified_as_the_readme_says(demo: Demo) -> None:
    ran = demo.run(FIRST_EVENT)
    assert ran.returncode in (0, 28), ran.stderr  # 28: curl ended the stream at its --max-time
    messages = [
        json.loads(line.removeprefix("data:")) for line in ran.stdout.splitlines() if line.startswith("data:")
    ]
    (event,) = [message for message in messages if message["type"] == "event"]
    assert (event["eventType"], event["certificationLevel"]) == ("reading", "enhanced")
    assert event["data"] == {"value": 23.5}
    assert '"sourceId":"farm-1"' in ran.stdout.replace(" ", "")


def test_a_certificate_verifies_as_the_readme_says(demo: Demo) -> None:
    ran = demo.run(VERIFY)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.startswith("overlay-event-certificate: VERIFIED")


def test_a_node_of_ones_own_starts_as_the_readme_says(tmp_path: Path) -> None:
    """``run`` serves until SIGTERM; only its ports differ from the README's."""
    block = OWN_NODE.replace("var/my-node", str(tmp_path)).replace(":8090", ":0")
    settings, keygen, run = [line.split("#")[0].split() for line in block.splitlines()]
    key = tmp_path / "identity.key"
    made = subprocess.run(keygen, cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.fullmatch(r"0[23][0-9a-f]{64}", made.stdout.strip())
    assert key.stat().st_mode & 0o777 == 0o600
    listed = subprocess.run(settings, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "OVERLAY_BOOTSTRAP" in listed.stdout
    tmp_path.chmod(0o755)
    assignments = [part for part in run if "=" in part]
    environment = os.environ | dict(part.split("=", 1) for part in assignments)
    environment["OVERLAY_P2P_LISTEN"] = "/ip4/127.0.0.1/tcp/0"  # the default port may be taken
    environment.pop("DATABASE_URL", None)
    process = subprocess.Popen(
        run[len(assignments) :],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=die_with_parent,
    )
    try:
        _until(process, "node.ready")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_the_two_commands_are_those_of_this_run() -> None:
    """The demo runs above; this very test runs in ``scripts/test``, which CI calls."""
    demo, tests = [line.split("#")[0].strip() for line in TWO_COMMANDS.splitlines()]
    assert (demo, tests) == ("scripts/demo", "scripts/test")
    assert "\nscripts/test " in (ROOT / ".ci" / "run").read_text()
    assert os.access(ROOT / demo, os.X_OK)
    assert os.access(ROOT / tests, os.X_OK)


def test_the_readme_points_to_files_that_exist() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", README) + re.findall(r"`(configs/[\w./-]+|node/[\w./-]+)`", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []
