"""Notices of certified batches: the certificates that they name are requested, checked, and entered in the log.

A notice is a hint that anyone can give at no cost: what it names is requested only if a source here follows one of
the topics it claims, and accepted only when its certificate is valid. A lost notice costs half a minute: certificates
come by the peers' logs, too.
"""

import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final

import structlog
import trio

from node.network.inbound_fence import InboundFence
from node.network.sync import Synchronizer
from node.network.transport import Transport
from node.runtime.token_bucket import Rate, TokenBuckets
from node.runtime.topic_patterns import Patterns
from protocols.errors import WorldFault
from protocols.identifiers import batch_of
from protocols.messages import CertifiedNotice, IdentityKey, Signed
from storage import certificate_log
from storage.database import Database

log = structlog.get_logger(__name__)

NODES_AT_ONCE: Final = 8  # followed side by side: one that does not answer delays its own notices alone
WAITING_MAX: Final = 16  # notices of one node
NODE_RATE: Final = Rate(per_s=4.0, burst=16.0)  # notices taken of one node
NODES_MAX: Final = 1_024
SEEN_MAX: Final = 8_192
OTHERS_ASKED_MAX: Final = 3


class Interests:
    """The topics that sources here follow at the moment."""

    def __init__(self) -> None:
        self._followed: dict[object, Patterns] = {}

    @contextmanager
    def follow(self, patterns: Patterns) -> Iterator[None]:
        key = object()
        self._followed[key] = patterns
        try:
            yield
        finally:
            del self._followed[key]

    def wants(self, topics: Sequence[str]) -> bool:
        return any(patterns.allow_any(topics) for patterns in list(self._followed.values()))

    def __bool__(self) -> bool:
        return bool(self._followed)


class Notices:
    """Takes notices in, and requests the certificates that they name."""

    def __init__(
        self,
        *,
        database: Database,
        transport: Transport,
        sync: Synchronizer,
        interests: Interests,
        fence: InboundFence,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._database = database
        self._transport = transport
        self._sync = sync
        self._interests = interests
        self._fence = fence
        self._allowed = TokenBuckets[IdentityKey](NODE_RATE, clock, NODES_MAX)
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._waiting: dict[IdentityKey, deque[CertifiedNotice]] = {}
        self._places = trio.CapacityLimiter(NODES_AT_ONCE)
        self._send, self._receive = trio.open_memory_channel[IdentityKey](NODES_MAX)

    def receive(self, signed: Signed[CertifiedNotice]) -> None:
        """Take in a notice whose signature was checked. Never waits; notices past the bounds are dropped."""
        if not self._interests or not self._allowed.take(signed.signer):
            return
        waiting = self._waiting.get(signed.signer)
        if waiting is not None:
            if len(waiting) < WAITING_MAX:
                waiting.append(signed.message)
            return
        try:
            self._send.send_nowait(signed.signer)
        except trio.WouldBlock:
            log.warning("notice.dropped", peer=signed.signer.hex())
        else:
            self._waiting[signed.signer] = deque([signed.message])

    async def run(self) -> None:
        """Follow notices until cancelled: those of one node in turn, those of several nodes side by side."""
        async with trio.open_nursery() as nursery:
            async for announcer in self._receive:
                nursery.start_soon(self._follow_all, announcer)

    async def _follow_all(self, announcer: IdentityKey) -> None:
        async with self._places:
            waiting = self._waiting[announcer]
            try:
                while waiting:
                    with self._fence.contain("gossip", announcer):
                        await self._follow(announcer, waiting.popleft())
            finally:
                del self._waiting[announcer]

    async def _follow(self, announcer: IdentityKey, notice: CertifiedNotice) -> None:
        """Request the certificates that a notice names, of its sender first, then of others."""
        batch_ids = await trio.to_thread.run_sync(self._wanted, notice)
        missing = await self._unknown(batch_ids)
        for peer in (announcer, *self._others(announcer)):
            if not missing:
                break
            await self._ask(peer, missing)
            missing = await self._unknown(missing)
        self._remember(batch_id for batch_id in batch_ids if batch_id not in missing)

    def _wanted(self, notice: CertifiedNotice) -> list[str]:
        """The batches in a notice that a source here follows and that are not known as seen."""
        named = [(batch_of(batch.batch), batch.topics) for batch in notice.batches]
        return [
            batch_id for batch_id, topics in named if batch_id not in self._seen and self._interests.wants(topics)
        ]

    async def _ask(self, peer: IdentityKey, batch_ids: Sequence[str]) -> None:
        try:
            with self._fence.contain("answer", peer):
                learned = await self._sync.fetch(peer, batch_ids)
                log.debug("notice.followed", peer=peer.hex(), certificates=learned)
        except WorldFault as error:  # of the peer, or of the worker that checks its answer
            log.info("notice.unreachable", peer=peer.hex(), why=str(error))

    async def _unknown(self, batch_ids: Sequence[str]) -> list[str]:
        return await self._database.run(partial(certificate_log.unknown, batch_ids=batch_ids))

    def _others(self, announcer: IdentityKey) -> list[IdentityKey]:
        connected = {peer.identity for peer in self._transport.peers() if peer.connected}
        found = sorted(connected - {announcer, self._transport.identity})
        random.shuffle(found)
        return found[:OTHERS_ASKED_MAX]

    def _remember(self, batch_ids: Iterator[str]) -> None:
        self._seen.update(dict.fromkeys(batch_ids))
        while len(self._seen) > SEEN_MAX:
            self._seen.popitem(last=False)
