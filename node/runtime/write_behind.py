"""Changes that are kept in memory at once and written to the database a moment later, many in one transaction.

For figures and positions of which a crash may take the last moment: counts, cursors, job rows. What must be on disk
before somebody is answered does not belong here.

Changes are written in parts, one after the other. A part whose write failed stays as it is and is tried again first:
it may have been written, and its name, which is written with it, tells.
"""

import secrets
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import attrs
import structlog
import trio

from protocols.errors import WorldFault
from storage import parts_written
from storage.database import Database
from storage.errors import StorageRefusedError

if TYPE_CHECKING:
    from psycopg import Connection

log = structlog.get_logger(__name__)

FLUSH_S: Final = 1.0
LAST_FLUSH_S: Final = 5.0
ENTRY_CHARS: Final = 200  # of an entry that is dropped, in the log
ENTRIES_MAX: Final = 100_000
PART_MAX: Final = 1_000  # entries of a transaction: it holds locks and a connection for as long as it takes
NAME_BYTES: Final = 16

K = TypeVar("K")
V = TypeVar("V")


@attrs.frozen(eq=False, kw_only=True)
class _Part(Generic[K, V]):
    """Entries of one transaction. What is added meanwhile does not change them."""

    entries: Mapping[K, V]
    name: bytes = attrs.field(factory=partial(secrets.token_bytes, NAME_BYTES))


class WriteBehind(Generic[K, V]):
    """One value by key, merged with what came before until its write begins. Every change is written once, also
    where a write fails, or its outcome is not known, and it is tried again.
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
        name: Of this ledger, the only one of its name; also for the log.
        write: Writes some entries, within one transaction, in a database thread.
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
        self._parts: deque[_Part[K, V]] = deque()  # the first is being written, or was tried
        self._flushing = trio.Lock()
        self._changed = trio.Event()
        self._dropped = 0

    def __len__(self) -> int:
        """Entries that are not known to be written; a key of one that is being written may have another."""
        return len(self._waiting) + sum(len(part.entries) for part in self._parts)

    @property
    def dropped(self) -> int:
        """Changes left out since the start: ``entries_max`` keys waited, or the database cannot hold them."""
        return self._dropped

    def add(self, key: K, value: V) -> None:
        """Take a change in; never waits."""
        earlier = self._waiting.get(key)
        if earlier is not None:
            self._waiting[key] = self._merge(earlier, value)
        elif len(self) < self._entries_max or any(key in part.entries for part in self._parts):
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
            if len(self):
                log.warning("write_behind.left", of=self._name, entries=len(self), dropped=self._dropped)
            raise

    async def flush(self) -> None:
        """Write all that was added so far.

        Raises:
            WorldFault: It is not known to be written, and will be tried again.
        """
        with self._database.awaited():  # what another flush is at, too
            await self._flushing.acquire()
        try:
            left = len(self._waiting)  # in the order in which they were added: what is added later comes after these
            while self._parts or left > 0:
                if not self._parts:
                    left -= self._begin_part()
                is_written = False
                try:
                    await self._write_first()
                    is_written = True
                finally:
                    if not is_written:
                        self._changed.set()  # to be tried again
        finally:
            self._flushing.release()

    def _begin_part(self) -> int:
        """Take the entries that wait for longest. Returns how many."""
        entries = dict(islice(self._waiting.items(), PART_MAX))
        for key in entries:
            del self._waiting[key]
        self._parts.append(_Part(entries=entries))
        return len(entries)

    async def _write_first(self) -> None:
        """Write the first part. Entries that the database refuses are found by halving, and dropped: they would be
        refused again with every flush, and the others with them.
        """
        part = self._parts[0]
        try:
            await self._database.run(partial(self._write_once, part))
        except StorageRefusedError as fault:
            self._parts.popleft()
            if len(part.entries) == 1:
                self._dropped += 1
                log.error(
                    "write_behind.refused", of=self._name, entry=repr(part.entries)[:ENTRY_CHARS], why=str(fault)
                )
            else:
                entries, middle = list(part.entries.items()), len(part.entries) // 2
                halves = entries[:middle], entries[middle:]
                self._parts.extendleft(_Part(entries=dict(half)) for half in reversed(halves))
        else:
            self._parts.popleft()

    def _write_once(self, part: _Part[K, V], connection: "Connection") -> None:
        if parts_written.enter(connection, self._name, part.name):
            self._write(connection, part.entries)

    async def _try_to_flush(self) -> None:
        dropped = self._dropped
        try:
            await self.flush()
        except WorldFault as fault:
            log.warning("write_behind.failed", of=self._name, entries=len(self), dropped=dropped, why=str(fault))
