"""Every setting of a node, in sections: what one part of the node needs is together, with what follows from it.

A field's name is the name of the environment variable in lower case, and the key in the TOML file. The sections are
one flat model, ``Settings``; ``config`` reads it, and ``wiring`` hands it on to the parts.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import attrs
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator

from node.runtime.setting_types import (
    Certifier,
    Decimal,
    FilePath,
    HostAndPort,
    HttpUrl,
    Identity,
    Integer,
    IpNetwork,
    MemberCertifier,
    Multiaddr,
    NetworkName,
    Only,
    PostgresUrl,
    SerialNumber,
    Token,
    Topic,
)
from protocols.limits import EVENT_BYTES_MAX, EVENTS_PER_BATCH_MAX, REQUEST_BYTES_MAX, TOPICS_PER_BATCH_MAX
from protocols.messages import IdentityKey, Level, Role
from protocols.rules import Strategy

RoleName = Literal["normalize", "validate", "certify"]
ReadGroup = Literal["events", "stream", "sources", "network", "metrics", "lookup", "objects"]


def _flag(default: bool, text: str) -> Any:
    return Field(default, description=text)


def _number(default: float, least: float, most: float, text: str) -> Any:
    return Field(default, ge=least, le=most, description=text)


def _text(default: str, chars_max: int, text: str) -> Any:
    return Field(default, max_length=chars_max, description=text)


def _list(default: tuple[Any, ...], text: str, *, least: int | None = None, most: int | None = None) -> Any:
    return Field(default, min_length=least, max_length=most, description=f"{text}, list")


class Section(BaseModel):
    """Settings that belong together."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class ProcessSettings(Section):
    """The process: its name, files, database, log and end."""

    overlay_node_name: str = Field("node", min_length=1, max_length=64, description="Name of this node in its logs")
    overlay_data_dir: FilePath = Field(Path("var/node"), description="Directory of the key and the embedded Postgres")
    overlay_key_file: FilePath = Field(
        default_factory=lambda chosen: chosen.get("overlay_data_dir", Path()) / "identity.key",
        description="File of the identity key, mode 0600; unset: identity.key in the data directory",
    )
    database_url: PostgresUrl | None = Field(
        None, description="postgresql:// URL; unset: a Postgres of the node's own in the data directory"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severity logged")
    log_format: Literal["json", "console"] = Field("json", description="Form of the log on stderr")
    overlay_disk_reserve_mb: Integer = _number(
        0,
        0,
        1_048_576,
        "Room kept back on the disk of the node's own database, MiB: with less, events are refused; "
        "0: 5 % of the disk, 48 to 256 MiB",
    )
    overlay_ready_needs_quorum: bool = _flag(
        False, "A node that reaches no quorum for a level in use is not ready; off: /readyz only warns"
    )
    overlay_ready_event_age_s: Decimal = _number(
        120.0, 1, 86_400, "Age of an event without a certificate from which /readyz warns, s"
    )
    overlay_shutdown_grace_s: Decimal = _number(10.0, 0, 300, "Time to end in order after SIGTERM, s")

    @property
    def disk_reserve_bytes(self) -> int | None:
        """What is kept back on the disk of the node's own database; None: a share of the disk."""
        return self.overlay_disk_reserve_mb * 2**20 or None


class NetworkSettings(Section):
    """The network, this node's place in it, and who its members are."""

    overlay_network: NetworkName = Field(
        "overlay-main", description="Network to take part in; signed into every message"
    )
    overlay_operator: str = _text("", 128, "Who runs this node; level 'critical' needs distinct operators")
    overlay_region: str = _text("", 128, "Where this node runs, advertised to the others")
    overlay_p2p_listen: tuple[Multiaddr, ...] = _list(
        ("/ip4/0.0.0.0/tcp/4001",), "Multiaddrs to listen on for peers", least=1
    )
    overlay_p2p_announce: tuple[Multiaddr, ...] = _list(
        (), "Multiaddrs announced to peers in place of those listened on (behind NAT)"
    )
    overlay_bootstrap: tuple[Multiaddr, ...] = _list((), "Multiaddrs of nodes to join the network through")
    overlay_membership: Literal["open", "allowlist", "certified"] = Field(
        "open",
        description="Who may take part: every identity, OVERLAY_MEMBERS alone, or those certified by "
        "OVERLAY_MEMBER_CERTIFIERS",
    )
    overlay_member_certifiers: tuple[MemberCertifier, ...] = _list(
        (),
        "Certificates (BRC-52) that make a node a member where the membership is certified: certifier:type",
    )
    overlay_member_certificate: FilePath | None = Field(
        None, description="File with this node's own membership certificate, JSON"
    )
    overlay_members: tuple[Identity, ...] = _list(
        (), "Identity keys that may take part where the membership is an allowlist"
    )
    overlay_eclipse_protection: bool = _flag(True, "Needs peers from 3 addresses or more; off for a single machine")

    @property
    def members(self) -> frozenset[IdentityKey] | None:
        """The only identities that get a connection; None: every identity does."""
        return frozenset(self.overlay_members) if self.overlay_membership == "allowlist" else None

    @property
    def member_certifiers(self) -> frozenset[tuple[IdentityKey, str]] | None:
        """Whose certificates of which type make a member; None where nobody needs one."""
        return frozenset(self.overlay_member_certifiers) if self.overlay_membership == "certified" else None


class WorkSettings(Section):
    """What this node offers to others, and how it has its own batches processed."""

    overlay_roles: tuple[RoleName, ...] = _list(("normalize", "validate", "certify"), "Roles offered to the network")
    overlay_price: Integer = _number(0, 0, 2**53 - 1, "Price asked per batch and role, satoshis")
    overlay_capacity: Integer = _number(64, 1, 4_096, "Batches taken in at once, shared out to their coordinators")
    overlay_bid_window_ms: Integer = _number(300, 10, 60_000, "How long bids for announced work are taken, ms")
    overlay_lease_ms: Integer = _number(
        60_000, 1_000, 3_600_000, "How long awarded agents keep a source's batches, ms"
    )
    overlay_lease_batches: Integer = _number(1_000, 1, 1_000_000, "Batches after which work is announced anew")
    overlay_advertisement_ttl_ms: Integer = _number(
        60_000, 3_000, 86_400_000, "Life of an advertisement not renewed, ms"
    )
    overlay_resend_ms: Integer = _number(2_000, 100, 60_000, "Pause before an unanswered message is sent again, ms")
    overlay_durability: Literal["local", "replicated"] = Field(
        "local", description="replicated: no batch is acknowledged before OVERLAY_REPLICAS peers hold it too"
    )
    overlay_replicas: Integer = _number(2, 1, 8, "Peers that hold a replicated batch before it is acknowledged")
    overlay_adopt_ms: Integer = _number(
        4_000,
        500,
        600_000,
        "How long a batch held for another node is left to it before it is asked and taken over, ms",
    )
    overlay_attempts_max: Integer = _number(5, 1, 16, "Attempts that fail by a cause in a batch before it is dead")
    event_processing_timeout_ms: Integer = _number(
        30_000, 1_000, 600_000, "How long an agent may be silent, or compute a batch, before it is given up, ms"
    )
    event_parallel_workers: Integer = _number(5, 1, 64, "Worker processes for roles, at most; started as needed")
    event_parallel_processing_enabled: bool = _flag(True, "Batches are processed in parallel; off: one worker")
    event_processing_agents_enabled: bool = _flag(True, "Offers OVERLAY_ROLES to the network; off: offers none")
    event_agent_selection_strategy: Literal["reputation", "latency", "cost"] = Field(
        "reputation", description="What ranks bids first; the other two break ties"
    )
    event_processing_cache_enabled: bool = _flag(True, "Caches results of processing")
    event_processing_cache_size_mb: Integer = _number(256, 1, 65_536, "Size of that cache, MB")
    event_normalization_required: Annotated[
        bool, Only(True, "validators and certifiers work on normalized data alone")
    ] = _flag(True, "Events are normalized before they are judged")
    event_certification_required: Annotated[
        bool, Only(True, "an event ends certified, invalid or dead, never unjudged")
    ] = _flag(True, "Every event is judged and certified")
    brc22_job_orchestration_enabled: Annotated[
        bool, Only(True, "there is no other way to have a batch processed")
    ] = _flag(True, "Work is announced, bid for and awarded")
    brc31_event_signing_required: Annotated[
        bool, Only(True, "every statement between nodes is signed and checked")
    ] = _flag(True, "Statements about events are signed")

    @property
    def role_names(self) -> tuple[RoleName, ...]:
        """The roles offered: none while agents are disabled."""
        return self.overlay_roles if self.event_processing_agents_enabled else ()

    @property
    def roles(self) -> tuple[Role, ...]:
        """``role_names`` as roles."""
        return tuple(Role[name.upper()] for name in self.role_names)

    @property
    def strategy(self) -> Strategy:
        """What ranks bids first."""
        return Strategy[self.event_agent_selection_strategy.upper()]

    @property
    def workers(self) -> int:
        """Worker processes for roles, at most."""
        return self.event_parallel_workers if self.event_parallel_processing_enabled else 1

    @property
    def cache_bytes(self) -> int:
        """Size of the cache of results; 0 keeps none."""
        return self.event_processing_cache_size_mb * 2**20 if self.event_processing_cache_enabled else 0


class IngestSettings(Section):
    """What events are taken in, in which batches, at which level, and where they go."""

    event_ingestion_enabled: bool = _flag(True, "Takes events in; off: requests to ingest are answered 503")
    event_batch_size: Integer = _number(100, 1, EVENTS_PER_BATCH_MAX, "Events from which a batch is not held back")
    event_batch_processing_enabled: bool = _flag(True, "Requests may share batches; off: each has its own")
    overlay_unsettled_events_max: Integer = _number(
        100_000, 1, 10_000_000, "Events acknowledged and not yet ended, past which requests are answered 429"
    )
    overlay_target_delay_ms: Integer = _number(
        2_000,
        100,
        600_000,
        "Events are taken in as far as they end within so many ms at the rate measured; others are answered 429",
    )
    overlay_request_bytes_max: Integer = _number(
        REQUEST_BYTES_MAX, 1_024, REQUEST_BYTES_MAX, "Largest request body, bytes; 413 past it"
    )
    overlay_event_bytes_max: Integer = _number(EVENT_BYTES_MAX, 256, EVENT_BYTES_MAX, "Largest event, bytes of JSON")
    overlay_event_topics: tuple[Topic, ...] = _list(
        ("gitdata.events.ingest", "gitdata.events.certified"),
        "Topics that certified events go to where their source names none",
        most=TOPICS_PER_BATCH_MAX,
    )
    overlay_event_distribution_enabled: bool = _flag(
        True, "Events go to the topics of their request, their source or OVERLAY_EVENT_TOPICS; off: to none"
    )
    event_consensus_required: bool = _flag(
        True,
        "Nothing is certified below level 'enhanced' and EVENT_CONSENSUS_THRESHOLD; off: the level asked for decides",
    )
    event_consensus_threshold: Integer = _number(
        2, 1, 32, "Agents that must agree at least, if consensus is required"
    )

    @property
    def topics(self) -> tuple[str, ...]:
        """Topics of events whose request and source name none; advertised, too."""
        return self.overlay_event_topics if self.overlay_event_distribution_enabled else ()

    @property
    def consensus_threshold(self) -> int:
        """The least number of agents that must agree; 1 leaves it to the level."""
        return self.event_consensus_threshold if self.event_consensus_required else 1

    @property
    def level_floor(self) -> Level | None:
        """The level below which nothing is certified; None leaves it to the request."""
        return Level.ENHANCED if self.event_consensus_required else None


class HttpSettings(Section):
    """The HTTP interface and its streams, and the overlay services behind it."""

    overlay_http_bind: HostAndPort = Field(
        "127.0.0.1:8080", description="host:port of the HTTP interface; port 0 picks one"
    )
    overlay_public_url: HttpUrl = Field(
        default_factory=lambda chosen: f"http://{chosen.get('overlay_http_bind', '')}",
        description="URL that others reach this node's HTTP interface by; unset: http:// and the bind",
    )
    event_stream_sse_enabled: bool = _flag(True, "Serves the event stream (SSE)")
    event_stream_websocket_enabled: bool = _flag(True, "Serves the event stream over WebSocket")
    event_stream_max_clients: Integer = _number(1_000, 1, 100_000, "Streams served at once; 503 past it")
    event_stream_heartbeat_interval_ms: Integer = _number(15_000, 100, 600_000, "Pause between heartbeats, ms")
    event_signature_ttl_seconds: Integer = _number(300, 1, 86_400, "Age after which a signature is refused, s")
    overlay_certificates_max: Integer = _number(
        1_000_000, 1_000, 1_000_000_000, "Certificates of other nodes' batches kept, the latest"
    )
    overlay_outbound_allow: tuple[IpNetwork, ...] = _list(
        (), "Networks (CIDR) besides public addresses that this node may call when others name a URL"
    )
    overlay_chain_tracker_url: HttpUrl | Literal[""] = Field(
        "",
        description="Block Headers Service that merkle paths of submitted transactions are checked against; "
        "unset: they are not checked, and answers say so",
    )
    overlay_chain_tracker_token: Token | None = Field(None, description="Bearer token for that service")

    @field_validator("overlay_public_url")
    @classmethod
    def _without_final_slash(cls, value: str) -> str:
        return value.rstrip("/")


class ServerSettings(Section):
    """Bounds of the HTTP server, and the proxies before it."""

    overlay_trusted_proxies: tuple[IpNetwork, ...] = _list(
        (),
        "Networks (CIDR) or addresses of proxies whose Forwarded and X-Forwarded-For name the client that budgets "
        "count; what others send is not believed",
    )
    overlay_http_connections_max: Integer = _number(
        16_384, 1, 1_000_000, "Connections open at a time; fewer where the process may not open as many files"
    )
    overlay_http_client_connections_max: Integer = _number(
        4_096, 1, 1_000_000, "Of them by one client's network, but for loopback and OVERLAY_TRUSTED_PROXIES"
    )
    overlay_http_client_idle_max: Integer = _number(
        512, 1, 1_000_000, "Of those, without a request; past it the one idle for longest is closed"
    )
    overlay_http_reserved_max: Integer = _number(
        16, 1, 4_096, "Connections beside these for questions about the node's health alone"
    )
    overlay_http_backlog: Integer = _number(512, 1, 65_535, "Connections that wait to be accepted")
    overlay_http_requests_max: Integer = _number(
        100_000, 1, 1_000_000_000, "Requests of one connection, after which it is closed"
    )
    overlay_http_header_bytes_max: Integer = _number(
        16_384, 1_024, 1_048_576, "Headers of a request with its address, bytes; 431 past it"
    )
    overlay_http_header_timeout_s: Decimal = _number(
        20.0, 0.1, 3_600, "From the first byte of a request to the end of its headers, s"
    )
    overlay_http_body_timeout_s: Decimal = _number(30.0, 0.1, 3_600, "For a body that is read whole, s; 408 past it")
    overlay_http_keep_alive_s: Decimal = _number(
        75.0, 0.1, 86_400, "Life of a connection without a request, s; longer than that of a proxy's"
    )
    overlay_http_stall_s: Decimal = _number(
        30.0, 1, 3_600, "After which a connection whose client takes nothing is dropped, s"
    )
    overlay_http2_resets_per_s: Decimal = _number(
        10.0, 0.01, 1_000_000, "Streams that a client may give up, by connection and second (CVE-2023-44487)"
    )
    overlay_http2_resets_burst: Integer = _number(200, 1, 1_000_000, "Of them at once")
    overlay_http2_control_frames_per_s: Decimal = _number(
        50.0, 0.01, 1_000_000, "Frames that ask for work and carry nothing, by connection and second"
    )
    overlay_http2_control_frames_burst: Integer = _number(500, 1, 1_000_000, "Of them at once")


class AccessSettings(Section):
    """Who may do what over HTTP."""

    event_identity_verification_required: bool = _flag(False, "Senders of events prove their identity")
    overlay_operator_keys: tuple[Identity, ...] = _list(
        (), "Identity keys that may use every route; this node's own key may always"
    )
    overlay_owner_keys: tuple[Identity, ...] = _list(
        (), "Identity keys that may create sources bound to themselves, and change those"
    )
    overlay_reader_keys: tuple[Identity, ...] = _list(
        (), "Identity keys that may read what OVERLAY_PUBLIC_READS leaves out"
    )
    overlay_certifiers: tuple[Certifier, ...] = _list(
        (),
        "Certificates (BRC-52) that give their holders a role: certifier:type:role:field+field, "
        "the fields asked for being optional",
    )
    overlay_revoked_certificates: tuple[SerialNumber, ...] = _list(
        (), "Serial numbers (base64) of certificates no longer accepted"
    )
    overlay_public_reads: tuple[ReadGroup, ...] = _list(
        get_args(ReadGroup), "What anybody may read without proving an identity"
    )
    overlay_open_admin: bool = _flag(
        False, "Anybody may use the operators' routes; for a machine that nobody else can reach"
    )


class Settings(
    AccessSettings, ServerSettings, HttpSettings, IngestSettings, WorkSettings, NetworkSettings, ProcessSettings
):
    """Every setting by its variable's name in lower case. Frozen; made by ``config.load``.

    Fields stand in the order of the bases from the last to the first.
    """

    _warnings: tuple[str, ...] = PrivateAttr(default=())

    def warnings(self) -> tuple[str, ...]:
        """Variables that look like settings and are none; to be logged once at start."""
        return self._warnings


@attrs.define
class LiveSettings:
    """The settings in force; ``now`` is replaced when they are read again."""

    now: Settings
