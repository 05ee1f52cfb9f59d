"""A way to the database on which the answer to a commit can be lost, as where a server or a network fails then."""

import re
import select
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, quote, unquote, urlsplit

SOCKET: Final = ".s.PGSQL.5432"
COMMIT: Final = b"COMMIT\x00"
PREPARED: Final = re.compile(rb"(_pg3_\d+)\x00([^\x00]+)\x00")  # as psycopg names statements that it prepares
CHUNK_BYTES: Final = 65_536


class LossyWay:
    """Passes bytes between clients and the server; breaks the connections whose commit is to be lost.

    Attributes:
        url: Of the same database, by this way.
        lost: Commits whose answer was lost.
        refused: Connections that were closed at once since.
    """

    def __init__(self, url: str, directory: Path) -> None:
        parts = urlsplit(url)
        sockets = unquote(parse_qs(parts.query)["host"][0])
        self._server = str(Path(sockets) / SOCKET)
        self.url = url.replace(parts.query, f"host={quote(str(directory), safe='')}")
        self.lost = 0
        self.refused = 0
        self._marker = b""
        self._to_lose = 0
        self._carried_out = True
        self._cuts = self._is_cut = False
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(directory / SOCKET))
        self._listener.listen(64)

    def lose(self, marker: str, *, times: int = 1, carried_out: bool = True, cuts: bool = False) -> None:
        """Lose the answers to the next commits of transactions in which a statement contains ``marker``.

        Args:
            carried_out: Whether the server gets to see the commit.
            cuts: From then on the server cannot be reached, until ``mend``.
        """
        with self._lock:
            self._marker, self._to_lose, self._carried_out, self._cuts = marker.encode(), times, carried_out, cuts

    def mend(self) -> None:
        """Let the server be reached again."""
        self._is_cut = False

    def run(self) -> None:
        """Take connections until ``close``."""
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _pass_on(self, client: socket.socket) -> None:
        with closing(client), closing(socket.socket(socket.AF_UNIX)) as server, suppress(OSError):
            if self._is_cut:
                self.refused += 1
                return
            server.connect(self._server)
            is_marked = is_last = False
            prepared: dict[bytes, bytes] = {}
            while True:
                ready, _, _ = select.select([client, server], [], [])
                if server in ready:
                    data = server.recv(CHUNK_BYTES)
                    if not data or is_last:
                        return
                    client.sendall(data)
                if client in ready:
                    data = client.recv(CHUNK_BYTES)
                    if not data:
                        return
                    prepared.update(PREPARED.findall(data))
                    run_again = b"".join(text for name, text in prepared.items() if b"\x00" + name + b"\x00" in data)
                    is_marked = is_marked or self._marks(data + run_again)
                    if COMMIT in data and is_marked:
                        is_marked = False
                        if self._takes_one():
                            if not self._carried_out:
                                return
                            is_last = True
                    server.sendall(data)

    def _marks(self, data: bytes) -> bool:
        with self._lock:
            return self._to_lose > 0 and self._marker in data

    def _takes_one(self) -> bool:
        with self._lock:
            if self._to_lose == 0:
                return False
            self._to_lose -= 1
            self._is_cut = self._cuts
            self.lost += 1
            return True


@contextmanager
def lossy_way(url: str) -> Iterator[LossyWay]:
    """``with lossy_way(postgres_url) as way: Database(way.url)``."""
    directory = Path(tempfile.mkdtemp(prefix="overlay-way-"))
    try:
        way = LossyWay(url, directory)
        passing = threading.Thread(target=way.run, daemon=True)
        passing.start()
        try:
            yield way
        finally:
            way.close()
            passing.join()
    finally:
        shutil.rmtree(directory)
