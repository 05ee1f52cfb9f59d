"""What clients ask a stream for: a filter and a place, by parameters of the address or by a subscription."""

import math
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

import attrs
import trio
from quart import Request, Websocket, g

from node.api.models.stream import StreamQuery
from node.api.services import Services
from node.api.wire import InvalidParameterError
from node.delivery.criteria import InvalidCriteriaError, read_criteria
from node.delivery.cursor import Cursor, read_cursor, refuse_ahead
from node.delivery.filters import Filter
from node.delivery.subscriptions import follow
from node.runtime.access import NotPermittedError
from node.runtime.clock import clock_ms
from storage import batches
from storage.database import Database

LAST_EVENT_ID: Final = "Last-Event-ID"


@attrs.frozen(kw_only=True)
class StreamRequest:
    """What a client asks for.

    Attributes:
        start: None for what comes from now on.
        acknowledge: Called with what the client has taken, where a subscription keeps its place.
        ends_s: When its subscription expires, by trio's clock.
    """

    wanted: Filter
    start: Cursor | None
    acknowledge: Callable[[Cursor], None] | None = None
    ends_s: float = math.inf


async def read_stream_request(
    services: Services, asked: Request | Websocket, query: StreamQuery, kind: str
) -> StreamRequest:
    """What a client asks for.

    Args:
        kind: Of subscription that may be named: "sse" or "websocket".

    Raises:
        InvalidParameterError: A parameter is wrong, or is sent beside subscriptionId.
        AheadOfFeedError: The feed has not come to the place that is named.
        UnknownSubscriptionError, NotActiveError: The subscription cannot be followed.
    """
    named, field = asked.headers.get(LAST_EVENT_ID), LAST_EVENT_ID
    if query.subscription_id is None:
        wanted, since = read_filter(query), read_start(query.since, "since")
        start = read_start(named, field)
        if start is None:
            start, field = since, "since"
        if start is not None:
            await check_place(services.database, start, field=field)
        return StreamRequest(wanted=wanted, start=start)
    others = [name for name in asked.args if name != "subscriptionId"]
    if others:
        raise InvalidParameterError(
            f"{others[0][:80]!r} must not be sent beside subscriptionId",
            field=others[0][:80],
            remedy="change the subscription",
        )
    followed = await follow(
        services.database,
        services.cursors,
        query.subscription_id,
        caller=g.caller,
        kind=kind,
        acknowledged=read_start(named, field),
    )
    expires_ms, cursors = followed.expires_ms, services.cursors
    return StreamRequest(
        wanted=followed.wanted,
        start=followed.cursor,
        acknowledge=lambda place: cursors.moved(followed.subscription_id, followed.revision, place),
        ends_s=math.inf if expires_ms is None else trio.current_time() + (expires_ms - clock_ms()) / 1000,
    )


def read_filter(query: StreamQuery) -> Filter:
    """The filter that the parameters describe.

    Raises:
        InvalidParameterError: One of them is wrong.
    """
    criteria: dict[str, Any] = {
        "minCertificationLevel": query.min_certification_level,
        "status": query.status,
        "includeProcessingEvidence": query.include_processing_evidence == "true",
        "includeCertificate": query.include_certificate == "true",
    }
    lists = {"topics": query.topics, "sourceIds": query.source_ids, "eventTypes": query.event_types}
    criteria |= {name: list(items) for name, items in lists.items() if items}
    if query.filter:
        criteria["expression"] = query.filter
    try:
        return read_criteria(criteria)
    except InvalidCriteriaError as error:
        member = str(error.fields["field"]).split("/")[1]
        field = "filter" if member == "expression" else member
        raise InvalidParameterError(str(error), field=field, remedy=error.fields["remedy"]) from error


async def check_place(database: Database, place: Cursor, *, field: str) -> None:
    """Raise AheadOfFeedError where the feed has not come to a place. The feed in memory lags behind its database."""
    refuse_ahead(place, await database.run(batches.last_sequence), field)


def read_start(text: str | None, field: str) -> Cursor | None:
    """A place as a client names it in a parameter or header called ``field``; None where it names none.

    Raises:
        InvalidParameterError: It is not in the form of one.
    """
    if not text:
        return None
    try:
        return read_cursor(text)
    except ValueError as error:
        raise InvalidParameterError(
            f"{field!r} must be a place in the feed, such as 12.5, found {text[:40]!r}",
            field=field,
            remedy="use the id of the last event received, or 0 for everything",
        ) from error


def refuse_other_origins(asked: Websocket) -> None:
    """Where everybody is an operator, pages of other origins are kept out, as the missing CORS headers do for HTTP.

    Raises:
        NotPermittedError: The Origin header names another origin (RFC 6455, section 10.2).
    """
    origin = asked.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != asked.headers.get("Host"):
        raise NotPermittedError(f"a page of {origin[:200]!r} is not permitted", remedy="use the node's own origin")
