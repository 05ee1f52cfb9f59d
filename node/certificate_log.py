"""The node's log of certificates: what it is sent is written in groups, and peers read it to catch up."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
import trio

from node.clock import clock_ms
from node.log_pages import (
    ENTRIES,
    ENTRIES_BYTES_MAX,
    ENTRIES_MAX,
    IDS,
    NUMBER_BYTES,
    PREFIX,
    PROOFS,
    PROOFS_MAX,
    EntryPage,
    IdPage,
    ProofPage,
)
from node.stored import certificate_bytes, read_certificate
from protocols import codec
from protocols.job import CertificateKept, KeepCertificate, Stimulus
from protocols.limits import LOG_PAGE_MAX
from protocols.messages import BatchSealed, IdentityKey, QuorumCertificate
from storage import certificate_log, peers
from storage.certificate_log import Logged
from storage.database import Database

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
        post: Callable[[Stimulus], None],
    ) -> None:
        """Args:
        kept_max: How many certificates of others are kept, the latest.
        is_known: Whether a key is one that this network's nodes advertise by: others can sign what they like.
        post: Tells the driver.
        """
        self._network = network
        self._database = database
        self._kept_max = kept_max
        self._is_known = is_known
        self._post = post
        self._send, self._receive = trio.open_memory_channel[KeepCertificate](QUEUE_MAX)

    def admits(self, certificate: QuorumCertificate) -> bool:
        """Whether all who signed are known here."""
        return all(self._is_known(signed.signer) for signed in certificate.certifications)

    async def keep(self, effect: KeepCertificate) -> None:
        """Queue a certificate to be written and confirmed; waits while too many are queued."""
        if self.admits(effect.sealed.certificate):
            await self._send.send(effect)
        else:
            log.info("certificate.unknown_signer", batch=effect.sealed.certificate.statement.batch_id)

    async def run(self) -> None:
        """Write what gathers in ``GROUP_S`` in one transaction, then report it."""
        async for first in self._receive:
            await trio.sleep(GROUP_S)
            group = [first]
            while len(group) < GROUP_MAX:
                try:
                    group.append(self._receive.receive_nowait())
                except trio.WouldBlock:
                    break
            await self.put([effect.sealed for effect in group])
            for effect in group:
                statement = effect.sealed.certificate.statement
                kept = CertificateKept(
                    now_ms=clock_ms(),
                    batch_id=statement.batch_id,
                    statement_digest=statement.digest,
                    sender=effect.sender,
                )
                self._post(kept)

    async def put(self, sealed: Sequence[BatchSealed]) -> int:
        """Write certificates that were checked. Returns how many were news."""
        entries = [_logged(each, clock_ms()) for each in sealed]
        return await self._database.run(partial(certificate_log.put_many, entries=entries, kept_max=self._kept_max))

    async def find(self, batch_id: str) -> BatchSealed | None:
        """The end of a batch, if it is known here."""
        found = await self._database.run(partial(certificate_log.find, batch_ids=[batch_id]))
        for certificate, context in found:
            return BatchSealed(network=self._network, certificate=read_certificate(certificate), context=context)
        return None

    async def answer(self, body: bytes) -> bytes:
        """Serve a peer that catches up. Garbage is answered like a log without entries."""
        kind, key = body[:1], body[1:]
        if kind == IDS and len(key) == NUMBER_BYTES:
            return codec.encode(await self._database.run(partial(_id_page, after=int.from_bytes(key, "big"))))
        if kind == ENTRIES and key and len(key) % 32 == 0 and len(key) <= 32 * ENTRIES_MAX:
            wanted = [PREFIX + key[at : at + 32].hex() for at in range(0, len(key), 32)]
            found = await self._database.run(partial(certificate_log.find, batch_ids=wanted))
            return codec.encode(EntryPage(entries=tuple(_within(found))))
        if kind == PROOFS and not key:
            proofs = await self._database.run(partial(peers.equivocations, signer=None, limit=PROOFS_MAX))
            return codec.encode(ProofPage(entries=tuple((each.first, each.second) for each in proofs)))
        return b""


def _within(found: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """As many as fit an answer; whoever asked asks again for the rest."""
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
        entries=tuple((number, bytes.fromhex(batch_id.removeprefix(PREFIX))) for number, batch_id in entries),
    )


def _logged(sealed: BatchSealed, now_ms: int) -> Logged:
    statement = sealed.certificate.statement
    return Logged(
        batch_id=statement.batch_id,
        source_id=statement.source_id,
        certificate=certificate_bytes(sealed.certificate),
        context=sealed.context,
        learned_ms=now_ms,
    )
