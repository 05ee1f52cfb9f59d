"""From the settings to what each part of the node takes."""

from collections.abc import Awaitable, Callable

from node.api.server_limits import ServerLimits
from node.api.services import ApiSettings
from node.ingest.admission_control import IngestLimits
from node.ingest.terms import IngestPolicy
from node.network.discovery import Offer
from node.network.p2p import TransportConfig
from node.overlay.services import SERVICES, TOPICS
from node.runtime.access import Access
from node.runtime.build import build_id
from node.runtime.config import ConfigError
from node.runtime.settings import AccessSettings, IngestSettings, NetworkSettings, ServerSettings, Settings
from node.runtime.token_bucket import Rate
from protocols.advertisement import is_local
from protocols.keys import PrivateKey
from protocols.membership import NotAMemberError, check_membership
from protocols.messages import IdentityKey
from protocols.rules import Rules


def transport_config(settings: Settings, key: PrivateKey, topics: tuple[str, ...]) -> TransportConfig:
    """``topics``: of gossip."""
    return TransportConfig(
        secret=key.to_bytes(),
        network=settings.overlay_network,
        topics=topics,
        listen=settings.overlay_p2p_listen,
        announce=settings.overlay_p2p_announce,
        bootstrap=settings.overlay_bootstrap,
        members=settings.members,
        eclipse_protection=settings.overlay_eclipse_protection,
    )


def make_offer(settings: Settings) -> Offer:
    """What this node advertises."""
    return Offer(
        roles=settings.roles,
        topics=settings.topics,
        url=settings.overlay_public_url,
        capacity=settings.overlay_capacity,
        price=settings.overlay_price,
        operator=settings.overlay_operator,
        region=settings.overlay_region,
        build=build_id(),
        ttl_ms=settings.overlay_advertisement_ttl_ms,
        allow_local_urls=is_local(settings.overlay_public_url),  # a network on one machine, or a public one
        managers=TOPICS,
        services=SERVICES,
    )


def own_certificate(settings: NetworkSettings, identity: IdentityKey) -> bytes:
    """This node's membership certificate.

    Raises:
        ConfigError: it cannot be read, or no certifier that this node trusts issued it.
    """
    file = settings.overlay_member_certificate
    if file is None:
        return b""
    try:
        document = file.read_bytes()
        trusted = settings.member_certifiers
        if trusted is not None:
            check_membership(document, identity, trusted)
    except (OSError, NotAMemberError) as error:
        problem = f"OVERLAY_MEMBER_CERTIFICATE={file}: {error}; have a certifier of the network issue one"
        raise ConfigError(problem) from error
    return document


def access(settings: AccessSettings, identity: IdentityKey, is_spent: Callable[[str], Awaitable[bool]]) -> Access:
    """Who may do what; this node's own identity is always an operator's."""
    return Access(
        operators=frozenset({*settings.overlay_operator_keys, identity}),
        owners=frozenset(settings.overlay_owner_keys),
        readers=frozenset(settings.overlay_reader_keys),
        certifiers=settings.overlay_certifiers,
        revoked_serials=frozenset(settings.overlay_revoked_certificates),
        public_reads=frozenset(settings.overlay_public_reads),
        identity_required=settings.event_identity_verification_required,
        open_admin=settings.overlay_open_admin,
        is_spent=is_spent,
    )


def rules(settings: Settings, identity: IdentityKey) -> Rules:
    """How this node coordinates and bids."""
    return Rules(
        network=settings.overlay_network,
        self_key=identity,
        roles=settings.roles,
        operator=settings.overlay_operator,
        region=settings.overlay_region,
        price=settings.overlay_price,
        capacity=settings.overlay_capacity,
        workers=settings.workers,
        strategy=settings.strategy,
        bid_window_ms=settings.overlay_bid_window_ms,
        lease_ms=settings.overlay_lease_ms,
        lease_batches=settings.overlay_lease_batches,
        resend_ms=settings.overlay_resend_ms,
        attempts_max=settings.overlay_attempts_max,
        replicas=settings.overlay_replicas,
        adopt_ms=settings.overlay_adopt_ms,
        attempt_ms=settings.event_processing_timeout_ms,
    )


def ingest_policy(settings: Settings) -> IngestPolicy:
    """How this node batches events, and at which level they are certified at least."""
    return IngestPolicy(
        coalesce=settings.event_batch_processing_enabled,
        level_floor=settings.level_floor,
        threshold=settings.consensus_threshold,
        topics=settings.topics,
        distribute=settings.overlay_event_distribution_enabled,
        replicated=settings.overlay_durability == "replicated",
        replicas=settings.overlay_replicas,
    )


def ingest_limits(settings: IngestSettings) -> IngestLimits:
    """How much this node takes in."""
    return IngestLimits(
        enabled=settings.event_ingestion_enabled,
        event_bytes_max=settings.overlay_event_bytes_max,
        unsettled_max=settings.overlay_unsettled_events_max,
        target_delay_ms=settings.overlay_target_delay_ms,
        batch_events=settings.event_batch_size,
        body_bytes_max=settings.overlay_request_bytes_max,
    )


def api_settings(settings: Settings) -> ApiSettings:
    """What the HTTP interface needs of the settings."""
    return ApiSettings(
        network=settings.overlay_network,
        body_bytes_max=settings.overlay_request_bytes_max,
        public_url=settings.overlay_public_url,
        body_timeout_s=settings.overlay_http_body_timeout_s,
        stream_enabled=settings.event_stream_sse_enabled,
        websocket_enabled=settings.event_stream_websocket_enabled,
        stream_clients_max=settings.event_stream_max_clients,
        heartbeat_ms=settings.event_stream_heartbeat_interval_ms,
        signature_ttl_ms=settings.event_signature_ttl_seconds * 1000,
    )


def server_limits(settings: ServerSettings, graceful_s: float) -> ServerLimits:
    """Bounds of the HTTP server. ``graceful_s``: for connections that are open at its end."""
    return ServerLimits(
        header_bytes_max=settings.overlay_http_header_bytes_max,
        header_s=settings.overlay_http_header_timeout_s,
        keep_alive_s=settings.overlay_http_keep_alive_s,
        requests_per_connection_max=settings.overlay_http_requests_max,
        graceful_s=graceful_s,
        stall_s=settings.overlay_http_stall_s,
        backlog=settings.overlay_http_backlog,
        connections_max=settings.overlay_http_connections_max,
        connections_per_client_max=settings.overlay_http_client_connections_max,
        idle_per_client_max=settings.overlay_http_client_idle_max,
        reserved_max=settings.overlay_http_reserved_max,
        resets=Rate(per_s=settings.overlay_http2_resets_per_s, burst=settings.overlay_http2_resets_burst),
        control_frames=Rate(
            per_s=settings.overlay_http2_control_frames_per_s, burst=settings.overlay_http2_control_frames_burst
        ),
        trusted_proxies=settings.overlay_trusted_proxies,
    )
