"""The register of all that is looked at: one line for each probe, and the gauges."""

import attrs

from node.health.certification import QuorumProbe, pending_probe
from node.health.feeds import sources_probe, subscriptions_probe
from node.health.gauges import GaugeReader
from node.health.lifecycle import Lifecycle
from node.health.monitor import HealthMonitor
from node.health.peers import p2p_probe, sync_probe
from node.health.processes import parsers_probe, workers_probe
from node.health.storage import database_probe, disk_probe
from node.wiring.clients import Delivery, Ingestion
from node.wiring.configured import ingest_policy
from node.wiring.network import Base, Execution, Peers, State


@attrs.frozen(kw_only=True)
class Health:
    """What is wrong with the node, and what it says of itself."""

    lifecycle: Lifecycle
    monitor: HealthMonitor
    gauges: GaugeReader


def build_health(
    base: Base, state: State, peers: Peers, execution: Execution, ingestion: Ingestion, delivery: Delivery
) -> Health:
    """A part that can fail has a probe here."""
    settings, database, ingest = base.settings, base.database, ingestion.ingest
    heads = ingestion.coalescer.heads
    lifecycle = Lifecycle()
    quorum = QuorumProbe(
        database=database,
        driver=state.driver,
        policy=ingest_policy(settings),
        shortfall=peers.candidates.shortfall,
        is_needed=settings.overlay_ready_needs_quorum,
        heads=heads,
    )
    probes = (
        lifecycle.probe(),
        database_probe(database, lambda: ingest.trouble),
        disk_probe(database.reserve),
        parsers_probe(base.workers.parsers_answer),
        workers_probe(base.workers.workers_answer),
        p2p_probe(base.transport),
        sync_probe(peers.sync.freshness),
        quorum.probe(),
        pending_probe(state.driver, ingest.admission, settings.overlay_ready_event_age_s, heads),
        sources_probe(lambda: ingestion.sources.failing),
        subscriptions_probe(lambda: delivery.webhooks.stats.failing),
    )
    monitor = HealthMonitor(base.quarantine, probes)
    base.metrics.watch_conditions(monitor.held, lambda: database.reserve.room)
    gauges = GaugeReader(
        driver=state.driver,
        admission=ingest.admission,
        transport=base.transport,
        feed=delivery.feed,
        cache=execution.cache,
        metrics=base.metrics,
        heads=heads,
    )
    return Health(lifecycle=lifecycle, monitor=monitor, gauges=gauges)
