"""Content by its SHA-256 (UHRP, BRC-26), from this node's database or from a peer that has it."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import structlog
import trio

from node.network.transport import Transport
from node.overlay.objects.adverts import AdvertMaker
from node.overlay.objects.object_store import OBJECT_BYTES_MAX, Content, ObjectsBusyError, ObjectStore
from node.overlay.objects.search import LikelyHolders, PeerSearch
from node.overlay.objects.wire import (
    ADVERTS,
    DIGESTS_MAX,
    REQUEST_TAGS,
    Part,
    read_adverts_request,
    read_part_request,
    write_adverts,
    write_part,
)
from node.runtime.clock import clock_ms
from protocols.errors import WorldFault
from protocols.keys import PrivateKey
from protocols.messages import IdentityKey
from storage.database import Database
from storage.objects import Kind

__all__ = ["DIGESTS_MAX", "OBJECT_BYTES_MAX", "REQUEST_TAGS", "Content", "Kind", "Objects", "ObjectsBusyError"]

log = structlog.get_logger(__name__)

SEARCHES_AT_ONCE: Final = 4
SEARCHES_WAITING_MAX: Final = 64
MISSING_S: Final = 10.0  # a search that found nothing is not repeated for so long
MISSING_MAX: Final = 4_096
SURVEYS_AT_ONCE: Final = 8


async def no_holders(_: bytes) -> Sequence[IdentityKey]:
    return ()


class ObjectSearch:
    """A search under way. ``outcome`` is set before ``done``."""

    def __init__(self, digest: bytes) -> None:
        self.digest = digest
        self.outcome: Content | WorldFault | None = None
        self.done = trio.Event()


class Objects:
    """The objects that this node serves, and those that it can fetch from peers."""

    def __init__(
        self,
        *,
        database: Database,
        transport: Transport,
        key: PrivateKey,
        public_url: str,
        likely: LikelyHolders = no_holders,
    ) -> None:
        """Args:
        public_url: Where this node serves HTTP, for its advertisements.
        likely: Finds peers that advertise an object, to be asked first.
        """
        self._store = ObjectStore(database)
        self._peers = PeerSearch(transport, likely)
        self._advert_maker = AdvertMaker(key, public_url)
        self._searches: dict[bytes, ObjectSearch] = {}
        self._missing: OrderedDict[bytes, float] = OrderedDict()  # digest: until when, by trio's clock
        self._surveys = trio.CapacityLimiter(SURVEYS_AT_ONCE)
        self._send, self._receive = trio.open_memory_channel[ObjectSearch](SEARCHES_WAITING_MAX)

    async def run(self) -> None:
        """Search for objects that are requested, and enter earlier batches into the index."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._store.run)
            for _ in range(SEARCHES_AT_ONCE):
                nursery.start_soon(self._search)

    async def get(self, digest: bytes, *, local: bool = False) -> Content | None:
        """An object, from this node or else (unless ``local``) from a peer; None if none is found.

        Raises:
            ObjectsBusyError: Too many objects are in memory, or being searched for.
            WorldFault: The search failed; ask again.
        """
        content = await self._store.read(digest) or self._store.in_memory(digest)  # a search may just have ended
        if content is not None or local or self._known_missing(digest):
            return content
        search = self._searches.get(digest)
        if search is None:
            search = ObjectSearch(digest)
            try:
                self._send.send_nowait(search)
            except trio.WouldBlock as full:
                raise ObjectsBusyError(
                    f"{SEARCHES_WAITING_MAX} searches for objects wait already", retryAfter=2
                ) from full
            self._searches[digest] = search
        await search.done.wait()
        if isinstance(search.outcome, WorldFault):
            raise search.outcome.anew()
        return search.outcome

    async def own_adverts(self, digests: Sequence[bytes]) -> list[bytes | None]:
        """This node's advertisement of each object, a locking script; None for objects that it does not hold."""
        now_ms = clock_ms()
        found = await self._store.find(list(digests))
        return [None if known is None else self._advert_maker.make(known, now_ms) for known in found]

    async def peer_adverts(
        self, digests: Sequence[bytes], patience_s: float
    ) -> list[tuple[IdentityKey, bytes, bytes]]:
        """(peer, digest, locking script) of peers' advertisements, unchecked, of those that answer in time.

        Args:
            patience_s: How long to wait for answers.

        Raises:
            ObjectsBusyError: Too many such requests wait.
        """
        if self._surveys.statistics().tasks_waiting >= SEARCHES_WAITING_MAX:
            raise ObjectsBusyError(f"{SEARCHES_WAITING_MAX} lookups wait for peers already", retryAfter=2)
        async with self._surveys:
            return await self._peers.adverts(digests, patience_s)

    async def answer(self, body: bytes) -> bytes:
        """Answer a peer's request from this node's database only; empty: the object is not here.

        Raises:
            MalformedError: It is not a request about objects.
        """
        if body.startswith(ADVERTS):
            return write_adverts(await self.own_adverts(read_adverts_request(body)))
        request = read_part_request(body)
        if request.length == 0:
            known = (await self._store.find([request.digest]))[0]
            return b"" if known is None else write_part(Part(kind=known.kind, size=known.size))
        content = await self._store.read(request.digest)
        if content is None:
            return b""
        data = content.data[request.offset : request.offset + request.length]
        return write_part(Part(kind=content.kind, size=len(content), data=data))

    async def _search(self) -> None:
        async for search in self._receive.clone():
            try:
                search.outcome = await self._found(search.digest)
            except WorldFault as fault:
                log.warning("object.search_failed", digest=search.digest.hex(), why=str(fault))
                search.outcome = fault
            finally:
                del self._searches[search.digest]
                search.done.set()

    async def _found(self, digest: bytes) -> Content | None:
        content = await self._peers.fetch(digest)
        if content is not None:
            await self._store.keep(content)
            return content
        self._missing[digest] = trio.current_time() + MISSING_S
        if len(self._missing) > MISSING_MAX:
            self._missing.popitem(last=False)
        return None

    def _known_missing(self, digest: bytes) -> bool:
        return self._missing.get(digest, 0.0) > trio.current_time()
