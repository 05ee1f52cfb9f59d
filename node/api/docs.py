"""GET /openapi.json and /docs: the interface described, for programs and for people."""

from typing import Final, Literal

import trio
from quart import Response, abort, current_app

from node.api.models.base import JsonObject
from node.api.operations import Answer, Operation, Resource, json_answer
from node.api.services import Services
from node.api.static_files import FILES, PAGE_POLICY, static_text
from node.api.wire import JSON_TYPE

OPENAPI: Final = "OPENAPI"
"""Where the app's configuration has a function that makes the description, which covers this module too."""

docs = Resource("docs", lambda services: services)


@docs.get(
    "/openapi.json",
    Operation(
        operation_id="getOpenapi",
        tag="node",
        summary="This document",
        answers={200: json_answer("OpenAPI 3.1.", JsonObject)},
    ),
)
async def openapi(_: Services) -> Response:
    text = await trio.to_thread.run_sync(current_app.config[OPENAPI])
    response = Response(text, content_type=JSON_TYPE)
    response.headers["Cache-Control"] = "max-age=300"
    return response


@docs.get(
    "/docs",
    Operation(
        operation_id="getDocs",
        tag="node",
        summary="This document, to read",
        answers={200: Answer(description="A page.", content={"text/html": str})},
    ),
)
async def page(_: Services) -> Response:
    return _file("docs.html")


@docs.get(
    "/docs/<name>",
    Operation(
        operation_id="getDocsPart",
        tag="node",
        summary="Script and style of that page",
        path={
            "name": Literal[
                "docs.html", "docs.css", "docs.js", "base.css", "certificate.css", "verify_certificate.mjs"
            ]
        },
        answers={
            200: Answer(description="A file.", content={"text/html": str, "text/css": str, "text/javascript": str})
        },
        problems=("not-found",),
    ),
)
async def page_part(_: Services, name: str) -> Response:
    if name not in FILES:
        abort(404)
    return _file(name)


def _file(name: str) -> Response:
    response = Response(static_text(name), content_type=FILES[name])
    response.headers["Content-Security-Policy"] = PAGE_POLICY
    response.headers["Cache-Control"] = "max-age=300"
    return response
