"""Objects in this node's database, read as a whole and checked against their digest every time.

An object stays in memory while a reader refers to it, and all readers share one copy. So memory is bounded by the
objects in use, however slow their readers are.
"""

import hashlib
from functools import partial
from typing import Final
from weakref import WeakValueDictionary

import attrs
import structlog
import trio

from node.runtime.caches import BytesCache
from node.worker.compute import pack, unpack
from protocols.errors import ClientFault, MalformedError
from protocols.limits import PAYLOAD_BYTES_MAX
from storage import objects
from storage.database import Database
from storage.objects import Kind, StoredCopy, StoredObject

log = structlog.get_logger(__name__)

OBJECT_BYTES_MAX: Final = PAYLOAD_BYTES_MAX
RECENT_BYTES_MAX: Final = 32 * 1024 * 1024
MEMORY_BYTES_MAX: Final = 96 * 1024 * 1024  # no further object is read while more bytes are in use
READS_AT_ONCE: Final = 2
INDEXED_AT_ONCE: Final = 4
INDEX_PAUSE_S: Final = 0.1


class ObjectsBusyError(ClientFault):
    """Too many objects are in memory, or too many searches under way."""

    code = "overloaded"


@attrs.frozen(kw_only=True, eq=False)
class Content:
    """A whole object. ``data`` has been checked to have this digest."""

    digest: bytes
    kind: Kind
    data: bytes

    def __len__(self) -> int:
        return len(self.data)


class ObjectStore:
    """Reads objects, stores copies, and enters batches of earlier versions of this node into the index."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._alive: WeakValueDictionary[bytes, Content] = WeakValueDictionary()
        self._recent: BytesCache[bytes, Content] = BytesCache(RECENT_BYTES_MAX)
        self._readers = trio.CapacityLimiter(READS_AT_ONCE)

    async def find(self, digests: list[bytes]) -> list[StoredObject | None]:
        """The kind and size of objects; None for those that are not here."""
        return await self._database.run(
            lambda connection: [objects.find(connection, digest) for digest in digests],
        )

    def in_memory(self, digest: bytes) -> Content | None:
        """An object if it is in memory."""
        return self._alive.get(digest)

    async def read(self, digest: bytes) -> Content | None:
        """An object; None if it is not here, or no stored copy has that digest any more.

        Raises:
            ObjectsBusyError: Too many objects are in memory.
        """
        content = self.in_memory(digest)
        if content is None:
            async with self._readers:
                content = self.in_memory(digest)
                if content is None:
                    content = await self._load(digest)
        if content is not None:
            self._recent.put(digest, content)
        return content

    async def keep(self, content: Content) -> None:
        """Store an object that was fetched from a peer, in memory and in the database."""
        self._alive[content.digest] = content
        self._recent.put(content.digest, content)
        packed = await trio.to_thread.run_sync(pack, content.data)
        known = StoredObject(digest=content.digest, kind=content.kind, size=len(content))
        await self._database.run(partial(objects.keep, known=known, content=packed))

    async def run(self) -> None:
        """Index batches that were sealed before there was an index, a few at a time; returns when all are."""
        while True:
            if not await self._database.run(partial(objects.enter_earlier, limit=INDEXED_AT_ONCE)):
                return
            await trio.sleep(INDEX_PAUSE_S)

    async def _load(self, digest: bytes) -> Content | None:
        if sum(map(len, self._alive.values())) > MEMORY_BYTES_MAX:
            raise ObjectsBusyError(
                f"objects of more than {MEMORY_BYTES_MAX} bytes are being read already", retryAfter=1
            )
        for copy in await self._database.run(partial(objects.copies, digest=digest)):
            data = await trio.to_thread.run_sync(_checked, digest, copy)
            if data is not None:
                content = self._alive[digest] = Content(digest=digest, kind=copy.kind, data=data)
                return content
            log.error("object.corrupt", digest=digest.hex(), kind=copy.kind.value)
        return None


def _checked(digest: bytes, copy: StoredCopy) -> bytes | None:
    """The bytes of a stored copy; None if they do not have this digest."""
    try:
        data = unpack(copy.stored, OBJECT_BYTES_MAX) if copy.packed else copy.stored
    except MalformedError:
        return None
    return data if hashlib.sha256(data).digest() == digest else None
