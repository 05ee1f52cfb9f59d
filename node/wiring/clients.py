"""The parts between clients and the driver: what takes events in, what delivers them, and the HTTP interface."""

from ipaddress import ip_network
from pathlib import Path
from typing import Final

import attrs

from node.api.services import Services
from node.coordination.certified_result import CertifiedResult
from node.coordination.dead_letters import DeadLetters
from node.coordination.driver import Driver
from node.coordination.market import Market
from node.delivery.announcer import Announcer
from node.delivery.cursor_ledger import CursorLedger
from node.delivery.feed import Feed
from node.delivery.webhook_manager import WebhookManager
from node.health.monitor import HealthMonitor
from node.ingest.batch_merge import BatchMerger
from node.ingest.batch_rows import BatchSigner
from node.ingest.batch_split import BatchSplitter
from node.ingest.bisection import Bisection
from node.ingest.coalescing import Coalescer
from node.ingest.group_commit import GroupWriter
from node.ingest.idempotency import IdempotencyLedger
from node.ingest.pipeline import Ingest
from node.ingest.recovery import Recovery
from node.ingest.settlement import Settlement
from node.ingest.shortfalls import Shortfalls
from node.ingest.terms import TermsResolver
from node.ingest.trust_scores import TrustScores
from node.overlay.chain_tracker import ChainTracker
from node.overlay.checking import TransactionChecker, Unchecked
from node.overlay.objects import Objects
from node.overlay.services import OverlayServices
from node.runtime.nonces import NonceLedger
from node.runtime.settings import HttpSettings
from node.sources import SourceConnector, SourceManager, kafka, mqtt, poll
from node.sources.in_hand import RecordsInHand
from node.sources.overlay import OverlayReader
from node.telemetry import Metrics
from node.wiring.configured import api_settings, ingest_limits, ingest_policy
from node.wiring.network import Base, Execution, Peers, State
from protocols.advertisement import topic_manager_name
from protocols.entities import Batch, Stage, batch_entity_id

IN_HAND: Final = "in-hand"  # in the node's directory
LOOPBACK: Final = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


@attrs.frozen(kw_only=True)
class Ingestion:
    """What takes events in, and what becomes of batches that find no end."""

    ingest: Ingest
    coalescer: Coalescer
    trust: TrustScores
    bisection: Bisection
    sources: SourceManager
    recovery: Recovery


@attrs.frozen(kw_only=True)
class Delivery:
    """What certified batches leave by."""

    feed: Feed
    announcer: Announcer
    cursors: CursorLedger
    webhooks: WebhookManager


@attrs.frozen(kw_only=True)
class Interface:
    """What the routes of the HTTP interface use."""

    nonces: NonceLedger
    idempotency: IdempotencyLedger
    objects: Objects
    overlay: OverlayServices
    market: Market
    services: Services


def build_ingestion(base: Base, state: State, peers: Peers, execution: Execution) -> Ingestion:
    """What takes events in; it listens for the ends of batches."""
    settings, database, driver = base.settings, base.database, state.driver
    policy = ingest_policy(settings)
    # templates change while the node runs
    resolver = TermsResolver(policy, quorum_floor=lambda level: driver.rules.quorum_floor(level))
    signer = BatchSigner(base.network, base.keyring)
    coalescer = _coalescer(base, state, signer)
    ingest = Ingest(
        network=base.network,
        limits=ingest_limits(settings),
        database=database,
        workers=base.workers,
        writer=GroupWriter(policy=policy, resolver=resolver, signer=signer),
        coalescer=coalescer,
        replications=state.replications,
        holders=peers.candidates.holders,
        shortfall=Shortfalls(peers.candidates.shortfall),
        on_answer=lambda answer, seconds: base.metrics.admitted(answer.counts, seconds),
        quarantine=base.quarantine,
    )
    trust = TrustScores(database)
    bisection = Bisection(
        network=base.network,
        database=database,
        workers=base.workers,
        splitter=BatchSplitter(base.network, signer),
        contents=peers.library,
        submit=driver.submit,
        enter=ingest.admission.backlog.enter_of,
        timeout_s=settings.event_processing_timeout_ms / 1000,
    )
    coalescer.on_merged.append(ingest.admission.backlog.merge)
    _settle_ends(base, state, execution, ingest, coalescer, trust, bisection)
    sources = SourceManager(
        database=database,
        ingest=ingest,
        in_hand=RecordsInHand(Path(settings.overlay_data_dir) / IN_HAND, crashed=base.has_crashed),
        connectors=_connectors(base, peers),
        outbound_allowed=settings.overlay_outbound_allow,
        compute=base.workers.read,
    )
    base.metrics.watch_sources(sources.states)
    return Ingestion(
        ingest=ingest,
        coalescer=coalescer,
        trust=trust,
        bisection=bisection,
        sources=sources,
        recovery=Recovery(
            network=base.network,
            batches=state.batches,
            driver=driver,
            ingest=ingest,
            coalescer=coalescer,
            replications=state.replications,
        ),
    )


def _coalescer(base: Base, state: State, signer: BatchSigner) -> Coalescer:
    def stage(batch_id: str) -> Stage | None:
        batch = state.driver.find(batch_entity_id(batch_id))
        return batch.stage if isinstance(batch, Batch) else None

    return Coalescer(
        database=base.database,
        merger=BatchMerger(base.network, signer),
        payloads=state.own_payloads,
        submit=state.driver.submit,
        stage=stage,
        batch_events=base.settings.event_batch_size,
        pause_max_s=base.settings.overlay_target_delay_ms / 2_000,
        is_merging=base.settings.event_batch_processing_enabled,
    )


def _settle_ends(
    base: Base,
    state: State,
    execution: Execution,
    ingest: Ingest,
    coalescer: Coalescer,
    trust: TrustScores,
    bisection: Bisection,
) -> None:
    settlement = Settlement(
        identity=base.keyring.identity,
        admission=ingest.admission,
        coalescer=coalescer,
        replications=state.replications,
        trust=trust,
        bisection=bisection,
    )
    execution.sealer.on_certified.append(settlement.on_certified)
    execution.sealer.on_dead.append(settlement.on_dead)


def _connectors(base: Base, peers: Peers) -> dict[str, SourceConnector]:
    """What reads the sources of each type that this node reads itself."""
    overlay = OverlayReader(
        network=base.network,
        identity=base.keyring.identity,
        database=base.database,
        certificates=peers.certificates,
        batches=peers.remote_batches,
        interests=peers.interests,
    )
    return {
        "kafka": kafka.connector(base.network),
        "mqtt": mqtt.connector(network=base.network, identity=base.keyring.identity),
        "overlay": overlay.connector(),
        "poll": poll.CONNECTOR,
    }


def build_delivery(base: Base, peers: Peers, execution: Execution) -> Delivery:
    """What delivers certified batches; it listens for them."""
    feed = Feed()
    announcer = Announcer(
        network=base.network,
        database=base.database,
        signer=base.keyring,
        transport=base.transport,
        on_sent=base.metrics.sent,
    )
    cursors = CursorLedger(base.database)
    webhooks = WebhookManager(
        database=base.database,
        feed=feed,
        cursors=cursors,
        access=peers.access,
        allowed=base.settings.overlay_outbound_allow,
    )
    execution.sealer.on_certified.append(feed.publish)
    execution.sealer.on_certified.append(lambda result: announcer.sealed())
    base.metrics.watch_delivery(lambda: feed.stats, lambda: webhooks.stats)
    return Delivery(feed=feed, announcer=announcer, cursors=cursors, webhooks=webhooks)


def build_interface(
    base: Base, state: State, peers: Peers, ingestion: Ingestion, delivery: Delivery, health: HealthMonitor
) -> Interface:
    """What the routes use."""
    database, driver, ingest = base.database, state.driver, ingestion.ingest
    nonces, idempotency = NonceLedger(database), IdempotencyLedger(database)
    objects = Objects(
        database=database,
        transport=base.transport,
        key=base.keyring.key,
        public_url=base.settings.overlay_public_url,
    )
    overlay = _overlay(base, peers, objects)
    market = Market(database=database, driver=driver, reputations=state.reputations, agent=peers.view.agent)
    services = Services(
        settings=api_settings(base.settings),
        key=base.keyring.key,
        access=peers.access,
        nonces=nonces,
        idempotency=idempotency,
        ingest=ingest,
        sources=ingestion.sources,
        feed=delivery.feed,
        cursors=delivery.cursors,
        webhooks=delivery.webhooks,
        objects=objects,
        overlay=overlay,
        database=database,
        network_view=peers.view,
        market=market,
        dead_letters=_dead_letters(base, driver, ingest),
        readiness=health.report,
        freshness=peers.sync.freshness,
        metrics=base.metrics.text,
        quarantine=base.quarantine,
    )
    return Interface(
        nonces=nonces,
        idempotency=idempotency,
        objects=objects,
        overlay=overlay,
        market=market,
        services=services,
    )


def _dead_letters(base: Base, driver: Driver, ingest: Ingest) -> DeadLetters:
    return DeadLetters(
        network=base.network,
        database=base.database,
        submit=driver.submit,
        enter=ingest.admission.backlog.enter_of,
        refuse_if_full=ingest.admission.backlog.refuse_if_full,
    )


def _overlay(base: Base, peers: Peers, objects: Objects) -> OverlayServices:
    offer = peers.offer
    own_machine = LOOPBACK if offer.allow_local_urls else ()
    return OverlayServices(
        network=base.network,
        key=base.keyring.key,
        public_url=offer.url,
        allow_local_urls=offer.allow_local_urls,
        database=base.database,
        objects=objects,
        checker=_checker(base.settings),
        adverts=peers.discovery.tokens,
        is_known=peers.discovery.knows,
        event_topics=[topic_manager_name(topic) for topic in offer.topics],
        outbound_allowed=(*base.settings.overlay_outbound_allow, *own_machine),
    )


def _checker(settings: HttpSettings) -> TransactionChecker:
    url, token = settings.overlay_chain_tracker_url, settings.overlay_chain_tracker_token
    return ChainTracker(url, token.get_secret_value() if token else "") if url else Unchecked()


def count_ends(metrics: Metrics, execution: Execution) -> None:
    """Count batches as they are certified or marked dead."""

    def certified(result: CertifiedResult) -> None:
        statement = result.certificate.statement
        metrics.sealed(valid=statement.valid, invalid=statement.invalid, seconds=result.took_s)

    execution.sealer.on_certified.append(certified)
    execution.sealer.on_dead.append(lambda batch_id, events: metrics.marked_dead(events))
