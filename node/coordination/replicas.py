"""Batches that this node holds for other coordinators: kept, dropped, and adopted when a coordinator is gone."""

from collections.abc import Callable
from functools import partial
from typing import Protocol

import structlog

from node.coordination.dispatcher import Handlers
from node.coordination.payloads import Payloads
from node.coordination.role_runner import Policies
from node.runtime.clock import clock_ms
from node.runtime.workers import Workers
from node.worker import compute
from protocols.effects import AdoptReplica, ConfirmReplication, DropReplica, StoreReplica
from protocols.errors import MalformedError, OverlayError
from protocols.messages import HoldBatch, IdentityKey, Manifest, Signed
from protocols.stimuli import BatchAdopted, ReplicaLost, ReplicaStored, Stimulus
from storage.replicas import Kept

log = structlog.get_logger(__name__)


class ReplicaStore(Protocol):
    """Where replicas are stored."""

    async def may_keep(self, hold: Signed[HoldBatch], packed: bytes) -> bool:
        """Whether a batch of another node is within the bounds, before it is looked at."""

    async def keep_replica(self, hold: Signed[HoldBatch], packed: bytes, policy: bytes) -> Kept:
        """Store a batch of another node with its policy, if there is room for it."""

    async def drop_replica(self, batch_id: str) -> None:
        """Delete a replica, if there is one."""

    async def adopt(self, hold: Signed[HoldBatch], index: compute.BatchIndex) -> bool:
        """Enter a batch that is held among this node's own; False where it was, or is not held."""


class Replicas:
    """Keeps, drops and adopts replicas, and reports how many hold this node's own batches."""

    def __init__(
        self,
        *,
        network: str,
        workers: Workers,
        payloads: Payloads,
        policies: Policies,
        store: ReplicaStore,
        enqueue: Callable[[Stimulus], None],
        on_replicated: Callable[[str, tuple[IdentityKey, ...]], None],
    ) -> None:
        """Args:
        enqueue: Reports to the driver.
        on_replicated: Called with a batch of this node's and its holders once there are enough of them.
        """
        self._network = network
        self._workers = workers
        self._payloads = payloads
        self._policies = policies
        self._store = store
        self._enqueue = enqueue
        self._on_replicated = on_replicated

    @property
    def handlers(self) -> Handlers:
        """All that concerns replicas."""
        return {
            StoreReplica: self._keep,
            DropReplica: self._drop,
            AdoptReplica: self._adopt,
            ConfirmReplication: self._replicated,
        }

    async def _keep(self, effect: StoreReplica) -> None:
        """Store what adopting takes: payload and policy. What is not stored is not confirmed, and is sent again."""
        hold = effect.hold
        manifest = hold.message.manifest.message
        packed = await self._payloads.sent_by(hold.signer, manifest.batch_id)
        if packed is not None and not await self._store.may_keep(hold, packed):
            self._report_too_many(manifest)  # before it costs a request to its coordinator, and a worker's time
            return
        policy = await self._policies.policy(manifest.policy_hash, manifest.coordinator)
        if packed is None or policy is None:
            log.warning("replica.incomplete", batch=manifest.batch_id, policy=policy is not None)
            return
        try:
            await self._index(manifest, packed)
        except MalformedError as error:
            log.warning("replica.refused", batch=manifest.batch_id, why=str(error))
            self._payloads.reject(manifest.batch_id, hold.signer)
            return
        except OverlayError as error:
            log.warning("replica.refused", batch=manifest.batch_id, why=str(error))
            return
        kept = await self._store.keep_replica(hold, packed, policy)
        for batch_id in kept.evicted:
            log.warning("replica.evicted", batch=batch_id)
            self._enqueue(ReplicaLost(now_ms=clock_ms(), batch_id=batch_id))
        if kept.is_held:
            self._enqueue(ReplicaStored(now_ms=clock_ms(), hold=hold))
        else:
            self._report_too_many(manifest)

    def _report_too_many(self, manifest: Manifest) -> None:
        log.warning("replica.too_many", batch=manifest.batch_id, coordinator=manifest.coordinator.hex())

    async def _drop(self, effect: DropReplica) -> None:
        await self._store.drop_replica(effect.batch_id)

    async def _adopt(self, effect: AdoptReplica) -> None:
        hold = effect.hold
        manifest = hold.message.manifest.message
        packed = await self._payloads.own(manifest.batch_id)
        if packed is None:
            log.error("replica.lost", batch=manifest.batch_id)
            self._enqueue(ReplicaLost(now_ms=clock_ms(), batch_id=manifest.batch_id))
            return
        try:
            index = await self._index(manifest, packed)
        except OverlayError as error:
            log.error("replica.lost", batch=manifest.batch_id, why=str(error))
            return
        if await self._store.adopt(hold, index):
            log.warning("batch.adopted", batch=manifest.batch_id, coordinator=manifest.coordinator.hex())
        self._enqueue(BatchAdopted(now_ms=clock_ms(), batch_id=manifest.batch_id))

    async def _replicated(self, effect: ConfirmReplication) -> None:
        self._on_replicated(effect.batch_id, effect.holders)

    async def _index(self, manifest: Manifest, packed: bytes) -> compute.BatchIndex:
        call = partial(
            compute.index_batch,
            packed,
            network=self._network,
            source_id=manifest.source_id,
            input_root=manifest.input_root,
        )
        return await self._workers.admit(call)
