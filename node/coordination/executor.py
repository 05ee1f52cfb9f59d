"""Carries out the effects that compute or write: run roles, sign statements, seal, bury, keep records.

Batches are computed in worker processes; what a batch needs that is not here (a policy, another agent's
outputs) is fetched from the peer that has it, and believed only when its hash says so.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Protocol

import attrs
import structlog
import trio

from node.coordination.certified_result import CertifiedResult
from node.coordination.result_cache import ResultCache, content_key
from node.runtime.caches import BytesCache
from node.runtime.clock import clock_ms
from node.runtime.workers import Workers
from node.worker import compute
from protocols import envelope
from protocols.effects import (
    AdoptReplica,
    ConfirmReplication,
    DropReplica,
    Effect,
    ForgetPayload,
    LookUpCertificate,
    MarkDead,
    ReproduceBatch,
    RunRole,
    SignStatement,
    StoreCertificate,
    StoreReplica,
    WriteBatch,
)
from protocols.entities import Findings
from protocols.envelope import Signer
from protocols.errors import OverlayError, WorldFault
from protocols.limits import PAYLOAD_BYTES_MAX
from protocols.messages import (
    BatchSealed,
    Certification,
    Evidence,
    HoldBatch,
    IdentityKey,
    Level,
    Manifest,
    Role,
    Signed,
    Statement,
    WorkOrder,
)
from protocols.stimuli import (
    BatchAdopted,
    BatchReproduced,
    BatchWritten,
    CertificateLookedUp,
    ReplicaStored,
    RoleFailed,
    RoleFinished,
    StatementSigned,
    Stimulus,
)

log = structlog.get_logger(__name__)

ORDERS_MAX = 512
TASKS_MAX = 256  # effects under way at once; past it the driver waits
SEAL_RETRIES = 5


class Records(Protocol):
    """The node's durable records, as far as the executor needs them."""

    async def payload(self, batch_id: str) -> bytes | None: ...

    async def seal(self, effect: WriteBatch, run: compute.Run, certified_ms: int) -> int | None:
        """Write a certified batch down, whole or not at all. Its sequence, or None if it was written before."""

    async def bury(self, batch_id: str, reasons: tuple[str, ...]) -> int:
        """Mark a batch dead. Returns its number of events."""

    async def keep_replica(self, hold: Signed[HoldBatch], packed: bytes) -> bool:
        """Write a batch of another node down; False where too many are held."""

    async def drop_replica(self, batch_id: str) -> None: ...

    async def adopt(self, hold: Signed[HoldBatch], index: compute.BatchIndex) -> bool:
        """Enter a batch that is held among this node's own; False where it was, or is not held."""

    async def record(self, effect: Effect) -> None:
        """RecordDistribution, RecordLateEvidence, StoreProof, ReportPeer."""


class Library(Protocol):
    """Documents known by their hash, here or at a peer."""

    async def policy(self, policy_hash: bytes, holder: IdentityKey) -> bytes | None: ...

    async def outputs(self, batch_id: str, holder: IdentityKey) -> tuple[bytes, bytes] | None: ...


class Log(Protocol):
    """The node's certificates, its own and those of others."""

    async def keep(self, effect: StoreCertificate) -> None:
        """Write a certificate down, then report CertificateStored."""

    async def find(self, batch_id: str) -> BatchSealed | None:
        """The end of a batch, if it is known here."""


class Executor:
    """Runs effects concurrently, within a bound, and reports back to the driver."""

    def __init__(
        self,
        *,
        network: str,
        build: str,
        signer: Signer,
        workers: Workers,
        records: Records,
        library: Library,
        certificates: Log,
        subscribers: Callable[[tuple[str, ...]], tuple[IdentityKey, ...]],
        payloads: BytesCache[str, bytes],
        cache: ResultCache,
        post: Callable[[Stimulus], None],
        on_sealed: Callable[[CertifiedResult], None],
        on_dead: Callable[[str, int], None],
        on_replicated: Callable[[str, tuple[IdentityKey, ...]], None],
        on_run: Callable[[compute.Run], None],
    ) -> None:
        self._network = network
        self._build = build
        self._signer = signer
        self._workers = workers
        self._records = records
        self._library = library
        self._certificates = certificates
        self._subscribers = subscribers
        self._payloads = payloads
        self._cache = cache
        self._orders: OrderedDict[str, WorkOrder] = OrderedDict()
        self._post = post
        self._on_sealed = on_sealed
        self._on_dead = on_dead
        self._on_replicated = on_replicated
        self._on_run = on_run
        self._places = trio.Semaphore(TASKS_MAX)
        self._send, self._receive = trio.open_memory_channel[Effect](TASKS_MAX)

    async def put(self, effect: Effect) -> None:
        """Queue an effect; waits while too many are under way, and with it the driver."""
        await self._send.send(effect)

    async def payload(self, batch_id: str) -> bytes | None:
        """A batch's packed payload from memory or from this node's database."""
        packed = self._payloads.get(batch_id)
        if packed is None:
            packed = await self._records.payload(batch_id)
            if packed is not None:
                self._payloads.put(batch_id, packed)
        return packed

    async def outputs(self, batch_id: str) -> tuple[bytes, bytes] | None:
        """Leaves and normalized data of a batch of another coordinator that is under way here: run once more.

        They are asked for only by a coordinator whose own outputs differ from the quorum's.
        """
        order = self._orders.get(batch_id)
        if order is None:
            return None
        try:
            manifest = order.manifest.message
            run = await self._compute(manifest, order.context, holder=manifest.coordinator, keep_outputs=True)
        except OverlayError as error:
            log.warning("outputs.failed", batch=batch_id, why=str(error))
            return None
        return run.leaves, run.normalized

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            async for effect in self._receive:
                await self._places.acquire()
                nursery.start_soon(self._carry_out, effect)

    async def _carry_out(self, effect: Effect) -> None:
        try:
            await self._do(effect)
        except WorldFault as fault:
            # The state still owes the effect: its alarm, or the next start, asks for it again.
            log.error("effect.failed", effect=type(effect).__name__, why=str(fault))
        finally:
            self._places.release()

    async def _do(self, effect: Effect) -> None:
        match effect:
            case RunRole():
                await self._run_role(effect)
            case SignStatement(statement=statement):
                self._sign(statement)
            case WriteBatch():
                await self._seal(effect)
            case MarkDead(batch_id=batch_id, reasons=reasons):
                log.warning("batch.dead", batch=batch_id, reasons=reasons)
                self._on_dead(batch_id, await self._records.bury(batch_id, reasons))
                self._on_replicated(batch_id, ())  # whoever waits for holders is told of the end instead
            case ReproduceBatch():
                await self._check_seal(effect)
            case StoreCertificate():
                await self._certificates.keep(effect)
            case StoreReplica(hold=hold):
                await self._keep(hold)
            case DropReplica(batch_id=batch_id):
                await self._records.drop_replica(batch_id)
            case AdoptReplica(hold=hold):
                await self._adopt(hold)
            case ConfirmReplication(batch_id=batch_id, holders=holders):
                self._on_replicated(batch_id, holders)
            case LookUpCertificate(batch_id=batch_id, asker=asker, successor=successor):
                sealed = await self._certificates.find(batch_id)
                found = CertificateLookedUp(
                    now_ms=clock_ms(), batch_id=batch_id, sealed=sealed, asker=asker, successor=successor
                )
                self._post(found)
            case ForgetPayload(batch_id=batch_id):
                self._payloads.drop(batch_id)
                self._orders.pop(batch_id, None)
            case _:
                await self._records.record(effect)

    # --- batches held for others -----------------------------------------------------------------------------

    async def _keep(self, hold: Signed[HoldBatch]) -> None:
        """Keep what adopting takes: payload and policy. Not kept is not confirmed: the coordinator asks again."""
        manifest = hold.message.manifest.message
        packed = self._payloads.get(manifest.batch_id)
        policy = await self._library.policy(manifest.policy_hash, manifest.coordinator)
        if packed is None or policy is None:
            log.warning("replica.incomplete", batch=manifest.batch_id, policy=policy is not None)
            return
        if await self._index(manifest, packed) is None:
            return
        if await self._records.keep_replica(hold, packed):
            self._post(ReplicaStored(now_ms=clock_ms(), hold=hold))
        else:
            log.warning("replica.too_many", batch=manifest.batch_id)

    async def _adopt(self, hold: Signed[HoldBatch]) -> None:
        manifest = hold.message.manifest.message
        packed = await self.payload(manifest.batch_id)
        index = None if packed is None else await self._index(manifest, packed)
        if index is None:
            log.error("replica.lost", batch=manifest.batch_id)
            return
        if await self._records.adopt(hold, index):
            log.warning("batch.adopted", batch=manifest.batch_id, coordinator=manifest.coordinator.hex())
        self._post(BatchAdopted(now_ms=clock_ms(), batch_id=manifest.batch_id))

    async def _index(self, manifest: Manifest, packed: bytes) -> compute.BatchIndex | None:
        call = partial(
            compute.index_batch,
            packed,
            network=self._network,
            source_id=manifest.source_id,
            input_root=manifest.input_root,
        )
        try:
            return await self._workers.admit(call)
        except OverlayError as error:
            log.warning("replica.refused", batch=manifest.batch_id, why=str(error))
            return None

    # --- roles -----------------------------------------------------------------------------------------------

    async def _run_role(self, effect: RunRole) -> None:
        manifest = effect.order.message.manifest.message
        try:
            own = effect.order.signer == self._signer.identity
            run = await self._compute(
                manifest, effect.order.message.context, holder=effect.order.signer, keep_outputs=own
            )
        except OverlayError as error:
            log.warning("role.failed", batch=manifest.batch_id, why=str(error))
            self._fail(manifest.batch_id, str(error))
            return
        if run.findings.input_root != manifest.input_root or run.findings.events != manifest.events:
            self._fail(manifest.batch_id, "the payload is not the one the manifest names")
            return
        if run.level > manifest.level:
            wanted = Level(run.level).word
            self._fail(manifest.batch_id, f"the policy asks for level {wanted} for an event of this batch")
            return
        self._on_run(run)
        log.debug(
            "roles.ran",
            batch=manifest.batch_id,
            jobs=[f"job_{role.word}_{manifest.batch_id.removeprefix('batch_')}" for role in effect.roles],
            coordinator=manifest.coordinator.hex(),
            cpu_us=run.cpu_us,
        )
        if not own:
            self._remember(effect.order.message)
        evidence = tuple(
            envelope.sign(self._signer, self._evidence(effect, manifest, run, role))
            for role in effect.roles
            if role in (Role.NORMALIZE, Role.VALIDATE)
        )
        self._post(
            RoleFinished(now_ms=clock_ms(), batch_id=manifest.batch_id, findings=run.findings, evidence=evidence)
        )

    def _fail(self, batch_id: str, reason: str) -> None:
        self._post(RoleFailed(now_ms=clock_ms(), batch_id=batch_id, reason=reason))

    def _remember(self, order: WorkOrder) -> None:
        self._orders[order.manifest.message.batch_id] = order
        if len(self._orders) > ORDERS_MAX:
            self._orders.popitem(last=False)

    async def _compute(
        self, manifest: Manifest, context: bytes, *, holder: IdentityKey, keep_outputs: bool
    ) -> compute.Run:
        """Run the roles, unless they ran over the very same before; ``holder`` is whom to ask for the policy."""
        key = content_key(manifest, context)
        known = self._cache.get("normalization", key, with_outputs=keep_outputs)
        if known is not None:
            return attrs.evolve(known, cpu_us=0)
        packed = await self.payload(manifest.batch_id)
        if packed is None:
            raise MissingError("the payload is not here")
        policy = await self._library.policy(manifest.policy_hash, holder)
        if policy is None:
            raise MissingError("the policy is not here, and who ordered the work did not send it")
        call = partial(
            compute.run_roles,
            network=self._network,
            source_id=manifest.source_id,
            packed=packed,
            policy=policy,
            context=context,
            keep_outputs=keep_outputs,
        )
        with structlog.contextvars.bound_contextvars(batch=manifest.batch_id):  # for what the workers log
            run = await self._workers.execute(call)
        self._cache.put("normalization", key, run)
        return run

    def _evidence(self, effect: RunRole, manifest: Manifest, run: compute.Run, role: Role) -> Evidence:
        found: Findings = run.findings
        normalize = role is Role.NORMALIZE
        return Evidence(
            network=self._network,
            batch_id=manifest.batch_id,
            role=role,
            policy_hash=manifest.policy_hash,
            input_digest=found.input_root if normalize else found.normalized_root,
            context_in=envelope.digest(effect.order.message.context),
            output_digest=found.normalized_root if normalize else found.output_root,
            context_out=envelope.digest(found.context_out),
            valid=found.valid,
            invalid=found.invalid,
            build=self._build,
            finished_ms=clock_ms(),
            processing_us=run.cpu_us,
        )

    def _sign(self, statement: Statement) -> None:
        message = Certification(
            network=self._network,
            batch_id=statement.batch_id,
            statement_digest=statement.digest,
            build=self._build,
            issued_ms=clock_ms(),
        )
        certification = envelope.sign(self._signer, message)
        self._post(StatementSigned(now_ms=clock_ms(), certification=certification))

    # --- sealing ---------------------------------------------------------------------------------------------

    async def _seal(self, effect: WriteBatch) -> None:
        statement = effect.certificate.statement
        run = await self._certified_run(effect)
        if run is None:
            return
        certified_ms = clock_ms()
        sequence = await self._records.seal(effect, run, certified_ms)
        earlier = await self._certificates.find(statement.batch_id) if sequence is None else None
        written = BatchWritten(
            now_ms=clock_ms(),
            batch_id=statement.batch_id,
            subscribers=self._subscribers(effect.manifest.topics),
            earlier=None if earlier is None else earlier.certificate,
        )
        self._post(written)
        self._cache.strip("normalization", content_key(effect.manifest, effect.context))
        self._cache.strip("certification", statement.digest.hex())
        if sequence is not None:
            self._on_sealed(
                CertifiedResult(
                    certificate=effect.certificate,
                    topics=effect.manifest.topics,
                    leaves=run.leaves,
                    normalized=run.normalized,
                    received_ms=effect.manifest.received_ms,
                    certified_ms=certified_ms,
                    sequence=sequence,
                )
            )

    async def _check_seal(self, effect: ReproduceBatch) -> None:
        """Believe a certificate of this node's own batch when its own run gives the same: the data are here."""
        statement = effect.sealed.certificate.statement
        manifest = effect.manifest
        try:
            run = await self._compute(manifest, effect.context, holder=manifest.coordinator, keep_outputs=True)
        except OverlayError as error:
            log.warning("seal.unchecked", batch=statement.batch_id, why=str(error))
            return
        if (run.findings.output_root, run.findings.context_out) != (statement.output_root, effect.sealed.context):
            log.error("seal.wrong", batch=statement.batch_id)
            return
        self._post(BatchReproduced(now_ms=clock_ms(), sealed=effect.sealed))

    async def _certified_run(self, effect: WriteBatch) -> compute.Run | None:
        """The outputs that the quorum certified: this node's own, run again if need be, or an agent's."""
        statement = effect.certificate.statement
        key = statement.digest.hex()
        certified = self._cache.get("certification", key, with_outputs=True)
        if certified is not None:
            return certified
        for attempt in range(SEAL_RETRIES):
            for fetch in (self._recomputed, self._fetched):
                run = await fetch(effect)
                if run is not None:
                    self._cache.put("certification", key, run)  # should its writing have to be tried again
                    return run
            await trio.sleep(2**attempt)
        log.error("seal.without_outputs", batch=statement.batch_id)
        return None  # stays SEALING: the next start tries again

    async def _recomputed(self, effect: WriteBatch) -> compute.Run | None:
        try:
            holder = effect.manifest.coordinator
            run = await self._compute(effect.manifest, effect.context, holder=holder, keep_outputs=True)
        except OverlayError as error:
            log.warning("seal.recompute_failed", batch=effect.certificate.statement.batch_id, why=str(error))
            return None
        return run if run.findings.output_root == effect.certificate.statement.output_root else None

    async def _fetched(self, effect: WriteBatch) -> compute.Run | None:
        statement = effect.certificate.statement
        for certification in effect.certificate.certifications:
            if certification.signer == self._signer.identity:
                continue
            found = await self._library.outputs(statement.batch_id, certification.signer)
            if found is None or sum(map(len, found)) > PAYLOAD_BYTES_MAX * 2:
                continue
            if await self._workers.admit(partial(compute.output_root, found[0])) == statement.output_root:
                packed = await self._workers.admit(partial(compute.pack_outputs, *found))
                return _as_run(statement, *found, packed)
        return None


class MissingError(OverlayError):
    """Something a role needs could not be had."""

    code = "missing"


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
