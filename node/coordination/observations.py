"""What this node observed of agents and of its certified batches: outcomes, proofs, auctions, late evidence.

Counts and what comes after a seal are written behind; auctions at once. Proofs are written at once too, and tried
again until they are.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs
import structlog
import trio

from node.coordination.auction_records import auction_document
from node.coordination.dispatcher import Handlers
from node.coordination.reputations import Reputations
from node.coordination.serialization import evidence_bytes, evidence_row
from node.runtime.clock import clock_ms
from node.runtime.write_behind import WriteBehind
from protocols.effects import RecordAuction, RecordDistribution, RecordLateEvidence, ReportPeer, StoreProof
from protocols.messages import FraudProof, IdentityKey
from storage import auctions, batches, peers
from storage.database import Database
from storage.rows import EvidenceRow

if TYPE_CHECKING:
    from psycopg import Connection

log = structlog.get_logger(__name__)

PROOFS_MAX: Final = 1_024
"""Proofs that wait for the database; one of an agent is enough."""

ProofKey: TypeAlias = tuple[IdentityKey, str, str]
"""Who contradicted itself, about which batch, in which role."""


@attrs.frozen(kw_only=True)
class _AfterSeal:
    """What became known of a batch after it was sealed."""

    distribution: RecordDistribution | None = None
    late: tuple[EvidenceRow, ...] = ()


class Observations:
    """Records effects that state what was seen."""

    def __init__(self, database: Database, reputations: Reputations) -> None:
        self._database = database
        self._reputations = reputations
        self._after_seal = WriteBehind[str, _AfterSeal](
            "distributions", database, write=_write_after_seal, merge=_merged
        )
        self._proofs = WriteBehind[ProofKey, peers.StoredEquivocation](
            "proofs", database, write=_write_proofs, merge=lambda first, second: first, entries_max=PROOFS_MAX
        )
        self.on_reported: list[Callable[[ReportPeer], None]] = []
        """Called with each outcome that is counted for or against an agent."""

    @property
    def handlers(self) -> Handlers:
        """The effects that record."""
        return {
            RecordLateEvidence: self._record_late,
            RecordDistribution: self._record_distribution,
            ReportPeer: self._report,
            StoreProof: self._keep_proof,
            RecordAuction: self._record_auction,
        }

    async def run(self) -> None:
        """Write counts and distribution figures once in a while, many in one transaction."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._reputations.run)
            nursery.start_soon(self._after_seal.run)
            nursery.start_soon(self._proofs.run)

    async def flush(self) -> None:
        """Write the figures noted so far. A crash loses a second of them, never a batch.

        Raises:
            WorldFault: They are not known to be written, and will be tried again.
        """
        await self._reputations.flush()
        await self._after_seal.flush()
        await self._proofs.flush()

    async def _record_late(self, effect: RecordLateEvidence) -> None:
        row = evidence_row(effect.evidence, agrees=effect.agrees)
        self._after_seal.add(effect.evidence.message.batch_id, _AfterSeal(late=(row,)))

    async def _record_distribution(self, effect: RecordDistribution) -> None:
        self._after_seal.add(effect.batch_id, _AfterSeal(distribution=effect))

    async def _report(self, effect: ReportPeer) -> None:
        self._reputations.count(effect.peer, effect.role, effect.outcome, effect.batch_id)
        for listener in self.on_reported:
            listener(effect)

    async def _keep_proof(self, effect: StoreProof) -> None:
        first = effect.proof.first
        log.warning("agent.equivocated", agent=first.signer.hex(), batch=first.message.batch_id)
        kept = _stored_form(effect.proof, effect.heard_from)
        self._proofs.add((kept.signer, kept.batch_id, kept.role), kept)
        await self._proofs.flush()

    async def _record_auction(self, effect: RecordAuction) -> None:
        await self._database.run(partial(_record_auction, effect))


def _write_after_seal(connection: "Connection", changes: Mapping[str, _AfterSeal]) -> None:
    for batch_id, change in changes.items():
        each = change.distribution
        if each is not None:
            batches.record_distribution(connection, batch_id, each.published, each.confirmed, each.latency_ms)
        batches.insert_evidence(connection, batch_id, change.late)


def _merged(first: _AfterSeal, second: _AfterSeal) -> _AfterSeal:
    return _AfterSeal(distribution=second.distribution or first.distribution, late=(*first.late, *second.late))


def _record_auction(effect: RecordAuction, connection: "Connection") -> None:
    auctions.put(
        connection,
        announcement_id=effect.announcement_id,
        lease_id=effect.lease_id,
        record=auction_document(effect),
        at_ms=clock_ms(),
    )


def _write_proofs(connection: "Connection", proofs: Mapping[ProofKey, peers.StoredEquivocation]) -> None:
    for kept in proofs.values():
        peers.keep_equivocation(connection, kept)


def _stored_form(proof: FraudProof, heard_from: IdentityKey | None) -> peers.StoredEquivocation:
    first = proof.first.message
    return peers.StoredEquivocation(
        signer=proof.first.signer,
        batch_id=first.batch_id,
        role=first.role.word,
        first=evidence_bytes(proof.first),
        second=evidence_bytes(proof.second),
        heard_from=heard_from,
    )
