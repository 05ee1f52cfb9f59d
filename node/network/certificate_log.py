"""The node's log of certificates: those of others are written in groups, and peers read the log to catch up."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final

import structlog
import trio

from node.coordination.dispatcher import Handlers
from node.coordination.serialization import certificate_bytes, read_certificate
from node.network.inbound_fence import InboundFence
from node.network.sync_messages import (
    ENTRIES,
    ENTRIES_BYTES_MAX,
    ENTRIES_MAX,
    IDS,
    NUMBER_BYTES,
    PROOFS,
    PROOFS_MAX,
    EntryPage,
    IdPage,
    ProofPage,
    read_keys,
)
from node.runtime.channels import waiting
from node.runtime.clock import clock_ms
from node.runtime.containment import Quarantine
from protocols import codec
from protocols.effects import LookUpCertificate, StoreCertificate
from protocols.errors import PeerFault
from protocols.identifiers import batch_digest
from protocols.limits import LOG_PAGE_MAX
from protocols.messages import BatchSealed, IdentityKey, QuorumCertificate
from protocols.stimuli import CertificateLookedUp, CertificateStored, Stimulus
from storage import certificate_log, peers
from storage.certificate_log import VOUCHED, Logged
from storage.database import Database
from storage.errors import StorageRefusedError

if TYPE_CHECKING:
    from psycopg import Connection

log = structlog.get_logger(__name__)

GROUP_S: Final = 0.05
GROUP_MAX: Final = 256
QUEUE_MAX: Final = 4_096


class CertificateLog:
    """Writes and serves the log."""

    def __init__(
        self,
        *,
        network: str,
        database: Database,
        kept_max: int,
        is_known: Callable[[IdentityKey], bool],
        has_standing: Callable[[IdentityKey], bool],
        enqueue: Callable[[Stimulus], None],
        fence: InboundFence,
        quarantine: Quarantine,
    ) -> None:
        """Args:
        kept_max: How many certificates of others are kept, the latest.
        is_known: Whether a key is a node's of this network: certificates of other keys prove nothing.
        has_standing: Whether a key is this node's, a certified member's, or did work here that others confirmed:
            certificates that one of these signed stay longer than those that strangers alone signed.
        enqueue: Reports to the driver.
        fence: Contains what peers sent.
        quarantine: Contains rows read back.
        """
        self._network = network
        self._database = database
        self.kept_max = kept_max
        self._is_known = is_known
        self._has_standing = has_standing
        self._enqueue = enqueue
        self._fence = fence
        self._quarantine = quarantine
        self._news = trio.Event()
        self._send, self._receive = trio.open_memory_channel[StoreCertificate](QUEUE_MAX)

    @property
    def news(self) -> trio.Event:
        """Set when the next certificate of another node is entered. Get it before reading the log."""
        return self._news

    def admits(self, certificate: QuorumCertificate) -> bool:
        """Whether all signers are known here."""
        return self.knows(signed.signer for signed in certificate.certifications)

    def knows(self, identities: Iterable[IdentityKey]) -> bool:
        """Whether all of these are nodes of this network, as far as this node knows."""
        return all(map(self._is_known, identities))

    @property
    def handlers(self) -> Handlers:
        """The effects that concern certificates of other nodes' batches, and the ends of batches."""
        return {StoreCertificate: self._keep, LookUpCertificate: self._find_end}

    async def _keep(self, effect: StoreCertificate) -> None:
        """Queue a certificate to be written and confirmed; waits while too many are queued."""
        if self.admits(effect.sealed.certificate):
            await self._send.send(effect)
        else:
            log.info("certificate.unknown_signer", batch=effect.sealed.certificate.statement.batch_id)

    async def run(self) -> None:
        """Write certificates in groups, each what gathers in ``GROUP_S``, then report them."""
        async for first in self._receive:
            await trio.sleep(GROUP_S)
            group = [first, *islice(waiting(self._receive), GROUP_MAX - 1)]
            for effect in await self._put_each(group):
                statement = effect.sealed.certificate.statement
                kept = CertificateStored(
                    now_ms=clock_ms(),
                    batch_id=statement.batch_id,
                    statement_digest=statement.digest,
                    sender=effect.sender,
                )
                self._enqueue(kept)

    async def _put_each(self, group: Sequence[StoreCertificate]) -> Sequence[StoreCertificate]:
        """Write a group; where that fails, each alone, without those that cannot be written. Returns the written."""
        try:
            with self._quarantine.contain("frame", "certificates", b""):
                await self.put([effect.sealed for effect in group])
                return group
        except StorageRefusedError as error:
            log.warning("certificates.refused", certificates=len(group), why=str(error))
        kept = []
        for effect in group:
            with self._fence.contain("frame", effect.sender, certificate_bytes(effect.sealed.certificate)):
                await self.put([effect.sealed])
                kept.append(effect)
        return kept

    async def put(self, sealed: Sequence[BatchSealed]) -> int:
        """Write certificates that were checked. Returns how many were new here."""
        entries = [self._logged(each) for each in sealed]
        entered = await self._database.run(partial(certificate_log.put_many, entries=entries, kept_max=self.kept_max))
        if entered:
            self._news.set()
            self._news = trio.Event()
        return entered

    def _logged(self, sealed: BatchSealed) -> Logged:
        """Nothing in a certificate is signed by its coordinator, so it is counted for a signer."""
        statement = sealed.certificate.statement
        signers = [signed.signer for signed in sealed.certificate.certifications]
        return Logged(
            batch_id=statement.batch_id,
            source_id=statement.source_id,
            certificate=certificate_bytes(sealed.certificate),
            context=sealed.context,
            learned_ms=clock_ms(),
            signer=VOUCHED if any(map(self._has_standing, signers)) else min(signers),
        )

    async def find(self, batch_id: str) -> BatchSealed | None:
        """The end of a batch, if it is known here and can be read."""
        found = await self._database.run(partial(certificate_log.find, batch_ids=[batch_id]))
        for certificate, context in found:
            with self._quarantine.contain("row", batch_id, certificate):
                try:
                    read = read_certificate(certificate)
                    return BatchSealed(network=self._network, certificate=read, context=context)
                except (PeerFault, ValueError) as fault:
                    log.error("certificate.unreadable", batch=batch_id, why=str(fault))
        return None

    async def _find_end(self, effect: LookUpCertificate) -> None:
        found = CertificateLookedUp(
            now_ms=clock_ms(),
            batch_id=effect.batch_id,
            sealed=await self.find(effect.batch_id),
            asker=effect.asker,
            successor=effect.successor,
        )
        self._enqueue(found)

    async def answer(self, body: bytes) -> bytes:
        """Answer a peer that catches up; empty for a malformed request."""
        kind, key = body[:1], body[1:]
        if kind == IDS and len(key) == NUMBER_BYTES:
            return codec.encode(await self._database.run(partial(_id_page, after=int.from_bytes(key, "big"))))
        if kind == ENTRIES and (wanted := read_keys(key, ENTRIES_MAX)):
            found = await self._database.run(partial(certificate_log.find, batch_ids=wanted))
            return codec.encode(EntryPage(entries=tuple(_within(found))))
        if kind == PROOFS and not key:
            proofs = await self._database.run(partial(peers.equivocations, signer=None, limit=PROOFS_MAX))
            return codec.encode(ProofPage(entries=tuple((each.first, each.second) for each in proofs)))
        return b""


def _within(found: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """As many as fit an answer; the peer requests the rest again."""
    taken: list[tuple[bytes, bytes]] = []
    size = 0
    for certificate, context in found:
        size += len(certificate) + len(context)
        if taken and size > ENTRIES_BYTES_MAX:
            break
        taken.append((certificate, context))
    return taken


def _id_page(connection: "Connection", *, after: int) -> IdPage:
    entries = certificate_log.ids_since(connection, after, LOG_PAGE_MAX)
    last = certificate_log.last_number(connection)
    return IdPage(
        last=last,
        entries=tuple((number, batch_digest(batch_id)) for number, batch_id in entries),
    )
