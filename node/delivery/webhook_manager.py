"""Keeps every active webhook subscription delivered: started, changed, paused and ended as its row says.

Each is a task of its own with a connection of its own, so that a receiver that is slow or dead holds up nobody else;
there are as many as there may be webhook subscriptions, and each has one request under way.
"""

import ssl
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import attrs
import orjson
import structlog
import trio

from node.delivery.cursor_ledger import CursorLedger
from node.delivery.feed import Feed
from node.delivery.posting import Answer, Dialler, Line, read_receiver
from node.delivery.signatures import message_id
from node.delivery.subscription_documents import milliseconds, moment_of, place_of, read_delivery, read_filter
from node.delivery.subscriptions import WEBHOOKS_MAX, is_vouched
from node.delivery.webhook import Delivery, Parcel, Secrets, send
from node.runtime.access import Access
from node.runtime.clock import clock_ms
from node.runtime.guarded_http import Network
from node.runtime.supervisor import RestartPolicy
from protocols.certificate import rfc3339
from protocols.errors import ClientFault, WorldFault
from storage import subscriptions
from storage.database import Database
from storage.subscriptions import Step, Subscription

if TYPE_CHECKING:
    from psycopg import Connection

log = structlog.get_logger(__name__)

LOOK_S_MIN: Final = 0.05  # many changes are followed together
HEED_S: Final = 5.0
LOOK_S: Final = 5.0  # a row that was changed by other hands is seen after so long
PAUSES: Final = RestartPolicy(delay_s_first=1.0, delay_s_max=300.0)
RESTARTS: Final = RestartPolicy(delay_s_first=1.0, delay_s_max=60.0)
TESTS_AT_ONCE: Final = 8
RIGHTS_S: Final = 60.0  # a right that was taken back is missed after so long
UNVOUCHED: Final = "whoever wrote this subscription may not read the stream any more"


class TooManyTestsError(ClientFault):
    """As many test deliveries as may be are under way."""

    code = "overloaded"


@attrs.frozen(kw_only=True)
class Wanted:
    """What a delivery is made from. Equal: nothing to do."""

    subscription_id: str
    parts: tuple[object, ...] = attrs.field(repr=False)
    expires_ms: int | None
    revision: int


@attrs.define(kw_only=True)
class _Running:
    wanted: Wanted
    scope: trio.CancelScope
    ended: trio.Event = attrs.Factory(trio.Event)
    delivery: Delivery | None = None


@attrs.frozen(kw_only=True)
class WebhookStats:
    """Subscriptions being delivered, those of them whose receiver refuses at present, and deliveries so far."""

    active: int
    failing: int
    deliveries: int
    failures: int


class WebhookKeeper:
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
        rights_s: How often it is looked whether who wrote a subscription may still read.
        tls: None for the certificate authorities of the public web.
        """
        self._database = database
        self._feed = feed
        self._cursors = cursors
        self._dialler = Dialler(allowed, tls)
        self._pauses = pauses
        self._access = access
        self._rights_s = rights_s
        self._running: dict[str, _Running] = {}
        self._tests = trio.CapacityLimiter(TESTS_AT_ONCE)
        self._news = trio.Event()
        self._heeded: list[trio.Event] = []

    @property
    def allowed(self) -> tuple[Network, ...]:
        return self._dialler.allowed

    @property
    def stats(self) -> WebhookStats:
        running = [each.delivery for each in self._running.values() if not each.ended.is_set()]
        return WebhookStats(
            active=len(running),
            failing=sum(delivery is not None and delivery.failing_since_ms is not None for delivery in running),
            deliveries=self._cursors.deliveries,
            failures=self._cursors.failures,
        )

    async def heed(self) -> None:
        """Look at the rows again: one was written. Returns once deliveries are as it says, or ``HEED_S`` later."""
        heeded = trio.Event()
        self._heeded.append(heeded)
        self._news.set()
        with trio.move_on_after(HEED_S):
            await heeded.wait()

    def restart(self, subscription_id: str) -> None:
        """Begin anew with a subscription: one that waits for its next try, tries at once."""
        running = self._running.get(subscription_id)
        if running is not None:
            running.scope.cancel()
        self._news.set()

    def next_try_ms(self, subscription_id: str) -> int:
        """When a delivery that was not taken is sent again; 0 where none waits."""
        running = self._running.get(subscription_id)
        return 0 if running is None or running.delivery is None else running.delivery.next_try_ms

    async def test(self, row: Subscription) -> Answer:
        """Send a webhook's receiver a signed message that is no event, once, now.

        Raises:
            TooManyTestsError
        """
        options = read_delivery(row.delivery)
        message = {"type": "test", "subscriptionId": row.subscription_id, "timestamp": rfc3339(clock_ms())}
        name = f"{message_id(row.subscription_id, [])}_{clock_ms()}"
        parcel = Parcel(name=name, body=orjson.dumps(message), upto=place_of(row))
        line = Line(read_receiver(row.callback_url or "", self.allowed), self._dialler)
        try:
            self._tests.acquire_nowait()
        except trio.WouldBlock as full:
            raise TooManyTestsError(f"{TESTS_AT_ONCE} tests are under way") from full
        try:
            return await send(line, parcel, _secrets(row), options.timeout_seconds)
        finally:
            self._tests.release()
            await line.aclose()

    async def run(self) -> None:
        """Keep the deliveries running until cancelled."""
        async with trio.open_nursery() as nursery:
            try:
                while True:
                    self._news = trio.Event()
                    heeded, self._heeded = self._heeded, []
                    wanted = await self._database.run(_wanted)
                    await self._follow(wanted, nursery)
                    for each in heeded:
                        each.set()
                    await trio.sleep(LOOK_S_MIN)
                    with trio.move_on_after(_until_expiry_s(wanted)):
                        await self._news.wait()
            finally:
                self._running.clear()

    async def _follow(self, wanted: Sequence[Wanted], nursery: trio.Nursery) -> None:
        by_id = {each.subscription_id: each for each in wanted}
        over = {
            subscription_id: running
            for subscription_id, running in self._running.items()
            if by_id.get(subscription_id) != running.wanted
            or running.scope.cancel_called
            or running.ended.is_set()  # it was paused, and is active again
        }
        for running in over.values():
            running.scope.cancel()
        for subscription_id, running in over.items():
            await running.ended.wait()
            del self._running[subscription_id]
        for subscription_id, each in by_id.items():
            if subscription_id not in self._running:
                running = _Running(wanted=each, scope=trio.CancelScope(deadline=_deadline_s(each)))
                self._running[subscription_id] = running
                nursery.start_soon(self._keep, running)

    async def _keep(self, running: _Running) -> None:
        """Deliver until the subscription is paused, or its scope is cancelled."""
        subscription_id = running.wanted.subscription_id
        try:
            with running.scope, structlog.contextvars.bound_contextvars(subscription=subscription_id):
                over, delay_s = False, RESTARTS.delay_s_first
                while not over:
                    try:
                        await self._once(running)
                        over = True
                    except* WorldFault as faults:
                        self._interrupted(running, faults)
                        await trio.sleep(delay_s)
                        delay_s = min(2 * delay_s, RESTARTS.delay_s_max)
        finally:
            running.ended.set()

    def _interrupted(self, running: _Running, faults: BaseExceptionGroup[WorldFault]) -> None:
        """The node itself could not go on: shown, and no fault of the receiver."""
        fault: BaseException = faults
        while isinstance(fault, BaseExceptionGroup):
            fault = fault.exceptions[0]
        log.warning("webhook.interrupted", why=str(fault))
        if running.delivery is None:
            return
        step = Step(
            revision=running.wanted.revision,
            last_failure_ms=clock_ms(),
            last_failure_reason=f"the node: {fault}",
            failing_since_ms=running.delivery.failing_since_ms,
        )
        self._cursors.note(running.wanted.subscription_id, step)

    async def _once(self, running: _Running) -> None:
        """Deliver from where the subscription stands until it has to be paused; pause it."""
        await self._cursors.flush()
        subscription_id = running.wanted.subscription_id
        row = await self._database.run(partial(subscriptions.get, subscription_id=subscription_id))
        if row is None or row.subscription_status != "active":
            return
        try:
            running.delivery = await trio.to_thread.run_sync(self._delivery, row)
        except ClientFault as fault:  # what was right when it was written, and is not any more
            why = str(fault)
        else:
            why = await self._while_vouched(row, running.delivery)
        await self._cursors.flush()
        log.warning("webhook.paused", why=why)
        pause = partial(
            subscriptions.pause, subscription_id=subscription_id, revision=row.cursor_revision, reason=why
        )
        await self._database.run(pause)

    async def _while_vouched(self, row: Subscription, delivery: Delivery) -> str:
        """Deliver until that makes no sense, or is not allowed, any more. Returns why."""
        why = UNVOUCHED
        if not await is_vouched(row, self._access):
            return why
        async with trio.open_nursery() as nursery:

            async def deliver() -> None:
                nonlocal why
                why = await delivery.run()
                nursery.cancel_scope.cancel()

            nursery.start_soon(deliver)
            while await is_vouched(row, self._access):  # noqa: ASYNC110  # nobody tells when a right is taken back
                await trio.sleep(self._rights_s)
            nursery.cancel_scope.cancel()
        return why

    def _delivery(self, row: Subscription) -> Delivery:
        """Args: row: Of an active webhook. Compiles its filter: not for the event loop."""
        return Delivery(
            subscription_id=row.subscription_id,
            wanted=read_filter(row.filter_criteria, row.overlay_topics),
            options=read_delivery(row.delivery),
            secrets=_secrets(row),
            start=place_of(row),
            revision=row.cursor_revision,
            failing_since_ms=row.failing_since_ms,
            line=Line(read_receiver(row.callback_url or "", self.allowed), self._dialler),
            database=self._database,
            feed=self._feed,
            cursors=self._cursors,
            pauses=self._pauses,
        )


def _secrets(row: Subscription) -> Secrets:
    assert row.secret is not None, "webhooks have one from the beginning"
    return Secrets(current=row.secret, previous=row.previous_secret, previous_until_ms=row.previous_secret_until_ms)


def _wanted(connection: "Connection") -> list[Wanted]:
    subscriptions.expire(connection, moment_of(clock_ms()))
    return [
        Wanted(
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


def _deadline_s(wanted: Wanted) -> float:
    """When a delivery ends on trio's clock."""
    if wanted.expires_ms is None:
        return float("inf")
    return trio.current_time() + (wanted.expires_ms - clock_ms()) / 1000


def _until_expiry_s(wanted: Sequence[Wanted]) -> float:
    """How long the rows can be left alone."""
    left_ms = min((each.expires_ms - clock_ms() for each in wanted if each.expires_ms is not None), default=60_000)
    return min(LOOK_S, max(0.01, left_ms / 1000))
