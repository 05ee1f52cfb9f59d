"""Reading requests and writing answers: bodies within bounds, parameters, JSON."""

from typing import Any, Final, TypeVar

import orjson
import trio
from quart import Request, Response, Websocket, g
from werkzeug.exceptions import RequestEntityTooLarge, RequestTimeout, UnsupportedMediaType

from node.api.client_address import is_loopback, network_of
from node.api.models.base import QueryModel
from node.api.pacing import PacedRequest
from node.ingest.admission_control import ByteBudget
from node.ingest.pipeline import Ingest
from node.runtime.access import Caller
from node.runtime.document_models import FieldProblem
from node.runtime.document_models import read_document as read_document_as
from node.runtime.fair_share import Account
from node.worker.parsing.text import nul_place
from protocols.canonical import INTEGER_MAX, Json, parse_json
from protocols.errors import ClientFault
from protocols.limits import BEEF_BYTES_MAX, JSON_DEPTH_MAX

JSON_TYPE: Final = "application/json"
DOCUMENT_BYTES_MAX: Final = 1024 * 1024  # all bodies but those of events
BODY_GRACE_S: Final = 10.0
BODY_RATE_MIN: Final = 16 * 1024  # bytes a second, counted from the end of the grace
OFF_CHAIN_BYTES_MAX: Final = 1024 * 1024  # of a submission
SUBMISSION_BYTES_MAX: Final = BEEF_BYTES_MAX + OFF_CHAIN_BYTES_MAX + 16

Q = TypeVar("Q", bound=QueryModel)


def body_budget(ingest: Ingest, address: str | None) -> ByteBudget:
    """A budget for a body, in the share of the client at an address."""
    return ByteBudget(ingest.admission, network_of(address))


def budget_of(ingest: Ingest, asked: Request, *, may_repeat: bool = False) -> ByteBudget:
    """The budget that the body of a request is counted in. To be used as a context, it is free at its end.

    Args:
        may_repeat: It may have been answered before, and then is again, however full the node is.

    Raises:
        IngestionDisabledError, OverloadedError: No events are taken in now.
    """
    if not may_repeat:
        ingest.admission.refuse_unless_open()
    budget = asked.budget if isinstance(asked, PacedRequest) else None
    return budget or body_budget(ingest, asked.remote_addr)


def account_of(request: Request) -> Account:
    """Whom a request is parsed for: the identity that has a role here, else the client by its address.

    Identities without a role cost nothing to make. A proxy calls from this machine for clients that cannot be told
    apart: each of its connections is an account, and none has an allowance.
    """
    caller: Caller = g.caller
    if caller.identity is not None and caller.roles:
        return Account(name=f"identity {caller.identity.hex()}")
    payer = payer_of(request.remote_addr)
    if payer is not None:
        return Account(name=payer)
    return Account(name=f"connection {request.scope.get('client')}", is_metered=False)


def payer_of(address: str | None) -> str | None:
    """In whose share events of a client count, by its address; None for a proxy on this machine."""
    network = network_of(address)
    return None if is_loopback(network) else f"address {network}"


class InvalidParameterError(ClientFault):
    """Field: ``field``, the parameter's name."""

    code = "invalid-parameter"


class InvalidTextError(ClientFault):
    """A string of a document. Fields: ``field``, a JSON pointer to it, and ``remedy``."""

    code = "invalid-request"


def answer(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status=status, content_type=JSON_TYPE)


def require_json(request: Request) -> None:
    """Refuse all but uncompressed ``application/json``."""
    if request.mimetype != JSON_TYPE or request.headers.get("Content-Encoding", "identity") != "identity":
        raise UnsupportedMediaType


async def read_body(request: Request, timeout_s: float, bytes_max: int) -> bytes:
    """Read a body whole, whose bytes are counted as they come (``PacedBody``); one read for authentication is not
    read again.

    What is declared costs a client nothing, so it reserves nothing.

    Raises:
        RequestEntityTooLarge: Past ``bytes_max``; nothing more of it is kept.
        RequestTimeout: It did not arrive within ``timeout_s``, or came more slowly than ``BODY_RATE_MIN``.
        OverloadedError: As many bytes as may are in memory, of all clients or this one.
    """
    if "body" in g:
        return _within(g.body, bytes_max)
    declared = request.content_length
    if declared is not None and declared > bytes_max:
        raise RequestEntityTooLarge
    parts: list[bytes] = []
    size = 0
    ends_s = trio.current_time() + timeout_s
    slowest_s = trio.current_time() + BODY_GRACE_S
    with trio.move_on_at(min(ends_s, slowest_s)) as patience:
        async for part in request.body:
            size += len(part)
            if size > bytes_max:
                parts.clear()
                raise RequestEntityTooLarge
            parts.append(part)
            patience.deadline = min(ends_s, slowest_s + size / BODY_RATE_MIN)
        return b"".join(parts)
    raise RequestTimeout


def _within(body: bytes, bytes_max: int) -> bytes:
    if len(body) > bytes_max:
        raise RequestEntityTooLarge
    return body


async def read_document(request: Request, timeout_s: float) -> dict[str, Any]:
    """Read a JSON object."""
    require_json(request)
    document = parse_document(await read_body(request, timeout_s, DOCUMENT_BYTES_MAX))
    if not isinstance(document, dict):
        raise ClientFault("the body is not a JSON object", field="", remedy="send an object")
    return document


def parse_document(body: bytes, *, depth_max: int = JSON_DEPTH_MAX) -> Json:
    """Parse a JSON document other than events, which ends up in columns of text. ``1.0`` is the integer 1.

    Raises:
        InvalidJsonError: As of ``parse_json``. InvalidTextError: A string contains U+0000, which no column can hold.
    """
    value = parse_json(body, depth_max=depth_max)
    if b"." in body or b"e" in body or b"E" in body:
        value = _with_integers(value)
    if b"\\u0000" in body:  # the only way to write it; the backslash may be one that is escaped itself
        _refuse_nul(value)
    return value


def _with_integers(value: Json) -> Json:
    """A value in which whole numbers are integers: to JSON Schema they are, however they are written."""
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) <= INTEGER_MAX else value
    if isinstance(value, list):
        return [_with_integers(item) for item in value]
    if isinstance(value, dict):
        return {name: _with_integers(item) for name, item in value.items()}
    return value


def _refuse_nul(value: Json) -> None:
    place = nul_place(value)
    if place is not None:
        what, pointer = place
        raise InvalidTextError(
            f"{pointer or '/'}: {what} must not contain U+0000", field=pointer, remedy="leave U+0000 out"
        )


def read_query(model: type[Q], asked: Request | Websocket) -> Q:
    """The query parameters as their model.

    Raises:
        InvalidParameterError: One is unknown, wrong, or sent twice.
    """
    values: dict[str, str] = {}
    for name, given in asked.args.lists():
        if len(given) > 1:
            raise InvalidParameterError(f"{name[:80]!r} must be sent once, found {len(given)}", field=name[:80])
        if "\0" in given[0]:
            raise InvalidParameterError(f"{name[:80]!r} must not contain U+0000", field=name[:80])
        values[name] = given[0]
    return read_document_as(model, values, _invalid_parameter)


def _invalid_parameter(problem: FieldProblem) -> InvalidParameterError:
    name = problem.pointer.removeprefix("/")
    reason = "unknown parameter" if problem.reason == "unknown member" else problem.reason
    remedy = problem.remedy.replace("allowed members are", "allowed parameters are")
    return InvalidParameterError(f"{name[:80]!r}: {reason}", field=name[:80], remedy=remedy)
