"""The embedded server: starts, survives, ends with its node, as root and as a user."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from storage.embedded import EmbeddedPostgres

ROOT = Path(__file__).resolve().parents[2]
HOLDER = """
import sys, time
from pathlib import Path
from storage.embedded import EmbeddedPostgres
with EmbeddedPostgres(Path(sys.argv[1])) as server:
    print(server.pid, server.url, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def home() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="overlay-test-"))
    os.chmod(directory, 0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


def count(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM kept").fetchone()
    assert row is not None
    return int(row[0])


def keep(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (n int)")
        connection.execute("INSERT INTO kept VALUES (1)")


def wait_gone(pid: int) -> None:
    deadline = time.monotonic() + 20
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the server outlives its node"
        time.sleep(0.05)


def test_what_was_committed_survives_kill_9_of_the_server(home: Path) -> None:
    with EmbeddedPostgres(home) as server:
        keep(server.url)
        for process in [psutil.Process(server.pid), *psutil.Process(server.pid).children()]:
            process.kill()
    with EmbeddedPostgres(home) as server:
        assert count(server.url) == 1


def test_the_server_ends_with_a_killed_node_and_the_next_start_finds_its_data(home: Path) -> None:
    node = subprocess.Popen([sys.executable, "-c", HOLDER, home], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert node.stdout is not None
    pid, url = node.stdout.readline().split()
    keep(url)
    node.kill()
    node.wait()
    wait_gone(int(pid))
    with EmbeddedPostgres(home) as server:
        assert count(server.url) == 1


def test_a_server_left_behind_is_ended_first(home: Path) -> None:
    first = EmbeddedPostgres(home)
    first.start()
    keep(first.url)
    with EmbeddedPostgres(home) as second:
        assert count(second.url) == 1
    first.stop()


def test_a_stale_pid_file_does_not_block_the_start(home: Path) -> None:
    with EmbeddedPostgres(home) as server:
        keep(server.url)
        data = server.data_directory
    (data / "postmaster.pid").write_text("4194304\n" + str(data) + "\n")
    if os.geteuid() == 0:
        shutil.chown(data / "postmaster.pid", data.stat().st_uid)
    with EmbeddedPostgres(home) as server:
        assert count(server.url) == 1


def test_an_initdb_that_was_cut_off_is_done_again(home: Path) -> None:
    with EmbeddedPostgres(home) as server:
        data = server.data_directory
    (data / "PG_VERSION").unlink()
    with EmbeddedPostgres(home) as server:
        keep(server.url)
        assert count(server.url) == 1


def test_the_password_is_private_and_needed(home: Path) -> None:
    with EmbeddedPostgres(home) as server:
        secret = server.data_directory.parent / "password"
        assert secret.stat().st_mode & 0o077 == 0
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(server.url.replace(":" + secret.read_text(), ":wrong"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_it_runs_as_an_ordinary_user_too(home: Path) -> None:
    """A fork, not a new interpreter: that one may lie where only root can read."""
    shutil.chown(home, "nobody")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgid(pwd.getpwnam("nobody").pw_gid)
            os.setuid(pwd.getpwnam("nobody").pw_uid)
            with EmbeddedPostgres(home) as server:
                keep(server.url)
                code = 0 if count(server.url) == 1 and server.data_directory.is_relative_to(home) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has directories that the server's user cannot reach")
def test_root_s_private_directories_are_served_from_elsewhere() -> None:
    private = Path(tempfile.mkdtemp(prefix="overlay-test-"))  # mode 0700, owned by root
    try:
        with EmbeddedPostgres(private) as server:
            assert not server.data_directory.is_relative_to(private)
            keep(server.url)
            assert count(server.url) == 1
        shutil.rmtree(server.data_directory.parent)
    finally:
        shutil.rmtree(private, ignore_errors=True)


def test_ctrl_c_is_for_the_node_alone(home: Path) -> None:
    with EmbeddedPostgres(home) as server:
        assert os.getpgid(server.pid) != os.getpgid(0)
        os.kill(server.pid, 0)
        assert signal.getsignal(signal.SIGINT) is not None
