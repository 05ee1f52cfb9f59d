"""The one table from error code to HTTP status, and RFC 9457 problem documents.

``type`` is ``urn:overlay:problem:<code>``: stable, part of the interface. ``remedy`` states what to do about it.
"""

from collections.abc import Mapping
from typing import Any, Final

import orjson
import structlog
from quart import Quart, Response, has_websocket_context, request, websocket
from werkzeug.exceptions import HTTPException

from node.runtime.containment import Quarantine
from protocols.errors import OverlayError, OwnFault

log = structlog.get_logger(__name__)

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:overlay:problem:"

# code: (status, title, remedy where the error itself has none)
PROBLEMS: Final[dict[str, tuple[int, str, str]]] = {
    "invalid-json": (400, "The body is not acceptable JSON", "Send one JSON document in UTF-8."),
    "invalid-request": (400, "The request does not have the form described", "See /openapi.json for the form."),
    "invalid-parameter": (400, "A query parameter is wrong", "See /openapi.json for the parameters."),
    "invalid-filter": (400, "The filter criteria are wrong", "Correct the member named; see /openapi.json."),
    "invalid-message": (400, "The message is not understood", "See /openapi.json for messages of the stream."),
    "invalid-uhrp-url": (400, "Not a UHRP URL", "Use XU and 50 characters, or a SHA-256 in hex."),
    "invalid-query": (422, "The service does not know the query", "Its documentation describes the queries."),
    "not-canonicalizable": (400, "A value has no canonical JSON form", "Send such numbers as strings."),
    "storage-refused": (400, "A value cannot be stored", "Leave out U+0000, and send numbers as described."),
    "bad-request": (400, "The request is not understood", "See /openapi.json for the form."),
    "invalid-idempotency-key": (
        400,
        "The idempotency key is wrong",
        "Send 1 to 255 visible characters, a UUID for example.",
    ),
    "invalid-authentication": (400, "The proof of identity is malformed", "Correct the header or member named."),
    "not-authenticated": (401, "The identity is not proven", "Repeat the handshake, or sign the request again."),
    "identity-required": (401, "The route requires a proven identity", "Sign the request: see /docs."),
    "not-permitted": (403, "The identity may not do this", "Ask the node's operator."),
    "source-bound": (403, "The source belongs to one identity", "Prove that identity, or use another source."),
    "signature-refused": (
        401,
        "The delivery is not signed as required",
        "Sign it with the source's secret.",
    ),
    "no-webhook": (404, "The source takes no webhooks", "Set 'scheme' in its configuration, or use the ingest API."),
    "invalid-submission": (
        400,
        "The submission does not have its form",
        "See /openapi.json for headers and body.",
    ),
    "invalid-beef": (400, "The body is not BEEF", "Send a transaction with its ancestry: BRC-62, 95 or 96."),
    "invalid-transaction": (422, "The transaction cannot be valid", "Correct the transaction named."),
    "unknown-topics": (422, "None of the topics is managed here", "See /listTopicManagers."),
    "unknown-topic-manager": (404, "No such topic manager", "See /listTopicManagers."),
    "unknown-service": (404, "No such lookup service", "See /listLookupServiceProviders."),
    "double-spend": (409, "The coin is spent", "Submit the transaction that spends it first."),
    "topic-full": (429, "The topic is at its limit of outputs", "Spend old ones, or use another node."),
    "unknown-source": (404, "No such source", "Register it with POST /overlay/sources."),
    "unknown-event": (404, "No such event", "Event ids come with the answer to POST /overlay/events/ingest."),
    "unknown-batch": (404, "No such batch", "Receipts and certificates contain batch ids."),
    "unknown-policy": (404, "No such policy", "Sources and certificates contain policy hashes."),
    "unknown-object": (404, "No such object", "Ask again later: a peer that has it may come back."),
    "unknown-agent": (404, "No such agent", "GET /overlay/agents lists those there are."),
    "unknown-job": (404, "No such job", "GET /overlay/jobs lists the latest."),
    "unknown-template": (404, "No such template", "GET /overlay/job-templates lists those in use."),
    "unknown-dead-letter": (404, "No such dead batch", "GET /overlay/dead-letters lists those there are."),
    "not-dead": (409, "The batch is not dead", "GET /overlay/batches/{batchId} shows its state."),
    "unknown-subscription": (404, "No such subscription", "GET /overlay/subscriptions lists yours."),
    "not-found": (404, "Nothing is at this address", "See /docs for what there is."),
    "method-not-allowed": (405, "The method does not apply here", "See the Allow header."),
    "request-timeout": (408, "The body did not arrive in time", "Send it again, in smaller requests."),
    "stream-idle": (408, "The stream was silent for too long", "Go on after the last acknowledged line."),
    "source-exists": (409, "The source exists", "Change it with PATCH /overlay/sources/{sourceId}."),
    "subscription-exists": (409, "The subscription exists", "Change it with PATCH, or leave its id out."),
    "fixed-member": (409, "A member is set at creation only", "Leave it out, or create another."),
    "ahead-of-feed": (409, "The place is after the end of the feed", "Use a place that was received, or 0."),
    "not-a-webhook": (409, "The subscription is not a webhook", "Use one of type webhook."),
    "unfit-member": (422, "A member does not fit the others", "Correct the member named."),
    "subscription-not-active": (409, "The subscription is not active", "Set its subscriptionStatus to active."),
    "not-certified": (409, "The event is not certified yet", "Ask again shortly."),
    "event-dead": (
        409,
        "The event ran out of attempts",
        "The batch shows the reasons: GET /overlay/batches/{batchId}.",
    ),
    "event-expired": (410, "The event is deleted", "A certificate that was kept still proves it."),
    "precondition-failed": (412, "The condition does not hold", "Compare the ETag; it is the SHA-256 in hex."),
    "body-too-large": (413, "The body is too large", "Split it into smaller requests."),
    "too-costly": (413, "The body takes too long to read for its size", "Split it into smaller requests."),
    "too-many-events": (413, "Too many events in one request", "Send them in several requests."),
    "unsupported-media-type": (415, "The media type is not supported", "Send application/json; see /openapi.json."),
    "headers-too-large": (431, "The headers are too large", "Send fewer or shorter headers, or a shorter address."),
    "transfer-coding-unknown": (
        501,
        "The transfer coding is not known",
        "Send the body chunked, or its length.",
    ),
    "range-not-satisfiable": (416, "No byte is in the range", "Content-Range has the object's size."),
    "invalid-configuration": (422, "The source's configuration is not usable", "Correct the field named."),
    "source-fault": (503, "The source cannot be read", "See its state at /overlay/sources/{sourceId}."),
    "invalid-callback": (422, "The callback URL may not be called", "Send an https URL of a public host."),
    "invalid-policy": (422, "The policy is not usable", "Correct the document at the path named."),
    "missing-function": (
        422,
        "A function of the policy is not installed here",
        "Install its package on this node.",
    ),
    "invalid-template": (422, "The job template is not usable", "Correct the field named."),
    "source-disabled": (403, "The source is disabled", "Enable it with PATCH /overlay/sources/{sourceId}."),
    "too-many-subscriptions": (
        429,
        "The limit of subscriptions is reached",
        "Delete some that are not used.",
    ),
    "too-many-messages": (429, "Too many messages on one connection", "Send fewer a second."),
    "overloaded": (429, "The node is at its limit", "Wait for Retry-After seconds, then send it again."),
    "allowance-used": (
        429,
        "Your share of processor time is used up",
        "Wait for Retry-After seconds, then send it again.",
    ),
    "idempotency-key-in-use": (409, "The first request with this key is in progress", "Ask again shortly."),
    "idempotency-key-reused": (422, "The key was used for another request", "Use a new key for each request."),
    "internal": (500, "The node failed", "Tell its operator the request id."),
    "unavailable": (503, "Something the node needs is down", "Send it again shortly."),
    "workers-busy": (503, "Too many requests wait for a worker", "Send it again shortly."),
    "database-unavailable": (503, "The database does not answer", "Send it again: a repeat is harmless."),
    "ingestion-disabled": (503, "This node does not accept events", "Send events to another node."),
    "not-synced": (503, "The node has not caught up yet", "Ask again shortly, or another node."),
    "worker-timeout": (503, "A worker process took too long", "Send the request again shortly."),
    "worker-crashed": (503, "A worker process ended over the request", "Send the request again shortly."),
    "too-few-holders": (503, "Too few peers could hold the batch", "Ask for durability 'local', or send it later."),
    "not-replicated": (503, "Too few peers hold the batch so far", "Send it again: a repeat is harmless."),
    "stream-disabled": (503, "This node serves no streams", "Use another node."),
    "too-many-expressions": (
        503,
        "The limit of expressions is reached",
        "Filter at the client, or elsewhere.",
    ),
    "too-many-streams": (503, "The limit of streams is reached", "Try again later, or elsewhere."),
}
HTTP_CODES: Final = {
    400: "bad-request",
    404: "not-found",
    405: "method-not-allowed",
    408: "request-timeout",
    412: "precondition-failed",
    413: "body-too-large",
    415: "unsupported-media-type",
    431: "headers-too-large",
    500: "internal",
    503: "unavailable",
    501: "transfer-coding-unknown",
}
RETRY_AFTER_S: Final = {
    "idempotency-key-in-use": 1,
    "workers-busy": 2,
    "worker-timeout": 5,
    "worker-crashed": 5,
    "overloaded": 1,
    "allowance-used": 1,
    "too-many-subscriptions": 60,
    "unavailable": 2,
    "database-unavailable": 2,
    "not-synced": 2,
    "too-few-holders": 5,
    "not-replicated": 2,
    "too-many-expressions": 10,
    "too-many-streams": 10,
    "not-certified": 1,
    "topic-full": 60,
    "too-many-messages": 1,
    "ingestion-disabled": 300,
    "stream-disabled": 300,
    "source-fault": 10,
}


def described(error: OverlayError) -> tuple[str, dict[str, Any]]:
    """The code that an error has here, and its problem document. A failure of the node's own is logged."""
    code = error.code if error.code in PROBLEMS else "internal"
    if PROBLEMS[code][0] >= 500:
        log.warning("api.failed", code=error.code, why=str(error))
    return code, document(code, str(error), error.fields)


def document(code: str, detail: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """A problem document, JSON values. ``fields`` become members of it."""
    status, title, remedy = PROBLEMS[code]
    head = {"type": TYPE_PREFIX + code, "title": title, "status": status, "detail": detail, "remedy": remedy}
    return {**head, **fields}


def problem(code: str, detail: str) -> Response:
    """A problem document as a response."""
    return _response(code, document(code, detail, {}))


def unread_problem(status: int) -> bytes:
    """The body for a request that the server refuses before the app sees it."""
    code = HTTP_CODES.get(status, "bad-request")
    return orjson.dumps(document(code, f"{PROBLEMS[code][1]}.", {}))


def _response(code: str, document: Mapping[str, Any]) -> Response:
    response = Response(orjson.dumps(document), status=PROBLEMS[code][0], content_type=MEDIA_TYPE)
    if code in RETRY_AFTER_S:
        seconds = document.get("retryAfter", RETRY_AFTER_S[code])
        response.headers["Retry-After"] = str(seconds)
    return response


def register(app: Quart, quarantine: Quarantine) -> None:
    """Make every error that leaves a route a problem document; what was not expected is also kept as evidence."""

    async def on_overlay_error(error: OverlayError) -> Response:
        return _response(*described(error))

    async def on_http_error(error: HTTPException) -> Response:
        code = HTTP_CODES.get(error.code or 500, "bad-request")
        response = problem(code, PROBLEMS[code][1] + ".")
        valid_methods = getattr(error, "valid_methods", None)
        if valid_methods:
            response.headers["Allow"] = ", ".join(sorted(valid_methods))
        return response

    async def on_bug(error: Exception) -> Response:
        asked = websocket if has_websocket_context() else request
        quarantine.keep("request", asked.remote_addr or "local", asked.scope["raw_path"] or b"", error)
        return problem("internal", "The node failed over the request; the failure is logged.")

    app.register_error_handler(Exception, on_bug)
    app.register_error_handler(OverlayError, on_overlay_error)
    app.register_error_handler(OwnFault, on_bug)
    app.register_error_handler(HTTPException, on_http_error)
