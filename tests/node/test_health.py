"""Whether a node is ready, and its gauges, as its parts are now."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio
from prometheus_client.parser import text_string_to_metric_families

from node.coordination.driver import Driver
from node.coordination.result_cache import ResultCache
from node.health import HealthMonitor
from node.network.sync import Freshness
from node.telemetry import Metrics
from protocols.rules import Rules
from tests.node.network.advertising import Neighbours
from tests.node.running import AGENT, NETWORK, NODE, Forgetful, Running, running, until
from tests.outage import out_of_order

CAUGHT_UP = Freshness(synced=True, as_of_ms=1_700_000_000_000, peers=2, connected=2, alone=False)


@attrs.define
class Watched:
    node: Running
    health: HealthMonitor
    transport: Neighbours
    metrics: Metrics
    fresh: Freshness = CAUGHT_UP

    async def failing(self) -> dict[str, str]:
        """The checks that do not hold, with their details."""
        return {check.name: check.detail for check in await self.health.readiness() if not check.ok}

    def gauge(self, name: str) -> float:
        families = text_string_to_metric_families(self.metrics.text())
        return next(sample.value for family in families for sample in family.samples if sample.name == name)


@asynccontextmanager
async def watched(postgres_url: str) -> AsyncIterator[Watched]:
    transport, metrics = Neighbours(NODE.identity, [AGENT.identity]), Metrics()
    async with running(postgres_url) as node:
        found: list[Watched] = []
        health = HealthMonitor(
            database=node.database,
            driver=Driver(Rules(network=NETWORK, self_key=NODE.identity), Forgetful()),
            ingest=node.ingest,
            transport=transport,  # type: ignore[arg-type]  # as much of one as health takes
            feed=node.feed,
            cache=ResultCache(1_000, metrics.looked_up),
            metrics=metrics,
            freshness=lambda: found[0].fresh,
        )
        health.is_accepting = True
        found.append(Watched(node=node, health=health, transport=transport, metrics=metrics))
        yield found[0]


async def test_a_node_is_ready_while_every_check_holds(postgres_url: str) -> None:
    async with watched(postgres_url) as found:
        assert await found.failing() == {}
        names = [check.name for check in await found.health.readiness()]
        assert names == ["database", "accepting", "sync", "p2p"]


async def test_a_node_that_starts_or_stops_is_not_ready(postgres_url: str) -> None:
    async with watched(postgres_url) as found:
        found.health.is_accepting = False
        assert await found.failing() == {"accepting": "starting or stopping"}


async def test_a_node_without_a_database_says_so_and_is_ready_when_it_is_back(postgres_url: str) -> None:
    async with watched(postgres_url) as found:
        with out_of_order(postgres_url), trio.fail_after(60):
            failing = await found.failing()
        assert list(failing) == ["database"]
        assert failing["database"]
        with trio.fail_after(60):
            while await found.failing():
                await trio.sleep(0.1)


async def test_a_node_that_listens_nowhere_is_not_ready(postgres_url: str) -> None:
    async with watched(postgres_url) as found:
        found.transport.addresses = ()  # type: ignore[assignment]
        assert await found.failing() == {"p2p": "1 peers connected"}


async def test_how_far_it_caught_up_decides_and_is_shown(postgres_url: str) -> None:
    async with watched(postgres_url) as found:
        sync = {check.name: check for check in await found.health.readiness()}["sync"]
        assert sync.detail == "caught up with 2 of 2 connected peers, as of 2023-11-14T22:13:20.000Z"
        found.fresh = attrs.evolve(CAUGHT_UP, as_of_ms=0, peers=0)
        assert await found.failing() == {"sync": "caught up with 0 of 2 connected peers, never"}
        found.fresh = attrs.evolve(found.fresh, connected=0, alone=True)
        assert await found.failing() == {}, "a node without peers has nobody to catch up with"


async def test_gauges_follow_what_they_show(postgres_url: str) -> None:
    async with watched(postgres_url) as found, trio.open_nursery() as nursery:
        nursery.start_soon(found.health.run)
        await until(lambda: found.gauge("overlay_peers_connected") == 1)
        assert found.gauge("overlay_events_unsettled") == 0
        assert (await found.node.source()).status_code == 201
        event = {"externalId": "e", "eventType": "t", "timestamp": "2024-01-01T00:00:00Z", "data": {}}
        assert (await found.node.post(event)).status_code == 202
        found.transport.connected.clear()
        await until(lambda: found.gauge("overlay_events_unsettled") == 1)
        assert found.gauge("overlay_peers_connected") == 0
        assert found.gauge("overlay_processor_seconds_total") > 0
        nursery.cancel_scope.cancel()
