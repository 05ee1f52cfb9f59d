"""Each honest node's database, and what is done to it: its disk, its configuration, its processes, its tables.

A database is the node's own server, or one that the suite runs for it: the second outlives the node, and the node's
supervision does not start it again.
"""

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import psutil
import psycopg

from storage.embedded import EmbeddedPostgres
from storage.embedded.cluster import SUPERUSER_DATABASE, ClusterFiles
from storage.embedded.placement import place
from storage.embedded.server import DATABASE
from tests.faults.disks import FREE_FULL_MIB, FREE_LOW_MIB, Disk, mounted
from tests.faults.schedule import Kind

LOCK_S: Final = 3
CONNECT_S: Final = 3
TABLES: Final = (
    "overlay_events",
    "batches",
    "entities",
    "event_index",
    "evidence",
    "overlay_event_sources",
    "node_meta",
)
ENDS: Final = (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL)  # fast, immediate, and a postmaster that is killed
ON_DISK: Final = "postgres"  # the directory of the cluster in a data directory


class NodeDatabase:
    """The database of one node, and the fault that it is under.

    Attributes:
        disk: That it is alone on; None where no disk could be mounted.
    """

    def __init__(self, directory: Path, disk: Disk | None, server: EmbeddedPostgres | None) -> None:
        """Args:
        directory: The data directory in which the server keeps its own.
        server: Where the suite runs it.
        """
        self.disk = disk
        self._directory = directory
        self._server = server
        self._locking: psycopg.Connection | None = None

    @property
    def url(self) -> str:
        """Of the node's database."""
        return self._files.url.replace(f"/{SUPERUSER_DATABASE}?", f"/{DATABASE}?")

    def begin(self, kind: Kind, detail: int) -> str:
        """Strike; what was chosen of the kind, in words. ``detail``: a random number.

        Raises:
            psycopg.Error: The database does not answer, or not in time.
        """
        match kind:
            case Kind.DISK_FULL:
                assert self.disk is not None, "left out of the timetable where there is no disk"
                free_mib = (FREE_FULL_MIB, FREE_LOW_MIB)[detail % 2]
                self.disk.fill(free_mib)
                return f"{free_mib} MiB free"
            case Kind.READ_ONLY:
                self._set_read_only(True)
            case Kind.FREEZE:
                _signal(self._processes(), signal.SIGSTOP)
            case Kind.HANG:
                connections = [each for each in self._processes() if _is_connection(each)]
                _signal(connections, signal.SIGSTOP)
                return f"{len(connections)} connections"
            case Kind.LOCK:
                table = TABLES[detail % len(TABLES)]
                self._lock(table)
                return table
            case Kind.BOUNCE:
                number = ENDS[detail % len(ENDS)]
                os.kill(self._postmaster(), number)
                return number.name
        return ""

    def end(self, kind: Kind) -> None:
        """Undo a fault. What the node has to do itself to come back is left to it.

        Raises:
            psycopg.Error: The database does not answer yet.
        """
        match kind:
            case Kind.DISK_FULL:
                assert self.disk is not None, "there is one"
                self.disk.free()
            case Kind.READ_ONLY:
                self._set_read_only(False)
            case Kind.FREEZE | Kind.HANG:
                self.resume()
            case Kind.LOCK if self._locking is not None:
                self._locking.close()
        if kind in (Kind.DISK_FULL, Kind.BOUNCE):
            self._start_again()

    def resume(self) -> None:
        """SIGCONT to all processes of the server."""
        _signal(self._processes(), signal.SIGCONT)

    @contextlib.contextmanager
    def connected(self) -> Iterator[psycopg.Connection]:
        """A connection that writes even where the database is read-only by its configuration."""
        with psycopg.connect(
            self.url,
            autocommit=True,
            connect_timeout=CONNECT_S,
            options=f"-c default_transaction_read_only=off -c lock_timeout={LOCK_S}s -c statement_timeout=60s",
        ) as connection:
            yield connection

    def close(self) -> None:
        """End what the suite runs."""
        if self._locking is not None:
            self._locking.close()
        if self._server is not None:
            self._server.stop()

    @property
    def _files(self) -> ClusterFiles:
        return ClusterFiles(place(self._directory))

    def _set_read_only(self, value: bool) -> None:
        with self.connected() as connection:
            connection.execute(
                f"ALTER SYSTEM SET default_transaction_read_only = {'on' if value else 'off'}".encode()
            )
            connection.execute("SELECT pg_reload_conf()")

    def _lock(self, table: str) -> None:
        self._locking = psycopg.connect(self.url, connect_timeout=CONNECT_S, options=f"-c lock_timeout={LOCK_S}s")
        self._locking.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())

    def _postmaster(self) -> int:
        return int((self._files.data / "postmaster.pid").read_text().split()[0])

    def _processes(self) -> list[psutil.Process]:
        """The postmaster first: it would start again what it misses."""
        with contextlib.suppress(psutil.NoSuchProcess, OSError, ValueError, IndexError):
            postmaster = psutil.Process(self._postmaster())
            return [postmaster, *postmaster.children(recursive=True)]
        return []

    def _start_again(self) -> None:
        """As the system's supervision would, where a server of the suite's has ended."""
        if self._server is None or (psutil.pid_exists(self._server.pid) and not _has_ended(self._server.pid)):
            return
        self._server.stop()
        self._server.start()


def _is_connection(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return any("[local]" in part for part in process.cmdline())
    return False


def _has_ended(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    return True


def _signal(processes: Sequence[psutil.Process], number: int) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


@contextlib.contextmanager
def databases(directory: Path, nodes: Sequence[int], *, served: Sequence[int]) -> Iterator[dict[int, NodeDatabase]]:
    """The databases of ``nodes``, by index, each on a disk of its own where that can be mounted.

    Args:
        directory: In which the nodes' data directories lie, as ``LocalNetwork`` has them.
        served: The nodes whose database the suite runs itself.
    """
    with contextlib.ExitStack() as stack:
        found = {}
        for index in nodes:
            own = directory / (f"server-{index + 1}" if index in served else f"node-{index + 1}")
            disk = stack.enter_context(mounted(own / ON_DISK))
            server = stack.enter_context(EmbeddedPostgres(own)) if index in served else None
            found[index] = NodeDatabase(own, disk, server)
            stack.callback(found[index].close)
        yield found
