"""Deliveries of one webhook subscription: in order, at least once, from where it stands.

A delivery goes out when the one before it was taken (2xx), so order is that of the feed. One that was not taken is
sent again, the same bytes under the same id, after pauses that grow. Meanwhile nothing is read or buffered for the
receiver: when it takes deliveries again, what it missed is read from the database.
"""

from contextlib import aclosing
from typing import Final

import attrs
import orjson
import structlog
import trio

from node.delivery.cursor import Cursor
from node.delivery.cursor_ledger import CursorLedger
from node.delivery.feed import Feed
from node.delivery.feed_reader import FeedReader
from node.delivery.filters import Filter
from node.delivery.messages import EventMessage
from node.delivery.prefetch import Prefetch
from node.delivery.signatures import message_id, read_secret, signed_headers
from node.delivery.subscription_models import WebhookDeliveryOptions
from node.delivery.webhook_connection import WebhookConnection, WebhookResponse
from node.runtime.clock import clock_ms
from node.runtime.supervisor import Backoff, RestartPolicy
from storage.database import Database
from storage.subscriptions import Step

log = structlog.get_logger(__name__)

BYTES_MAX: Final = 256 * 1024  # of the events of a delivery, unless one alone is longer
PATIENCE_S: Final = 5.0
GONE: Final = 410  # RFC 9110, section 15.5.11: the receiver wants no more


@attrs.frozen(kw_only=True)
class WebhookSecrets:
    """What deliveries are signed with; after a rotation both, until ``previous_until_ms``."""

    current: str = attrs.field(repr=False)
    previous: str | None = attrs.field(default=None, repr=False)
    previous_until_ms: int = 0

    def keys(self, now_ms: int) -> list[bytes]:
        both = self.previous is not None and now_ms < self.previous_until_ms
        return [read_secret(text) for text in (self.current, self.previous if both else None) if text is not None]


@attrs.frozen(kw_only=True)
class DeliveryRequest:
    """One delivery: its id, its body, and the cursor of the subscription once it is taken."""

    name: str
    body: bytes
    upto: Cursor


def delivery_request(
    subscription_id: str, messages: list[EventMessage], upto: Cursor, *, as_list: bool
) -> DeliveryRequest:
    """The request for some messages, at least one: the event itself, or a list of events."""
    name = message_id(subscription_id, [message.cursor for message in messages])
    if not as_list:
        return DeliveryRequest(name=name, body=messages[0].body, upto=upto)
    events = b",".join(message.body for message in messages)
    body = b'{"type":"events","subscriptionId":%b,"events":[%b]}' % (orjson.dumps(subscription_id), events)
    return DeliveryRequest(name=name, body=body, upto=upto)


async def send(
    connection: WebhookConnection, request: DeliveryRequest, secrets: WebhookSecrets, timeout_s: float
) -> WebhookResponse:
    """Sign a request as of now and post it."""
    now_ms = clock_ms()
    headers = signed_headers(request.name, now_ms // 1000, request.body, secrets.keys(now_ms))
    return await connection.post(headers, request.body, timeout_s)


class WebhookDelivery:
    """Delivers one subscription.

    Attributes:
        failing_since_ms: The first failure since the last success, in an earlier run or this one.
        next_try_ms: When a delivery that was not taken is sent again; 0 where none waits.
    """

    def __init__(
        self,
        *,
        subscription_id: str,
        wanted: Filter,
        options: WebhookDeliveryOptions,
        secrets: WebhookSecrets,
        start: Cursor,
        revision: int,
        failing_since_ms: int | None,
        connection: WebhookConnection,
        database: Database,
        feed: Feed,
        cursors: CursorLedger,
        pauses: RestartPolicy,
    ) -> None:
        self._subscription_id = subscription_id
        self._wanted = wanted
        self._options = options
        self._secrets = secrets
        self._cursor = start
        self._revision = revision
        self.failing_since_ms = failing_since_ms
        self._connection = connection
        self._database = database
        self._feed = feed
        self._cursors = cursors
        self._pauses = pauses
        self.next_try_ms = 0

    async def run(self) -> str:
        """Deliver until the subscription has to be paused. Returns why.

        Raises:
            WorldFault: The database is away; in groups.
        """
        try:
            while True:
                request, answer = await self._while_taken()
                reason = await self._retry(request, answer)
                if reason:
                    return reason
        finally:
            await self._connection.aclose()

    async def _while_taken(self) -> tuple[DeliveryRequest, WebhookResponse]:
        """Deliver while the receiver takes everything. Returns the request that it did not take, and its answer."""
        prefetch = Prefetch(events_max=self._options.max_events, bytes_max=BYTES_MAX)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read, prefetch, self._cursor)
            while True:
                messages, upto = await prefetch.take()
                if not messages:
                    self._passed(upto)
                    continue
                request = delivery_request(
                    self._subscription_id, messages, upto, as_list=self._options.max_events > 1
                )
                answer = await self._send(request)
                if answer.delivered:
                    self._taken(request)
                    continue
                nursery.cancel_scope.cancel()
                return request, answer
        raise AssertionError("the loop ends with a return")

    async def _read(self, prefetch: Prefetch, cursor: Cursor) -> None:
        """Read without end; where the feed cuts the reader off, it goes on from the database."""
        while True:
            reader = FeedReader(self._database, self._feed, self._wanted, cursor)
            try:
                async with aclosing(reader.chunks(PATIENCE_S)) as chunks:
                    async for chunk in chunks:
                        for message in () if chunk is None else chunk.messages:
                            await prefetch.put(message)
                        prefetch.passed(reader.cursor)
            finally:
                reader.close()
            cursor = reader.cursor

    async def _retry(self, request: DeliveryRequest, answer: WebhookResponse) -> str:
        """Send a request again until it is taken; returns why the subscription has to be paused, empty if not."""
        backoff = Backoff(self._pauses)
        while not answer.delivered:
            now_ms = clock_ms()
            self._failed(answer, now_ms)
            assert self.failing_since_ms is not None, "it failed just now"
            left_s = self._options.retry_for_seconds - (now_ms - self.failing_since_ms) / 1000
            if answer.status == GONE:
                return "the receiver answered 410 Gone"
            if left_s <= 0:
                return f"no delivery was taken for {self._options.retry_for_seconds} s; the last one: {answer.reason}"
            pause_s = min(max(backoff.next_s(), answer.retry_after_s or 0.0), left_s)
            self.next_try_ms = now_ms + round(1000 * pause_s)
            await trio.sleep(pause_s)
            answer = await self._send(request)
        self._taken(request)
        return ""

    async def _send(self, request: DeliveryRequest) -> WebhookResponse:
        return await send(self._connection, request, self._secrets, self._options.timeout_seconds)

    def _passed(self, upto: Cursor) -> None:
        if upto > self._cursor:
            self._cursor = upto
            self._note(Step(revision=self._revision, cursor=(upto.sequence, upto.position)))

    def _taken(self, request: DeliveryRequest) -> None:
        self._cursor = max(self._cursor, request.upto)
        self.failing_since_ms = None
        self.next_try_ms = 0
        self._note(
            Step(
                revision=self._revision,
                cursor=(self._cursor.sequence, self._cursor.position),
                deliveries=1,
                last_success_ms=clock_ms(),
            )
        )

    def _failed(self, answer: WebhookResponse, now_ms: int) -> None:
        if self.failing_since_ms is None:
            self.failing_since_ms = now_ms
            log.warning("webhook.failing", why=answer.reason, status=answer.status)
        self._note(
            Step(
                revision=self._revision,
                failures=1,
                last_failure_ms=now_ms,
                last_failure_status=answer.status,
                last_failure_reason=answer.reason,
            )
        )

    def _note(self, step: Step) -> None:
        self._cursors.note(self._subscription_id, attrs.evolve(step, failing_since_ms=self.failing_since_ms))
