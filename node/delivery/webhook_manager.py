"""Delivers every active webhook subscription: deliveries start, change, pause and end as the rows say.

Each subscription is a task of its own with a connection of its own, so that a receiver that is slow or dead delays no
other. There are at most ``WEBHOOKS_MAX`` of them, and each has one request under way.
"""

import ssl
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import attrs
import orjson
import structlog
import trio

from node.delivery.callback_url import read_callback_url
from node.delivery.cursor_ledger import CursorLedger
from node.delivery.feed import Feed
from node.delivery.signatures import message_id
from node.delivery.subscription_documents import cursor_of, milliseconds, moment_of, read_delivery, read_filter
from node.delivery.subscriptions import WEBHOOKS_MAX, is_authorized
from node.delivery.webhook_connection import WebhookConnection, WebhookConnector, WebhookResponse
from node.delivery.webhook_delivery import DeliveryRequest, WebhookDelivery, WebhookSecrets, send
from node.runtime.access import Access
from node.runtime.clock import clock_ms
from node.runtime.guarded_network import Network
from node.runtime.reconcile import Reconciler
from node.runtime.supervisor import RestartPolicy
from protocols.certificate import rfc3339
from protocols.errors import ClientFault
from storage import subscriptions
from storage.database import Database
from storage.subscriptions import Step, Subscription

if TYPE_CHECKING:
    from psycopg import Connection

log = structlog.get_logger(__name__)

SETTLE_S: Final = 0.05  # many changes are followed together
RECONCILE_S: Final = 5.0
READ_S: Final = 5.0  # a row that another process changed is seen after so long
PAUSES: Final = RestartPolicy(delay_s_first=1.0, delay_s_max=300.0)
RESTARTS: Final = RestartPolicy(delay_s_first=1.0, delay_s_max=60.0)
TESTS_AT_ONCE: Final = 8
RIGHTS_S: Final = 60.0  # a right that was taken back ends deliveries after so long
NOT_AUTHORIZED: Final = "the caller that wrote this subscription may no longer read the stream"


class TooManyTestsError(ClientFault):
    """The limit of test deliveries under way is reached."""

    code = "overloaded"


@attrs.frozen(kw_only=True)
class DesiredDelivery:
    """What a delivery is made from; while equal, it goes on as it is."""

    subscription_id: str
    parts: tuple[object, ...] = attrs.field(repr=False)
    expires_ms: int | None
    revision: int

    @property
    def key(self) -> str:
        return self.subscription_id


@attrs.frozen(kw_only=True)
class WebhookStats:
    """Subscriptions under delivery, those of them that fail at present, and deliveries so far."""

    active: int
    failing: int
    deliveries: int
    failures: int


class WebhookManager:
    """Runs a delivery for each active webhook subscription."""

    def __init__(
        self,
        *,
        database: Database,
        feed: Feed,
        cursors: CursorLedger,
        access: Access,
        allowed: Sequence[Network] = (),
        pauses: RestartPolicy = PAUSES,
        rights_s: float = RIGHTS_S,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Args:
        allowed: Networks besides public addresses that may be called, also in plain http.
        pauses: Between tries of a delivery that was not taken.
        rights_s: How often to check whether the caller that wrote a subscription may still read.
        tls: None for the certificate authorities of the public web.
        """
        self._database = database
        self._feed = feed
        self._cursors = cursors
        self._connector = WebhookConnector(allowed, tls)
        self._pauses = pauses
        self._access = access
        self._rights_s = rights_s
        self._deliveries: dict[str, WebhookDelivery] = {}
        self._tests = trio.CapacityLimiter(TESTS_AT_ONCE)
        self._reconciler = Reconciler(
            kind="subscription",
            read=self._read,
            run=self._run_until_expiry,
            backoff=RESTARTS,
            failed=self._interrupted,
            interval_s=_until_expiry_s,
            settle_s=SETTLE_S,
        )

    @property
    def allowed(self) -> tuple[Network, ...]:
        return self._connector.allowed

    @property
    def stats(self) -> WebhookStats:
        running = self._reconciler.running
        deliveries = [self._deliveries[key] for key in running if key in self._deliveries]
        return WebhookStats(
            active=len(running),
            failing=sum(delivery.failing_since_ms is not None for delivery in deliveries),
            deliveries=self._cursors.deliveries,
            failures=self._cursors.failures,
        )

    async def reconcile(self) -> None:
        """Follow a row that was written. Returns once deliveries are as it says, or ``RECONCILE_S`` later."""
        with trio.move_on_after(RECONCILE_S):
            await self._reconciler.wake().wait()

    def restart(self, subscription_id: str) -> None:
        """Begin anew with a subscription: one that waits for its next attempt makes it at once."""
        self._reconciler.restart(subscription_id)

    def next_try_ms(self, subscription_id: str) -> int:
        """When a delivery that was not taken is sent again; 0 where none waits."""
        delivery = self._deliveries.get(subscription_id)
        return 0 if delivery is None else delivery.next_try_ms

    async def test(self, row: Subscription) -> WebhookResponse:
        """Send a webhook's receiver a signed test message, once, now.

        Raises:
            TooManyTestsError
        """
        options = read_delivery(row.delivery)
        message = {"type": "test", "subscriptionId": row.subscription_id, "timestamp": rfc3339(clock_ms())}
        name = f"{message_id(row.subscription_id, [])}_{clock_ms()}"
        request = DeliveryRequest(name=name, body=orjson.dumps(message), upto=cursor_of(row))
        connection = WebhookConnection(read_callback_url(row.callback_url or "", self.allowed), self._connector)
        try:
            self._tests.acquire_nowait()
        except trio.WouldBlock as full:
            raise TooManyTestsError(f"{TESTS_AT_ONCE} test deliveries are under way, the most at once") from full
        try:
            return await send(connection, request, _secrets(row), options.timeout_seconds)
        finally:
            self._tests.release()
            await connection.aclose()

    async def run(self) -> None:
        """Deliver until cancelled."""
        await self._reconciler.run()

    async def _read(self) -> list[DesiredDelivery]:
        desired = await self._database.run(_desired)
        keys = {each.key for each in desired}
        self._deliveries = {key: delivery for key, delivery in self._deliveries.items() if key in keys}
        return desired

    async def _run_until_expiry(self, desired: DesiredDelivery) -> None:
        with trio.CancelScope(deadline=_deadline_s(desired)):
            await self._deliver(desired)

    def _interrupted(self, desired: DesiredDelivery, error: Exception, pause_s: float) -> float:
        """Show that the node itself could not go on, which is not the receiver's fault."""
        log.warning("webhook.interrupted", why=str(error))
        delivery = self._deliveries.get(desired.subscription_id)
        if delivery is None:
            return pause_s
        step = Step(
            revision=desired.revision,
            last_failure_ms=clock_ms(),
            last_failure_reason=f"the node: {error}",
            failing_since_ms=delivery.failing_since_ms,
        )
        self._cursors.note(desired.subscription_id, step)
        return pause_s

    async def _deliver(self, desired: DesiredDelivery) -> None:
        """Deliver from where the subscription stands until it has to be paused; pause it."""
        await self._cursors.flush()
        subscription_id = desired.subscription_id
        row = await self._database.run(partial(subscriptions.get, subscription_id=subscription_id))
        if row is None or row.subscription_status != "active":
            return
        try:
            delivery = await trio.to_thread.run_sync(self._delivery, row)
        except ClientFault as fault:  # valid when it was written, and not any more
            why = str(fault)
        else:
            self._deliveries[subscription_id] = delivery
            why = await self._while_authorized(row, delivery)
        await self._cursors.flush()
        log.warning("webhook.paused", why=why)
        pause = partial(
            subscriptions.pause, subscription_id=subscription_id, revision=row.cursor_revision, reason=why
        )
        await self._database.run(pause)

    async def _while_authorized(self, row: Subscription, delivery: WebhookDelivery) -> str:
        """Deliver until it has to stop, or is not allowed any more. Returns why."""
        why = NOT_AUTHORIZED
        if not await is_authorized(row, self._access):
            return why
        async with trio.open_nursery() as nursery:

            async def deliver() -> None:
                nonlocal why
                why = await delivery.run()
                nursery.cancel_scope.cancel()

            nursery.start_soon(deliver)
            while await is_authorized(row, self._access):  # noqa: ASYNC110  # no event is set when a right ends
                await trio.sleep(self._rights_s)
            nursery.cancel_scope.cancel()
        return why

    def _delivery(self, row: Subscription) -> WebhookDelivery:
        """Args: row: Of an active webhook. Compiles its filter, which takes long: not for the event loop."""
        return WebhookDelivery(
            subscription_id=row.subscription_id,
            wanted=read_filter(row.filter_criteria, row.overlay_topics),
            options=read_delivery(row.delivery),
            secrets=_secrets(row),
            start=cursor_of(row),
            revision=row.cursor_revision,
            failing_since_ms=row.failing_since_ms,
            connection=WebhookConnection(read_callback_url(row.callback_url or "", self.allowed), self._connector),
            database=self._database,
            feed=self._feed,
            cursors=self._cursors,
            pauses=self._pauses,
        )


def _secrets(row: Subscription) -> WebhookSecrets:
    assert row.secret is not None, "webhooks have one from the beginning"
    return WebhookSecrets(
        current=row.secret, previous=row.previous_secret, previous_until_ms=row.previous_secret_until_ms
    )


def _desired(connection: "Connection") -> list[DesiredDelivery]:
    subscriptions.expire(connection, moment_of(clock_ms()))
    return [
        DesiredDelivery(
            subscription_id=row.subscription_id,
            parts=(
                row.callback_url,
                row.filter_criteria,
                row.overlay_topics,
                row.delivery,
                row.secret,
                row.previous_secret,
                row.previous_secret_until_ms,
            ),
            revision=row.cursor_revision,
            expires_ms=milliseconds(row.expires_at),
        )
        for row in subscriptions.active(connection, "webhook", WEBHOOKS_MAX)
    ]


def _deadline_s(desired: DesiredDelivery) -> float:
    """When a delivery ends, by trio's clock."""
    if desired.expires_ms is None:
        return float("inf")
    return trio.current_time() + (desired.expires_ms - clock_ms()) / 1000


def _until_expiry_s(desired: Sequence[DesiredDelivery]) -> float:
    """How long the rows can be left alone."""
    left_ms = min((each.expires_ms - clock_ms() for each in desired if each.expires_ms is not None), default=60_000)
    return min(READ_S, max(0.01, left_ms / 1000))
