"""Resumes batches that an earlier run left unfinished, or whose stimulus was lost in this one."""

from collections.abc import Collection, Mapping
from typing import Final

import structlog
import trio

from node.coordination.batch_store import BatchStore
from node.coordination.driver import Driver
from node.coordination.serialization import read_manifest
from node.ingest.backlog import Backlog
from node.ingest.coalescing import Coalescer, Waiting
from node.ingest.pipeline import Ingest
from node.ingest.replication import Replications
from node.runtime.clock import clock_ms
from protocols.entities import Batch, Stage, batch_entity_id
from protocols.stimuli import BatchAdopted, BatchReplayed, ReplicaStored
from storage.rows import PendingBatch

log = structlog.get_logger(__name__)

CHECK_S: Final = 15.0


class Recovery:
    """Compares the batches on disk that have no end with what the driver knows."""

    def __init__(
        self,
        *,
        network: str,
        batches: BatchStore,
        driver: Driver,
        ingest: Ingest,
        coalescer: Coalescer,
        replications: Replications,
    ) -> None:
        self._network = network
        self._batches = batches
        self._driver = driver
        self._ingest = ingest
        self._coalescer = coalescer
        self._replications = replications

    async def resume_unfinished(self) -> None:
        """Count what an earlier run left unfinished, and give the driver the batches that it does not have."""
        adopted = []
        for each in await self._batches.pending():
            if each.coordinator is not None:
                adopted.append(each.batch_id)
                continue
            self._ingest.admission.backlog.enter_of(read_manifest(each.manifest, self._network).message)
            if each.holders:
                self._replications.expect(each.batch_id)
            if self._driver.find(batch_entity_id(each.batch_id)) is None:
                await self._resubmit(each)
        for hold in await self._batches.holds(self._network):
            await self._driver.submit(ReplicaStored(now_ms=clock_ms(), hold=hold))
        for batch_id in adopted:
            await self._driver.submit(BatchAdopted(now_ms=clock_ms(), batch_id=batch_id))

    async def run(self) -> None:
        """Give the driver, until cancelled, batches that have neither an end nor an entity: their stimulus was lost
        with a restart of the driver, or with a commit whose outcome is not known. Keep the count of events without
        an end true.
        """
        dead: set[str] = set()
        backlog = self._ingest.admission.backlog
        recount = _Recount(backlog)
        while True:
            await trio.sleep(CHECK_S)
            not_marked: set[str] = set()
            before_ms = clock_ms() - int(1000 * CHECK_S)
            counted = frozenset(backlog.batches)
            pending = [each for each in await self._batches.pending() if each.coordinator is None]
            recount.compare(counted, {each.batch_id: each.events for each in pending})
            for each in pending:
                known = self._driver.find(batch_entity_id(each.batch_id))
                if isinstance(known, Batch) and known.stage is Stage.DEAD:
                    not_marked.add(each.batch_id)
                    if each.batch_id in dead:  # twice: marking its row failed, or the stimulus of its replay was lost
                        log.warning("batch.revived", batch=each.batch_id)
                        signed = read_manifest(each.manifest, self._network)
                        await self._driver.submit(
                            BatchReplayed(
                                now_ms=clock_ms(), manifest=signed, stateful=each.stateful, holders=each.holders
                            )
                        )
                elif self._coalescer.holds(each.batch_id):
                    pass
                elif known is None and each.received_ms < before_ms and await self._still(each):
                    log.warning("batch.resubmitted", batch=each.batch_id)
                    await self._resubmit(each)
                elif self._replications.waits(each.batch_id):
                    await self._resubmit(each, recovered=False)  # asks holders again where none is being asked
            dead = not_marked

    async def _still(self, batch: PendingBatch) -> bool:
        """Whether a batch has no end yet: it may have got one, or been merged, since all were read."""
        return await self._batches.is_pending(batch.batch_id) and not self._coalescer.holds(batch.batch_id)

    async def _resubmit(self, batch: PendingBatch, *, recovered: bool = True) -> None:
        signed = read_manifest(batch.manifest, self._network)
        await self._coalescer.resume(
            Waiting(
                manifest=signed,
                stateful=batch.stateful,
                versioned=batch.versioned,
                holders=batch.holders,
                recovered=recovered,
                payload_bytes=batch.payload_bytes,
            )
        )


class _Recount:
    """Corrects the count of events without an end where a batch was not reported, or its end was not.

    What differs twice, ``CHECK_S`` apart, is no report under way.
    """

    def __init__(self, backlog: Backlog) -> None:
        self._backlog = backlog
        self._ended: frozenset[str] = frozenset()
        self._missing: frozenset[str] = frozenset()

    def compare(self, counted: Collection[str], pending: Mapping[str, int]) -> None:
        """Args:
        counted: The batches that were counted before ``pending`` was read.
        pending: The events of each batch that has no end.
        """
        ended = frozenset(counted) - pending.keys()
        missing = pending.keys() - frozenset(self._backlog.batches)
        for batch_id in ended & self._ended:
            log.warning("batch.counted_out", batch=batch_id)
            self._backlog.leave(batch_id)
        for batch_id in missing & self._missing:
            log.warning("batch.counted_in", batch=batch_id)
            self._backlog.enter(batch_id, pending[batch_id])
        self._ended, self._missing = ended, frozenset(missing)
