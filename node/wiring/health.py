"""The register of what is looked at in a node: one line for each probe, and the gauges.

The process itself looks at the phase that it is in, the database and its disk: before there is a node.
"""

from node.health.certification import QuorumProbe, pending_probe
from node.health.feeds import sources_probe, subscriptions_probe
from node.health.gauges import GaugeReader
from node.health.monitor import HealthMonitor
from node.health.peers import p2p_probe, sync_probe
from node.health.processes import parsers_probe, workers_probe
from node.runtime.conditions import Probe
from node.wiring.clients import Delivery, Ingestion
from node.wiring.configured import ingest_policy
from node.wiring.network import Base, Execution, Peers, State


def node_probes(
    base: Base, state: State, peers: Peers, ingestion: Ingestion, delivery: Delivery
) -> tuple[Probe, ...]:
    """A part that can fail has a probe here."""
    admission, heads = ingestion.ingest.admission, ingestion.coalescer.heads
    quorum = QuorumProbe(
        database=base.database,
        driver=state.driver,
        policy=ingest_policy(base.settings),
        shortfall=peers.candidates.shortfall,
        is_needed=lambda: base.settings.overlay_ready_needs_quorum,
        heads=heads,
    )
    return (
        parsers_probe(base.workers.parsers_answer),
        workers_probe(base.workers.workers_answer),
        p2p_probe(base.transport),
        sync_probe(peers.sync.freshness),
        quorum.probe(),
        pending_probe(state.driver, admission, lambda: base.settings.overlay_ready_event_age_s, heads),
        sources_probe(lambda: ingestion.sources.failing),
        subscriptions_probe(lambda: delivery.webhooks.stats.failing),
    )


def watch_health(
    base: Base, state: State, execution: Execution, ingestion: Ingestion, delivery: Delivery, monitor: HealthMonitor
) -> GaugeReader:
    """Show in the metrics what is wrong, and what the parts count; the latter is read by what is returned."""
    base.metrics.watch_conditions(monitor.held, lambda: base.database.reserve.room)
    return GaugeReader(
        driver=state.driver,
        admission=ingestion.ingest.admission,
        transport=base.transport,
        feed=delivery.feed,
        cache=execution.cache,
        metrics=base.metrics,
        heads=ingestion.coalescer.heads,
    )
