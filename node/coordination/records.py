"""The node's durable records for driver and executor: entities, seals, evidence, reputations (SQL: ``storage``)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import attrs
import structlog
import trio

from node.coordination.auction_records import auction_document
from node.coordination.reputations import Reputations
from node.coordination.serialization import certificate_bytes, evidence_bytes, hold_bytes, manifest_bytes, read_hold
from node.runtime.clock import clock_ms
from node.runtime.write_behind import WriteBehind
from node.worker import compute
from protocols import codec
from protocols.certificate import agent_id
from protocols.coordination import recover
from protocols.effects import (
    Effect,
    RecordAuction,
    RecordDistribution,
    RecordLateEvidence,
    ReportPeer,
    StoreProof,
    Transition,
    WriteBatch,
)
from protocols.entities import ENTITIES, Batch, Entity, EntityId, Stage
from protocols.errors import MalformedError
from protocols.messages import Evidence, FraudProof, HoldBatch, IdentityKey, Level, Role, Signed
from storage import auctions, batches, entities, jobs, peers, policies, replicas
from storage.batches import EvidenceRow, PendingBatch, SealedBatch
from storage.database import Database
from storage.jobs import JobChange
from storage.replicas import Adoption

if TYPE_CHECKING:
    from psycopg import Connection

log = structlog.get_logger(__name__)

MATERIALISE_S = 10.0
COMING_BACK = ("batch:", "lease:", "held:")  # told again from its row, awarded again, named by every order
RUNNING = {
    Stage.PROCESSING: (Role.NORMALIZE, Role.VALIDATE),
    Stage.CERTIFYING: (Role.CERTIFY,),
    Stage.BACKOFF: (Role.NORMALIZE,),
}
"""The jobs that a batch's stage is about."""


class EntityJournal:
    """The driver's journal: entities as rows, and the specification's job rows beside them."""

    def __init__(self, database: Database, attempts_at: Callable[[Level], int]) -> None:
        """``attempts_at``: how many attempts a batch of a level gets now."""
        self._database = database
        self._attempts_at = attempts_at
        self._stages: dict[str, tuple[Stage, int]] = {}
        self._changes = WriteBehind[tuple[EntityId, str], JobChange](
            "jobs", database, write=_write_jobs, merge=lambda first, second: second
        )

    async def load(self) -> Sequence[Entity]:
        rows, pending = await self._database.run(_load)
        found = recover(_readable(rows), pending)
        for entity in found:
            if isinstance(entity, Batch):
                self._stages[entity.entity_id] = (entity.stage, entity.attempt)
        return found

    async def commit(self, changed: Sequence[Entity], removed: Sequence[EntityId]) -> None:
        """Encode and store in a database thread; the loop goes on meanwhile."""
        await self._database.run(partial(_commit, changed, removed))

    def note(self, transition: Transition) -> None:
        """Job rows change with a batch's stage and attempt; they are written once in a while."""
        for entity in transition.changed:
            if isinstance(entity, Batch) and self._stages.get(entity.entity_id) != (entity.stage, entity.attempt):
                self._stages[entity.entity_id] = (entity.stage, entity.attempt)
                for change in _job_changes(entity, self._attempts_at(entity.manifest.message.level)):
                    self._changes.add((entity.entity_id, change.role), change)
        for entity_id in transition.removed:
            if self._stages.pop(entity_id, None) is not None:
                for role in Role:
                    self._changes.discard((entity_id, role.word))

    async def run(self) -> None:
        """Write job rows that changed, of batches that still have no end."""
        await self._changes.run()


def _job_changes(batch: Batch, max_attempts: int) -> list[JobChange]:
    waits = batch.stage is Stage.BACKOFF
    return [
        JobChange(
            batch_id=batch.batch_id,
            role=role.word,
            status="queued" if waits else "running",
            agent=next((agent_id(award.agent) for award in batch.awards if role in award.roles), None),
            attempts=batch.attempt + (not waits),
            max_attempts=max_attempts,
            next_run_ms=batch.alarm_ms if waits else 0,
        )
        for role in RUNNING.get(batch.stage, ())
    ]


def _readable(rows: Sequence[tuple[EntityId, bytes]]) -> Iterator[Entity]:
    """The stored entities. Those of another version of this program are left out where they come back by themselves.

    Raises:
        MalformedError: one that would not come back cannot be read: the program is not the one that wrote it.
    """
    for entity_id, state in rows:
        try:
            yield codec.decode_tagged(ENTITIES, state)
        except MalformedError as error:
            if not entity_id.startswith(COMING_BACK):
                raise
            log.warning("journal.left_out", entity=entity_id, why=str(error))


def _load(connection: "Connection") -> tuple[list[tuple[EntityId, bytes]], frozenset[str]]:
    pending = frozenset(row.batch_id for row in batches.pending(connection))
    return entities.load_all(connection), pending


def _commit(changed: Sequence[Entity], removed: Sequence[EntityId], connection: "Connection") -> None:
    rows = [(entity.entity_id, codec.encode(entity)) for entity in changed]
    entities.commit(connection, rows, removed)


def _write_jobs(connection: "Connection", changes: Mapping[tuple[EntityId, str], JobChange]) -> None:
    jobs.apply(connection, list(changes.values()))


@attrs.frozen(kw_only=True)
class _AfterSeal:
    """What became known of a batch after it was sealed."""

    distribution: RecordDistribution | None = None
    late: tuple[EvidenceRow, ...] = ()


class NodeRecords:
    """What the executor reads and writes, and this node's own view of how agents did."""

    def __init__(self, database: Database, reputations: Reputations) -> None:
        self._database = database
        self._reputations = reputations
        self._after_seal = WriteBehind[str, _AfterSeal](
            "distributions", database, write=_write_after_seal, merge=_merged
        )

    async def payload(self, batch_id: str) -> bytes | None:
        return await self._database.run(lambda connection: batches.payload(connection, batch_id))

    async def policy(self, policy_hash: bytes) -> bytes | None:
        return await self._database.run(lambda connection: policies.get(connection, policy_hash))

    async def keep_policy(self, policy_hash: bytes, document: bytes) -> None:
        await self._database.run(lambda connection: policies.put(connection, policy_hash, document))

    async def pending(self) -> list[PendingBatch]:
        return await self._database.run(batches.pending)

    async def keep_replica(self, hold: Signed[HoldBatch], packed: bytes) -> bool:
        """Write a batch of another node down; False where too many are held."""
        keep = partial(
            replicas.keep,
            batch_id=hold.message.manifest.message.batch_id,
            hold=hold_bytes(hold),
            payload=packed,
            now_ms=clock_ms(),
        )
        return await self._database.run(keep)

    async def holds(self, network: str) -> list[Signed[HoldBatch]]:
        """What this node holds for others."""
        return [read_hold(row, network) for row in await self._database.run(replicas.holds)]

    async def drop_replica(self, batch_id: str) -> None:
        await self._database.run(lambda connection: replicas.drop(connection, [batch_id]))

    async def adopt(self, hold: Signed[HoldBatch], index: compute.BatchIndex) -> bool:
        """Enter a batch that is held among this node's own; False where it was, or is not held."""
        adoption = _adoption(hold, index)
        return await self._database.run(lambda connection: replicas.adopt(connection, adoption))

    async def seal(self, effect: WriteBatch, run: compute.Run, certified_ms: int) -> int | None:
        sealed = _sealed_batch(effect, run, certified_ms)
        return await self._database.run(lambda connection: batches.seal(connection, sealed))

    async def bury(self, batch_id: str, reasons: tuple[str, ...]) -> int:
        return await self._database.run(lambda connection: batches.bury(connection, batch_id, reasons))

    async def record(self, effect: Effect) -> None:
        match effect:
            case RecordLateEvidence(evidence=evidence, agrees=agrees):
                row = _evidence_row(evidence, agrees=agrees)
                self._after_seal.add(evidence.message.batch_id, _AfterSeal(late=(row,)))
            case StoreProof(proof=proof, heard_from=heard_from):
                culprit = proof.first.signer.hex()
                log.warning("agent.equivocated", agent=culprit, batch=proof.first.message.batch_id)
                await self._database.run(partial(_keep_proof, proof, heard_from))
            case RecordDistribution():
                self._after_seal.add(effect.batch_id, _AfterSeal(distribution=effect))
            case ReportPeer(peer=peer, role=role, outcome=outcome, batch_id=batch_id):
                self._reputations.count(peer, role, outcome, batch_id)
            case RecordAuction():
                await self._database.run(partial(_record_auction, effect))
            case _:
                raise AssertionError(f"no record is kept of {type(effect).__name__}")

    async def run(self) -> None:
        """Write counts and distribution figures once in a while, many in one transaction."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._reputations.run)
            nursery.start_soon(self._after_seal.run)

    async def run_materialise(self) -> None:
        """Show batches that wait for agents as pending rows of the events table."""
        while True:
            await trio.sleep(MATERIALISE_S)
            before_ms = clock_ms() - int(1000 * MATERIALISE_S)
            await self._database.run(partial(batches.materialise, received_before_ms=before_ms))

    async def flush(self) -> None:
        """Write the figures noted so far. A crash loses a second of them, never a batch.

        Raises:
            WorldFault: They are not known to be written, and will be tried again.
        """
        await self._reputations.flush()
        await self._after_seal.flush()


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


def _keep_proof(proof: FraudProof, heard_from: IdentityKey | None, connection: "Connection") -> None:
    said = proof.first.message
    kept = peers.Equivocation(
        signer=proof.first.signer,
        batch_id=said.batch_id,
        role=said.role.word,
        first=evidence_bytes(proof.first),
        second=evidence_bytes(proof.second),
        heard_from=heard_from,
    )
    peers.keep_equivocation(connection, kept)


def _evidence_row(signed: Signed[Evidence], *, agrees: bool) -> EvidenceRow:
    said = signed.message
    return EvidenceRow(
        role=said.role.word,
        signer=signed.signer,
        agrees=agrees,
        frame=evidence_bytes(signed),
        processing_us=said.processing_us,
        events=said.valid + said.invalid,
    )


def _sealed_batch(effect: WriteBatch, run: compute.Run, certified_ms: int) -> SealedBatch:
    certificate = effect.certificate
    statement = certificate.statement
    rows = [_evidence_row(signed, agrees=True) for signed in certificate.evidence]
    rows += [_evidence_row(signed, agrees=False) for signed in effect.dissent]
    rows += [
        EvidenceRow(
            role=Role.CERTIFY.word,
            signer=signed.signer,
            agrees=True,
            frame=codec.encode(signed.message),
            processing_us=0,
            events=statement.events,
        )
        for signed in certificate.certifications
    ]
    return SealedBatch(
        batch_id=statement.batch_id,
        certificate=certificate_bytes(certificate),
        context_out=effect.context_out,
        outputs=run.outputs,
        valid=statement.valid,
        invalid=statement.invalid,
        attempts=effect.attempts,
        certified_ms=certified_ms,
        level=statement.level.word,
        agents=[agent_id(signed.signer) for signed in certificate.certifications],
        leaves=run.leaves,
        normalized=run.normalized,
        evidence=tuple(rows),
    )


def _adoption(hold: Signed[HoldBatch], index: compute.BatchIndex) -> Adoption:
    said = hold.message
    manifest = said.manifest.message
    return Adoption(
        batch_id=manifest.batch_id,
        coordinator=manifest.coordinator,
        source_id=manifest.source_id,
        source_sequence=manifest.source_sequence,
        policy_hash=manifest.policy_hash,
        level=int(manifest.level),
        quorum=manifest.quorum,
        stateful=said.stateful,
        topics=list(manifest.topics),
        manifest=manifest_bytes(said.manifest),
        received_ms=manifest.received_ms,
        event_ids=index.event_ids,
        record_hashes=index.record_hashes,
    )
