"""The parts of the embedded server: the lock on its directory, its files, its process, where it lives."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import psutil
import psycopg
import pytest
import structlog.testing
import trio

from storage.embedded import EmbeddedPostgres
from storage.embedded.cluster import ClusterFiles, DirectoryLock
from storage.embedded.placement import SOCKET_CHARS_MAX, Account, Placement, place
from storage.embedded.process import LOG_BYTES_MAX, SETTINGS, ServerProcess
from storage.errors import DataDirectoryInUseError, EmbeddedPostgresError

ROOT = Path(__file__).resolve().parents[2]
LOCKED = """
import sys
from pathlib import Path
from storage.embedded.cluster import DirectoryLock
DirectoryLock(Path(sys.argv[1])).take()
print("taken", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def home() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="overlay-test-"))
    os.chmod(directory, 0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def placement(home: Path) -> Placement:
    return place(home)


@pytest.fixture
def unserved(placement: Placement) -> ClusterFiles:
    """A cluster whose data directory is there, and empty."""
    cluster = ClusterFiles(placement)
    cluster.data.mkdir()
    return cluster


# --- the lock ----------------------------------------------------------------------------------------------------


def test_a_directory_is_locked_once_and_free_again(home: Path) -> None:
    first, second = DirectoryLock(home), DirectoryLock(home)
    first.take()
    with pytest.raises(DataDirectoryInUseError, match=str(home)):
        second.take()
    first.release()
    second.take()
    first.release()
    with pytest.raises(DataDirectoryInUseError):
        first.take()
    second.release()


def test_the_lock_of_a_killed_process_is_free(home: Path) -> None:
    command = [sys.executable, "-c", LOCKED, str(home)]
    holder = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "taken\n"
    lock = DirectoryLock(home)
    with pytest.raises(DataDirectoryInUseError):
        lock.take()
    holder.kill()
    holder.communicate()
    lock.take()
    lock.release()


def test_a_lock_file_that_is_a_link_is_not_followed(home: Path) -> None:
    (home / "elsewhere").write_text("x")
    (home / "postgres.lock").symlink_to(home / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        DirectoryLock(home).take()


# --- the files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "\n", "not a number\n", "99999999999999999999\n"])
def test_a_pid_file_that_names_no_process_is_no_obstacle(unserved: ClusterFiles, text: str) -> None:
    (unserved.data / "postmaster.pid").write_text(text)
    unserved.clear_leftover()


def test_the_marks_of_a_server_that_is_gone_are_removed(unserved: ClusterFiles, placement: Placement) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    marks = [unserved.data / "postmaster.pid", placement.sockets / ".s.PGSQL.5432.lock"]
    for mark in marks:
        mark.write_text(f"{gone.pid}\n")
    unserved.clear_leftover()
    assert not any(mark.exists() for mark in marks)


def test_a_process_of_another_cluster_is_left_alone(unserved: ClusterFiles) -> None:
    other = subprocess.Popen(["sleep", "60"])
    try:
        (unserved.data / "postmaster.pid").write_text(f"{other.pid}\n")
        unserved.clear_leftover()
        assert other.poll() is None
        assert not (unserved.data / "postmaster.pid").exists()
    finally:
        other.kill()
        other.wait()


def test_a_process_that_serves_the_cluster_is_ended(unserved: ClusterFiles) -> None:
    """Known by its command line, in which the data directory stands as an argument of its own.

    It sets SIGINT as Postgres does: a process that is started in the background may inherit it as ignored.
    """
    script = (
        "import signal, time; signal.signal(signal.SIGINT, signal.SIG_DFL); print('up', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, "-D", str(unserved.data)]
    left = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert left.stdout is not None
    assert left.stdout.readline() == "up\n"
    reaper = threading.Thread(target=left.wait)
    reaper.start()
    (unserved.data / "postmaster.pid").write_text(f"{left.pid}\n")
    unserved.clear_leftover()
    reaper.join(10)
    assert not psutil.pid_exists(left.pid)


def test_the_log_s_end_is_shown_and_bytes_that_are_no_text_are_borne(placement: Placement) -> None:
    (placement.home / "server.log").write_bytes(b"x" * 5_000 + b"\xff the last words")
    tail = ClusterFiles(placement).log_tail()
    assert tail.endswith("\ufffd the last words")
    assert len(tail) == 1_500


def test_a_failed_initdb_says_why_and_leaves_no_cluster(placement: Placement) -> None:
    broken = placement.home / "bin"
    broken.mkdir()
    script = broken / "initdb"
    script.write_text("#!/bin/sh\necho 'no space left' >&2\nexit 1\n")
    script.chmod(0o755)
    for each in (broken, script):
        os.chown(each, placement.account.uid, placement.account.gid)
    cluster = ClusterFiles(attrs.evolve(placement, binaries=broken))
    with pytest.raises(EmbeddedPostgresError, match="no space left"):
        cluster.create()
    assert not cluster.data.exists()


def test_a_cluster_is_created_once_with_a_password_of_its_own(placement: Placement) -> None:
    cluster = ClusterFiles(placement)
    cluster.create()
    secret = (placement.home / "password").read_text()
    assert len(secret) >= 40
    assert secret in cluster.url
    version = (cluster.data / "PG_VERSION").stat().st_mtime_ns
    cluster.create()
    assert (placement.home / "password").read_text() == secret
    assert (cluster.data / "PG_VERSION").stat().st_mtime_ns == version
    assert not (placement.home / "data.new").exists()
    cluster.remove()
    assert not placement.home.exists()
    assert not placement.sockets.exists()


# --- the process -------------------------------------------------------------------------------------------------


def wait_for_end(process: ServerProcess) -> None:
    deadline = time.monotonic() + 30
    while process.exit_status is None:
        assert time.monotonic() < deadline, "a server without a cluster does not run"
        time.sleep(0.02)


def test_a_process_that_was_never_started_can_be_ended(unserved: ClusterFiles, placement: Placement) -> None:
    process = ServerProcess(placement, unserved.data)
    assert (process.pid, process.is_started) == (0, False)
    process.end()
    assert not process.is_started


def test_a_server_that_cannot_start_shows_in_its_status_and_its_log(
    unserved: ClusterFiles, placement: Placement
) -> None:
    process = ServerProcess(placement, unserved.data)
    process.spawn()
    wait_for_end(process)
    assert process.exit_status != 0
    assert str(unserved.data) in unserved.log_tail()
    process.end()
    assert not process.is_started


def test_a_log_that_has_grown_large_begins_anew(unserved: ClusterFiles, placement: Placement) -> None:
    log = placement.home / "server.log"
    with log.open("wb") as file:
        file.truncate(LOG_BYTES_MAX + 1)
    process = ServerProcess(placement, unserved.data)
    process.spawn()
    wait_for_end(process)
    process.end()
    assert 0 < log.stat().st_size < 10_000


def test_the_server_is_started_in_the_main_thread_alone(unserved: ClusterFiles, placement: Placement) -> None:
    refused: list[BaseException] = []

    def spawn() -> None:
        try:
            ServerProcess(placement, unserved.data).spawn()
        except AssertionError as error:
            refused.append(error)

    thread = threading.Thread(target=spawn)
    thread.start()
    thread.join()
    assert len(refused) == 1


# --- the whole ---------------------------------------------------------------------------------------------------


def test_a_server_runs_with_its_settings_until_it_is_removed(home: Path) -> None:
    with EmbeddedPostgres(home) as server:
        with psycopg.connect(server.url) as connection:
            for name in ("listen_addresses", "fsync", "wal_level", "max_connections"):
                shown = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
                assert shown == (SETTINGS[name],)
            checksums = connection.execute("SELECT current_setting('data_checksums')").fetchone()
            assert checksums == ("on",)
        pid, data = server.pid, server.data_directory
        server.stop()
        server.stop()
        assert server.pid == 0
        assert not psutil.pid_exists(pid)
    server.remove()
    assert not data.exists()


def test_a_server_that_will_not_end_in_time_is_ended_at_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.embedded.process.STOP_S", 0.1)
    with EmbeddedPostgres(home) as server:
        pid = server.pid
        os.kill(pid, signal.SIGSTOP)  # it cannot hear the request to end
        waking = threading.Timer(0.5, os.kill, (pid, signal.SIGCONT))
        waking.start()
    waking.join()
    assert not psutil.pid_exists(pid)


def test_a_server_that_takes_no_signal_is_killed_with_its_processes_and_loses_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.embedded.process.STOP_S", 0.1)
    monkeypatch.setattr("storage.embedded.process.QUIT_S", 0.1)
    with EmbeddedPostgres(home) as server:
        with psycopg.connect(server.url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
        processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children()]
        for each in processes:
            each.suspend()
    psutil.wait_procs(processes, timeout=30)
    assert not any(psutil.pid_exists(each.pid) for each in processes)
    with EmbeddedPostgres(home) as server, psycopg.connect(server.url) as connection:
        assert connection.execute("SELECT n FROM kept").fetchone() == (1,)


async def test_a_launch_does_not_hold_the_event_loop_up_and_is_not_given_up(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = EmbeddedPostgres(home)
    refusing = SETTINGS["max_connections"]
    monkeypatch.setitem(SETTINGS, "max_connections", "none")
    beats = 0
    try:
        with trio.fail_after(120), structlog.testing.capture_logs() as logs:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.launch)
                while not [line for line in logs if line["event"] == "postgres.start_failed"]:
                    await trio.sleep(0.01)
                    beats += 1
                monkeypatch.setitem(SETTINGS, "max_connections", refusing)
        assert beats > 10
        with psycopg.connect(server.url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    finally:
        server.stop()


# --- where it lives ----------------------------------------------------------------------------------------------


def test_a_placement_is_private_and_stays_where_it_is(home: Path) -> None:
    first, second = place(home), place(home)
    assert first == second
    for directory in (first.home, first.sockets):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert directory.stat().st_uid == first.account.uid
    assert (first.binaries / "postgres").exists()


def test_sockets_of_a_long_path_are_kept_elsewhere(home: Path) -> None:
    deep = home / ("d" * 60) / ("e" * 60)
    placement = place(deep)
    try:
        assert len(str(placement.sockets)) <= SOCKET_CHARS_MAX
        assert not placement.sockets.is_relative_to(home)
        assert place(deep).sockets == placement.sockets
    finally:
        shutil.rmtree(placement.sockets, ignore_errors=True)


def test_a_home_that_is_a_link_is_refused(home: Path) -> None:
    (home / "target").mkdir()
    (home / "postgres").symlink_to(home / "target")
    with pytest.raises(EmbeddedPostgresError, match="is a link"):
        place(home)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another user")
def test_a_directory_with_content_of_another_user_is_refused(home: Path) -> None:
    placement = place(home)
    run = placement.home / "run"
    (run / "left").write_text("x")
    os.chown(run, 12_345, 12_345)
    with pytest.raises(EmbeddedPostgresError, match="belongs to another user"):
        place(home)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root chooses whom the server runs as")
def test_a_cluster_keeps_running_as_the_user_who_owns_it(home: Path) -> None:
    owner = 12_345
    (home / "postgres").mkdir()
    os.chown(home / "postgres", owner, owner)
    placement = place(home)
    assert placement.account == Account(uid=owner, gid=owner)
    assert placement.account.popen_arguments() == {"user": owner, "group": owner, "extra_groups": []}


def test_a_process_runs_as_itself_without_further_arguments() -> None:
    assert Account(uid=os.geteuid(), gid=os.getegid()).popen_arguments() == {}
