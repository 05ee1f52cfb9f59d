"""Runs an agent's roles over batches, in worker processes, and signs what came out.

The policy of a batch is asked of the node that ordered the work where it is not here. Findings count only when they
are over the payload that the manifest names.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

import attrs
import structlog

from node.coordination.dispatcher import Handlers
from node.coordination.payloads import Payloads
from node.coordination.result_cache import ResultCache, content_key
from node.runtime.clock import clock_ms
from node.runtime.workers import UnwantedError, WorkerCrashedError, Workers, WorkerTimeoutError
from node.worker import compute
from protocols import envelope
from protocols.effects import ForgetPayload, RunRole, SignStatement
from protocols.entities import Findings
from protocols.envelope import Signer
from protocols.errors import MalformedError, OverlayError, WorldFault
from protocols.identifiers import job_id
from protocols.messages import Certification, Evidence, IdentityKey, Level, Manifest, Role, Signed, WorkOrder
from protocols.stimuli import FailureCause, RoleFailed, RoleFinished, StatementSigned, Stimulus

log = structlog.get_logger(__name__)

ORDERS_MAX: Final = 512


class MissingError(OverlayError):
    """A payload or policy that the roles need is neither here nor at the node that ordered the work."""

    code = "missing"


class Policies(Protocol):
    """Policy documents by their hash, from this node or from a peer."""

    async def policy(self, policy_hash: bytes, holder: IdentityKey) -> bytes | None: ...


class RoleRunner:
    """Runs roles, signs evidence and certifications, and reports them to the driver."""

    def __init__(
        self,
        *,
        network: str,
        build: str,
        signer: Signer,
        workers: Workers,
        payloads: Payloads,
        policies: Policies,
        cache: ResultCache,
        enqueue: Callable[[Stimulus], None],
        is_wanted: Callable[[str], bool] = lambda batch_id: True,
        on_run: Callable[[compute.Run], None] = lambda run: None,
    ) -> None:
        """Args:
        enqueue: Reports to the driver.
        is_wanted: Whether somebody still waits for the roles over a batch; asked when a worker is free for it.
        on_run: Called with each run that counts, for the figures.
        """
        self._network = network
        self._build = build
        self._signer = signer
        self._workers = workers
        self._payloads = payloads
        self._policies = policies
        self._cache = cache
        self._enqueue = enqueue
        self._is_wanted = is_wanted
        self._on_run = on_run
        self._orders: OrderedDict[str, Signed[WorkOrder]] = OrderedDict()

    @property
    def handlers(self) -> Handlers:
        """Running roles, signing, forgetting."""
        return {RunRole: self._run_role, SignStatement: self._sign, ForgetPayload: self._forget}

    async def outputs(self, batch_id: str) -> tuple[bytes, bytes] | None:
        """Leaves and normalized data of a batch of another coordinator that is under way here: run once more.

        Only a coordinator whose own outputs differ from the quorum's asks for them.
        """
        order = self._orders.get(batch_id)
        if order is None:
            return None
        manifest = order.message.manifest.message
        try:
            run = await self.process(manifest, order.message.context, orderer=order.signer, keep_outputs=True)
        except OverlayError as error:
            log.warning("outputs.failed", batch=batch_id, why=str(error))
            return None
        return run.leaves, run.normalized

    async def process(
        self,
        manifest: Manifest,
        context: bytes,
        *,
        orderer: IdentityKey,
        keep_outputs: bool,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> compute.Run:
        """Run the roles over a batch, unless they ran over the very same before.

        Args:
            orderer: The node that wants it done: it sent the payload and has the policy. This node itself uses the
                payload that it stored.
            keep_outputs: Whether the lines are needed, or the roots alone.
            is_wanted: Asked when a worker is free for it.

        Raises:
            MissingError: payload or policy cannot be had. MalformedError: the payload is not the one that the
                manifest names; a peer that sent it is struck. OverlayError: what ``compute.run_roles`` and the
                workers raise.
        """
        key = content_key(manifest, context)
        known = self._cache.get("normalization", key, with_outputs=keep_outputs)
        if known is not None:
            return attrs.evolve(known, cpu_us=0)
        own = orderer == self._signer.identity
        batch_id = manifest.batch_id
        packed = await (self._payloads.own(batch_id) if own else self._payloads.sent_by(orderer, batch_id))
        if packed is None:
            raise MissingError("the payload is not here")
        policy = await self._policies.policy(manifest.policy_hash, manifest.coordinator if own else orderer)
        if policy is None:
            raise MissingError("the policy is not here, and the node that ordered the work did not send it")
        call = partial(
            compute.run_roles,
            network=self._network,
            source_id=manifest.source_id,
            packed=packed,
            policy=policy,
            context=context,
            keep_outputs=keep_outputs,
        )
        with structlog.contextvars.bound_contextvars(batch=batch_id):  # for what the workers log
            try:
                run = await self._workers.execute(call, is_wanted)
                if run.findings.input_root != manifest.input_root or run.findings.events != manifest.events:
                    raise MalformedError("the payload is not the one the manifest names")
            except MalformedError:
                self._payloads.reject(batch_id, orderer)
                raise
        self._cache.put("normalization", key, run)
        return run

    async def _run_role(self, effect: RunRole) -> None:
        order = effect.order.message
        manifest = order.manifest.message
        own = effect.order.signer == self._signer.identity
        try:
            run = await self.process(
                manifest,
                order.context,
                orderer=effect.order.signer,
                keep_outputs=own,
                is_wanted=partial(self._is_wanted, manifest.batch_id),
            )
        except OverlayError as error:
            cause = _cause_of(error)
            log.warning("role.failed", batch=manifest.batch_id, cause=cause.name.lower(), why=str(error))
            self._fail(manifest.batch_id, str(error), cause)
            return
        if run.level > manifest.level:
            wanted = Level(run.level).word
            self._fail(manifest.batch_id, f"the policy asks for level {wanted} for an event of this batch")
            return
        self._on_run(run)
        log.debug(
            "roles.ran",
            batch=manifest.batch_id,
            jobs=[job_id(role, manifest.batch_id) for role in effect.roles],
            coordinator=manifest.coordinator.hex(),
            cpu_us=run.cpu_us,
        )
        if not own:
            self._keep_order(effect.order)
        evidence = tuple(
            envelope.sign(self._signer, self._evidence(order, run, role))
            for role in effect.roles
            if role in (Role.NORMALIZE, Role.VALIDATE)
        )
        self._enqueue(
            RoleFinished(now_ms=clock_ms(), batch_id=manifest.batch_id, findings=run.findings, evidence=evidence)
        )

    def _fail(self, batch_id: str, reason: str, cause: FailureCause = FailureCause.BATCH) -> None:
        self._enqueue(RoleFailed(now_ms=clock_ms(), batch_id=batch_id, reason=reason, cause=cause))

    def _keep_order(self, order: Signed[WorkOrder]) -> None:
        self._orders[order.message.manifest.message.batch_id] = order
        if len(self._orders) > ORDERS_MAX:
            self._orders.popitem(last=False)

    def _evidence(self, order: WorkOrder, run: compute.Run, role: Role) -> Evidence:
        manifest = order.manifest.message
        found: Findings = run.findings
        normalize = role is Role.NORMALIZE
        return Evidence(
            network=self._network,
            batch_id=manifest.batch_id,
            role=role,
            policy_hash=manifest.policy_hash,
            input_digest=found.input_root if normalize else found.normalized_root,
            context_in=envelope.digest(order.context),
            output_digest=found.normalized_root if normalize else found.output_root,
            context_out=envelope.digest(found.context_out),
            valid=found.valid,
            invalid=found.invalid,
            build=self._build,
            finished_ms=clock_ms(),
            processing_us=run.cpu_us,
        )

    async def _sign(self, effect: SignStatement) -> None:
        message = Certification(
            network=self._network,
            batch_id=effect.statement.batch_id,
            statement_digest=effect.statement.digest,
            build=self._build,
            issued_ms=clock_ms(),
        )
        self._enqueue(StatementSigned(now_ms=clock_ms(), certification=envelope.sign(self._signer, message)))

    async def _forget(self, effect: ForgetPayload) -> None:
        if effect.sender is not None:
            self._payloads.forget_from(effect.batch_id, effect.sender)
            return
        self._payloads.forget(effect.batch_id)
        self._orders.pop(effect.batch_id, None)


def _cause_of(error: OverlayError) -> FailureCause:
    """Where the cause lies when the roles were not run: a worker that ends over a batch would anywhere."""
    match error:
        case UnwantedError():
            return FailureCause.UNWANTED
        case WorkerCrashedError() | WorkerTimeoutError():
            return FailureCause.BATCH
        case MissingError() | WorldFault():
            return FailureCause.NODE
        case _:
            return FailureCause.BATCH
