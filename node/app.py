"""Where the parts of a node meet, and the only place that starts tasks.

Three nested nurseries: **core** (driver, executor, relay, records), **edges** (streams, gossip, discovery, feed)
and **doors** (ingest, HTTP). They close from the doors inward: first nothing new comes in, then what is under
way is brought to its end within the grace period, then the node takes its leave of the network.
"""

import itertools
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from ipaddress import ip_network
from typing import Any, Protocol

import structlog
import trio

from node.api.services import ApiSettings, Services
from node.coordination.batch_store import BatchStore
from node.coordination.certified_result import CertifiedResult
from node.coordination.dead_letters import DeadLetters
from node.coordination.dispatcher import Dispatcher
from node.coordination.driver import Driver
from node.coordination.journal import EntityJournal
from node.coordination.market import Market
from node.coordination.observations import Observations
from node.coordination.payloads import Payloads
from node.coordination.replicas import Replicas
from node.coordination.reputations import Reputations
from node.coordination.result_cache import ResultCache
from node.coordination.retention import Retention
from node.coordination.role_runner import RoleRunner
from node.coordination.sealer import Sealer
from node.coordination.serialization import read_advertisement
from node.delivery.announcer import Announcer
from node.delivery.cursor_ledger import CursorLedger
from node.delivery.feed import Feed
from node.delivery.reading import begin
from node.delivery.webhook_manager import WebhookManager
from node.health import Health
from node.ingest.bisection import Salvage
from node.ingest.group_commit import GroupWriter
from node.ingest.idempotency import IdempotencyLedger
from node.ingest.pipeline import Ingest, IngestLimits
from node.ingest.recovery import Recovery
from node.ingest.replication import Replications
from node.ingest.responses import IngestAnswer
from node.ingest.trust_scores import TrustScores
from node.network.certificate_log import CertificateLog
from node.network.content_exchange import ContentExchange
from node.network.directory_view import DirectoryView
from node.network.discovery import Discovery, Offer, make_tokens
from node.network.membership import Membership, StrangerError
from node.network.notices import Interests, Notices
from node.network.receiver import Receiver
from node.network.remote_batches import RemoteBatches
from node.network.sender import Sender
from node.network.sync import Synchronizer
from node.network.sync_messages import ENTRIES, IDS, MANIFESTS, PROOFS
from node.network.transport import Transport
from node.overlay.chain_tracker import ChainTracker
from node.overlay.checking import TransactionChecker, Unchecked
from node.overlay.objects import REQUEST_TAGS, Objects
from node.overlay.services import OverlayServices
from node.runtime.build import build_id
from node.runtime.caches import BytesCache
from node.runtime.keyring import Keyring
from node.runtime.nonces import NonceLedger
from node.runtime.settings import Settings
from node.runtime.supervisor import RestartPolicy, supervise
from node.runtime.workers import Workers
from node.sources import SourceConnector, SourceManager, kafka, mqtt, poll
from node.sources.overlay import OverlayReader
from node.telemetry import Metrics
from node.wiring import (
    access,
    ingest_policy,
    make_offer,
    own_certificate,
    rules,
)
from protocols.advertisement import topic_manager_name
from protocols.coordination import choose_holders
from protocols.envelope import to_frame
from protocols.errors import PeerFault
from protocols.levels import shortfall
from protocols.messages import Advertisement, IdentityKey, Level, Signed
from protocols.rules import WORK_ROLES
from storage import outputs
from storage import peers as stored_peers
from storage.database import Database

log = structlog.get_logger(__name__)

OWN_PAYLOADS_BYTES = 24 * 1024 * 1024
GAUGES_S = 2.0
RETELL_S = 15.0
HTTP_GRACE_S = 4.0
DRAIN_POLL_S = 0.05
LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
RESTARTS = RestartPolicy()


class Doors(Protocol):
    """What clients come in by."""

    async def __call__(
        self,
        services: Services,
        stop: trio.Event,
        task_status: "trio.TaskStatus[str]",  # type: ignore[name-defined]
    ) -> None:
        """Serve until ``stop``; tells the URL once requests are taken."""


class Node:
    """The parts of one node, put together."""

    def __init__(
        self, settings: Settings, database: Database, keyring: Keyring, workers: Workers, transport: Transport
    ) -> None:
        self._settings = settings
        self._database = database
        self._keyring = keyring
        self._workers = workers
        self._transport = transport
        self._network = settings.overlay_network
        self._stop = trio.Event()
        self._ready = False
        self.metrics = Metrics()
        self.feed = Feed()
        self.nonces = NonceLedger(database)
        self.idempotency = IdempotencyLedger(database)
        self.reputations = Reputations(database)
        self.trust = TrustScores(database)
        self.batches = BatchStore(database)
        self.observations = Observations(database, self.reputations)
        self.observations.on_reported.append(lambda effect: self.metrics.judged(effect.outcome))
        self._own_payloads = BytesCache[str, bytes](OWN_PAYLOADS_BYTES)
        self.payloads = Payloads(own=self._own_payloads, find=self.batches.payload, strike=transport.strike)
        self.cache = ResultCache(
            settings.cache_bytes,
            self.metrics.looked_up,
        )
        self.replications = Replications()
        self._outbound_allowed = list(settings.overlay_outbound_allow)
        self._discovery: Discovery | None = None
        self._known = frozenset({keyring.identity})
        self._access = access(settings, keyring.identity, self._is_spent)
        self._certificate = own_certificate(settings, keyring.identity)
        self.membership = Membership(
            own=keyring.identity, trusted=settings.member_certifiers, is_revoked=self._access.is_revoked
        )
        self.journal = EntityJournal(database)
        self.driver = Driver(rules(settings, keyring.identity), self.journal)
        self.objects = Objects(
            database=database, transport=transport, key=keyring.key, public_url=settings.overlay_public_url
        )
        self.certificates = CertificateLog(
            network=self._network,
            database=database,
            kept_max=settings.overlay_certificates_max,
            is_known=self._is_known,
            enqueue=self.driver.enqueue,
        )
        self.library = ContentExchange(
            transport=transport,
            find_policy=self.batches.policy,
            keep_policy=self.batches.keep_policy,
            find_outputs=self._outputs,
            others={
                **dict.fromkeys(REQUEST_TAGS, self.objects.answer),
                **dict.fromkeys((IDS, ENTRIES, PROOFS), self.certificates.answer),
                MANIFESTS: lambda body: self.foreign.answer(body),
            },
        )
        self.foreign = RemoteBatches(
            network=self._network,
            database=database,
            transport=transport,
            library=self.library,
            checker=workers,
        )
        self.interests = Interests()
        self.runner = RoleRunner(
            network=self._network,
            build=build_id(),
            signer=keyring,
            workers=workers,
            payloads=self.payloads,
            policies=self.library,
            cache=self.cache,
            enqueue=self.driver.enqueue,
            on_run=lambda run: self.metrics.role_ran(run.cpu_us / 1e6),
        )
        self.replicas = Replicas(
            network=self._network,
            workers=workers,
            payloads=self.payloads,
            policies=self.library,
            store=self.batches,
            enqueue=self.driver.enqueue,
            on_replicated=self.replications.held,
        )
        self.sealer = Sealer(
            identity=keyring.identity,
            workers=workers,
            runner=self.runner,
            payloads=self.payloads,
            store=self.batches,
            certificates=self.certificates,
            remote=self.library,
            subscribers=self._subscribers,
            cache=self.cache,
            enqueue=self.driver.enqueue,
            strike=transport.strike,
        )
        self.sealer.on_certified.append(self._on_sealed)
        self.sealer.on_dead.append(self._on_dead)
        self._open_ways_in()
        self._open_ways_out()
        self.recovery = Recovery(
            network=self._network,
            batches=self.batches,
            driver=self.driver,
            ingest=self.ingest,
            replications=self.replications,
        )
        self.health = Health(
            database=database,
            driver=self.driver,
            ingest=self.ingest,
            transport=transport,
            feed=self.feed,
            cache=self.cache,
            metrics=self.metrics,
            freshness=lambda: self.sync.freshness(),
            is_open=lambda: self._ready,
        )

    def _open_ways_in(self) -> None:
        """What events come in by, and what becomes of batches that find no end."""
        writer = GroupWriter(
            network=self._network,
            policy=ingest_policy(self._settings),
            signer=self._keyring,
            quorum_floor=lambda level: self.driver.rules.quorum_floor(level),
        )
        self.ingest = Ingest(
            network=self._network,
            limits=IngestLimits(
                enabled=self._settings.event_ingestion_enabled,
                event_bytes_max=self._settings.overlay_event_bytes_max,
                unsettled_max=self._settings.overlay_unsettled_events_max,
                body_bytes_max=self._settings.overlay_request_bytes_max,
            ),
            database=self._database,
            front_door=self._workers,
            writer=writer,
            payloads=self._own_payloads,
            tell=self.driver.submit,
            replications=self.replications,
            holders=self._holders,
            shortfall=self._shortfall,
            on_answer=self._on_answer,
        )
        self.salvage = Salvage(
            network=self._network,
            database=self._database,
            workers=self._workers,
            writer=writer,
            library=self.library,
            tell=self.driver.submit,
            unsettle=self.ingest.unsettle,
            timeout_s=self._settings.event_processing_timeout_ms / 1000,
        )
        self.sources = SourceManager(
            database=self._database,
            ingest=self.ingest,
            connectors=self._connectors(),
            outbound_allowed=self._outbound_allowed,
            compute=self._workers.read,
        )
        self.metrics.watch_sources(self.sources.states)

    def _open_ways_out(self) -> None:
        """What certified batches leave by."""
        self.announcer = Announcer(
            network=self._network,
            database=self._database,
            signer=self._keyring,
            transport=self._transport,
            on_sent=self.metrics.sent,
        )
        self.cursors = CursorLedger(self._database)
        self.webhooks = WebhookManager(
            database=self._database,
            feed=self.feed,
            cursors=self.cursors,
            access=self._access,
            allowed=self._outbound_allowed,
        )
        self.metrics.watch_delivery(lambda: self.feed.stats, lambda: self.webhooks.stats)

    def _connectors(self) -> dict[str, SourceConnector]:
        """How sources that this node reads are read, by their type."""
        overlay = OverlayReader(
            network=self._network,
            identity=self._keyring.identity,
            database=self._database,
            certificates=self.certificates,
            batches=self.foreign,
            interests=self.interests,
        )
        return {
            "kafka": kafka.connector(self._network),
            "mqtt": mqtt.connector(network=self._network, identity=self._keyring.identity),
            "overlay": overlay.connector(),
            "poll": poll.CONNECTOR,
        }

    async def _outputs(self, batch_id: str) -> tuple[bytes, bytes] | None:
        """Leaves and normalized data of a batch, for peers: of one under way here, or of one of a topic."""
        return await self.runner.outputs(batch_id) or await self.foreign.outputs(batch_id)

    async def _is_spent(self, outpoint: str) -> bool:
        """Whether a transaction that was submitted here spends an outpoint ``txid.index``: how certifiers revoke."""
        txid, _, index = outpoint.partition(".")
        spent = bytes.fromhex(txid)[::-1], int(index)
        return await self._database.run(partial(outputs.is_spent, outpoint=spent))

    def _holders(self) -> tuple[IdentityKey, ...]:
        """Whom to have keep a batch: one more than must, of those connected that could finish it."""
        connected = {peer.identity for peer in self._transport.peers() if peer.connected}
        able = connected.intersection(self._discovery.able(WORK_ROLES) if self._discovery is not None else ())
        return choose_holders(self._keyring.identity, able, self._settings.overlay_replicas + 1)

    def _shortfall(self, level: Level, quorum: int) -> str:
        if self._discovery is None:
            return ""
        least = {role: self.driver.rules.template(role, level) for role in WORK_ROLES}
        entries = self._discovery.directory.entries
        return shortfall(
            level,
            quorum,
            [
                said.operator
                for identity in self._discovery.able(WORK_ROLES)
                for said in [entries[identity].advertisement.message]
                for known in [self.reputations.by_role(identity)]
                for offered in [{*(role.word for role in entries[identity].roles), *entries[identity].topics}]
                if all(
                    known[role] >= template.reputation_min
                    and set(template.capabilities) <= offered
                    and (not template.regions or said.region in template.regions)
                    for role, template in least.items()
                )
            ],
        )

    def _subscribers(self, topics: tuple[str, ...]) -> tuple[IdentityKey, ...]:
        return () if self._discovery is None else self._discovery.subscribers(topics)

    def _is_known(self, identity: IdentityKey) -> bool:
        """Whether a key is a node's of this network: it advertises now, or did in an earlier run."""
        known = identity in self._known or (self._discovery is not None and self._discovery.knows(identity))
        return known and self.membership.admits(identity)

    async def answer(self, sender: IdentityKey, body: bytes) -> bytes:
        """Answer a peer's request.

        Raises:
            StrangerError: It has not shown that it is a member.
        """
        if not self.membership.admits(sender):
            raise StrangerError("show a membership certificate first")
        return await self.library.answer(sender, body)

    # --- life ------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Have ``run`` come to its end: drain, then take leave."""
        self._stop.set()

    async def run(self, doors: Doors) -> None:
        """Serve until ``stop``, then drain."""
        offer = make_offer(self._settings)
        tokens = make_tokens(self._keyring.key, offer)
        await self.reputations.load()
        await self._learn_peers()
        discovery = Discovery(
            network=self._network,
            signer=self._keyring,
            tokens=tokens,
            transport=self._transport,
            offer=offer,
            membership=self.membership,
            certificate=self._certificate,
            remember=self._remember,
            on_sent=self.metrics.sent,
        )
        self._discovery = discovery
        receiver = Receiver(
            network=self._network,
            driver=self.driver,
            transport=self._transport,
            payloads=self.payloads,
            reputations=self.reputations.by_role,
            topics=discovery.topics_of,
            is_known=self._is_known,
            admits=self.membership.admits,
            on_advertisement=discovery.on_advertisement,
            on_notice=lambda signed: self.notices.hear(signed),
            on_fault=self.metrics.peer_fault,
            on_received=self.metrics.received,
        )
        self.sync = Synchronizer(
            network=self._network,
            database=self._database,
            transport=self._transport,
            checker=self._workers,
            certificates=self.certificates,
            expects_peers=bool(self._settings.overlay_bootstrap) or len(self._known) > 1,
            on_proof=receiver.take_proof,
        )
        self.notices = Notices(
            database=self._database, transport=self._transport, sync=self.sync, interests=self.interests
        )
        self.sender = Sender(self._keyring, self._transport, self.payloads.own, receiver.to_self, self.metrics.sent)
        dispatcher = Dispatcher(
            self.sender.handlers,
            self.runner.handlers,
            self.replicas.handlers,
            self.sealer.handlers,
            self.certificates.handlers,
            self.observations.handlers,
        )
        await begin(self.feed, self._database)
        async with trio.open_nursery() as core:
            core.start_soon(supervise, "sender", self.sender.run, RESTARTS)
            core.start_soon(supervise, "effects", dispatcher.run, RESTARTS)
            core.start_soon(supervise, "observations", self.observations.run, RESTARTS)
            core.start_soon(supervise, "certificates", self.certificates.run, RESTARTS)
            core.start_soon(supervise, "jobs", self.journal.run, RESTARTS)
            core.start_soon(supervise, "pending", self.batches.run_materialise, RESTARTS)
            core.start_soon(supervise, "salvage", self.salvage.run, RESTARTS)
            await core.start(self._run_driver, dispatcher)
            await self.recovery.tell_unfinished()
            async with trio.open_nursery() as edges:
                edges.start_soon(supervise, "streams", receiver.run_streams, RESTARTS)
                edges.start_soon(supervise, "gossip", receiver.run_gossip, RESTARTS)
                edges.start_soon(supervise, "discovery", discovery.run, RESTARTS)
                edges.start_soon(supervise, "sync", self.sync.run, RESTARTS)
                edges.start_soon(supervise, "notices", self.notices.run, RESTARTS)
                edges.start_soon(supervise, "announcer", self.announcer.run, RESTARTS)
                edges.start_soon(supervise, "feed", self.feed.run, RESTARTS)
                edges.start_soon(supervise, "cursors", self.cursors.run, RESTARTS)
                edges.start_soon(supervise, "webhooks", self.webhooks.run, RESTARTS)
                edges.start_soon(supervise, "trust", self.trust.run, RESTARTS)
                edges.start_soon(supervise, "objects", self.objects.run, RESTARTS)
                edges.start_soon(supervise, "retention", Retention(self._database).run, RESTARTS)
                edges.start_soon(self.health.run)
                edges.start_soon(supervise, "recovery", self.recovery.run, RESTARTS)
                overlay = self._overlay(discovery, offer)
                edges.start_soon(supervise, "propagation", overlay.propagation.run, RESTARTS)
                view = DirectoryView(discovery, self._transport, self.reputations, offer)
                await self._serve_doors(doors, await self._services(view, overlay))
                await self._drain()
                await discovery.withdraw()
                await trio.sleep(0.2)  # the last gossip leaves with the next heartbeat or is lost
                edges.cancel_scope.cancel()
            await self.observations.flush()
            await self.trust.flush()
            await self.cursors.flush()
            core.cancel_scope.cancel()

    def _overlay(self, discovery: Discovery, offer: Offer) -> OverlayServices:
        allowed = [*self._settings.overlay_outbound_allow, *(LOOPBACK if offer.allow_local_urls else ())]
        return OverlayServices(
            network=self._network,
            key=self._keyring.key,
            public_url=offer.url,
            allow_local_urls=offer.allow_local_urls,
            database=self._database,
            objects=self.objects,
            checker=self._checker(),
            adverts=discovery.tokens,
            is_known=discovery.knows,
            event_topics=[topic_manager_name(topic) for topic in offer.topics],
            outbound_allowed=allowed,
        )

    def _checker(self) -> TransactionChecker:
        url, token = self._settings.overlay_chain_tracker_url, self._settings.overlay_chain_tracker_token
        return ChainTracker(url, token.get_secret_value() if token else "") if url else Unchecked()

    async def _services(self, view: DirectoryView, overlay: OverlayServices) -> Services:
        market = Market(database=self._database, driver=self.driver, reputations=self.reputations, agent=view.agent)
        await market.load()
        return Services(
            settings=ApiSettings(
                network=self._network,
                body_bytes_max=self._settings.overlay_request_bytes_max,
                public_url=self._settings.overlay_public_url,
                stream_enabled=self._settings.event_stream_sse_enabled,
                websocket_enabled=self._settings.event_stream_websocket_enabled,
                stream_clients_max=self._settings.event_stream_max_clients,
                heartbeat_ms=self._settings.event_stream_heartbeat_interval_ms,
                signature_ttl_ms=self._settings.event_signature_ttl_seconds * 1000,
            ),
            key=self._keyring.key,
            access=self._access,
            nonces=self.nonces,
            idempotency=self.idempotency,
            ingest=self.ingest,
            sources=self.sources,
            feed=self.feed,
            cursors=self.cursors,
            webhooks=self.webhooks,
            objects=self.objects,
            overlay=overlay,
            database=self._database,
            network_view=view,
            market=market,
            dead_letters=DeadLetters(
                network=self._network,
                database=self._database,
                tell=self.driver.submit,
                unsettle=self.ingest.unsettle,
                refuse_if_full=self.ingest.refuse_if_full,
            ),
            readiness=self.health.readiness,
            freshness=self.sync.freshness,
            metrics=self.metrics.text,
        )

    async def _serve_doors(self, doors: Doors, services: Services) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervise, "ingest", self.ingest.run, RESTARTS)
            nursery.start_soon(supervise, "nonces", self.nonces.run, RESTARTS)
            nursery.start_soon(supervise, "idempotency", self.idempotency.run, RESTARTS)
            nursery.start_soon(supervise, "sources", self.sources.run, RESTARTS)
            await self._serve_clients(doors, services)
            nursery.cancel_scope.cancel()

    async def _serve_clients(self, doors: Doors, services: Services) -> None:
        """Serve until the stop; then requests under way are answered, and streams end."""
        async with trio.open_nursery() as web:
            url = await web.start(doors, services, self._stop)
            self._ready = True
            log.info(
                "node.ready", url=url, identity=self._keyring.identity.hex(), addresses=self._transport.addresses
            )
            await self._stop.wait()
            self._ready = False
            self.feed.close()
            web.cancel_scope.deadline = trio.current_time() + HTTP_GRACE_S

    async def _drain(self) -> None:
        """Let what was acknowledged come to its end; what does not is finished after the next start."""
        with trio.move_on_after(self._settings.overlay_shutdown_grace_s):
            while self.ingest.unsettled:  # noqa: ASYNC110  # a count, watched for seconds once in a life
                await trio.sleep(DRAIN_POLL_S)
        log.info("node.drained", left=self.ingest.unsettled)

    async def _run_driver(self, dispatcher: Dispatcher, *, task_status: "trio.TaskStatus[None]") -> None:  # type: ignore[name-defined]
        """Drive; when the database was away for long, go on from what it holds once it is back."""
        starts = itertools.count()

        async def drive() -> None:
            await self.driver.run(dispatcher.dispatch, trio.TASK_STATUS_IGNORED if next(starts) else task_status)

        await supervise("driver", drive, RESTARTS)

    async def _learn_peers(self) -> None:
        for frame in await self._database.run(stored_peers.advertisements):
            with suppress(PeerFault):
                await self.membership.hear(read_advertisement(frame, self._network))
        for identity, addresses in await self._database.run(stored_peers.remembered):
            self._known |= {identity}
            self._transport.learn(identity, addresses)

    async def _remember(self, signed: Signed[Advertisement], now_ms: int) -> None:
        said = signed.message
        write = partial(_remember, signed.signer, said.addresses, to_frame(signed), max(said.expires_ms, now_ms))
        await self._database.run(write)

    # --- wiring ----------------------------------------------------------------------------------------------

    def _on_answer(self, answer: IngestAnswer, seconds: float) -> None:
        counts = answer.counts
        self.metrics.admitted(
            accepted=counts["accepted"], duplicates=counts["duplicates"], rejected=counts["rejected"], seconds=seconds
        )

    def _on_sealed(self, sealed: CertifiedResult) -> None:
        statement = sealed.certificate.statement
        if statement.coordinator == self._keyring.identity:
            self.ingest.settle(statement.events)
            self.replications.held(statement.batch_id, ())
            self.trust.note(statement)
        seconds = (sealed.certified_ms - sealed.received_ms) / 1000
        self.metrics.sealed(valid=statement.valid, invalid=statement.invalid, seconds=seconds)
        log.info(
            "batch.sealed",
            batch=statement.batch_id,
            source=statement.source_id,
            level=statement.level.word,
            valid=statement.valid,
            invalid=statement.invalid,
            sequence=sealed.sequence,
            took_s=round(seconds, 3),
        )
        self.feed.publish(sealed)
        self.announcer.sealed()

    def _on_dead(self, batch_id: str, events: int) -> None:
        """``events``: 0 for a batch of another node, or one that had its end before."""
        self.replications.held(batch_id, ())  # a request that waits for holders is answered by the end instead
        self.ingest.settle(events)
        self.metrics.buried(events)
        if events:
            self.salvage.died(batch_id)


def _remember(
    identity: IdentityKey, addresses: Sequence[str], frame: bytes, expires_ms: int, connection: Any
) -> None:
    stored_peers.remember(connection, identity, addresses, frame, expires_ms)
