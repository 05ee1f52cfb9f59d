"""The embedded server: started, watched, started again when it dies, stopped with the node."""

import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final

import psycopg
import structlog
import trio

from storage.embedded.cluster import SUPERUSER_DATABASE, ClusterFiles, DirectoryLock
from storage.embedded.placement import place
from storage.embedded.process import ServerProcess
from storage.errors import EmbeddedPostgresError

log = structlog.get_logger(__name__)

DATABASE: Final = "overlay"
START_S: Final = 120.0  # a start may have to recover a gigabyte of log
STARTS_MAX: Final = 5
CHECK_S: Final = 0.25
PAUSE_S_MAX: Final = 8.0
FAILURES_COUNTED: Final = 16
REASON_CHARS: Final = 300
CONNECT_S_MAX: Final = 5


class EmbeddedPostgres:
    """``with EmbeddedPostgres(directory) as postgres: postgres.url``; one process at a time per directory.

    Start and supervise it in the process's main thread, see ``ServerProcess``.

    Attributes:
        url: Of the node's database; stays the same when the server is started again.
    """

    def __init__(self, directory: Path) -> None:
        placement = place(directory)
        self._lock = DirectoryLock(directory)
        self._cluster = ClusterFiles(placement)
        self._process = ServerProcess(placement, self._cluster.data)
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
        return self._process.pid

    @property
    def data_directory(self) -> Path:
        """The cluster's own directory, wherever it had to be put."""
        return self._cluster.data

    def start(self) -> None:
        """Create the cluster if there is none, end a server left behind, start one and wait until it serves.

        Raises:
            DataDirectoryInUseError: another process runs a server here.
            EmbeddedPostgresError: with the last lines of the server's log.
        """
        self._lock.take()
        with ExitStack() as undo:
            undo.callback(self.stop)
            self._cluster.create()
            self._start_server()
            undo.pop_all()

    async def launch(self) -> None:
        """As ``start``, but the event loop goes on, and a server that does not start is never given up.

        Raises:
            DataDirectoryInUseError: another process runs a server here.
            EmbeddedPostgresError: a cluster cannot be created.
        """
        self._lock.take()
        await trio.to_thread.run_sync(self._cluster.create)
        await self._until_started()

    async def supervise(self) -> None:
        """Start the server again whenever it ends, until cancelled or stopped."""
        while self._process.is_started:
            await trio.sleep(CHECK_S)
            if self._process.is_started and not self._process.is_running:
                log.warning("postgres.ended", status=self._process.exit_status)
                await self._until_started()

    def stop(self) -> None:
        """Fast shutdown: running transactions are rolled back, everything committed is on disk."""
        self._process.end()
        self._lock.release()

    def remove(self) -> None:
        """Stop the server and delete its cluster, wherever it had to be put."""
        self.stop()
        self._cluster.remove()

    def _start_server(self) -> None:
        for attempt in range(1, STARTS_MAX + 1):
            self._cluster.clear_leftover()
            self._process.spawn()
            try:
                self._wait_until_serving()
                return
            except EmbeddedPostgresError as error:
                self._process.end()
                if attempt == STARTS_MAX:
                    raise
                log.warning("postgres.start_failed", attempt=attempt, reason=str(error)[-REASON_CHARS:])
                time.sleep(CHECK_S * attempt)  # a killed server's last processes may hold its memory for a moment

    async def _until_started(self) -> None:
        """Start the server until it serves.

        It is never given up: what keeps it from starting, a full disk above all, can pass without anybody restarting
        the node, which answers meanwhile that its database is unavailable.
        """
        failures = 0
        while True:
            try:
                if not self._process.is_running:
                    await trio.to_thread.run_sync(self._cluster.clear_leftover)
                    self._process.spawn()  # takes milliseconds, and has to be in this thread
                await self._until_serving()
                return
            except (EmbeddedPostgresError, OSError) as error:
                log.error("postgres.start_failed", why=str(error)[-REASON_CHARS:])
            failures = min(failures + 1, FAILURES_COUNTED)
            await trio.sleep(min(CHECK_S * 2**failures, PAUSE_S_MAX))

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
        """Whether the database takes connections. Raises EmbeddedPostgresError when the process ended or at
        ``deadline``, by the monotonic clock.
        """
        server = self._cluster.url
        try:
            with psycopg.connect(server, autocommit=True, connect_timeout=CONNECT_S_MAX) as connection:
                known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
                if known is None:
                    connection.execute(f"CREATE DATABASE {DATABASE}")
        except psycopg.OperationalError as error:
            if self._process.exit_status is not None or time.monotonic() > deadline:
                tail = self._cluster.log_tail()
                raise EmbeddedPostgresError(f"the embedded Postgres does not start: {error}\n{tail}") from None
            return False
        self.url = server.replace(f"/{SUPERUSER_DATABASE}?", f"/{DATABASE}?")
        return True
