"""Keeps the gauges current and answers whether the node is ready."""

from collections.abc import Callable, Sequence

import trio

from node.api.services import Check
from node.coordination.driver import Driver
from node.coordination.result_cache import ResultCache
from node.delivery.feed import Feed
from node.ingest.pipeline import Ingest
from node.network.sync import Freshness
from node.network.transport import Transport
from node.runtime.clock import clock_ms
from node.runtime.processor_time import ProcessorTimes
from node.telemetry import Metrics
from protocols.certificate import rfc3339
from protocols.entities import Batch, Lease, Stage
from protocols.errors import WorldFault
from storage.database import Database

GAUGES_S = 2.0
DATABASE_S = 1.5


class HealthMonitor:
    """Reads the state of the parts and changes none of it."""

    def __init__(
        self,
        *,
        database: Database,
        driver: Driver,
        ingest: Ingest,
        transport: Transport,
        feed: Feed,
        cache: ResultCache,
        metrics: Metrics,
        freshness: Callable[[], Freshness],
    ) -> None:
        self._database = database
        self._driver = driver
        self._ingest = ingest
        self._transport = transport
        self._feed = feed
        self._cache = cache
        self._metrics = metrics
        self._freshness = freshness
        self.is_accepting = False
        """Whether clients are served; for the node to set."""

    async def run(self) -> None:
        """Keep the gauges current until cancelled."""
        processor = ProcessorTimes()
        while True:
            connected = sum(peer.connected for peer in self._transport.peers())
            stages, leases = self._work()
            self._metrics.worked(processor.since_last())
            self._metrics.observe(
                inbox=self._driver.depth,
                unsettled=self._ingest.admission.unsettled,
                connected=connected,
                subscribers=self._feed.stats.subscriptions,
                stages=stages,
                leases=leases,
                cached=self._cache.size_bytes,
            )
            await trio.sleep(GAUGES_S)

    async def readiness(self) -> Sequence[Check]:
        """The conditions for the node to be ready, each with its present state."""
        try:
            await self._database.check(DATABASE_S)
            trouble = self._ingest.trouble
            database = Check(name="database", ok=not trouble, detail=trouble)
        except WorldFault as fault:
            database = Check(name="database", ok=False, detail=str(fault))
        connected = sum(peer.connected for peer in self._transport.peers())
        return (
            database,
            Check(name="accepting", ok=self.is_accepting, detail="" if self.is_accepting else "starting or stopping"),
            _sync_check(self._freshness()),
            Check(name="p2p", ok=bool(self._transport.addresses), detail=f"{connected} peers connected"),
        )

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


def _sync_check(fresh: Freshness) -> Check:
    if fresh.alone:
        return Check(name="sync", ok=True, detail="no peer was reached: certificates of other nodes are unknown")
    as_of = f"as of {rfc3339(fresh.as_of_ms)}" if fresh.as_of_ms else "never"
    detail = f"caught up with {fresh.peers} of {fresh.connected} connected peers, {as_of}"
    return Check(name="sync", ok=fresh.as_of_ms > 0, detail=detail)
