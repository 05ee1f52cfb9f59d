"""The official SDK in a Node.js process: calls by name, answers as JSON values."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CALL_MS = 20_000


class SdkError(Exception):
    """What the SDK threw, or that it did not answer in time."""


class Sdk:
    """``sdk("fetch", url=...)`` runs that operation of sdk_client.mjs."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def __call__(self, op: str, *, timeout_ms: int = CALL_MS, **arguments: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"op": op, "timeoutMs": timeout_ms, **arguments}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SdkError("the SDK's process ended")
        answer = json.loads(line)
        if "error" in answer:
            raise SdkError(answer["error"])
        return answer["value"]


def install(directory: Path) -> Path:
    """The SDK of the lock file, in ``directory``."""
    for name in ("package.json", "package-lock.json", "sdk_client.mjs"):
        shutil.copy(HERE / name, directory)
    subprocess.run(["npm", "ci", "--silent", "--no-audit", "--no-fund"], cwd=directory, check=True, timeout=180)
    return directory


@contextmanager
def started(directory: Path) -> Iterator[Sdk]:
    with subprocess.Popen(
        ["node", "sdk_client.mjs"], cwd=directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Sdk(process)
        finally:
            process.kill()
