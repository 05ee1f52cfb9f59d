"""A whole node: its groups of parts, and the only place that starts tasks.

Three nested nurseries: **core** (driver, effects, sender, records), **edges** (streams, gossip, discovery, delivery)
and **endpoints** (ingest, HTTP). They close from the endpoints inward: first nothing new is taken in, then batches in
progress come to their end within the grace period, then the node withdraws its advertisement.
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from math import inf
from typing import Final, Protocol, TypeAlias

import structlog
import trio

from node.api.services import Services
from node.coordination.retention import Retention
from node.delivery.feed_reader import begin
from node.health.lifecycle import Lifecycle, Phase
from node.health.monitor import HealthMonitor
from node.network.requests import RequestTable
from node.network.transport import Transport
from node.runtime.containment import Quarantine
from node.runtime.keyring import Keyring
from node.runtime.settings import LiveSettings, Settings
from node.runtime.supervisor import RestartPolicy, supervise
from node.runtime.workers import Workers
from node.wiring.clients import build_delivery, build_ingestion, build_interface, count_ends
from node.wiring.health import node_probes, watch_health
from node.wiring.network import Base, answer_requests, build_execution, build_peers, build_state
from node.wiring.reloading import node_reloaders
from protocols.errors import WorldFault
from storage.database import Database
from storage.errors import DatabaseUnavailableError, StatementError

log = structlog.get_logger(__name__)

HTTP_GRACE_S: Final = 4.0
DRAIN_POLL_S: Final = 0.05
LAST_GOSSIP_S: Final = 0.2
LAST_WRITES_S: Final = 5.0  # after the grace period; then a database that does not answer is left behind
RESTARTS: Final = RestartPolicy()

Tasks: TypeAlias = Mapping[str, Callable[[], Awaitable[None]]]
"""What to supervise, by the name that logs show."""


class ServeEndpoints(Protocol):
    """Serves clients over HTTP."""

    async def __call__(
        self,
        services: Services,
        stop: trio.Event,
        task_status: "trio.TaskStatus[str]",  # type: ignore[name-defined]
    ) -> None:
        """Serve until ``stop``; reports the URL once requests are accepted."""


class _FirstStart:
    """A task status that takes the first start, however many runs ended before it, and ignores those of restarts."""

    def __init__(self, status: "trio.TaskStatus[None]") -> None:  # type: ignore[name-defined]
        self._status = status
        self._has_started = False

    def started(self, value: None = None) -> None:
        if not self._has_started:
            self._has_started = True
            self._status.started(value)


class Node:
    """One node. Made once, and run once.

    Attributes:
        reloaders: Put settings into force that can change while it runs.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        keyring: Keyring,
        workers: Workers,
        transport: Transport,
        requests: RequestTable,
        *,
        lifecycle: Lifecycle,
        monitor: HealthMonitor,
        quarantine: Quarantine,
        has_crashed: bool = False,
    ) -> None:
        """Args:
        requests: The table that the transport answers from; the node fills it.
        monitor: Runs for as long as the process; the node adds its probes.
        quarantine: That of the transport.
        has_crashed: The process before this one ended by a fault of its own.
        """
        self._live = LiveSettings(settings)
        self._keyring = keyring
        self._transport = transport
        self._database = database
        self._stop = trio.Event()
        self._patience = trio.CancelScope()  # what the shutdown waits for at present
        self._hurried = trio.Event()
        self._drained_by_s = inf
        base = Base(
            live=self._live,
            database=database,
            keyring=keyring,
            workers=workers,
            transport=transport,
            requests=requests,
            quarantine=quarantine,
            has_crashed=has_crashed,
        )
        self.state = build_state(base)
        self._peers = build_peers(base, self.state)
        self._execution = build_execution(base, self.state, self._peers)
        self._ingestion = build_ingestion(base, self.state, self._peers, self._execution)
        count_ends(base.metrics, self._execution)
        self._delivery = build_delivery(base, self._peers, self._execution)
        self._lifecycle = lifecycle
        monitor.add(*node_probes(base, self.state, self._peers, self._ingestion, self._delivery))
        self._gauges = watch_health(base, self.state, self._execution, self._ingestion, self._delivery, monitor)
        self._interface = build_interface(base, self.state, self._peers, self._ingestion, self._delivery, monitor)
        self.reloaders = node_reloaders(base, self._peers, self._ingestion)
        answer_requests(base, self._peers, self._execution, self._interface.objects)

    def stop(self) -> None:
        """Request a graceful shutdown; asked again, cut its waiting short. Nothing acknowledged is lost by that."""
        if self._stop.is_set():
            self._hurried.set()
            self._patience.cancel()
        self._stop.set()

    @property
    def commit_trouble(self) -> DatabaseUnavailableError | StatementError | None:
        """What holds commits of events up, or made the last one fail a moment ago."""
        return self._ingestion.ingest.trouble

    async def run(self, serve: ServeEndpoints) -> None:
        """Serve until ``stop``, then shut down gracefully. What escapes is a fault of this program."""
        for name, load in self._first_steps().items():
            await supervise(name, load, RESTARTS)
        async with trio.open_nursery() as core:
            core.start_soon(self._end_in_time)
            _start(core, self._core_tasks())
            await core.start(self._run_driver)
            await supervise("unfinished", self._ingestion.recovery.resume_unfinished, RESTARTS)
            async with trio.open_nursery() as edges:
                _start(edges, self._edge_tasks())
                edges.start_soon(self._gauges.run)
                await supervise("templates", self._interface.market.load, RESTARTS)
                await self._serve_endpoints(serve)
                await self._drain()
                await self._peers.discovery.withdraw()
                await trio.sleep(LAST_GOSSIP_S)  # gossip leaves with the next heartbeat, or is lost
                edges.cancel_scope.cancel()
            await self._write_last()
            core.cancel_scope.cancel()

    def _first_steps(self) -> Tasks:
        return {
            "reputations": self.state.reputations.load,
            "known peers": self._peers.known.load,
            "feed": partial(begin, self._delivery.feed, self._database),
        }

    def _core_tasks(self) -> Tasks:
        execution = self._execution
        return {
            "sender": execution.sender.run,
            "effects": execution.dispatcher.run,
            "observations": execution.observations.run,
            "certificates": self._peers.certificates.run,
            "jobs": self.state.journal.run,
            "pending": self.state.batches.run_materialise,
            "bisection": self._ingestion.bisection.run,
            "coalescing": self._ingestion.coalescer.run,
        }

    def _edge_tasks(self) -> Tasks:
        peers, delivery = self._peers, self._delivery
        return {
            "streams": peers.receiver.run_streams,
            "gossip": peers.receiver.run_gossip,
            "discovery": peers.discovery.run,
            "sync": peers.sync.run,
            "notices": peers.notices.run,
            "announcer": delivery.announcer.run,
            "feed": delivery.feed.run,
            "cursors": delivery.cursors.run,
            "webhooks": delivery.webhooks.run,
            "trust": self._ingestion.trust.run,
            "objects": self._interface.objects.run,
            "retention": Retention(self._database).run,
            "recovery": self._ingestion.recovery.run,
            "propagation": self._interface.overlay.propagation.run,
        }

    def _endpoint_tasks(self) -> Tasks:
        return {
            "ingest": self._ingestion.ingest.run,
            "nonces": self._interface.nonces.run,
            "idempotency": self._interface.idempotency.run,
            "sources": self._ingestion.sources.run,
        }

    async def _run_driver(self, *, task_status: "trio.TaskStatus[None]") -> None:  # type: ignore[name-defined]
        """Run the driver; after the database was away, it goes on from what is stored."""
        report = _FirstStart(task_status)

        async def drive() -> None:
            await self.state.driver.run(self._execution.dispatcher.dispatch, report)

        await supervise("driver", drive, RESTARTS)

    async def _serve_endpoints(self, serve: ServeEndpoints) -> None:
        async with trio.open_nursery() as endpoints:
            _start(endpoints, self._endpoint_tasks())
            await self._serve_clients(serve)
            endpoints.cancel_scope.cancel()

    async def _serve_clients(self, serve: ServeEndpoints) -> None:
        """Serve until the stop; then requests in progress are answered, and streams end."""
        async with trio.open_nursery() as web:
            url = await web.start(serve, self._interface.services, self._stop)
            self._lifecycle.phase = Phase.SERVING
            log.info(
                "node.ready", url=url, identity=self._keyring.identity.hex(), addresses=self._transport.addresses
            )
            await self._stop.wait()
            self._lifecycle.phase = Phase.DRAINING
            self._delivery.feed.close()
            web.cancel_scope.deadline = trio.current_time() + HTTP_GRACE_S
            self._wait_within(web.cancel_scope)

    async def _drain(self) -> None:
        """Wait for acknowledged events to come to their end; the next start finishes those that do not in time."""
        ingest = self._ingestion.ingest
        ends_s = trio.current_time() + self._live.now.overlay_shutdown_grace_s
        with trio.move_on_at(min(ends_s, self._drained_by_s)) as patience:
            self._wait_within(patience)
            while ingest.admission.backlog.unsettled:  # noqa: ASYNC110  # a count, polled for seconds once in the life of a node
                await trio.sleep(DRAIN_POLL_S)
        log.info("node.drained", left=ingest.admission.backlog.unsettled)

    async def _end_in_time(self) -> None:
        """Bound the shutdown: requests, the drain, then last writes have their time, whatever the database does."""
        await self._stop.wait()
        grace_s = self._live.now.overlay_shutdown_grace_s
        self._drained_by_s = trio.current_time() + HTTP_GRACE_S + grace_s
        self._database.hurry(HTTP_GRACE_S)
        with trio.move_on_at(self._drained_by_s):
            await self._hurried.wait()
        await trio.sleep(LAST_WRITES_S)
        log.warning("node.database_left", why="the database did not take the last writes", within_s=LAST_WRITES_S)
        self._database.end()

    async def _write_last(self) -> None:
        """Write figures that are kept in memory; each ledger logs how many entries it could not write."""
        flushes = {
            "observations": self._execution.observations.flush,
            "trust": self._ingestion.trust.flush,
            "cursors": self._delivery.cursors.flush,
        }
        for name, flush in flushes.items():
            try:
                await flush()
            except WorldFault as fault:
                log.warning("node.not_flushed", of=name, why=str(fault))

    def _wait_within(self, scope: trio.CancelScope) -> None:
        """The shutdown waits within ``scope`` from here on."""
        self._patience = scope
        if self._hurried.is_set():
            scope.cancel()


def _start(nursery: trio.Nursery, tasks: Tasks) -> None:
    for name, run in tasks.items():
        nursery.start_soon(supervise, name, run, RESTARTS)
