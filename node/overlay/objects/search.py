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
"""Who is said to hold an object."""
Answers: TypeAlias = "trio.MemoryReceiveChannel[tuple[IdentityKey, bytes]]"


class PeerSearch:
    """One node's questions to the others."""

    def __init__(self, transport: Transport, likely: LikelyHolders) -> None:
        self._transport = transport
        self._likely = likely

    async def fetch(self, digest: bytes) -> Content | None:
        """An object from whichever peer is first to send it; None if none does in time."""
        with trio.move_on_after(SEARCH_S):
            async with self._survey([digest], write_part_request(PartRequest(digest=digest))) as answers:
                async for peer, body in answers:
                    content = await self._fetch_from(peer, digest, body)
                    if content is not None:
                        return content
        return None

    async def adverts(self, digests: Sequence[bytes], patience_s: float) -> list[tuple[IdentityKey, bytes, bytes]]:
        """(peer, digest, locking script) of what peers advertise, unchecked, as far as they answer in time."""
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
        """Answers that are no noes, as they come. Leaving the block ends the questions."""
        peers = await self._candidates(digests)
        places = trio.Semaphore(ASKED_AT_ONCE)
        send, answers = trio.open_memory_channel[tuple[IdentityKey, bytes]](PEERS_ASKED_MAX)

        async def ask(peer: IdentityKey) -> None:
            try:
                answer = await self._ask(peer, body, ANSWER_S)
                if answer:
                    await send.send((peer, answer))
            finally:
                places.release()

        async def ask_all() -> None:
            async with send, trio.open_nursery() as asking:
                for peer in peers:
                    await places.acquire()
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

    async def _fetch_from(self, peer: IdentityKey, digest: bytes, head: bytes) -> Content | None:
        try:
            promised = read_part(head)
            if not 0 < promised.size <= OBJECT_BYTES_MAX:
                raise MalformedError(f"an object of {promised.size} bytes")
            data = await self._parts(peer, digest, promised)
        except MalformedError as error:
            self._transport.strike(peer, error.code)
            return None
        if data is None:
            return None
        if await trio.to_thread.run_sync(_sha256, data) != digest:
            self._transport.strike(peer, "forged-object")
            return None
        log.info("object.fetched", digest=digest.hex(), kind=promised.kind.value, bytes=len(data), peer=peer.hex())
        return Content(digest=digest, kind=promised.kind, data=data)

    async def _parts(self, peer: IdentityKey, digest: bytes, promised: Part) -> bytes | None:
        data = bytearray()
        while len(data) < promised.size:
            length = min(PART_BYTES_MAX, promised.size - len(data))
            asked = PartRequest(digest=digest, offset=len(data), length=length)
            answer = await self._ask(peer, write_part_request(asked), PART_S)
            if not answer:
                return None
            part = read_part(answer)
            if part.size != promised.size or len(part.data) != length:
                raise MalformedError("a part that is not as asked for")
            data += part.data
        return bytes(data)

    async def _ask(self, peer: IdentityKey, body: bytes, timeout_s: float) -> bytes:
        """What a peer answers; empty where it has nothing, or does not answer."""
        try:
            answer = await self._transport.request(peer, body, timeout_s)
        except PeerUnreachableError as error:
            log.debug("object.unanswered", peer=peer.hex(), why=str(error))
            return b""
        return answer[1:] if answer.startswith(PRESENT) else b""


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
