"""The end of this node's batches: certified and stored with the outputs that were certified, or marked dead.

Whoever acts on an end registers in ``on_certified`` or ``on_dead``.
"""

from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

import structlog
import trio

from node.coordination.certified_result import CertifiedResult
from node.coordination.dispatcher import Handlers
from node.coordination.payloads import Payloads
from node.coordination.result_cache import ResultCache, content_key
from node.coordination.role_runner import RoleRunner
from node.runtime.clock import clock_ms
from node.runtime.workers import Workers
from node.worker import compute
from protocols.effects import MarkDead, ReproduceBatch, WriteBatch
from protocols.entities import Findings, batch_entity_id
from protocols.errors import MalformedError, OverlayError
from protocols.limits import PAYLOAD_BYTES_MAX
from protocols.messages import BatchSealed, IdentityKey, Statement
from protocols.stimuli import BatchReproduced, BatchWritten, Restarted, Stimulus

log = structlog.get_logger(__name__)

SEAL_ROUNDS: Final = 5  # attempts to get the certified outputs, with doubling pauses from a second on
FORGED_OUTPUTS: Final = "forged-outputs"
OUTPUTS_BYTES_MAX: Final = 2 * PAYLOAD_BYTES_MAX


class SealStore(Protocol):
    """Where the end of a batch is stored."""

    async def seal(self, effect: WriteBatch, run: compute.Run, certified_ms: int) -> int | None:
        """Store a certified batch, whole or not at all. Its sequence, or None if it has its end already.

        Raises:
            WorldFault: It is known not to be stored.
        """

    async def mark_dead(self, batch_id: str, reasons: tuple[str, ...]) -> int:
        """Mark a batch dead. Its number of events; 0 for another node's, or one that has its end already.

        Raises:
            WorldFault: It is known not to be marked.
        """


class CertificateStore(Protocol):
    """The certificates that this node keeps, its own and those of others."""

    async def find(self, batch_id: str) -> BatchSealed | None:
        """The end of a batch, if it is known here."""


class RemoteOutputs(Protocol):
    """Outputs of batches as peers have them."""

    async def outputs(self, batch_id: str, holder: IdentityKey) -> tuple[bytes, bytes] | None:
        """Leaves and normalized data, not compared with anything yet; None where the peer does not give them."""


class Sealer:
    """Stores the end of batches, and reproduces those whose certificate other nodes brought about."""

    def __init__(
        self,
        *,
        identity: IdentityKey,
        workers: Workers,
        runner: RoleRunner,
        payloads: Payloads,
        store: SealStore,
        certificates: CertificateStore,
        remote: RemoteOutputs,
        subscribers: Callable[[tuple[str, ...]], tuple[IdentityKey, ...]],
        cache: ResultCache,
        enqueue: Callable[[Stimulus], None],
        strike: Callable[[IdentityKey, str], None],
    ) -> None:
        """Args:
        identity: This node's own.
        subscribers: The nodes that want batches of one of these topics.
        enqueue: Reports to the driver.
        strike: Counts a fault of a peer.
        """
        self._identity = identity
        self._workers = workers
        self._runner = runner
        self._payloads = payloads
        self._store = store
        self._certificates = certificates
        self._remote = remote
        self._subscribers = subscribers
        self._cache = cache
        self._enqueue = enqueue
        self._strike = strike
        self.on_certified: list[Callable[[CertifiedResult], None]] = []
        """Called with each batch once it is certified and stored, in the order of registration."""
        self.on_dead: list[Callable[[str, int], None]] = []
        """Called with each batch that is marked dead and its number of events, 0 where it counts for nothing here."""

    @property
    def handlers(self) -> Handlers:
        """The effects that end a batch."""
        return {WriteBatch: self._write, ReproduceBatch: self._reproduce, MarkDead: self._mark_dead}

    async def _write(self, effect: WriteBatch) -> None:
        statement = effect.certificate.statement
        run = await self._certified_run(effect)
        if run is None:  # the batch still owes its seal: it asks for it again
            self._enqueue(Restarted(now_ms=clock_ms(), entity_id=batch_entity_id(statement.batch_id)))
            return
        certified_ms = clock_ms()
        sequence = await self._store.seal(effect, run, certified_ms)
        earlier = await self._certificates.find(statement.batch_id) if sequence is None else None
        written = BatchWritten(
            now_ms=clock_ms(),
            batch_id=statement.batch_id,
            subscribers=self._subscribers(effect.manifest.topics),
            earlier=None if earlier is None else earlier.certificate,
        )
        self._enqueue(written)
        self._cache.strip("normalization", content_key(effect.manifest, effect.context))
        self._cache.strip("certification", statement.digest.hex())
        if sequence is None:
            return
        result = CertifiedResult(
            certificate=effect.certificate,
            topics=effect.manifest.topics,
            leaves=run.leaves,
            normalized=run.normalized,
            received_ms=effect.manifest.received_ms,
            certified_ms=certified_ms,
            sequence=sequence,
        )
        log.info(
            "batch.sealed",
            batch=statement.batch_id,
            source=statement.source_id,
            certification_level=statement.level.word,  # ``level`` is the log's own
            valid=statement.valid,
            invalid=statement.invalid,
            sequence=sequence,
            took_s=round(result.took_s, 3),
        )
        for listener in self.on_certified:
            listener(result)

    async def _mark_dead(self, effect: MarkDead) -> None:
        log.warning("batch.dead", batch=effect.batch_id, reasons=effect.reasons)
        events = await self._store.mark_dead(effect.batch_id, effect.reasons)
        for listener in self.on_dead:
            listener(effect.batch_id, events)

    async def _reproduce(self, effect: ReproduceBatch) -> None:
        """Accept a certificate of this node's own batch when its own run gives the same: the data are here."""
        statement = effect.sealed.certificate.statement
        try:
            run = await self._runner.process(
                effect.manifest, effect.context, orderer=self._identity, keep_outputs=True
            )
        except OverlayError as error:
            log.warning("seal.unchecked", batch=statement.batch_id, why=str(error))
            return
        if (run.findings.output_root, run.findings.context_out) != (statement.output_root, effect.sealed.context):
            log.error("seal.wrong", batch=statement.batch_id)
            return
        self._enqueue(BatchReproduced(now_ms=clock_ms(), sealed=effect.sealed))

    async def _certified_run(self, effect: WriteBatch) -> compute.Run | None:
        """The outputs that the quorum certified: this node's own, run again if need be, or an agent's."""
        statement = effect.certificate.statement
        key = statement.digest.hex()
        certified = self._cache.get("certification", key, with_outputs=True)
        if certified is not None:
            return certified
        for attempt in range(SEAL_ROUNDS):
            for find in (self._recomputed, self._fetched):
                run = await find(effect)
                if run is not None:
                    self._cache.put("certification", key, run)  # its writing may have to be tried again
                    return run
            await trio.sleep(2**attempt)
        log.error("seal.without_outputs", batch=statement.batch_id)
        return None  # the batch stays in its stage: the next start tries again

    async def _recomputed(self, effect: WriteBatch) -> compute.Run | None:
        try:
            run = await self._runner.process(
                effect.manifest, effect.context, orderer=self._identity, keep_outputs=True
            )
        except OverlayError as error:
            log.warning("seal.recompute_failed", batch=effect.certificate.statement.batch_id, why=str(error))
            return None
        return run if run.findings.output_root == effect.certificate.statement.output_root else None

    async def _fetched(self, effect: WriteBatch) -> compute.Run | None:
        """The outputs that a signer has, or the coordinator of an adopted batch: those of payload and certificate."""
        statement = effect.certificate.statement
        packed = await self._payloads.own(statement.batch_id)
        if packed is None:
            return None
        signers = (certification.signer for certification in effect.certificate.certifications)
        for signer in dict.fromkeys((*signers, effect.manifest.coordinator)):  # the latter of an adopted batch
            if signer == self._identity:
                continue
            found = await self._remote.outputs(statement.batch_id, signer)
            if found is None or sum(map(len, found)) > OUTPUTS_BYTES_MAX:
                continue
            leaves, normalized = found
            try:
                outputs = await self._workers.admit(
                    partial(compute.check_outputs, leaves, normalized, packed=packed, statement=statement)
                )
            except MalformedError as error:
                log.warning("seal.forged_outputs", batch=statement.batch_id, peer=signer.hex(), why=str(error))
                self._strike(signer, FORGED_OUTPUTS)
            except OverlayError as error:
                log.warning("seal.unchecked_outputs", batch=statement.batch_id, peer=signer.hex(), why=str(error))
            else:
                return _as_run(statement, leaves, normalized, outputs)
        return None


def _as_run(statement: Statement, leaves: bytes, normalized: bytes, outputs: bytes) -> compute.Run:
    findings = Findings(
        input_root=statement.input_root,
        normalized_root=statement.normalized_root,
        output_root=statement.output_root,
        context_out=b"",
        events=statement.events,
        valid=statement.valid,
        invalid=statement.invalid,
    )
    return compute.Run(
        findings=findings, leaves=leaves, normalized=normalized, outputs=outputs, issues_by_rule=(), cpu_us=0
    )
