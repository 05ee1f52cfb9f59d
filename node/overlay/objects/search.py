"""Asks peers about objects: who has one, the bytes of it, and their advertisements.

Likely holders are asked first, then the connected peers in random order, a few at a time. A peer that falsely claims
to have an object costs only the time to find out: its bytes count only if they have the digest asked for.
"""

import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, TypeAlias

import structlog
import trio

from node.network.requests import PRESENT
from node.network.transport import PeerUnreachableError, Transport
from node.overlay.objects.object_store import OBJECT_BYTES_MAX, Content
from node.overlay.objects.wire import (
    PART_BYTES_MAX,
    Part,
    PartRequest,
    read_adverts,
    read_part,
    write_adverts_request,
    write_part_request,
)
from protocols.errors import MalformedError
from protocols.messages import IdentityKey

log = structlog.get_logger(__name__)

PEERS_ASKED_MAX: Final = 32
ASKED_AT_ONCE: Final = 8
ANSWER_S: Final = 2.0
PART_S: Final = 5.0
SEARCH_S: Final = 30.0

LikelyHolders: TypeAlias = Callable[[bytes], Awaitable[Sequence[IdentityKey]]]
"""Finds peers that advertise an object."""
Answers: TypeAlias = "trio.MemoryReceiveChannel[tuple[IdentityKey, bytes]]"


class PeerSearch:
    """Requests about objects to peers."""

    def __init__(self, transport: Transport, likely: LikelyHolders) -> None:
        self._transport = transport
        self._likely = likely

    async def fetch(self, digest: bytes) -> Content | None:
        """An object from the first peer that sends it; None if none does in time."""
        with trio.move_on_after(SEARCH_S):
            async with self._survey([digest], write_part_request(PartRequest(digest=digest))) as answers:
                async for peer, body in answers:
                    content = await self._fetch_from(peer, digest, body)
                    if content is not None:
                        return content
        return None

    async def adverts(self, digests: Sequence[bytes], patience_s: float) -> list[tuple[IdentityKey, bytes, bytes]]:
        """(peer, digest, locking script) of peers' advertisements, unchecked, of those that answer in time."""
        found: list[tuple[IdentityKey, bytes, bytes]] = []
        with trio.move_on_after(patience_s):
            async with self._survey(digests, write_adverts_request(digests)) as answers:
                async for peer, body in answers:
                    try:
                        scripts = read_adverts(body, len(digests))
                    except MalformedError as error:
                        self._transport.strike(peer, error.code)
                        continue
                    found += [
                        (peer, digest, script)
                        for digest, script in zip(digests, scripts, strict=True)
                        if script is not None
                    ]
        return found

    @asynccontextmanager
    async def _survey(self, digests: Sequence[bytes], body: bytes) -> AsyncIterator[Answers]:
        """The non-empty answers of peers, as they come. Leaving the block ends the requests."""
        peers = await self._candidates(digests)
        slots = trio.Semaphore(ASKED_AT_ONCE)
        send, answers = trio.open_memory_channel[tuple[IdentityKey, bytes]](PEERS_ASKED_MAX)

        async def ask(peer: IdentityKey) -> None:
            try:
                answer = await self._ask(peer, body, ANSWER_S)
                if answer:
                    await send.send((peer, answer))
            finally:
                slots.release()

        async def ask_all() -> None:
            async with send, trio.open_nursery() as asking:
                for peer in peers:
                    await slots.acquire()
                    asking.start_soon(ask, peer)

        async with trio.open_nursery() as nursery, answers:
            nursery.start_soon(ask_all)
            yield answers
            nursery.cancel_scope.cancel()

    async def _candidates(self, digests: Sequence[bytes]) -> list[IdentityKey]:
        likely = [identity for digest in digests for identity in await self._likely(digest)]
        connected = [peer.identity for peer in self._transport.peers() if peer.connected]
        random.shuffle(connected)
        candidates = dict.fromkeys((*likely, *connected))
        candidates.pop(self._transport.identity, None)
        return list(candidates)[:PEERS_ASKED_MAX]

    async def _fetch_from(self, peer: IdentityKey, digest: bytes, answer: bytes) -> Content | None:
        try:
            head = read_part(answer)
            if not 0 < head.size <= OBJECT_BYTES_MAX:
                raise MalformedError(f"an object has {head.size} bytes, 1 to {OBJECT_BYTES_MAX} are allowed")
            data = await self._parts(peer, digest, head)
        except MalformedError as error:
            self._transport.strike(peer, error.code)
            return None
        if data is None:
            return None
        if await trio.to_thread.run_sync(_sha256, data) != digest:
            self._transport.strike(peer, "forged-object")
            return None
        log.info("object.fetched", digest=digest.hex(), kind=head.kind.value, bytes=len(data), peer=peer.hex())
        return Content(digest=digest, kind=head.kind, data=data)

    async def _parts(self, peer: IdentityKey, digest: bytes, head: Part) -> bytes | None:
        data = bytearray()
        while len(data) < head.size:
            length = min(PART_BYTES_MAX, head.size - len(data))
            request = PartRequest(digest=digest, offset=len(data), length=length)
            answer = await self._ask(peer, write_part_request(request), PART_S)
            if not answer:
                return None
            part = read_part(answer)
            if part.size != head.size or len(part.data) != length:
                raise MalformedError("a part of an object has another size than was requested")
            data += part.data
        return bytes(data)

    async def _ask(self, peer: IdentityKey, body: bytes, timeout_s: float) -> bytes:
        """The answer of a peer; empty if it has none, or does not answer."""
        try:
            answer = await self._transport.request(peer, body, timeout_s)
        except PeerUnreachableError as error:
            log.debug("object.unanswered", peer=peer.hex(), why=str(error))
            return b""
        return answer[1:] if answer.startswith(PRESENT) else b""


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
