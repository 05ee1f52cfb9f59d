"""A node's HTTP interface over a real socket and a real database, with a seam where the driver would be."""

import os
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, TypeVar, get_args

import attrs
import httpx
import trio
from quart_trio import QuartTrio

from agents.functions import Declarations
from node.api.app import create_app
from node.api.ingest_gate import IngestGate
from node.api.server import serve
from node.api.server_limits import ServerLimits
from node.api.services import ApiSettings, Services
from node.coordination.certified_result import CertifiedResult
from node.coordination.dead_letters import DeadLetters
from node.coordination.driver import Driver
from node.coordination.market import Market
from node.coordination.reputations import Reputations
from node.delivery.cursor_ledger import CursorLedger
from node.delivery.feed import Feed
from node.delivery.feed_reader import begin
from node.delivery.webhook_manager import WebhookManager
from node.health.lifecycle import Lifecycle, Phase
from node.health.monitor import HealthMonitor
from node.health.storage import database_probe, disk_probe
from node.ingest.admission_control import IngestLimits
from node.ingest.batch_merge import BatchMerger
from node.ingest.batch_rows import BatchSigner
from node.ingest.coalescing import Coalescer
from node.ingest.group_commit import GroupWriter
from node.ingest.idempotency import IdempotencyLedger
from node.ingest.pipeline import Ingest, IngestWorkers
from node.ingest.replication import Replications
from node.ingest.terms import IngestPolicy, TermsResolver
from node.network.sync import Freshness
from node.overlay.checking import Unchecked
from node.overlay.objects import Objects
from node.overlay.services import OverlayServices
from node.runtime.access import Access
from node.runtime.caches import BytesCache
from node.runtime.clock import clock_ms
from node.runtime.containment import Quarantine
from node.runtime.fair_share import OWN_ACCOUNT, Account
from node.runtime.nonces import NonceLedger
from node.runtime.settings import ReadGroup
from node.runtime.supervisor import RestartPolicy
from node.sources import SourceConnector, SourceManager
from node.sources.in_hand import RecordsInHand
from node.worker import compute
from node.worker.plugins import catalogue
from protocols.advertisement import check_token
from protocols.certificate import agent_id
from protocols.effects import Transition
from protocols.entities import Entity, EntityId
from protocols.levels import shortfall
from protocols.messages import (
    IdentityKey,
    Level,
    Manifest,
    Signed,
)
from protocols.rules import Rules
from protocols.stimuli import BatchCommitted, BatchReplayed, Stimulus
from storage import batches
from storage.database import Database
from storage.migrate import migrate
from tests.node.certified_batches import (
    AGENT,
    NETWORK,
    NODE,
    PUBLIC_URL,
    certified,
    sealed_row,
)
from tests.node.described_answers import check_answer
from tests.node.memory_transport import MemoryTransport

T = TypeVar("T")

NO_END_EVENTS, NO_END_MS = 1_000_000, 1_000_000_000  # coordination is a recorder: no batch ends by itself
QUICK = RestartPolicy(delay_s_first=0.05, delay_s_max=0.2)
ADVERTISED: Mapping[str, Any] = {
    "agentId": agent_id(AGENT.identity),
    "identityKey": AGENT.identity.hex(),
    "self": False,
    "roles": ["normalize"],
    "tokens": [{"kind": "SHIP", "name": "tm_ship", "url": "https://two.example"}],
    "url": "https://two.example",
    "operator": "Operator Two",
    "region": "eu",
    "price": 0,
    "capacity": 4,
    "build": "test",
    "reputation": 50,
    "reputationByRole": {"normalize": 50},
    "outcomes": {},
    "firstHeardAt": "2024-01-01T00:00:00.000Z",
    "expiresAt": "2024-01-01T01:00:00.000Z",
}


class ThreadWorkers:
    """Workers without processes of their own: the calls are the same."""

    async def admit(self, call: Callable[[], T], *, account: Account = OWN_ACCOUNT, size: int | None = None) -> T:
        return await trio.to_thread.run_sync(call)

    async def decide_levels(self, call: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(call)


class Recorder:
    """Where the driver would be: remembers what it was told, and can be made to wait."""

    def __init__(self) -> None:
        self.told: list[BatchCommitted] = []
        self.replayed: list[BatchReplayed] = []
        self.open = trio.Event()
        self.open.set()

    async def tell(self, stimulus: Stimulus) -> None:
        await self.open.wait()
        if isinstance(stimulus, BatchReplayed):
            self.replayed.append(stimulus)
            return
        assert isinstance(stimulus, BatchCommitted)
        self.told.append(stimulus)


class View:
    def agents(self) -> Sequence[Mapping[str, Any]]:
        return [ADVERTISED]

    def peers(self) -> Sequence[Mapping[str, Any]]:
        return []


class Forgetful:
    """A journal of a driver that is never run: the market only changes its rules."""

    async def load(self) -> Sequence[Entity]:
        return ()

    async def commit(self, changed: Sequence[Entity], removed: Sequence[EntityId]) -> None:
        raise AssertionError("nobody drives")

    def note(self, transition: Transition, rules: Rules) -> None:
        raise AssertionError("nobody drives")


def agent_of(identity: IdentityKey) -> dict[str, Any] | None:
    return dict(ADVERTISED) if identity == AGENT.identity else None


@attrs.frozen(kw_only=True)
class Running:
    url: str
    client: httpx.AsyncClient
    database: Database
    ingest: Ingest
    coalescer: Coalescer
    feed: Feed
    cursors: CursorLedger
    webhooks: WebhookManager
    recorder: Recorder
    overlay: OverlayServices
    market: Market
    app: QuartTrio
    quarantine: Quarantine
    lifecycle: Lifecycle

    async def post(self, *events: Any, source: str = "s1", **more: Any) -> httpx.Response:
        return await self.client.post(
            "/overlay/events/ingest",
            json={"sourceId": source, "events": list(events), **more.pop("body", {})},
            **more,
        )

    async def source(self, source_id: str = "s1", **fields: Any) -> httpx.Response:
        document = {"sourceId": source_id, "name": "A source", "sourceType": "webhook", **fields}
        return await self.client.post("/overlay/sources", json=document)

    def forget_unsettled(self) -> None:
        """Count every batch that the driver was given as if it had its end."""
        for told in self.recorder.told:
            self.ingest.admission.backlog.leave(told.manifest.message.batch_id)

    async def seal(self, manifest: Signed[Manifest], level: Level | None = None) -> CertifiedResult:
        """Certify a batch the way a quorum of two would, write it down, publish it."""
        said = manifest.message
        packed = await self.database.run(lambda connection: batches.payload(connection, said.batch_id))
        assert packed is not None
        certificate, leaves, normalized = certified(said, compute.unpack(packed), level or said.level)
        now_ms = clock_ms()
        sequence = await self.database.run(
            lambda connection: batches.seal(connection, sealed_row(certificate, leaves, normalized, now_ms))
        )
        assert sequence is not None
        sealed = CertifiedResult(
            certificate=certificate,
            topics=said.topics,
            leaves=leaves,
            normalized=normalized,
            received_ms=said.received_ms,
            certified_ms=now_ms,
            sequence=sequence,
        )
        self.feed.publish(sealed)
        return sealed


def group_writer(policy: IngestPolicy, *, installed: Callable[[], Declarations] = catalogue) -> GroupWriter:
    """The writer of this node, with the functions that policies may name on it."""
    resolver = TermsResolver(policy, installed=installed)
    return GroupWriter(policy=policy, resolver=resolver, signer=BatchSigner(NETWORK, NODE))


def _ingest(
    database: Database,
    coalescer: Coalescer,
    writer: GroupWriter,
    *,
    limits: IngestLimits | None,
    workers: IngestWorkers | None,
    quarantine: Quarantine,
) -> Ingest:
    ingest = Ingest(
        network=NETWORK,
        limits=attrs.evolve(limits or IngestLimits(), batch_events=NO_END_EVENTS, target_delay_ms=NO_END_MS),
        database=database,
        workers=workers or ThreadWorkers(),
        writer=writer,
        coalescer=coalescer,
        replications=Replications(),
        holders=tuple,
        shortfall=lambda level, quorum: shortfall(level, quorum, ["a", "b", "b"]),
        quarantine=quarantine,
    )
    coalescer.on_merged.append(ingest.admission.backlog.merge)
    return ingest


def _sources(
    database: Database,
    ingest: Ingest,
    connectors: Mapping[str, SourceConnector],
    allowed: Sequence[IPv4Network | IPv6Network],
    pauses: RestartPolicy,
) -> SourceManager:
    return SourceManager(
        database=database,
        ingest=ingest,
        in_hand=RecordsInHand(Path(tempfile.gettempdir()) / f"overlay-in-hand-{os.getpid()}", crashed=False),
        connectors=connectors,
        outbound_allowed=allowed,
        pauses=pauses,
    )


def coalescing(
    database: Database,
    submit: Callable[[Stimulus], Awaitable[None]],
    batch_events: int = 0,
    pause_max_s: float = 0.0,
) -> Coalescer:
    """Gives batches on: at once where ``batch_events`` is 0, as few of them come to their end in these tests; else
    those that wait are merged, and are not held back from so many events on.
    """
    return Coalescer(
        database=database,
        merger=BatchMerger(NETWORK, BatchSigner(NETWORK, NODE)),
        payloads=BytesCache[str, bytes](1024 * 1024),
        submit=submit,
        stage=lambda batch_id: None,
        batch_events=batch_events,
        pause_max_s=pause_max_s,
        is_merging=batch_events > 0,
    )


def _webhooks(
    database: Database,
    feed: Feed,
    cursors: CursorLedger,
    access: Access,
    allowed: Sequence[IPv4Network | IPv6Network],
    pauses: RestartPolicy,
    tls: ssl.SSLContext | None,
) -> WebhookManager:
    return WebhookManager(
        database=database,
        feed=feed,
        cursors=cursors,
        access=access,
        rights_s=0.1,
        allowed=allowed,
        pauses=pauses,
        tls=tls,
    )


def _objects(database: Database, transport: MemoryTransport) -> Objects:
    return Objects(
        database=database,
        transport=transport,  # type: ignore[arg-type]  # as much of one as objects use
        key=NODE.key,
        public_url=PUBLIC_URL,
    )


def _overlay(database: Database, objects: Objects, adverts: Sequence[bytes]) -> OverlayServices:
    return OverlayServices(
        network=NETWORK,
        key=NODE.key,
        public_url=PUBLIC_URL,
        allow_local_urls=True,
        database=database,
        objects=objects,
        checker=Unchecked(),
        adverts=lambda: [(check_token(script, allow_local_urls=True), script) for script in adverts],
        is_known=lambda identity: identity in (NODE.identity, AGENT.identity),
        event_topics=(),
        outbound_allowed=[ip_network("127.0.0.0/8")],
    )


def _market(database: Database) -> Market:
    driver = Driver(Rules(network=NETWORK, self_key=NODE.identity), Forgetful())
    return Market(database=database, driver=driver, reputations=Reputations(database), agent=agent_of)


def _health(database: Database, ingest: Ingest, lifecycle: Lifecycle) -> HealthMonitor:
    probes = (lifecycle.probe(), database_probe(database, lambda: ingest.trouble), disk_probe(database.reserve))
    return HealthMonitor(Quarantine(), probes)


def _dead_letters(database: Database, recorder: Recorder, ingest: Ingest) -> DeadLetters:
    return DeadLetters(
        network=NETWORK,
        database=database,
        submit=recorder.tell,
        enter=ingest.admission.backlog.enter_of,
        refuse_if_full=ingest.admission.backlog.refuse_if_full,
    )


@asynccontextmanager
async def _served(
    services: Services,
    recorder: Recorder,
    server: ServerLimits | None,
    health: HealthMonitor,
    lifecycle: Lifecycle,
    coalescer: Coalescer,
) -> AsyncIterator[Running]:
    """Run the parts that have tasks, and the interface on a port of its own."""
    app = create_app(services)
    parts = (
        services.ingest,
        services.nonces,
        services.idempotency,
        services.sources,
        services.cursors,
        services.webhooks,
        services.objects,
        services.overlay.propagation,
        services.feed,
        health,
        coalescer,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(services.database.watch)
        for part in parts:
            nursery.start_soon(part.run)

        gate = app.asgi_app
        assert isinstance(gate, IngestGate)
        early = gate.answer_early

        async def serve_app(*, task_status: "trio.TaskStatus[str]") -> None:  # type: ignore[name-defined]
            serving = partial(serve, app, "127.0.0.1:0", quarantine=services.quarantine, limits=server)
            await serving(answer_early=early, task_status=task_status)

        url: str = await nursery.start(serve_app)
        hooks: dict[str, list[Callable[..., Any]]] = {"response": [check_answer]}
        async with httpx.AsyncClient(base_url=url, timeout=20, event_hooks=hooks) as client:
            yield Running(
                url=url,
                client=client,
                database=services.database,
                ingest=services.ingest,
                coalescer=coalescer,
                feed=services.feed,
                cursors=services.cursors,
                webhooks=services.webhooks,
                recorder=recorder,
                overlay=services.overlay,
                market=services.market,
                app=app,
                quarantine=services.quarantine,
                lifecycle=lifecycle,
            )
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def running(
    postgres_url: str,
    *,
    limits: IngestLimits | None = None,
    policy: IngestPolicy | None = None,
    settings: ApiSettings | None = None,
    feed: Feed | None = None,
    server: ServerLimits | None = None,
    access: Access | None = None,
    adverts: Sequence[bytes] = (),
    transport: MemoryTransport | None = None,
    connectors: Mapping[str, SourceConnector] | None = None,
    outbound_allowed: Sequence[str] = ("127.0.0.0/8",),
    idempotency_bounds: Mapping[str, int] | None = None,
    pauses: RestartPolicy | None = None,
    tls: ssl.SSLContext | None = None,
    workers: IngestWorkers | None = None,
    installed: Callable[[], Declarations] = catalogue,
    batch_events: int = 0,
    pause_max_s: float = 0.0,
) -> AsyncIterator[Running]:
    """Serve the interface on a port of its own until the block ends. ``batch_events``: see ``coalescing``."""
    migrate(postgres_url)
    feed, recorder = feed or Feed(), Recorder()
    access = access or Access(public_reads=frozenset(get_args(ReadGroup)), open_admin=True)
    allowed = [ip_network(network) for network in outbound_allowed]
    with Database(postgres_url) as database:
        await begin(feed, database)
        quarantine = Quarantine()
        writer = group_writer(policy or IngestPolicy(), installed=installed)
        coalescer = coalescing(database, recorder.tell, batch_events, pause_max_s)
        ingest = _ingest(database, coalescer, writer, limits=limits, workers=workers, quarantine=quarantine)
        cursors = CursorLedger(database, flush_s=0.05)
        lifecycle = Lifecycle(Phase.SERVING)
        health = _health(database, ingest, lifecycle)
        objects = _objects(database, transport or MemoryTransport(NODE.identity))
        services = Services(
            settings=settings or ApiSettings(network=NETWORK, body_bytes_max=1024 * 1024, heartbeat_ms=200),
            key=NODE.key,
            access=access,
            nonces=NonceLedger(database),
            idempotency=IdempotencyLedger(database, **(idempotency_bounds or {})),
            ingest=ingest,
            sources=_sources(database, ingest, connectors or {}, allowed, pauses or QUICK),
            feed=feed,
            cursors=cursors,
            webhooks=_webhooks(database, feed, cursors, access, allowed, pauses or QUICK, tls),
            objects=objects,
            overlay=_overlay(database, objects, adverts),
            database=database,
            network_view=View(),
            market=_market(database),
            dead_letters=_dead_letters(database, recorder, ingest),
            readiness=health.report,
            freshness=lambda: Freshness(synced=True, as_of_ms=clock_ms(), peers=1, connected=1, alone=False),
            metrics=lambda: "# HELP x y\n",
            quarantine=quarantine,
        )
        async with _served(services, recorder, server, health, lifecycle, coalescer) as node:
            yield node


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for something that the server does in its own time."""
    with trio.fail_after(seconds):
        while not condition():  # there is no event for it outside the server
            await trio.sleep(0.01)
