"""The parts between the network and the driver: coordination state, peers, and the execution of effects."""

from functools import partial
from typing import Final

import attrs

from node.coordination.batch_store import BatchStore
from node.coordination.dispatcher import Dispatcher
from node.coordination.driver import Driver
from node.coordination.journal import EntityJournal
from node.coordination.observations import Observations
from node.coordination.payloads import Payloads
from node.coordination.replicas import Replicas
from node.coordination.reputations import Reputations
from node.coordination.result_cache import ResultCache
from node.coordination.role_runner import RoleRunner
from node.coordination.sealer import Sealer
from node.ingest.replication import Replications
from node.network.candidates import Candidates
from node.network.certificate_log import CertificateLog
from node.network.content_exchange import OUTPUTS, POLICY, ContentExchange, answer_outputs
from node.network.directory_view import DirectoryView
from node.network.discovery import Discovery, Offer, make_tokens
from node.network.fraud_proofs import FraudProofs
from node.network.inbound_fence import InboundFence
from node.network.known_peers import KnownPeers
from node.network.membership import Membership
from node.network.notices import Interests, Notices
from node.network.quotas import InboundQuotas
from node.network.receiver import Receiver
from node.network.remote_batches import RemoteBatches
from node.network.requests import RequestTable
from node.network.sender import Sender
from node.network.sync import Synchronizer
from node.network.sync_messages import ENTRIES, IDS, MANIFESTS, PROOFS
from node.network.transport import Transport
from node.overlay.objects import REQUEST_TAGS, Objects
from node.overlay.submit import outpoint_is_spent
from node.runtime.access import Access
from node.runtime.build import build_id
from node.runtime.caches import BytesCache
from node.runtime.clock import clock_ms
from node.runtime.containment import Quarantine
from node.runtime.keyring import Keyring
from node.runtime.settings import LiveSettings, Settings
from node.runtime.workers import Workers
from node.telemetry import Metrics
from node.wiring.configured import access, make_offer, own_certificate, rules
from protocols.entities import Task, task_entity_id
from protocols.messages import IdentityKey
from protocols.stimuli import PeerAppeared
from storage.database import Database

OWN_PAYLOADS_BYTES: Final = 24 * 1024 * 1024


@attrs.frozen(kw_only=True)
class Base:
    """What a node is given, and what most of its parts share."""

    live: LiveSettings
    database: Database
    keyring: Keyring
    workers: Workers
    transport: Transport
    requests: RequestTable
    metrics: Metrics = attrs.Factory(Metrics)
    quarantine: Quarantine = attrs.Factory(Quarantine)
    has_crashed: bool = False

    def __attrs_post_init__(self) -> None:
        self.metrics.watch_quarantine(lambda: self.quarantine.counts)

    @property
    def settings(self) -> Settings:
        """Those in force: what is to follow a change reads them when it needs them."""
        return self.live.now

    @property
    def network(self) -> str:
        """The network's name, which is signed into every message."""
        return self.settings.overlay_network


@attrs.frozen(kw_only=True)
class State:
    """The driver, and what is kept beside its state."""

    driver: Driver
    journal: EntityJournal
    batches: BatchStore
    reputations: Reputations
    replications: Replications
    own_payloads: BytesCache[str, bytes]
    payloads: Payloads


@attrs.frozen(kw_only=True)
class Peers:
    """Who takes part, and what is heard from them and requested of them."""

    offer: Offer
    access: Access
    membership: Membership
    known: KnownPeers
    discovery: Discovery
    candidates: Candidates
    view: DirectoryView
    certificates: CertificateLog
    library: ContentExchange
    remote_batches: RemoteBatches
    interests: Interests
    sync: Synchronizer
    notices: Notices
    receiver: Receiver


@attrs.frozen(kw_only=True)
class Execution:
    """What carries out the effects of the driver."""

    cache: ResultCache
    runner: RoleRunner
    sealer: Sealer
    observations: Observations
    sender: Sender
    dispatcher: Dispatcher


def build_state(base: Base) -> State:
    """The driver with its journal, and the stores beside it."""
    database = base.database
    journal = EntityJournal(database)
    batches = BatchStore(database)
    own_payloads = BytesCache[str, bytes](OWN_PAYLOADS_BYTES)
    return State(
        driver=Driver(rules(base.settings, base.keyring.identity), journal),
        journal=journal,
        batches=batches,
        reputations=Reputations(database),
        replications=Replications(),
        own_payloads=own_payloads,
        payloads=Payloads(own=own_payloads, find=batches.payload, strike=base.transport.strike),
    )


def build_peers(base: Base, state: State) -> Peers:
    """All that deals with other nodes: members, directory, certificates, notices, and the receiver."""
    offer = make_offer(base.settings)
    settings, database, transport = base.settings, base.database, base.transport
    fence = InboundFence(base.quarantine, transport, base.metrics.peer_fault)
    permissions = access(settings, base.keyring.identity, partial(outpoint_is_spent, database))
    membership = Membership(
        own=base.keyring.identity, trusted=settings.member_certifiers, is_revoked=permissions.is_revoked
    )
    known = KnownPeers(
        network=base.network,
        database=database,
        transport=transport,
        membership=membership,
        quarantine=base.quarantine,
    )
    discovery = _discovery(base, state, offer, membership, known)
    discovery.on_appeared.append(partial(_appeared, state.driver))
    certificates = _certificates(base, state, discovery, fence)
    library = ContentExchange(
        transport=transport, find_policy=state.batches.policy, keep_policy=state.batches.keep_policy
    )
    remote_batches = RemoteBatches(
        network=base.network,
        database=database,
        transport=transport,
        library=library,
        checker=base.workers,
        fence=fence,
    )
    proofs = FraudProofs(driver=state.driver, is_known=discovery.is_known)
    sync = _synchronizer(base, certificates, known, proofs, fence)
    interests = Interests()
    notices = Notices(database=database, transport=transport, sync=sync, interests=interests, fence=fence)
    return Peers(
        offer=offer,
        access=permissions,
        membership=membership,
        known=known,
        discovery=discovery,
        candidates=Candidates(
            driver=state.driver,
            discovery=discovery,
            transport=transport,
            reputations=state.reputations,
            holders_max=settings.overlay_replicas + 1,  # one more than needed, should one not answer
        ),
        view=DirectoryView(discovery, transport, state.reputations, offer),
        certificates=certificates,
        library=library,
        remote_batches=remote_batches,
        interests=interests,
        sync=sync,
        notices=notices,
        receiver=_receiver(base, state, discovery, membership, notices, proofs, fence),
    )


def _discovery(base: Base, state: State, offer: Offer, membership: Membership, known: KnownPeers) -> Discovery:
    return Discovery(
        network=base.network,
        signer=base.keyring,
        tokens=make_tokens(base.keyring.key, offer),
        transport=base.transport,
        offer=offer,
        membership=membership,
        known=known,
        has_worked=state.reputations.has_agreed,
        certificate=own_certificate(base.settings, base.keyring.identity),
        on_sent=base.metrics.sent,
    )


def _appeared(driver: Driver, peer: IdentityKey) -> None:
    driver.enqueue(PeerAppeared(now_ms=clock_ms(), peer=peer))


def _certificates(base: Base, state: State, discovery: Discovery, fence: InboundFence) -> CertificateLog:
    return CertificateLog(
        network=base.network,
        database=base.database,
        kept_max=base.settings.overlay_certificates_max,
        is_known=discovery.is_known,
        has_standing=lambda key: key == base.keyring.identity or discovery.has_standing(key),
        enqueue=state.driver.enqueue,
        fence=fence,
        quarantine=base.quarantine,
    )


def _synchronizer(
    base: Base, certificates: CertificateLog, known: KnownPeers, proofs: FraudProofs, fence: InboundFence
) -> Synchronizer:
    return Synchronizer(
        network=base.network,
        database=base.database,
        transport=base.transport,
        checker=base.workers,
        certificates=certificates,
        expects_peers=lambda: bool(base.settings.overlay_bootstrap) or known.has_others,
        on_proof=proofs.take,
        fence=fence,
    )


def _receiver(
    base: Base,
    state: State,
    discovery: Discovery,
    membership: Membership,
    notices: Notices,
    proofs: FraudProofs,
    fence: InboundFence,
) -> Receiver:
    return Receiver(
        network=base.network,
        driver=state.driver,
        transport=base.transport,
        payloads=state.payloads,
        reputations=state.reputations.by_role,
        topics=discovery.topics_of,
        is_known=discovery.is_known,
        admits=membership.admits,
        on_advertisement=discovery.on_advertisement,
        on_notice=notices.receive,
        on_proof=proofs.take,
        fence=fence,
        quotas=InboundQuotas(discovery.is_known),
        on_received=base.metrics.received,
    )


def build_execution(base: Base, state: State, peers: Peers) -> Execution:
    """What carries effects out, and the table from effect to handler."""
    metrics, driver, library = base.metrics, state.driver, peers.library
    cache = ResultCache(base.settings.cache_bytes, metrics.looked_up)
    runner = RoleRunner(
        network=base.network,
        build=build_id(),
        signer=base.keyring,
        workers=base.workers,
        payloads=state.payloads,
        policies=library,
        cache=cache,
        enqueue=driver.enqueue,
        is_wanted=partial(_is_wanted, driver),
        on_run=lambda run: metrics.role_ran(run.cpu_us / 1e6),
    )
    replicas = Replicas(
        network=base.network,
        workers=base.workers,
        payloads=state.payloads,
        policies=library,
        store=state.batches,
        enqueue=driver.enqueue,
        on_replicated=state.replications.held,
    )
    sealer = Sealer(
        identity=base.keyring.identity,
        workers=base.workers,
        runner=runner,
        payloads=state.payloads,
        store=state.batches,
        certificates=peers.certificates,
        remote=library,
        subscribers=peers.discovery.subscribers,
        cache=cache,
        enqueue=driver.enqueue,
        strike=base.transport.strike,
    )
    observations = Observations(base.database, state.reputations)
    observations.on_reported.append(lambda effect: metrics.judged(effect.outcome))
    sender = Sender(base.keyring, base.transport, state.payloads.own, peers.receiver.to_self, metrics.sent)
    parts = (sender, runner, replicas, sealer, peers.certificates, observations)
    return Execution(
        cache=cache,
        runner=runner,
        sealer=sealer,
        observations=observations,
        sender=sender,
        dispatcher=Dispatcher(*(part.handlers for part in parts), quarantine=base.quarantine),
    )


def _is_wanted(driver: Driver, batch_id: str) -> bool:
    """Whether the coordinator of a batch that is to be computed here still waits for it."""
    task = driver.find(task_entity_id(batch_id))
    return isinstance(task, Task) and not task.sealed


def answer_requests(base: Base, peers: Peers, execution: Execution, objects: Objects) -> None:
    """Begin to answer peers' requests: one entry for each tag."""
    base.requests.serve(
        {
            POLICY: peers.library.answer_policy,
            OUTPUTS: answer_outputs(execution.runner.outputs, peers.remote_batches.outputs),
            MANIFESTS: peers.remote_batches.answer,
            **dict.fromkeys((IDS, ENTRIES, PROOFS), peers.certificates.answer),
            **dict.fromkeys(REQUEST_TAGS, objects.answer),
        },
        admits=peers.membership.admits,
    )
