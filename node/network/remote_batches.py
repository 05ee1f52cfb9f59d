"""Certified batches of other nodes: their manifests and outputs, from whichever peer has them.

A certificate names a batch by the hash of its manifest, and binds the verdicts on its events by their root. So any
peer can be asked for both: one that sends something else is struck, and the next one is asked.
"""

import random
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from typing import Final, TypeVar

import structlog
import trio

from node.coordination.serialization import unpack_outputs
from node.network.checker import Checker
from node.network.content_exchange import ContentExchange
from node.network.inbound_fence import InboundFence
from node.network.requests import PRESENT
from node.network.sync_messages import MANIFESTS, MANIFESTS_MAX, ManifestPage, read_keys, read_manifests, write_keys
from node.network.transport import Transport
from node.runtime.caches import BytesCache
from protocols import codec
from protocols.errors import MalformedError, WorldFault
from protocols.limits import GOSSIP_BYTES_MAX
from protocols.messages import IdentityKey, Manifest, QuorumCertificate, Statement
from storage import batches
from storage.database import Database

log = structlog.get_logger(__name__)

T = TypeVar("T")

ASKED_MAX: Final = 6  # peers, for one thing
REQUEST_S: Final = 5.0
MANIFESTS_KEPT: Final = 4_096
OUTPUTS_BYTES_KEPT: Final = 32 * 1024 * 1024
ANSWER_BYTES_MAX: Final = MANIFESTS_MAX * GOSSIP_BYTES_MAX


class BatchUnavailableError(WorldFault):
    """No peer that was asked sent the true outputs of a batch."""

    code = "batch-unavailable"


class RemoteBatches:
    """Requests batches of peers, and answers their requests: what was read here is kept for a while."""

    def __init__(
        self,
        *,
        network: str,
        database: Database,
        transport: Transport,
        library: ContentExchange,
        checker: Checker,
        fence: InboundFence,
    ) -> None:
        self._network = network
        self._database = database
        self._transport = transport
        self._library = library
        self._checker = checker
        self._fence = fence
        self._manifests: OrderedDict[str, tuple[bytes, Manifest]] = OrderedDict()
        self._outputs: BytesCache[str, tuple[bytes, bytes]] = BytesCache(OUTPUTS_BYTES_KEPT)

    async def manifests(self, statements: Sequence[Statement]) -> dict[str, Manifest]:
        """The manifests of certified batches by batch id, as far as peers have them; at most ``MANIFESTS_MAX``."""
        assert len(statements) <= MANIFESTS_MAX, "the caller asks page by page"
        wanted = {each.batch_id: each.coordinator for each in statements}
        found = {batch_id: self._manifests[batch_id] for batch_id in wanted if batch_id in self._manifests}
        found |= await self._read_own(wanted.keys() - found.keys())
        for coordinator in sorted({key for batch_id, key in wanted.items() if batch_id not in found}):
            missing = {batch_id for batch_id, key in wanted.items() if key == coordinator} - found.keys()
            found |= await self._ask_manifests(coordinator, missing)
        for peer in self._others(()):
            if found.keys() >= wanted.keys():
                break
            found |= await self._ask_manifests(peer, wanted.keys() - found.keys())
        self._manifests.update(found)
        while len(self._manifests) > MANIFESTS_KEPT:
            self._manifests.popitem(last=False)
        return {batch_id: manifest for batch_id, (_, manifest) in found.items()}

    async def read(self, certificate: QuorumCertificate, call: Callable[[bytes, bytes], T]) -> T:
        """Run a call over the leaves and normalized data of a batch, in a worker process.

        Args:
            call: Picklable; raises MalformedError unless its arguments are those that the certificate speaks of.

        Raises:
            BatchUnavailableError: no peer that was asked has them.
        """
        batch_id = certificate.statement.batch_id
        outputs = await self.outputs(batch_id)
        if outputs is not None:
            return await self._checker.admit(partial(call, *outputs))
        asked = []
        for peer in self._holders(certificate):
            asked.append(peer.hex())
            outputs = await self._library.outputs(batch_id, peer)
            if outputs is None:
                continue
            try:
                result = await self._checker.admit(partial(call, *outputs))
            except MalformedError as error:
                log.warning("remote_batch.forged", batch=batch_id, peer=peer.hex(), why=str(error))
                self._transport.strike(peer, "forged-outputs")
                continue
            self._outputs.put(batch_id, outputs)
            return result
        raise BatchUnavailableError(f"none of {len(asked)} peers sent the events of {batch_id}", batch=batch_id)

    async def outputs(self, batch_id: str) -> tuple[bytes, bytes] | None:
        """Leaves and normalized data of a batch of a topic, if they are here."""
        found = self._outputs.get(batch_id)
        if found is not None:
            return found
        packed = await self._database.run(partial(batches.outputs_to_share, batch_id=batch_id))
        return None if packed is None else await trio.to_thread.run_sync(unpack_outputs, packed)

    async def answer(self, body: bytes) -> bytes:
        """Answer a peer's request for manifests; empty where it is malformed, or none of them is here."""
        batch_ids = read_keys(body[len(MANIFESTS) :], MANIFESTS_MAX)
        frames = await self._database.run(partial(batches.manifests, batch_ids=batch_ids)) if batch_ids else []
        frames += [self._manifests[batch_id][0] for batch_id in batch_ids if batch_id in self._manifests]
        return codec.encode(ManifestPage(entries=tuple(dict.fromkeys(frames)))) if frames else b""

    async def _read_own(self, batch_ids: Collection[str]) -> dict[str, tuple[bytes, Manifest]]:
        """Manifests of batches that were finished here for others."""
        wanted = sorted(batch_ids)
        frames = await self._database.run(partial(batches.manifests, batch_ids=wanted)) if wanted else []
        return await self._check(codec.encode(ManifestPage(entries=tuple(frames))), wanted) if frames else {}

    async def _ask_manifests(self, peer: IdentityKey, wanted: Collection[str]) -> dict[str, tuple[bytes, Manifest]]:
        """The manifests of these that one peer has."""
        batch_ids = sorted(wanted)
        if peer == self._transport.identity:
            return {}
        try:
            answer = await self._transport.request(peer, MANIFESTS + write_keys(batch_ids), REQUEST_S)
            if answer[:1] != PRESENT or len(answer) > ANSWER_BYTES_MAX:
                return {}
            with self._fence.contain("answer", peer, answer):
                return await self._check(answer[1:], batch_ids)
        except WorldFault as error:  # of the peer, or of the worker that checks its answer
            log.debug("remote_batch.unanswered", peer=peer.hex(), why=str(error))
        return {}

    async def _check(self, page: bytes, wanted: Collection[str]) -> dict[str, tuple[bytes, Manifest]]:
        return await self._checker.admit(partial(read_manifests, page, self._network, frozenset(wanted)))

    def _holders(self, certificate: QuorumCertificate) -> Iterator[IdentityKey]:
        """The peers to ask for the outputs of a batch: its coordinator, its agents, then others."""
        signers = [signed.signer for signed in certificate.certifications]
        likely = dict.fromkeys((certificate.statement.coordinator, *signers[: ASKED_MAX // 2]))
        likely.pop(self._transport.identity, None)
        yield from likely
        yield from self._others(likely)

    def _others(self, asked: Iterable[IdentityKey]) -> list[IdentityKey]:
        """Connected peers besides these, in random order."""
        left = {peer.identity for peer in self._transport.peers() if peer.connected} - set(asked)
        found = sorted(left - {self._transport.identity})
        random.shuffle(found)
        return found[:ASKED_MAX]
