"""Keeps the gauges current, from the state of the parts."""

from typing import Final

import trio

from node.coordination.driver import Driver
from node.coordination.result_cache import ResultCache
from node.delivery.feed import Feed
from node.health.certification import Heads, unfinished
from node.ingest.admission_control import AdmissionControl
from node.network.transport import Transport
from node.runtime.clock import clock_ms
from node.runtime.processor_time import ProcessorTimes
from node.telemetry import Metrics
from protocols.entities import Batch, Lease, Stage

EVERY_S: Final = 2.0


class GaugeReader:
    """Reads the state of the parts and changes none of it."""

    def __init__(
        self,
        *,
        driver: Driver,
        admission: AdmissionControl,
        transport: Transport,
        feed: Feed,
        cache: ResultCache,
        metrics: Metrics,
        heads: Heads = tuple,
    ) -> None:
        self._heads = heads
        self._driver = driver
        self._admission = admission
        self._transport = transport
        self._feed = feed
        self._cache = cache
        self._metrics = metrics

    async def run(self) -> None:
        """Keep the gauges current until cancelled."""
        processor, backlog = ProcessorTimes(), self._admission.backlog
        while True:
            connected = sum(peer.connected for peer in self._transport.peers())
            stages, leases = self._work()
            self._metrics.worked(processor.since_last())
            self._metrics.observe(
                inbox=self._driver.depth,
                unsettled=backlog.unsettled,
                bound=backlog.bound,
                drain=backlog.drain.per_s,
                refused=backlog.refused,
                oldest_s=unfinished(self._driver, self._heads).oldest_s,
                connected=connected,
                subscribers=self._feed.stats.subscriptions,
                stages=stages,
                leases=leases,
                cached=self._cache.size_bytes,
            )
            await trio.sleep(EVERY_S)

    def _work(self) -> tuple[dict[str, int], int]:
        """How many batches are in each stage, and how many leases are in force."""
        stages = dict.fromkeys((stage.name.lower() for stage in Stage), 0)
        leases, now_ms = 0, clock_ms()
        for entity in self._driver.entities():
            if isinstance(entity, Batch):
                stages[entity.stage.name.lower()] += 1
            elif isinstance(entity, Lease) and entity.grant is not None:
                leases += entity.grant.expires_ms > now_ms
        return stages, leases
