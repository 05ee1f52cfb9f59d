"""Subscriptions: created, read, changed and deleted by their holders; where the streams of subscriptions start.

Operators may use every subscription, an identity its own. Anonymous callers may have cursors of streams, where these
are public, for a limited time: any client that knows the id, which cannot be guessed, may use such a cursor. Nothing
is sent out for callers that did not prove an identity.
"""

import secrets
from functools import partial
from typing import TYPE_CHECKING, Final

import attrs

from node.delivery.callback_url import read_callback_url
from node.delivery.cursor import WHOLE_BATCH, Cursor, refuse_ahead
from node.delivery.cursor_ledger import CursorLedger
from node.delivery.filters import Filter
from node.delivery.signatures import make_secret
from node.delivery.subscription_documents import (
    DEFAULTS,
    STREAMS,
    Document,
    cursor_of,
    milliseconds,
    moment_of,
    read_delivery,
    read_filter,
    shown,
    status_of,
    unfit_member,
    without_set_once,
)
from node.runtime.access import Access, Caller, Credential, IdentityRequiredError, Need, NotPermittedError
from node.runtime.clock import clock_ms
from node.runtime.guarded_network import Network
from protocols.errors import ClientFault
from storage import batches, subscriptions
from storage.database import Database
from storage.subscriptions import Subscription

if TYPE_CHECKING:
    from psycopg import Connection

SUBSCRIPTIONS_MAX: Final = 10_000
WEBHOOKS_MAX: Final = 1_000  # active ones are a task each
OPERATORS_SHARE: Final = 0.1  # of either: kept free for operators, whatever others create
PER_IDENTITY_MAX: Final = 100
ANONYMOUS_MAX: Final = 1_000  # of all anonymous callers together
ANONYMOUS_MS_MAX: Final = 86_400_000


class UnknownSubscriptionError(ClientFault):
    code = "unknown-subscription"


class TooManySubscriptionsError(ClientFault):
    code = "too-many-subscriptions"


class NotActiveError(ClientFault):
    code = "subscription-not-active"


class NotAWebhookError(ClientFault):
    code = "not-a-webhook"


@attrs.frozen(kw_only=True)
class StreamStart:
    """A subscription that a stream begins with.

    Attributes:
        cursor: All up to there was taken.
        revision: For ``CursorLedger.moved``.
        expires_ms: When the stream has to end.
    """

    subscription_id: str
    wanted: Filter
    cursor: Cursor
    revision: int
    expires_ms: int | None


def create(
    connection: "Connection", values: Document, *, caller: Caller, allowed: tuple[Network, ...]
) -> tuple[Document, str | None]:
    """Make a subscription. Returns it as JSON values, and the secret where one was made for it.

    Args:
        values: As ``subscription_documents.read_values`` reads them of a new one.
        allowed: Networks that may be called besides public addresses.
    """
    values = {**DEFAULTS, **values}
    kind = values.get("subscription_type")
    if kind is None:
        raise unfit_member("subscriptionType", "is missing", "send sse, websocket, webhook or overlay")
    values = _with_holder(values, caller)
    made = None
    if kind == "webhook":
        made = None if "secret" in values else make_secret()
        values.setdefault("secret", made)
    _check(values, kind, allowed)
    values.setdefault("subscription_id", f"sub_{secrets.token_hex(16)}")
    _make_room(connection, values, caller)
    start = values.pop("since", None)
    last = batches.last_sequence(connection)
    if start is None:
        start = Cursor(sequence=last, position=WHOLE_BATCH)
    refuse_ahead(start, last, "/since")
    values["authority"] = _authority(caller)
    row = subscriptions.create(
        connection, {**values, "cursor_sequence": start.sequence, "cursor_position": start.position}
    )
    return shown(row, now_ms=clock_ms(), last_sequence=last), made


def _authority(caller: Caller) -> Document:
    """A caller as ``is_authorized`` reads it."""
    return {
        "identity": None if caller.identity is None else caller.identity.hex(),
        "credentials": [attrs.asdict(shown) for shown in caller.credentials],
    }


async def is_authorized(row: Subscription, access: Access) -> bool:
    """Whether the caller that wrote a subscription may still read the stream."""
    if not row.authority and row.client_identity_key is None:
        return True  # an operator's, of before authorities were kept
    identity = row.authority.get("identity", row.client_identity_key)
    caller = Caller(
        identity=None if identity is None else bytes.fromhex(identity),
        credentials=tuple(Credential(**shown) for shown in row.authority.get("credentials", ())),
    )
    return await access.still_permits(caller, Need.READ, "stream")


def _with_holder(values: Document, caller: Caller) -> Document:
    """The columns with whose it is. Operators make subscriptions for others, too."""
    own = None if caller.identity is None else caller.identity.hex()
    holder = values.get("client_identity_key", own)
    if not caller.operates:
        if own is None:
            return _anonymous(values)
        if holder != own:
            raise NotPermittedError(
                "must be your own identity key", field="/clientIdentityKey", remedy="leave it out"
            )
    return {"client_id": holder or "operator", **values, "client_identity_key": holder}


def _anonymous(values: Document) -> Document:
    if values["subscription_type"] not in STREAMS:
        raise IdentityRequiredError(
            "anonymous callers may only create subscriptions of type sse or websocket",
            remedy="prove your identity: see /docs",
        )
    for name, column in (("subscriptionId", "subscription_id"), ("clientIdentityKey", "client_identity_key")):
        if column in values:
            raise IdentityRequiredError(f"/{name}: must be left out by anonymous callers", remedy="leave it out")
    latest = moment_of(clock_ms() + ANONYMOUS_MS_MAX)
    expires = values["expires_at"]
    expires = latest if expires is None else min(latest, expires)
    return {"client_id": "anonymous", **values, "client_identity_key": None, "expires_at": expires}


def _check(values: Document, kind: str, allowed: tuple[Network, ...]) -> None:
    """Whether the parts fit each other, whole rows or those to be."""
    read_filter(values["filter_criteria"], values["overlay_topics"])
    if kind == "webhook":
        if not values.get("callback_url"):
            raise unfit_member("callbackUrl", "is missing", "send the URL that events are posted to")
        read_callback_url(values["callback_url"], allowed)
        read_delivery(values["delivery"])
        return
    for name, column in (("callbackUrl", "callback_url"), ("delivery", "delivery"), ("secret", "secret")):
        if values.get(column):
            raise unfit_member(name, f"does not apply to subscriptions of type {kind}", "leave it out")


def _make_room(connection: "Connection", values: Document, caller: Caller) -> None:
    """Hold creation to the limits; what has expired makes room.

    Raises:
        TooManySubscriptionsError
    """
    subscriptions.lock_creation(connection)
    holder = values["client_identity_key"]
    for last_try in (False, True):
        counts = subscriptions.count(connection, subscription_type=values["subscription_type"], holder=holder)
        share = 1.0 if caller.operates else 1.0 - OPERATORS_SHARE
        own_max = ANONYMOUS_MAX if holder is None else PER_IDENTITY_MAX
        full = (
            counts.total >= share * SUBSCRIPTIONS_MAX
            or (values["subscription_type"] == "webhook" and counts.of_type >= share * WEBHOOKS_MAX)
            or (not caller.operates and counts.of_holder >= own_max)
        )
        if not full:
            return
        if last_try or not subscriptions.delete_expired(connection, holder=holder, now=moment_of(clock_ms())):
            raise TooManySubscriptionsError(
                f"the limit is reached: you hold {counts.of_holder} subscriptions of {counts.total} on this node",
                remedy="delete subscriptions that are not used",
            )


def find(connection: "Connection", subscription_id: str, caller: Caller, *, lock: bool = False) -> Subscription:
    """A subscription that is the caller's to use.

    Raises:
        UnknownSubscriptionError: There is none, or it is another caller's; the error does not tell which.
    """
    row = subscriptions.get(connection, subscription_id, lock=lock)
    if row is None or not _is_own(row, caller):
        raise UnknownSubscriptionError(f"this node has no subscription {subscription_id[:100]!r} of yours")
    return row


def find_webhook(connection: "Connection", subscription_id: str, *, caller: Caller) -> Subscription:
    """A webhook subscription that is the caller's to use."""
    row = find(connection, subscription_id, caller)
    if row.subscription_type != "webhook":
        raise NotAWebhookError(f"the subscription is of type {row.subscription_type}")
    return row


def _is_own(row: Subscription, caller: Caller) -> bool:
    if caller.operates:
        return True
    if row.client_identity_key is None:
        return row.subscription_type in STREAMS
    return caller.identity is not None and row.client_identity_key == caller.identity.hex()


def get(connection: "Connection", subscription_id: str, *, caller: Caller) -> Document:
    return _shown(connection, find(connection, subscription_id, caller))


def page(connection: "Connection", *, caller: Caller, after: str, limit: int) -> Document:
    """The caller's subscriptions by id; all of them to operators."""
    if caller.identity is None and not caller.operates:
        raise IdentityRequiredError(
            "listing subscriptions needs an identity",
            remedy="prove your identity, or get a subscription by its id",
        )
    holder = None if caller.operates or caller.identity is None else caller.identity.hex()
    rows = subscriptions.page(connection, holder=holder, after=after, limit=limit)
    now_ms, last = clock_ms(), batches.last_sequence(connection)
    return {
        "subscriptions": [shown(row, now_ms=now_ms, last_sequence=last) for row in rows],
        "nextAfter": rows[-1].subscription_id if len(rows) == limit else None,
    }


def change(
    connection: "Connection",
    subscription_id: str,
    values: Document,
    *,
    caller: Caller,
    allowed: tuple[Network, ...],
) -> Document:
    """Change the columns in ``values``. Active: it goes on from where it stood."""
    known = find(connection, subscription_id, caller, lock=True)
    values = without_set_once(known, values)
    if known.client_identity_key is None and not caller.operates and "expires_at" in values:
        latest = moment_of(clock_ms() + ANONYMOUS_MS_MAX)
        values["expires_at"] = latest if values["expires_at"] is None else min(latest, values["expires_at"])
    row = {**attrs.asdict(known), **values}
    _check(row, known.subscription_type, allowed)
    expires_ms = milliseconds(row["expires_at"])
    expired = expires_ms is not None and expires_ms <= clock_ms()
    if "subscription_status" in values or (known.subscription_status == "expired" and not expired):
        if expired:
            raise NotActiveError("the subscription has expired", remedy="send a later expiresAt with it")
        values.setdefault("subscription_status", "active")
        values |= {"pause_reason": None, "failing_since_ms": None}
    updated = subscriptions.update(connection, subscription_id, {**values, "authority": _authority(caller)})
    assert updated is not None, "it was found in this transaction"
    return _shown(connection, updated)


def delete(connection: "Connection", subscription_id: str, *, caller: Caller) -> None:
    find(connection, subscription_id, caller, lock=True)
    subscriptions.delete(connection, subscription_id)


def replay(connection: "Connection", subscription_id: str, *, since: Cursor, caller: Caller) -> Document:
    """Continue a subscription from another cursor: what comes after it is delivered, again or for the first time."""
    find(connection, subscription_id, caller, lock=True)
    refuse_ahead(since, batches.last_sequence(connection), "/since")
    updated = subscriptions.set_cursor(connection, subscription_id, (since.sequence, since.position))
    assert updated is not None, "it was found in this transaction"
    return _shown(connection, updated)


def rotate(
    connection: "Connection", subscription_id: str, *, given: str | None, keep_s: int, caller: Caller
) -> tuple[Document, str | None]:
    """Sign with another secret from now on, and with the one before too for ``keep_s``.

    Returns the subscription, and the secret where one was made for it.
    """
    known = find_webhook(connection, subscription_id, caller=caller)
    made = None if given is not None else make_secret()
    values = {
        "secret": given or made,
        "previous_secret": known.secret if keep_s else None,
        "previous_secret_until_ms": clock_ms() + 1000 * keep_s if keep_s else 0,
    }
    updated = subscriptions.update(connection, subscription_id, values)
    assert updated is not None, "it was found in this transaction"
    return _shown(connection, updated), made


async def follow(
    database: Database,
    cursors: CursorLedger,
    subscription_id: str,
    *,
    caller: Caller,
    kind: str,
    acknowledged: Cursor | None = None,
) -> StreamStart:
    """Where a stream of a subscription begins, and what it is to carry.

    Args:
        kind: "sse" or "websocket"; the subscription has to be of it.
        acknowledged: What the client has taken (``Last-Event-ID``): the cursor goes forward to it.

    Raises:
        UnknownSubscriptionError: There is none, or it is another's.
        NotActiveError: It is paused, expired, or of another type.
    """
    if acknowledged is not None:
        passed = partial(_passable, subscription_id=subscription_id, caller=caller, cursor=acknowledged)
        cursors.moved(subscription_id, await database.run(passed), acknowledged)
    await cursors.flush()
    return await database.run(partial(_stream_start, subscription_id=subscription_id, caller=caller, kind=kind))


def _passable(connection: "Connection", subscription_id: str, caller: Caller, cursor: Cursor) -> int:
    """The revision of a cursor that may go forward to ``cursor``."""
    row = find(connection, subscription_id, caller)
    refuse_ahead(cursor, batches.last_sequence(connection), "Last-Event-ID")
    return row.cursor_revision


def _stream_start(connection: "Connection", subscription_id: str, caller: Caller, kind: str) -> StreamStart:
    row = find(connection, subscription_id, caller)
    status = status_of(row, clock_ms())
    if row.subscription_type != kind or status != "active":
        raise NotActiveError(
            f"the subscription is {status}, of type {row.subscription_type}",
            remedy=f"use an active subscription of type {kind}",
        )
    return StreamStart(
        subscription_id=subscription_id,
        wanted=read_filter(row.filter_criteria, row.overlay_topics),
        cursor=cursor_of(row),
        revision=row.cursor_revision,
        expires_ms=milliseconds(row.expires_at),
    )


def _shown(connection: "Connection", row: Subscription) -> Document:
    return shown(row, now_ms=clock_ms(), last_sequence=batches.last_sequence(connection))
