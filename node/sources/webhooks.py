"""Deliveries to a source's webhook: authenticated by the source's own secret, then ingested.

The body is authenticated as it came, before it is parsed. A refused delivery and its reason are shown with the
source; the sender gets only that it was refused.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs
import trio

from node.ingest.pipeline import Ingest, account_of
from node.ingest.responses import IngestAnswer
from node.ingest.terms import SourceBoundError, SourceDisabledError
from node.runtime.clock import clock_ms
from node.runtime.fair_share import Account
from node.sources import settings as source_settings
from node.sources.manager import SourceManager
from node.sources.registry import find
from node.sources.settings.webhook import WebhookSourceSettings
from node.sources.webhook_signatures import SignatureRefusedError, check_signature
from node.worker.parsing.unpacking import Coding, usual_size
from node.worker.parsing.webhook_bodies import ReceivedDelivery, document_of, read_delivery
from protocols.canonical import parse_json
from protocols.errors import ClientFault, InvalidJsonError
from storage.database import Database

if TYPE_CHECKING:
    from psycopg import Connection

T = TypeVar("T")

FIND_S: Final = 1.8  # a sender waits for it
INLINE_BYTES_MAX: Final = 16 * 1024  # a longer body is hashed on a thread and read in a worker process
CHALLENGE_CHARS_MAX: Final = 512
REFUSED: Final = "the delivery does not prove that it comes from this source"
NOTHING: Final = {"accepted": 0, "duplicates": 0, "rejected": 0, "versions": 0}


class NoWebhookError(ClientFault):
    """The source does not accept webhooks."""

    code = "no-webhook"


@attrs.frozen(kw_only=True)
class WebhookEndpoint:
    """A source that accepts webhooks, as in its row now.

    Attributes:
        is_bound: Whether it accepts events of one identity only.
    """

    source_id: str
    settings: WebhookSourceSettings
    is_bound: bool

    @property
    def is_proven(self) -> bool:
        """Whether accepted deliveries are authenticated."""
        return self.settings.scheme != "none"


class Webhooks:
    """Ingests deliveries."""

    def __init__(self, *, database: Database, ingest: Ingest, manager: SourceManager, bytes_max: int) -> None:
        """``bytes_max``: of a decompressed delivery."""
        self._database = database
        self._ingest = ingest
        self._manager = manager
        self._bytes_max = bytes_max

    async def endpoint(self, source_id: str) -> WebhookEndpoint:
        """The endpoint of a source.

        Raises:
            UnknownSourceError, NoWebhookError, SourceDisabledError: It has no endpoint, or not now.
            SourceBoundError: It is bound to an identity, and its deliveries are not authenticated.
        """
        return await self._database.run(partial(_endpoint, source_id=source_id), deadline_s=FIND_S)

    async def receive(
        self,
        endpoint: WebhookEndpoint,
        body: bytes,
        *,
        headers: Mapping[str, str],
        media_type: str,
        coding: Coding,
        account: Account,
    ) -> IngestAnswer | dict[str, Any]:
        """Ingest a delivery. Returns once its events are durable; JSON values answer a delivery without events.

        Args:
            headers: By lower-case name.
            account: Whom it is parsed for, where it is not signed by the source.

        Raises:
            SignatureRefusedError: It is not authenticated. ClientFault, WorldFault: As ``Ingest.submit``.
        """
        settings, status = endpoint.settings, self._manager.endpoints.get(endpoint.source_id)
        now_s = clock_ms() / 1_000
        check = partial(check_signature, settings.signing, settings.every_secret, headers, body, now_s)
        try:
            await self._by_size(body, check)
        except SignatureRefusedError as refused:
            status.fail(f"refused: {refused}")
            raise SignatureRefusedError(REFUSED) from None
        shape = settings.reading
        named = (shape.event_type_header, shape.external_id_header, shape.timestamp_header)
        delivery = ReceivedDelivery(
            body=body,
            coding=coding,
            media_type=media_type,
            headers={name.lower(): headers.get(name.lower(), "") for name in named if name},
            shape=shape,
            events_path=settings.events_path,
        )
        greeting = _greeting(settings, headers, delivery)
        if greeting is not None:
            return greeting
        if endpoint.is_proven:
            account = account_of(endpoint.source_id)
        try:
            events = await self._compute(body, coding, account, partial(read_delivery, delivery, self._bytes_max))
            if not events:
                return {"processedEvents": [], "counts": NOTHING, "rejected": [], "batches": [], "receipts": []}
            answer = await self._ingest.submit_read(
                endpoint.source_id, events, is_proven=endpoint.is_proven, account=account
            )
        except ClientFault as fault:
            status.fail(str(fault))
            raise
        status.count(len(events), answer.counts)
        return answer

    async def _by_size(self, body: bytes, call: Callable[[], T]) -> T:
        return call() if len(body) <= INLINE_BYTES_MAX else await trio.to_thread.run_sync(call)

    async def _compute(self, body: bytes, coding: Coding, account: Account, call: Callable[[], T]) -> T:
        is_short = len(body) <= INLINE_BYTES_MAX and coding == "identity"
        if is_short:
            return call()
        return await self._ingest.run_beside(call, account=account, size=usual_size(body, coding))


def _endpoint(connection: "Connection", source_id: str) -> WebhookEndpoint:
    row = find(connection, source_id)
    settings = source_settings.read(row.source_type, row.configuration) if row.source_type == "webhook" else None
    if not isinstance(settings, WebhookSourceSettings) or not settings.scheme:
        raise NoWebhookError(f"the source {source_id!r} does not accept webhooks")
    if not row.enabled:
        raise SourceDisabledError(f"the source {source_id!r} is disabled")
    endpoint = WebhookEndpoint(source_id=source_id, settings=settings, is_bound=row.identity_key is not None)
    if endpoint.is_bound and not endpoint.is_proven:
        raise SourceBoundError(
            f"the source {source_id!r} is bound to an identity, which its webhooks do not prove",
            remedy="give the source a signature scheme and a secret",
        )
    return endpoint


def _greeting(
    settings: WebhookSourceSettings, headers: Mapping[str, str], delivery: ReceivedDelivery
) -> dict[str, Any] | None:
    """The answer to a sender that only tests the address; None for other deliveries."""
    if settings.preset.greeting == "github" and headers.get("x-github-event") == "ping":
        return {"answer": "pong", "delivery": headers.get("x-github-delivery", "")[:CHALLENGE_CHARS_MAX]}
    is_short = len(delivery.body) <= INLINE_BYTES_MAX and delivery.coding == "identity"
    if settings.preset.greeting == "slack" and is_short:
        document = _object(document_of(delivery, INLINE_BYTES_MAX))
        challenge = document.get("challenge")
        if document.get("type") == "url_verification" and isinstance(challenge, str):
            return {"challenge": challenge[:CHALLENGE_CHARS_MAX]}
    return None


def _object(text: bytes) -> dict[str, Any]:
    try:
        found: Any = parse_json(text)
    except InvalidJsonError:
        return {}
    return found if isinstance(found, dict) else {}
