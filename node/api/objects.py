"""GET and HEAD /uhrp/{name}: objects by their content (UHRP, BRC-26), whole or a range of them."""

import re
from collections.abc import AsyncGenerator
from typing import Annotated, Final, Literal

import trio
from pydantic import Field, StringConstraints
from quart import Blueprint, Response, request
from werkzeug.exceptions import PreconditionFailed

from node.api.models.base import HeaderModel, JsonObject, QueryModel
from node.api.operations import Answer, Operation, Resource
from node.api.problems import problem
from node.api.ranges import read_range
from node.api.services import Services
from node.api.wire import JSON_TYPE
from node.overlay.objects import Content, Kind
from node.runtime.document_models import SchemaMembers, optional_member
from protocols.errors import ClientFault
from protocols.uhrp import ALPHABET, read_uhrp_url

PATH: Final = "/uhrp/<path:name>"
MEDIA_TYPES: Final = {
    Kind.PAYLOAD: "application/x-ndjson",
    Kind.CERTIFICATE: "application/cbor",
    Kind.POLICY: JSON_TYPE,
}
DIGEST: Final = re.compile("[0-9a-fA-F]{64}")
CHUNK_BYTES: Final = 64 * 1024
TAKEN_S: Final = 30.0  # so long, and what the size takes at this rate, a client may take
TAKEN_BYTES_PER_S: Final = 64 * 1024
YEAR_S: Final = 31_536_000
CROSS_ORIGIN: Final = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "Accept-Ranges, Content-Length, Content-Range, ETag",
    "Cross-Origin-Resource-Policy": "cross-origin",
}
PREFLIGHT: Final = {
    "Allow": "GET, HEAD, OPTIONS",
    "Access-Control-Allow-Methods": "GET, HEAD",
    "Access-Control-Allow-Headers": "If-Match, If-None-Match, If-Range, Range",
    "Access-Control-Max-Age": "86400",
}


class UnknownObjectError(ClientFault):
    """Neither this node nor a peer that it asked has the object."""

    code = "unknown-object"


class ObjectHeaders(HeaderModel):
    byte_range: str = optional_member(
        alias="Range", description="bytes=FIRST-LAST, bytes=FIRST- or bytes=-COUNT (RFC 9110)."
    )


class ObjectQuery(QueryModel):
    local: Literal["true", "false"] = Field("false", description="true: peers are not asked.")


def _open_to_pages(blueprint: Blueprint) -> None:
    """Objects prove themselves by their hash, so pages of any origin may read them (Fetch, section 3.2)."""

    @blueprint.route(PATH, methods=["OPTIONS"], merge_slashes=False, provide_automatic_options=False)
    async def get_object_preflight(name: str) -> Response:
        return Response(b"", status=204, headers=PREFLIGHT)

    @blueprint.after_request
    async def add_headers(response: Response) -> Response:
        response.headers.update(CROSS_ORIGIN)
        return response


objects = Resource("objects", lambda services: services, extend=_open_to_pages)
ObjectName = Annotated[
    str,
    Field(description="A UHRP URL, with its checksum, or a SHA-256 in hexadecimal."),
    StringConstraints(pattern=f"^(?:(?:[uU][hH][rR][pP]:)?(?://)?XU[{ALPHABET}]{{50}}|{DIGEST.pattern})$"),
    SchemaMembers(format="uhrp-url"),
]
CONTENT: Final = {
    "application/x-ndjson": Annotated[str, Field(description="The records of a batch, one a line.")],
    "application/cbor": Annotated[str, Field(description="A quorum certificate.")],
    JSON_TYPE: JsonObject,
}
HEADERS: Final = {"ETag": "The SHA-256, 64 hex digits.", "Accept-Ranges": "bytes"}
NOT_MODIFIED: Final = Answer(description="If-None-Match names it.")


@objects.get(
    PATH,
    Operation(
        operation_id="getObject",
        tag="objects",
        summary="An object by its content: the records of a batch, a quorum certificate or a policy",
        description=(
            "The name is a UHRP URL (BRC-26), after uhrp:// or bare, or a SHA-256 in hex. What is not here is asked "
            "of peers, and checked. A batch's records are canonical JSON, one a line; a certificate is CBOR."
        ),
        path={"name": ObjectName},
        query=ObjectQuery,
        headers=ObjectHeaders,
        answers={
            200: Answer(description="The bytes whose SHA-256 is asked for.", content=CONTENT, headers=HEADERS),
            206: Answer(
                description="The range: one, or the last so many bytes; several are answered whole.",
                content=CONTENT,
                headers={**HEADERS, "Content-Range": "Which bytes of how many."},
            ),
            304: NOT_MODIFIED,
        },
        problems=(
            "invalid-uhrp-url",
            "unknown-object",
            "precondition-failed",
            "range-not-satisfiable",
            "overloaded",
        ),
    ),
    merge_slashes=False,
    provide_automatic_options=False,
)
async def get_object(services: Services, name: str, query: ObjectQuery) -> Response:
    scope = "public" if "objects" in services.access.public_reads else "private"
    local = query.local == "true"
    digest = bytes.fromhex(name) if DIGEST.fullmatch(name) else read_uhrp_url(name)
    content = await services.objects.get(digest, local=local)
    if content is None:
        raise UnknownObjectError(f"the object {name[:80]!r} is not here{'' if local else ', nor at a peer'}")
    response = _answer(content)
    response.headers["Cache-Control"] = f"{scope}, max-age={YEAR_S}, immutable"
    return response


def _answer(content: Content) -> Response:
    """The object as the request's conditions and range ask for it (RFC 9110, sections 13.2.2 and 14.2)."""
    size, tag = len(content), content.digest.hex()
    headers = {"ETag": f'"{tag}"', "Accept-Ranges": "bytes"}
    if request.if_match and not request.if_match.contains(tag):
        raise PreconditionFailed
    if request.if_none_match.contains_weak(tag):
        return Response(b"", status=304, headers=headers)
    span = None
    if request.method == "GET" and request.headers.get("If-Range", headers["ETag"]) == headers["ETag"]:
        span = read_range(request.headers.get("Range"), size)
    if span is None:
        return _body(content, range(size), 200, headers)
    if not span:
        refused = problem("range-not-satisfiable", f"the object has {size} bytes")
        refused.headers["Content-Range"] = f"bytes */{size}"
        return refused
    return _body(content, span, 206, headers | {"Content-Range": f"bytes {span.start}-{span.stop - 1}/{size}"})


def _body(content: Content, span: range, status: int, headers: dict[str, str]) -> Response:
    body = b"" if request.method == "HEAD" else _chunks(content, span)
    response = Response(body, status=status, headers=headers, content_type=MEDIA_TYPES[content.kind])
    response.headers["Content-Length"] = str(len(span))
    return response


async def _chunks(content: Content, span: range) -> AsyncGenerator[bytes, None]:
    """A range in parts, to a client that takes them at some speed."""
    deadline = trio.current_time() + TAKEN_S + len(span) / TAKEN_BYTES_PER_S
    for start in range(span.start, span.stop, CHUNK_BYTES):
        if trio.current_time() > deadline:
            return  # short of its length, so that the server ends the connection
        yield content.data[start : min(start + CHUNK_BYTES, span.stop)]
