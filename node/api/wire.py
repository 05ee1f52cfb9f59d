"""Reading requests and writing answers: bodies within bounds, parameters, JSON."""

import re
from typing import Any, Final

import orjson
import trio
from quart import Request, Response, Websocket, g
from werkzeug.exceptions import RequestEntityTooLarge, RequestTimeout, UnsupportedMediaType

from node.ingest.admission_control import ByteBudget
from protocols.canonical import parse_json
from protocols.errors import ClientFault
from protocols.limits import BEEF_BYTES_MAX

JSON_TYPE: Final = "application/json"
DOCUMENT_BYTES_MAX: Final = 1024 * 1024  # all bodies but those of events
OFF_CHAIN_BYTES_MAX: Final = 1024 * 1024  # of a submission
SUBMISSION_BYTES_MAX: Final = BEEF_BYTES_MAX + OFF_CHAIN_BYTES_MAX + 16
LIST_MAX: Final = 64
PAGE_MAX: Final = 1_000
PAGE_DEFAULT: Final = 100
COUNTER: Final = re.compile("[0-9]{1,9}")


class InvalidParameterError(ClientFault):
    """Field: ``field``, the parameter's name."""

    code = "invalid-parameter"


def answer(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status=status, content_type=JSON_TYPE)


def require_json(request: Request) -> None:
    """Refuse all but uncompressed ``application/json``."""
    if request.mimetype != JSON_TYPE or request.headers.get("Content-Encoding", "identity") != "identity":
        raise UnsupportedMediaType


async def read_body(request: Request, timeout_s: float, bytes_max: int, budget: ByteBudget | None = None) -> bytes:
    """Read a body whole, counting its bytes as they come; one read for authentication is not read again.

    Raises:
        RequestEntityTooLarge: Past ``bytes_max``; nothing more of it is kept.
        RequestTimeout: It did not arrive within ``timeout_s``.
        OverloadedError: ``budget`` is used up.
    """
    if "body" in g:
        return _within(g.body, bytes_max)
    declared = request.content_length
    if declared is not None and declared > bytes_max:
        raise RequestEntityTooLarge
    if budget is not None and declared is not None:
        budget.take(declared)
    parts: list[bytes] = []
    size = 0
    with trio.move_on_after(timeout_s):
        async for part in request.body:
            size += len(part)
            if size > bytes_max:
                parts.clear()
                raise RequestEntityTooLarge
            if budget is not None and declared is None:
                budget.take(len(part))
            parts.append(part)
        return b"".join(parts)
    raise RequestTimeout


def _within(body: bytes, bytes_max: int) -> bytes:
    if len(body) > bytes_max:
        raise RequestEntityTooLarge
    return body


async def read_document(request: Request, timeout_s: float) -> dict[str, Any]:
    """Read a JSON object."""
    require_json(request)
    document = parse_json(await read_body(request, timeout_s, DOCUMENT_BYTES_MAX))
    if not isinstance(document, dict):
        raise ClientFault("the body is not a JSON object", field="", remedy="send an object")
    return document


def only_parameters(request: Request | Websocket, *known: str) -> None:
    """Refuse query parameters that are not known or stand twice: none is left out silently."""
    for name, values in request.args.lists():
        if name not in known:
            raise InvalidParameterError(
                f"unknown parameter {name[:80]!r}", field=name[:80], remedy=f"known here are {', '.join(known)}"
            )
        if len(values) > 1:
            raise InvalidParameterError(f"{name!r} stands twice", field=name, remedy="send it once")


def list_parameter(request: Request, name: str) -> frozenset[str] | None:
    """A comma-separated parameter; None where it is absent or empty."""
    items = [item.strip() for item in request.args.get(name, "").split(",")]
    found = frozenset(item for item in items if item)
    if len(found) > LIST_MAX:
        raise InvalidParameterError(f"{name!r} has more than {LIST_MAX} items", field=name)
    return found or None


def choice_parameter(request: Request, name: str, choices: tuple[str, ...], default: str) -> str:
    value = request.args.get(name, default)
    if value not in choices:
        raise InvalidParameterError(
            f"{name!r} is {value[:40]!r}", field=name, remedy=f"use one of {', '.join(choices)}"
        )
    return value


def page_size(request: Request) -> int:
    text = request.args.get("limit", str(PAGE_DEFAULT))
    if COUNTER.fullmatch(text) is None or not 1 <= int(text) <= PAGE_MAX:
        raise InvalidParameterError("'limit' is no page size", field="limit", remedy=f"use 1 to {PAGE_MAX}")
    return int(text)
