"""The directory of the embedded server: held by one process, created whole or not at all, cleared of what a killed
server left in it.
"""

import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final
from urllib.parse import quote

import structlog

from storage.embedded.placement import Placement
from storage.embedded.process import ENVIRONMENT, end_with_parent
from storage.errors import DataDirectoryInUseError, EmbeddedPostgresError

log = structlog.get_logger(__name__)

USER: Final = "overlay"
SUPERUSER_DATABASE: Final = "postgres"
STOP_S: Final = 20.0
QUIT_S: Final = 5.0
POLL_S: Final = 0.02
LOG_TAIL_CHARS: Final = 1_500


class DirectoryLock:
    """Held by this process for as long as it runs the server; the kernel releases it when the process is killed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._handle: int | None = None

    def take(self) -> None:
        """Take the lock.

        Raises:
            DataDirectoryInUseError: another process holds it.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        handle = os.open(self._directory / "postgres.lock", flags, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise DataDirectoryInUseError(
                f"another node process uses the data directory {self._directory}: stop it, or give each node its own"
            ) from None
        self._handle = handle

    def release(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


class ClusterFiles:
    """A cluster's files.

    Attributes:
        data: The cluster's own directory, wherever it had to be put.
    """

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._home = placement.home
        self.data = self._home / "data"

    @property
    def url(self) -> str:
        """Of the server's own database; the password stands in it."""
        password = quote((self._home / "password").read_text())
        host = quote(str(self._placement.sockets), safe="")
        return f"postgresql://{USER}:{password}@/{SUPERUSER_DATABASE}?host={host}"

    def log_tail(self) -> str:
        """The end of the server's log."""
        return (self._home / "server.log").read_text(errors="replace")[-LOG_TAIL_CHARS:]

    def create(self) -> None:
        """Create the cluster unless there is one. It is made beside its place and moved there when it is whole, so
        that an interrupted start leaves none.

        Raises:
            EmbeddedPostgresError: initdb fails.
        """
        if self.data.exists():
            return
        partial = self._home / "data.new"
        shutil.rmtree(partial, ignore_errors=True)
        self._initialize(partial, self._new_password())
        partial.rename(self.data)
        _sync_directory(self._home)

    def clear_leftover(self) -> None:
        """End a server of this cluster that outlived its node; remove the marks of one that was killed.

        Postgres takes a pid file for that of a live server if any process of the same user has that number now.

        Raises:
            EmbeddedPostgresError: the server does not end.
        """
        marks = [self.data / "postmaster.pid", self._placement.sockets / ".s.PGSQL.5432.lock"]
        try:
            pid = int(marks[0].read_text().splitlines()[0])
        except (OSError, ValueError, IndexError):
            return
        for number, patience_s in ((signal.SIGINT, STOP_S), (signal.SIGQUIT, QUIT_S)):
            if not self._is_served_by(pid):
                break
            log.info("postgres.leftover", pid=pid, signal=number.name)
            os.kill(pid, number)
            deadline = time.monotonic() + patience_s
            while self._is_served_by(pid) and time.monotonic() < deadline:
                time.sleep(POLL_S)
        if self._is_served_by(pid):
            raise EmbeddedPostgresError(f"a Postgres left behind does not end: process {pid}")
        if sys.platform == "linux":
            for mark in marks:
                mark.unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete all files, wherever they had to be put. The server must not run."""
        shutil.rmtree(self._placement.sockets, ignore_errors=True)
        shutil.rmtree(self._home, ignore_errors=True)

    def _new_password(self) -> Path:
        account = self._placement.account
        secret = self._home / "password"
        secret.unlink(missing_ok=True)
        with os.fdopen(os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32))
            file.flush()
            os.fchown(file.fileno(), account.uid, account.gid)
            os.fsync(file.fileno())
        return secret

    def _initialize(self, directory: Path, secret: Path) -> None:
        command: list[str | Path] = [self._placement.binaries / "initdb", "-D", directory]
        command += ["-U", USER, "--pwfile", secret]
        command += ["-A", "scram-sha-256", "--data-checksums"]
        command += ["--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8"]
        result: subprocess.CompletedProcess[bytes] = subprocess.run(  # noqa: S603  # our own binary, our own arguments
            command,
            cwd=self._home,
            env=ENVIRONMENT,
            capture_output=True,
            preexec_fn=end_with_parent(os.getpid(), signal.SIGKILL),
            **self._placement.account.popen_arguments(),
        )
        if result.returncode != 0:
            raise EmbeddedPostgresError(f"initdb failed: {result.stderr.decode(errors='replace')[-1000:]}")

    def _is_served_by(self, pid: int) -> bool:
        """Whether a running process serves this cluster; one that ended has no command line any more."""
        try:
            return str(self.data).encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
