"""The official SDK, unmodified, checks what this node signs."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from protocols.certificate import event_document
from tests.network_of_keys import certified

HERE = Path(__file__).parent
STATIC = Path(__file__).parents[2] / "node" / "api" / "static"
FILES = (HERE / "package.json", HERE / "package-lock.json", STATIC / "verify_certificate.mjs")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node.js and npm"),
]


@pytest.fixture(scope="module")
def sdk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the SDK of the lock file."""
    directory = tmp_path_factory.mktemp("sdk")
    for file in FILES:
        shutil.copy(file, directory)
    subprocess.run(["npm", "ci", "--silent", "--no-audit", "--no-fund"], cwd=directory, check=True, timeout=180)
    return directory


def check(sdk: Path, document: object) -> subprocess.CompletedProcess[str]:
    (sdk / "certificate.json").write_text(json.dumps(document))
    command = ["node", "verify_certificate.mjs", "certificate.json"]
    return subprocess.run(command, cwd=sdk, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("index", [0, 4])
def test_every_signature_of_a_certificate_verifies_with_the_sdk(sdk: Path, index: int) -> None:
    batch = certified()
    document = event_document(batch.certificate, leaves=batch.leaves, index=index, data=batch.data[index])
    result = check(sdk, document)
    assert result.returncode == 0, result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["true"] * 6


def test_the_sdk_sees_a_changed_byte_too(sdk: Path) -> None:
    batch = certified()
    document = event_document(batch.certificate, leaves=batch.leaves, index=0, data=batch.data[0])
    signed = document["signatures"][0]["signed"]
    document["signatures"][0]["signed"] = signed[:-1] + ("0" if signed[-1] != "0" else "1")
    result = check(sdk, document)
    assert result.returncode != 0
    assert "ERR_INVALID_SIGNATURE" in result.stderr
