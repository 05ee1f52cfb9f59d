"""Changes that are kept in memory at once and written to the database a moment later, many in one transaction.

For figures and positions of which a crash may take the last moment: counts, cursors, job rows. What must be on disk
before somebody is answered does not belong here.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import structlog
import trio

from protocols.errors import WorldFault
from storage.database import Database
from storage.errors import StorageRefusedError

if TYPE_CHECKING:
    from psycopg import Connection

log = structlog.get_logger(__name__)

FLUSH_S: Final = 1.0
LAST_FLUSH_S: Final = 5.0
ENTRY_CHARS: Final = 200  # of an entry that is dropped, in the log
ENTRIES_MAX: Final = 100_000

K = TypeVar("K")
V = TypeVar("V")


class WriteBehind(Generic[K, V]):
    """One value by key, merged with what came before until it is written.

    A write that fails loses nothing: its entries are put back, merged with those added meanwhile, and written with
    the next flush.
    """

    def __init__(
        self,
        name: str,
        database: Database,
        *,
        write: "Callable[[Connection, Mapping[K, V]], None]",
        merge: Callable[[V, V], V],
        flush_s: float = FLUSH_S,
        entries_max: int = ENTRIES_MAX,
    ) -> None:
        """Args:
        name: For the log.
        write: Writes all entries, within one transaction, in a database thread.
        merge: The value that stands for two of the same key, the earlier one given first.
        flush_s: Between the first change and its write; also the longest that a crash takes with it.
        entries_max: Keys that wait. While the database is away for long, further keys are dropped and counted.
        """
        self._name = name
        self._database = database
        self._write = write
        self._merge = merge
        self._flush_s = flush_s
        self._entries_max = entries_max
        self._waiting: dict[K, V] = {}
        self._in_flight: dict[K, V] = {}
        self._flushing = trio.Lock()
        self._changed = trio.Event()
        self._dropped = 0

    def __len__(self) -> int:
        """Keys that are not known to be written."""
        return len(self._waiting.keys() | self._in_flight.keys())

    @property
    def dropped(self) -> int:
        """Changes left out since the start: ``entries_max`` keys waited, or the database cannot hold them."""
        return self._dropped

    def add(self, key: K, value: V) -> None:
        """Take a change in; never waits."""
        earlier = self._waiting.get(key)
        if earlier is not None:
            self._waiting[key] = self._merge(earlier, value)
        elif key in self._in_flight or len(self._waiting) + len(self._in_flight) < self._entries_max:
            self._waiting[key] = value
            self._changed.set()
        else:
            self._dropped += 1

    def discard(self, key: K) -> None:
        """Forget a change that is not being written yet, if there is one."""
        self._waiting.pop(key, None)

    async def run(self) -> None:
        """Write what was added, again and again, until cancelled; then what is left."""
        try:
            while True:
                await self._changed.wait()
                self._changed = trio.Event()  # only here: another flush must not replace the event waited for
                await trio.sleep(self._flush_s)
                await self._try_to_flush()
        except trio.Cancelled:
            with trio.CancelScope(deadline=trio.current_time() + LAST_FLUSH_S, shield=True):
                await self._try_to_flush()
            raise

    async def flush(self) -> None:
        """Write all that was added so far.

        Raises:
            WorldFault: It is not known to be written, and will be tried again.
        """
        async with self._flushing:
            self._in_flight, self._waiting = self._waiting, {}
            if not self._in_flight:
                return
            try:
                await self._write_part(self._in_flight)
            except BaseException:
                self._put_back()
                raise
            finally:
                self._in_flight = {}

    async def _write_part(self, part: Mapping[K, V]) -> None:
        """Write entries. Those that the database refuses are found by halving, and dropped: they would be refused
        again with every flush, and the others with them.
        """
        try:
            await self._database.run(lambda connection: self._write(connection, part))
        except StorageRefusedError as fault:
            if len(part) == 1:
                self._dropped += 1
                log.error("write_behind.refused", of=self._name, entry=repr(part)[:ENTRY_CHARS], why=str(fault))
            else:
                entries, middle = list(part.items()), len(part) // 2
                await self._write_part(dict(entries[:middle]))
                await self._write_part(dict(entries[middle:]))
                return
        for key in list(part):
            del self._in_flight[key]

    async def _try_to_flush(self) -> None:
        dropped = self._dropped
        try:
            await self.flush()
        except WorldFault as fault:
            log.warning("write_behind.failed", of=self._name, entries=len(self), dropped=dropped, why=str(fault))

    def _put_back(self) -> None:
        later, self._waiting = self._waiting, self._in_flight
        for key, value in later.items():
            earlier = self._waiting.get(key)
            self._waiting[key] = value if earlier is None else self._merge(earlier, value)
        self._changed.set()
