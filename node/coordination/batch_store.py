"""Batches in Postgres: payloads and policies, replicas of other nodes' batches, and how a batch ends."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
import trio

from node.coordination.serialization import certificate_bytes, evidence_row, hold_bytes, manifest_bytes, read_hold
from node.runtime.clock import clock_ms
from node.worker import compute
from protocols import codec
from protocols.certificate import agent_id
from protocols.effects import WriteBatch
from protocols.errors import WorldFault
from protocols.messages import HoldBatch, IdentityKey, Role, Signed
from storage import batches, policies, replicas
from storage.database import Database
from storage.replicas import Adoption, Kept, NewReplica
from storage.rows import EvidenceRow, PendingBatch, SealedBatch

if TYPE_CHECKING:
    from psycopg import Connection

log = structlog.get_logger(__name__)

MATERIALISE_S: Final = 10.0
LOOK_S: Final = 5.0


class BatchStore:
    """What running, holding and sealing a batch reads and writes. Each method is one transaction.

    Where the answer to a commit that ends a batch is lost, the database is asked whether the batch has the end that
    this node gave it: what follows from an end must follow once.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sealing = trio.Lock()

    async def payload(self, batch_id: str) -> bytes | None:
        """The packed payload of a batch that this node coordinates or holds."""
        return await self._database.run(lambda connection: batches.payload(connection, batch_id))

    async def policy(self, policy_hash: bytes) -> bytes | None:
        """A policy's canonical document."""
        return await self._database.run(lambda connection: policies.get(connection, policy_hash))

    async def keep_policy(self, policy_hash: bytes, document: bytes, sender: IdentityKey) -> None:
        """Store a policy that a peer sent; one that is stored stays as it is."""
        keep = partial(
            policies.put_fetched, policy_hash=policy_hash, document=document, sender=sender, now_ms=clock_ms()
        )
        await self._database.run(keep)

    async def pending(self) -> list[PendingBatch]:
        """Batches without an end, this node's own and adopted ones."""
        return await self._database.run(batches.pending)

    async def is_pending(self, batch_id: str) -> bool:
        """Whether a batch is stored and has no end."""
        row = await self._database.run(partial(batches.get, batch_id=batch_id))
        return row is not None and row.state == "pending"

    async def may_keep(self, hold: Signed[HoldBatch], packed: bytes) -> bool:
        """Whether the bounds leave room for a batch of another node, or it is held."""
        return await self._database.run(partial(replicas.may_keep, new=_replica(hold, packed, b"")))

    async def keep_replica(self, hold: Signed[HoldBatch], packed: bytes, policy: bytes) -> Kept:
        """Store a batch of another node with its policy, if there is room for it."""
        return await self._database.run(partial(_keep_replica, _replica(hold, packed, policy), policy))

    async def holds(self, network: str) -> list[Signed[HoldBatch]]:
        """The batches that this node holds for others."""
        return [read_hold(row, network) for row in await self._database.run(replicas.holds)]

    async def drop_replica(self, batch_id: str) -> None:
        """Delete a replica, if there is one."""
        await self._database.run(lambda connection: replicas.drop(connection, [batch_id]))

    async def adopt(self, hold: Signed[HoldBatch], index: compute.BatchIndex) -> bool:
        """Enter a replica among this node's own batches; False where it was entered before, or is not held."""
        adoption = _adoption(hold, index)
        return await self._database.run(lambda connection: replicas.adopt(connection, adoption))

    async def seal(self, effect: WriteBatch, run: compute.Run, certified_ms: int) -> int | None:
        sealed = _sealed_batch(effect, run, certified_ms)
        end = _End(
            write=partial(batches.seal, sealed=sealed),
            look=partial(batches.sealed_as, batch_id=sealed.batch_id, certified_ms=certified_ms),
        )
        try:
            async with self._sealing:  # seals take turns in the database anyway: waiting there holds its connections
                return await self._database.run(end.attempt) or None
        except WorldFault as fault:
            return await self._outcome(sealed.batch_id, end, fault)

    async def mark_dead(self, batch_id: str, reasons: tuple[str, ...]) -> int:
        end = _End(
            write=partial(batches.mark_dead, batch_id=batch_id, reasons=reasons),
            look=partial(batches.dead_as, batch_id=batch_id, reasons=reasons),
        )
        try:
            return await self._database.run(end.attempt)
        except WorldFault as fault:
            return await self._outcome(batch_id, end, fault)

    async def _outcome(self, batch_id: str, end: "_End", fault: WorldFault) -> int:
        """What came of an end that is not known to be written, once the database answers.

        Raises:
            WorldFault: It is not written.
        """
        log.warning("batch.outcome_unknown", batch=batch_id, why=str(fault))
        while True:
            try:
                found = await self._database.run(end.look)
            except WorldFault:
                await trio.sleep(LOOK_S)
                continue
            if not found:
                raise fault
            return found

    async def run_materialise(self) -> None:
        """Show batches that wait for agents as pending rows of the events table."""
        while True:
            await trio.sleep(MATERIALISE_S)
            before_ms = clock_ms() - int(1000 * MATERIALISE_S)
            await self._database.run(partial(batches.materialise, received_before_ms=before_ms))


def _replica(hold: Signed[HoldBatch], packed: bytes, policy: bytes) -> NewReplica:
    manifest = hold.message.manifest.message
    return NewReplica(
        batch_id=manifest.batch_id,
        coordinator=manifest.coordinator,
        policy_hash=manifest.policy_hash,
        hold=hold_bytes(hold),
        payload=packed,
        policy_bytes=len(policy),
        kept_ms=clock_ms(),
    )


def _keep_replica(new: NewReplica, policy: bytes, connection: "Connection") -> Kept:
    kept = replicas.keep(connection, new)
    if kept.is_held:  # it may have been read from memory: those on disk give way to later ones unless they are in use
        policies.put_fetched(connection, new.policy_hash, policy, new.coordinator, new.kept_ms)
    return kept


class _End:
    """A transaction that ends a batch, and may be run again though an earlier attempt of it was committed."""

    def __init__(
        self, write: "Callable[[Connection], int | None]", look: "Callable[[Connection], int | None]"
    ) -> None:
        """Args:
        write: Ends the batch; returns 0 or None if it has an end already.
        look: What ``write`` returned where it is what ended the batch, else 0 or None.
        """
        self._write = write
        self._look = look
        self._attempts = 0

    def attempt(self, connection: "Connection") -> int:
        self._attempts += 1
        written = self._write(connection) or 0
        return self.look(connection) if self._attempts > 1 and not written else written

    def look(self, connection: "Connection") -> int:
        return self._look(connection) or 0


def _sealed_batch(effect: WriteBatch, run: compute.Run, certified_ms: int) -> SealedBatch:
    certificate = effect.certificate
    statement = certificate.statement
    rows = [evidence_row(signed, agrees=True) for signed in certificate.evidence]
    rows += [evidence_row(signed, agrees=False) for signed in effect.dissent]
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
    message = hold.message
    manifest = message.manifest.message
    return Adoption(
        batch_id=manifest.batch_id,
        coordinator=manifest.coordinator,
        source_id=manifest.source_id,
        source_sequence=manifest.source_sequence,
        policy_hash=manifest.policy_hash,
        level=int(manifest.level),
        quorum=manifest.quorum,
        stateful=message.stateful,
        topics=list(manifest.topics),
        manifest=manifest_bytes(message.manifest),
        received_ms=manifest.received_ms,
        event_ids=index.event_ids,
        record_hashes=index.record_hashes,
        unpacked_bytes=index.unpacked_bytes,
    )
