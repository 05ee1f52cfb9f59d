"""What the routes need of the node. Built by the app, handed to every blueprint."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import attrs

from node.coordination.dead_letters import DeadLetters
from node.coordination.market import Market
from node.delivery.cursor_ledger import CursorLedger
from node.delivery.feed import Feed
from node.delivery.webhook_manager import WebhookManager
from node.ingest.idempotency import IdempotencyLedger
from node.ingest.ndjson_stream import IDLE_S
from node.ingest.pipeline import Ingest
from node.network.sync import Freshness
from node.overlay.objects import Objects
from node.overlay.services import OverlayServices
from node.runtime.access import Access
from node.runtime.conditions import HealthReport
from node.runtime.containment import Quarantine
from node.runtime.nonces import NonceLedger
from node.sources import SourceManager
from protocols.keys import PrivateKey
from storage.database import Database


class NetworkView(Protocol):
    """What the node knows of the others, as JSON values."""

    def agents(self) -> Sequence[Mapping[str, Any]]:
        """Who offers which roles, by advertisement; this node included."""

    def peers(self) -> Sequence[Mapping[str, Any]]:
        """Connections and known addresses."""


@attrs.frozen(kw_only=True)
class ApiSettings:
    """Plain values of the node's configuration that the API uses. Times in milliseconds."""

    network: str
    body_bytes_max: int
    public_url: str = ""
    body_timeout_s: float = 30.0
    ingest_idle_s: float = IDLE_S
    stream_enabled: bool = True
    websocket_enabled: bool = True
    stream_clients_max: int = 1_000
    heartbeat_ms: int = 15_000
    signature_ttl_ms: int = 300_000


@attrs.frozen(kw_only=True)
class Services:
    """Attributes:
    key: The node's identity key, which sessions and answers are signed with.
    freshness: How far the node has caught up with its peers.
    readiness: What is wrong with the node now; answers within 2 s.
    metrics: The Prometheus text of everything the node counts.
    quarantine: The fence around connections and requests.
    """

    settings: ApiSettings
    key: PrivateKey
    access: Access
    nonces: NonceLedger
    idempotency: IdempotencyLedger
    ingest: Ingest
    sources: SourceManager
    feed: Feed
    cursors: CursorLedger
    webhooks: WebhookManager
    objects: Objects
    overlay: OverlayServices
    database: Database
    network_view: NetworkView
    market: Market
    dead_letters: DeadLetters
    readiness: Callable[[], Awaitable[HealthReport]]
    freshness: Callable[[], Freshness]
    metrics: Callable[[], str]
    quarantine: Quarantine = attrs.Factory(Quarantine)
