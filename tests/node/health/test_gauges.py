"""The gauges of a node follow what they show."""

import trio
from prometheus_client.parser import text_string_to_metric_families

from node.coordination.driver import Driver
from node.coordination.result_cache import ResultCache
from node.health.gauges import GaugeReader
from node.telemetry import Metrics
from protocols.rules import Rules
from tests.node.network.advertising import Neighbours
from tests.node.running import AGENT, NETWORK, NODE, Forgetful, running, until


async def test_gauges_follow_what_they_show(postgres_url: str) -> None:
    transport, metrics = Neighbours(NODE.identity, [AGENT.identity]), Metrics()

    def gauge(name: str) -> float:
        families = text_string_to_metric_families(metrics.text())
        return next(sample.value for family in families for sample in family.samples if sample.name == name)

    async with running(postgres_url) as node, trio.open_nursery() as nursery:
        gauges = GaugeReader(
            driver=Driver(Rules(network=NETWORK, self_key=NODE.identity), Forgetful()),
            admission=node.ingest.admission,
            transport=transport,  # type: ignore[arg-type]  # as much of one as the gauges take
            feed=node.feed,
            cache=ResultCache(1_000, metrics.looked_up),
            metrics=metrics,
        )
        nursery.start_soon(gauges.run)
        await until(lambda: gauge("overlay_peers_connected") == 1)
        assert gauge("overlay_events_unsettled") == 0
        assert (await node.source()).status_code == 201
        event = {"externalId": "e", "eventType": "t", "timestamp": "2024-01-01T00:00:00Z", "data": {}}
        assert (await node.post(event)).status_code == 202
        transport.connected.clear()
        await until(lambda: gauge("overlay_events_unsettled") == 1)
        assert gauge("overlay_peers_connected") == 0
        assert gauge("overlay_processor_seconds_total") > 0
        nursery.cancel_scope.cancel()
