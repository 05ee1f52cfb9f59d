"""The Quart app: blueprints by resource, problems for errors, headers for safety, an id for every request."""

import re
import secrets
from functools import cache, partial
from typing import Final

import orjson
from quart import Response, g, has_request_context, has_websocket_context, request, websocket
from quart_trio import QuartTrio

from node.api import authentication, problems
from node.api.docs import OPENAPI
from node.api.ingest_gate import IngestGate
from node.api.openapi import document
from node.api.operations import OTHER, OtherSegment
from node.api.pacing import BODY_BUDGET, PacedConnection, PacedRequest
from node.api.resources import RESOURCES, SERVED_RESOURCES
from node.api.services import Services
from node.api.wire import body_budget
from storage.patience import REQUEST_S, WAITS_S

REQUEST_ID: Final = re.compile("[A-Za-z0-9._-]{1,64}")
SECURITY_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}

# No cookie or network position gives a page any right here: rights come from signatures. Where every caller is an
# operator (open_admin) that does not hold, and pages of other origins are refused.
CROSS_ORIGIN: Final = {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "*"}
PREFLIGHT: Final = {"Access-Control-Allow-Headers": "Authorization, *", "Access-Control-Max-Age": "86400"}


@cache
def description(server_url: str) -> bytes:
    """The interface described, as JSON; made when it is first asked for, since that takes some tenths of a second."""
    return orjson.dumps(document(RESOURCES, server_url))


def create_app(services: Services) -> QuartTrio:
    """Build the node's HTTP interface."""
    app = QuartTrio("node.api", static_folder=None)
    app.asgi_http_class = PacedConnection
    app.request_class = PacedRequest
    app.config["MAX_CONTENT_LENGTH"] = services.settings.body_bytes_max
    app.config[BODY_BUDGET] = partial(body_budget, services.ingest)
    app.config["BODY_TIMEOUT"] = services.settings.body_timeout_s
    app.config["RESPONSE_TIMEOUT"] = None  # a client that takes nothing is dropped by TCP, see server.py
    app.url_map.strict_slashes = False
    app.url_map.converters[OTHER] = OtherSegment
    app.config[OPENAPI] = partial(description, services.settings.public_url)
    for resource in SERVED_RESOURCES:
        app.register_blueprint(resource.blueprint(services))
    problems.register(app, services.quarantine)

    @app.before_websocket
    @app.before_request
    async def begin_request() -> None:
        WAITS_S.set(REQUEST_S)  # of the task of this request, and of those it starts
        asked = websocket if has_websocket_context() else request
        given = asked.headers.get("X-Request-Id", "")
        g.request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8)

    authentication.register(app, services)

    @app.after_request
    async def finish(response: Response) -> Response:
        for name, value in SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers.setdefault("Cache-Control", "no-store")
        if not services.access.open_admin:
            _open_to_pages(response)
        response.headers["X-Request-Id"] = g.get("request_id", "")
        return response

    @app.after_websocket  # type: ignore[type-var]
    async def finish_refusal(response: Response | None) -> Response | None:  # none where it was served
        return None if response is None else await finish(response)

    headers = SECURITY_HEADERS | {"Cache-Control": "no-store"}
    if not services.access.open_admin:
        headers |= CROSS_ORIGIN
    app.asgi_app = IngestGate(app.asgi_app, services.ingest.admission.backlog, headers)  # type: ignore[method-assign]
    return app


def _open_to_pages(response: Response) -> None:
    """Wallets and applications in browsers call nodes of any origin (Fetch, section 3.2)."""
    headers = dict(CROSS_ORIGIN)
    if has_request_context() and request.method == "OPTIONS":
        headers |= PREFLIGHT | {"Access-Control-Allow-Methods": response.headers.get("Allow", "")}
    for name, value in headers.items():
        response.headers.setdefault(name, value)
