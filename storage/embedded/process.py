"""The server process: a child that ends with the node, cleanly when it is asked to, and by the kernel's parent-death
signal when the node is killed.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from storage.embedded.placement import Placement

STOP_S: Final = 20.0
QUIT_S: Final = 5.0
LOG_BYTES_MAX: Final = 8 * 1024 * 1024
PR_SET_PDEATHSIG: Final = 1
LIBC: Final = ctypes.CDLL(None)  # looked up before any fork
ENVIRONMENT: Final = {"LC_ALL": "C.UTF-8", "TZ": "UTC"}
SETTINGS: Final = {
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
    "default_statistics_target": "20",  # tables grow fast, and ANALYZE takes 300 rows for each of it
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


class ServerProcess:
    """A postmaster over one cluster. Start it in the main thread: the parent-death signal fires when the thread that
    started the process ends.
    """

    def __init__(self, placement: Placement, data: Path) -> None:
        self._placement = placement
        self._data = data
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """0 while none was started, or after ``end``."""
        return self._process.pid if self._process is not None else 0

    @property
    def is_started(self) -> bool:
        """Whether it was started and not ended from here; it may have died since."""
        return self._process is not None

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_status(self) -> int | None:
        """Of a process that was started and ended by itself; None while it runs."""
        assert self._process is not None, "the server was started"
        return self._process.poll()

    def spawn(self) -> None:
        """Start the server. It is not known to serve yet."""
        assert threading.current_thread() is threading.main_thread(), "the server ends with the thread that starts it"
        settings = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
        home = self._placement.home
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        with os.fdopen(os.open(home / "server.log", flags, 0o600), "ab") as output:
            if output.tell() > LOG_BYTES_MAX:
                output.truncate(0)
            self._process = subprocess.Popen(  # noqa: S603  # our own binary, our own arguments
                [
                    self._placement.binaries / "postgres",
                    *("-D", self._data, "-k", self._placement.sockets),
                    *settings,
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=home,
                env=ENVIRONMENT,
                preexec_fn=end_with_parent(os.getpid(), signal.SIGINT),  # after the change of user, which clears it
                start_new_session=True,  # Ctrl-C is for the node, which then stops its database
                **self._placement.account.popen_arguments(),
            )

    def end(self) -> None:
        """Fast shutdown; an immediate one where that takes longer than ``STOP_S``. What takes no signal is killed,
        with the processes that it started: a server that hangs must not keep the node from its end.
        """
        process, self._process = self._process, None
        if process is None:
            return
        for number, patience_s in ((signal.SIGINT, STOP_S), (signal.SIGQUIT, QUIT_S)):
            process.send_signal(number)
            try:
                process.wait(patience_s)
                return
            except subprocess.TimeoutExpired:
                continue
        for pid in (*_children(process.pid), process.pid):  # what was committed is in the log, and recovered
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def _children(pid: int) -> list[int]:
    """Of a process with one thread. Without Linux none: they notice that it is gone."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def end_with_parent(parent: int, number: signal.Signals) -> Callable[[], None]:
    """What a child does between fork and exec: ask for ``number`` when its parent dies, or exit if it has died."""

    def prepare() -> None:
        if sys.platform == "linux":
            LIBC.prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            os._exit(1)

    return prepare
