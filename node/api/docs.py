"""GET /openapi.json and /docs: the interface described, for programs and for people."""

from functools import cache
from pathlib import Path
from typing import Final

import orjson
from quart import Blueprint, Response, abort

from node.api.openapi import document
from node.api.services import Services
from node.api.wire import JSON_TYPE

STATIC: Final = Path(__file__).parent / "static"
PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FILES: Final = {
    "docs.html": "text/html; charset=utf-8",
    "docs.css": "text/css; charset=utf-8",
    "docs.js": "text/javascript; charset=utf-8",
    "base.css": "text/css; charset=utf-8",
    "certificate.css": "text/css; charset=utf-8",
    "verify_certificate.mjs": "text/javascript; charset=utf-8",
}


@cache
def static_text(name: str) -> bytes:
    return (STATIC / name).read_bytes()


@cache
def openapi_text() -> bytes:
    return orjson.dumps(document())


def routes(_: Services) -> Blueprint:
    blueprint = Blueprint("docs", __name__)

    @blueprint.get("/openapi.json")
    async def openapi() -> Response:
        response = Response(openapi_text(), content_type=JSON_TYPE)
        response.headers["Cache-Control"] = "max-age=300"
        return response

    @blueprint.get("/docs")
    async def page() -> Response:
        return _file("docs.html")

    @blueprint.get("/docs/<name>")
    async def page_part(name: str) -> Response:
        if name not in FILES:
            abort(404)
        return _file(name)

    return blueprint


def _file(name: str) -> Response:
    response = Response(static_text(name), content_type=FILES[name])
    response.headers["Content-Security-Policy"] = PAGE_POLICY
    response.headers["Cache-Control"] = "max-age=300"
    return response
