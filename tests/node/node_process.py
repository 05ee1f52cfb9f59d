"""A node as a process of its own, with its log and its metrics."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from node.calling import SignedRequests
from node.runtime.keyring import load_key

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "node", "run")


class RunningNode:
    """The process and the lines of its log so far."""

    def __init__(self, process: "subprocess.Popen[str]", key_file: Path) -> None:
        self.process = process
        self.key_file = key_file
        self.lines: list[dict[str, Any]] = []

    def until(self, event: str) -> dict[str, Any]:
        """Read the log up to a line."""
        assert self.process.stderr is not None
        for text in self.process.stderr:
            self.lines.append(json.loads(text))
            if self.lines[-1]["event"] == event:
                return self.lines[-1]
        raise AssertionError(f"the node ended without {event}: {self.lines[-3:]}")

    def events(self) -> list[str]:
        """The names of the lines read so far."""
        return [line["event"] for line in self.lines]

    def anonymous(self) -> httpx.Client:
        """Anybody's client of this node, once it listens."""
        listening = next(line for line in self.lines if line["event"] == "node.listening")
        return httpx.Client(base_url=listening["url"], timeout=30)

    def client(self) -> httpx.Client:
        """An operator's client of this node, once it is ready."""
        ready = next(line for line in self.lines if line["event"] == "node.ready")
        auth = SignedRequests(load_key(self.key_file), bytes.fromhex(ready["identity"]))
        return httpx.Client(base_url=ready["url"], auth=auth, timeout=20)


def environment(directory: Path, postgres_url: str, **settings: str) -> dict[str, str]:
    """Of a node that is a network of its own, on ports that the system picks. Its key is for the caller to make."""
    plain = {name: text for name, text in os.environ.items() if not name.startswith(("EVENT_", "OVERLAY_", "BRC"))}
    return plain | {
        "DATABASE_URL": postgres_url,
        "OVERLAY_DATA_DIR": str(directory),
        "OVERLAY_HTTP_BIND": "127.0.0.1:0",
        "OVERLAY_P2P_LISTEN": "/ip4/127.0.0.1/tcp/0",
        "OVERLAY_ECLIPSE_PROTECTION": "false",
        "EVENT_CONSENSUS_REQUIRED": "false",
        **{name.upper(): text for name, text in settings.items()},
    }


@contextmanager
def running_process(
    environ: dict[str, str], *arguments: str, command: Sequence[str] = COMMAND
) -> Iterator[RunningNode]:
    """Start a node; kill it at the end of the block, unless it has ended."""
    process = subprocess.Popen([*command, *arguments], cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True)
    try:
        yield RunningNode(process, Path(environ["OVERLAY_DATA_DIR"]) / "identity.key")
    finally:
        process.kill()
        process.communicate()


def counted(client: httpx.Client) -> dict[str, float]:
    """The node's metrics, by name with labels appended."""
    return {
        sample.name + "".join(sample.labels.values()): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if "le" not in sample.labels
    }
