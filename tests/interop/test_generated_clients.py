"""What tools for OpenAPI make of the description: it is without a flaw, and clients generated from it work."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
import trio

from tests.node.described_answers import description
from tests.node.running import Running, running

HERE = Path(__file__).parent / "clients"
GENERATE_S = 300.0  # the first installation fetches some hundred packages
NEEDS_NPM = pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node.js and npm")
QUIET = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def npm_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages of the lock file, installed in a directory that also holds the client and the description."""
    directory = tmp_path_factory.mktemp("clients")
    for name in ("package.json", "package-lock.json", "tsconfig.json", "client.ts"):
        shutil.copy(HERE / name, directory)
    (directory / "openapi.json").write_bytes(orjson.dumps(description()))
    run(["npm", "ci", "--silent", "--no-audit", "--no-fund"], directory)
    return directory


def run(command: Sequence[str], directory: Path) -> str:
    """What a command prints. It must succeed."""
    environment = {**os.environ, **QUIET}
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=GENERATE_S, check=False
    )
    assert done.returncode == 0, f"{command[0]}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


@NEEDS_NPM
def test_redocly_finds_nothing_to_complain_about(npm_packages: Path) -> None:
    found = json.loads(run(["npx", "redocly", "lint", "openapi.json", "--format=json"], npm_packages))
    assert found["totals"]["errors"] == found["totals"]["warnings"] == 0, found["problems"]


@NEEDS_NPM
async def test_a_client_in_typescript_creates_a_source_ingests_and_reads_a_certificate(
    npm_packages: Path, postgres_url: str
) -> None:
    run(
        ["npx", "openapi-typescript", "openapi.json", "--default-non-nullable=false", "-o", "api.d.ts"],
        npm_packages,
    )
    run(["npx", "tsc", "-p", "."], npm_packages)
    async with running(postgres_url) as node:
        await certify_with(node, ["node", "out/client.js", node.url], npm_packages)


async def test_a_client_in_python_creates_a_source_ingests_and_reads_a_certificate(
    tmp_path: Path, postgres_url: str
) -> None:
    (tmp_path / "openapi.json").write_bytes(orjson.dumps(description()))
    (tmp_path / "config.yaml").write_text("post_hooks: []\n")
    generate = ["-m", "openapi_python_client", "generate", "--meta", "none", "--config", "config.yaml"]
    run([sys.executable, *generate, "--path", "openapi.json", "--output-path", "generated"], tmp_path)
    operations = [method for path in description()["paths"].values() for method in path.values()]
    modules = [path for path in (tmp_path / "generated" / "api").rglob("*.py") if path.name != "__init__.py"]
    assert len(modules) == len(operations), "every operation has its call"
    shutil.copy(HERE / "client.py", tmp_path)
    async with running(postgres_url) as node:
        await certify_with(node, [sys.executable, "client.py", node.url], tmp_path)


async def certify_with(node: Running, command: Sequence[str], directory: Path) -> None:
    """Run a client that creates a source, ingests an event, and reads its certificate once it is certified."""
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=directory)
    assert process.stdin is not None
    assert process.stdout is not None
    with trio.fail_after(120):
        async with process.stdin, process.stdout:
            event_id = (await read_line(process.stdout)).decode()
            assert (await node.client.get(f"/overlay/events/{event_id}")).json()["status"] == "pending"
            await node.seal(node.recorder.told[0].manifest)
            await process.stdin.send_all(b"\n")
            shown: dict[str, Any] = json.loads(await read_line(process.stdout))
        assert await process.wait() == 0
    certificate = (await node.client.get(f"/overlay/events/{event_id}/certificate")).json()
    assert shown == {"status": "certified", "level": "enhanced", "leaf": certificate["proof"]["leafHash"]}


async def read_line(stream: trio.abc.ReceiveStream) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        part = await stream.receive_some(4096)
        assert part, "the client ended"
        line += part
    return line.strip()
