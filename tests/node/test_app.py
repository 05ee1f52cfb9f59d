"""A whole node in this process: it certifies alone, answers peers, and ends in order or with what went wrong."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import psycopg
import pytest
import trio

from node.api.app import create_app
from node.api.services import Services
from node.app import Node
from node.health.lifecycle import Lifecycle
from node.health.monitor import HealthMonitor
from node.network.content_exchange import OUTPUTS, POLICY
from node.network.requests import ABSENT, PRESENT, RequestTable
from node.network.transport import Gossip, InboundFrame, PeerUnreachableError, PeerView
from node.runtime.config import load
from node.runtime.containment import Quarantine
from node.runtime.keyring import Keyring
from node.runtime.settings import Settings
from node.runtime.workers import Workers
from protocols.entities import Entity
from protocols.envelope import open_frame
from protocols.errors import WorldFault
from protocols.keys import PrivateKey
from protocols.messages import Advertisement, IdentityKey
from storage import events
from storage.database import Database
from tests.node.certified_batches import AGENT
from tests.node.running import until

KEY = PrivateKey.from_bytes(bytes(31) + b"\7")
SOURCE = {
    "sourceId": "farm",
    "name": "Farm",
    "sourceType": "webhook",
    "validationRules": {"bounds": [{"field": "value", "min": 0, "max": 10}]},
}
ENVIRONMENT = {
    "OVERLAY_NETWORK": "alone",
    "OVERLAY_OPEN_ADMIN": "true",
    "OVERLAY_BID_WINDOW_MS": "10",
    "OVERLAY_SHUTDOWN_GRACE_S": "60",
    "EVENT_CONSENSUS_REQUIRED": "false",
    "OVERLAY_EVENT_TOPICS": "farm.events",
}


class NoPeers:
    """A transport of a node that nobody is connected to; remembers what is gossiped."""

    def __init__(self, identity: IdentityKey) -> None:
        self.identity = identity
        self.addresses = ("/ip4/127.0.0.1/tcp/1",)
        self.published: list[bytes] = []
        self._gossip = trio.open_memory_channel[Gossip](1)
        self._inbound = trio.open_memory_channel[InboundFrame](1)

    async def publish(self, topic: str, data: bytes) -> None:
        self.published.append(data)

    def gossip(self) -> trio.MemoryReceiveChannel[Gossip]:
        return self._gossip[1]

    def inbound(self) -> trio.MemoryReceiveChannel[InboundFrame]:
        return self._inbound[1]

    async def send(self, peer: IdentityKey, frame: bytes) -> None:
        raise PeerUnreachableError("nobody is connected")

    async def request(self, peer: IdentityKey, body: bytes, timeout_s: float) -> bytes:
        raise PeerUnreachableError("nobody is connected")

    def learn(self, identity: IdentityKey, addresses: Iterable[str]) -> None:
        raise AssertionError("nobody advertises")

    def forget(self, identity: IdentityKey) -> None:
        raise AssertionError("nobody is known")

    def follow(self, bootstrap: Sequence[str], members: frozenset[IdentityKey] | None) -> None:
        raise AssertionError("its settings never change")

    def peers(self) -> tuple[PeerView, ...]:
        return ()

    def strike(self, identity: IdentityKey, reason: str) -> None:
        raise AssertionError("nobody sends anything")

    def disconnect(self, identity: IdentityKey) -> None:
        raise AssertionError("nobody is connected")


@attrs.define
class Lone:
    """A node without peers, and a client of it."""

    node: Node
    monitor: HealthMonitor
    transport: NoPeers
    requests: RequestTable
    database: Database
    client: Any = None
    is_serving: bool = False

    async def serve(self, services: Services, stop: trio.Event, task_status: Any) -> None:
        self.client = create_app(services).test_client()
        self.is_serving = True
        task_status.started("http://test")
        await stop.wait()
        self.is_serving = False

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        response = await self.client.open(path, method=method, json=body)
        is_json = response.content_type == "application/json"
        return response.status_code, (await response.get_json() if is_json else await response.get_data(as_text=True))

    async def post(self, *values: float) -> list[str]:
        posted = [{"externalId": f"r-{value}", "eventType": "reading", "data": {"value": value}} for value in values]
        body = {"sourceId": "farm", "events": posted, "processingOptions": {"consensusLevel": "basic"}}
        status, answer = await self.call("POST", "/overlay/events/ingest", body)
        assert status == 202, answer
        return [each["eventId"] for each in answer["processedEvents"]]

    def advertised(self) -> list[Advertisement]:
        found = [open_frame(frame, "alone")[0].message for frame in self.transport.published]
        return [message for message in found if isinstance(message, Advertisement)]


def made(
    settings: Settings,
    database: Database,
    workers: Workers,
    transport: NoPeers,
    quarantine: Quarantine | None = None,
) -> Lone:
    requests, quarantine = RequestTable(), quarantine or Quarantine()
    monitor = HealthMonitor(quarantine)
    node = Node(
        settings,
        database,
        Keyring(KEY),
        workers,
        transport,
        requests,
        lifecycle=Lifecycle(),
        monitor=monitor,
        quarantine=quarantine,
    )
    return Lone(node=node, monitor=monitor, transport=transport, requests=requests, database=database)


@asynccontextmanager
async def lone_node(postgres_url: str, **environ: str) -> AsyncIterator[Lone]:
    transport = NoPeers(KEY.identity)
    with Database(postgres_url) as database:
        async with Workers(1) as workers:
            yield made(load(None, ENVIRONMENT | environ), database, workers, transport)


def status_of(event_id: str, connection: psycopg.Connection) -> str | None:
    found = events.get(connection, event_id)
    return None if found is None else found.validation_status


async def running(lone: Lone, use: Callable[[], Awaitable[None]]) -> None:
    """Run the node, use it once it serves, stop it, and wait for its end."""
    with trio.fail_after(120):
        async with trio.open_nursery() as beside:
            beside.start_soon(lone.monitor.run)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lone.node.run, lone.serve)
                await until(lambda: lone.is_serving, 30)
                await use()
                lone.node.stop()
            beside.cancel_scope.cancel()


async def test_a_node_alone_certifies_at_the_basic_level_and_withdraws_at_its_end(postgres_url: str) -> None:
    async with lone_node(postgres_url) as lone:
        ids: list[str] = []

        async def use() -> None:
            assert (await lone.call("POST", "/overlay/sources", SOURCE))[0] == 201
            ids.extend(await lone.post(1, 2, 99))
            status, ready = await lone.call("GET", "/readyz")
            assert (status, ready["status"]) == (200, "ready")

        await running(lone, use)
        assert not lone.is_serving
        statuses = [await lone.database.run(partial(status_of, each)) for each in ids]
        assert statuses == ["certified", "certified", "invalid"], "drained before the end"
        first, last = lone.advertised()[0], lone.advertised()[-1]
        assert first.tokens
        assert first.expires_ms > first.issued_ms
        assert last.tokens == (), "the node withdrew"
        assert last.expires_ms <= last.issued_ms


async def test_peers_are_answered_from_what_the_node_has(postgres_url: str) -> None:
    async with lone_node(postgres_url) as lone:

        async def use() -> None:
            _, source = await lone.call("POST", "/overlay/sources", SOURCE)
            policy = await lone.requests.answer(AGENT.identity, POLICY + bytes.fromhex(source["policyHash"]))
            assert policy[:1] == PRESENT
            assert b'"max":10' in policy
            (event_id,) = await lone.post(3)
            batch_id = ""
            with trio.fail_after(90):
                while not batch_id:
                    _, event = await lone.call("GET", f"/overlay/events/{event_id}")
                    batch_id = event["batchId"] if event["status"] == "certified" else ""
                    await trio.sleep(0.02)
            outputs = await lone.requests.answer(AGENT.identity, OUTPUTS + batch_id.encode())
            assert outputs[:1] == PRESENT
            assert outputs.endswith(b'{"value":3}')
            assert await lone.requests.answer(AGENT.identity, OUTPUTS + b"batch_of_nobody") == ABSENT

        await running(lone, use)


async def test_ends_are_counted_and_shown(postgres_url: str) -> None:
    async with lone_node(postgres_url) as lone:

        async def use() -> None:
            await lone.call("POST", "/overlay/sources", SOURCE)
            await lone.post(1, 99)
            text = ""
            with trio.fail_after(90):
                while "overlay_events_certified_total 1.0" not in text:
                    _, text = await lone.call("GET", "/metrics")
                    await trio.sleep(0.05)
            assert "overlay_events_invalid_total 1.0" in text
            assert "overlay_events_acknowledged_total 2.0" in text
            assert "overlay_role_runs_total 1.0" in text
            assert 'overlay_agent_outcomes_total{outcome="agreed"}' in text

        await running(lone, use)


async def test_a_stop_before_anything_came_ends_at_once(postgres_url: str) -> None:
    async with lone_node(postgres_url) as lone:

        async def nothing() -> None:
            return None

        started = trio.current_time()
        await running(lone, nothing)
        assert trio.current_time() - started < 60, "there was nothing to drain"


async def test_a_database_that_fails_while_the_driver_loads_delays_the_start(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with lone_node(postgres_url) as lone:
        journal, loads = lone.node.state.journal, 0
        load_once_more = journal.load

        async def load_at_the_second_try() -> Sequence[Entity]:
            nonlocal loads
            loads += 1
            if loads == 1:
                raise WorldFault("the database went away")
            return await load_once_more()

        async def use() -> None:
            assert (await lone.call("GET", "/healthz"))[0] == 200

        monkeypatch.setattr(journal, "load", load_at_the_second_try)
        await running(lone, use)
        assert loads == 2


@pytest.mark.parametrize("fault", [AssertionError("a fault of our own"), RuntimeError("a fault of our own")])
async def test_a_fault_of_the_program_ends_the_node_with_it(postgres_url: str, fault: Exception) -> None:
    async with lone_node(postgres_url) as lone:

        async def serve(services: Services, stop: trio.Event, task_status: Any) -> None:
            task_status.started("http://test")
            raise fault

        with trio.fail_after(60), pytest.raises(ExceptionGroup) as failed:
            await lone.node.run(serve)
        assert failed.value.subgroup(lambda error: error is fault) is not None


async def test_acknowledged_events_that_cannot_be_certified_in_time_are_left_for_the_next_start(
    postgres_url: str,
) -> None:
    async with lone_node(postgres_url, OVERLAY_SHUTDOWN_GRACE_S="0.2") as lone:

        async def use() -> None:
            await lone.call("POST", "/overlay/sources", SOURCE)
            options = {"consensusLevel": "critical"}
            event = {"externalId": "r-1", "eventType": "reading", "data": {"value": 1}}
            body = {"sourceId": "farm", "events": [event], "processingOptions": options}
            status, answer = await lone.call("POST", "/overlay/events/ingest", body)
            assert status == 202
            assert answer["overlayMetadata"]["levelReachable"] is False

        await running(lone, use)
    async with lone_node(postgres_url) as again:

        async def look() -> None:
            with trio.fail_after(90):
                while "overlay_events_unsettled 1.0" not in (await again.call("GET", "/metrics"))[1]:
                    await trio.sleep(0.1)
            again.node.stop()

        await running(again, look)
