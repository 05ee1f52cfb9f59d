"""The command line, as processes: exit codes, what is printed where, and what is not imported."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from node.cli import main

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {
    name: value for name, value in os.environ.items() if not name.startswith(("EVENT_", "OVERLAY_", "BRC"))
}


def overlay_node(*arguments: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "node", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT | environ, input=stdin, capture_output=True, text=True, timeout=60
    )


def test_keygen_keeps_the_key_and_prints_the_identity(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    made = overlay_node("keygen", "--out", str(path))
    assert made.returncode == 0
    assert len(bytes.fromhex(made.stdout.strip())) == 33
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().strip() not in made.stdout + made.stderr
    again = overlay_node("keygen", "--out", str(path))
    assert again.returncode == 1
    assert "never overwritten" in again.stderr


def test_what_does_not_verify_exits_1_from_file_and_from_standard_input(tmp_path: Path) -> None:
    path = tmp_path / "certificate.json"
    path.write_text('{"type": "nothing"}')
    for arguments, stdin in (((str(path),), ""), (("-",), path.read_text())):
        result = overlay_node("verify", *arguments, stdin=stdin)
        assert result.returncode == 1
        assert "NOT VALID" in result.stdout


def test_a_document_that_cannot_be_read_exits_2(tmp_path: Path) -> None:
    result = overlay_node("verify", str(tmp_path / "none.json"))
    assert result.returncode == 2
    assert "cannot be read: No such file" in result.stderr


@pytest.mark.parametrize("key", ["zz", "02" * 32, "05" + "11" * 32])
def test_a_key_to_trust_that_is_none_is_refused(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["verify", "-", "--trust", key])
    assert ended.value.code == 2
    assert "is not an identity key" in capsys.readouterr().err


def test_verifying_imports_neither_network_nor_database_nor_web_server() -> None:
    code = (
        "import sys; from node.cli import main; main(['verify', '-']); "
        "print([name for name in ('libp2p', 'trio', 'psycopg', 'quart', 'pydantic') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=ENVIRONMENT, input="{}", capture_output=True, text=True
    )
    assert result.stdout.splitlines()[-1] == "[]", result.stderr


def test_a_wrong_setting_ends_run_and_migrate_before_anything_starts(tmp_path: Path) -> None:
    for command in ("run", "migrate"):
        result = overlay_node(command, EVENT_BATCH_SIZE="0", OVERLAY_DATA_DIR=str(tmp_path / "data"))
        assert result.returncode == 2
        assert result.stderr.startswith("overlay-node: EVENT_BATCH_SIZE = 0: ")
        assert "Traceback" not in result.stderr
    assert not (tmp_path / "data").exists()


def test_settings_are_listed() -> None:
    result = overlay_node("settings")
    assert result.returncode == 0
    assert "| `EVENT_BATCH_SIZE` | `100` |" in result.stdout


def test_a_missing_command_says_which_there_are() -> None:
    result = overlay_node()
    assert result.returncode == 2
    assert "usage: overlay-node" in result.stderr


def test_migrate_brings_a_database_up_to_date_once(postgres_url: str) -> None:
    first, second = (overlay_node("migrate", DATABASE_URL=postgres_url) for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert second.stdout == "nothing to do\n"
