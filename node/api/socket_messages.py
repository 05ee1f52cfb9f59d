"""Messages of the stream over WebSocket: what clients may send, read into commands, and what answers them."""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import attrs
import orjson

from node.api.models.stream import AcknowledgeRequest, CreditRequest, PingRequest, SubscribeRequest
from node.api.problems import PROBLEMS
from node.api.wire import parse_document
from node.delivery.criteria import criteria_document, read_criteria
from node.delivery.cursor import Cursor, read_cursor
from node.delivery.filters import Filter
from node.runtime.clock import clock_ms
from node.runtime.document_models import DocumentModel, FieldProblem, read_document
from protocols.certificate import rfc3339
from protocols.errors import ClientFault, OverlayError

MESSAGE_CHARS_MAX: Final = 32 * 1024
REQUESTS: Final[dict[str, type[DocumentModel]]] = {
    "subscribe": SubscribeRequest,
    "ack": AcknowledgeRequest,
    "credit": CreditRequest,
    "ping": PingRequest,
}


class InvalidMessageError(ClientFault):
    """A client's message that is not understood; ``field`` is a JSON pointer."""

    code = "invalid-message"


class TooManyMessagesError(ClientFault):
    code = "too-many-messages"


@attrs.frozen(kw_only=True)
class ChangeFilter:
    """Another filter. ``start``: None for the client's present place."""

    wanted: Filter
    start: Cursor | None
    request_id: str | None


@attrs.frozen
class Acknowledge:
    """The client has taken everything up to ``cursor``."""

    cursor: Cursor


@attrs.frozen
class GrantCredit:
    """The client takes at most so many further events."""

    events: int


@attrs.frozen
class Ping:
    request_id: str | None


@attrs.frozen
class Ending:
    """How a connection is closed."""

    code: int
    reason: str


Request: TypeAlias = ChangeFilter | Acknowledge | GrantCredit | Ping
Reply: TypeAlias = Callable[[], bytes]
"""A message that answers a request, made when it is written."""


def read_request(text: str | bytes) -> Request:
    """What a client's message asks for.

    Raises:
        InvalidJsonError, InvalidMessageError, InvalidCriteriaError: It does not have one of the forms described.
    """
    if not isinstance(text, str) or len(text) > MESSAGE_CHARS_MAX:
        raise InvalidMessageError(
            f"a message must be text of at most {MESSAGE_CHARS_MAX} characters", field="", remedy="send JSON as text"
        )
    document = parse_document(text.encode())
    kind = document.get("type") if isinstance(document, dict) else None
    model = REQUESTS.get(kind) if isinstance(kind, str) else None
    if not isinstance(document, dict) or model is None:
        raise InvalidMessageError(
            f"/type: must be one of {', '.join(REQUESTS)}", field="/type", remedy="send an object of such a type"
        )
    return _request(read_document(model, document, _invalid))


def _request(asked: DocumentModel) -> Request:
    match asked:
        case SubscribeRequest(filter=criteria, since=since, id=request_id):
            start = None if since is None else _cursor(since, "/since")
            return ChangeFilter(wanted=read_criteria(criteria), start=start, request_id=request_id)
        case AcknowledgeRequest(sequence=sequence):
            return Acknowledge(_cursor(sequence, "/sequence"))
        case CreditRequest(events=events):
            return GrantCredit(events)
        case PingRequest(id=request_id):
            return Ping(request_id)
    raise AssertionError("every model of REQUESTS is a case")


def _invalid(problem: FieldProblem) -> InvalidMessageError:
    return InvalidMessageError(str(problem), field=problem.pointer, remedy=problem.remedy)


def _cursor(text: str, pointer: str) -> Cursor:
    try:
        return read_cursor(text)
    except ValueError as error:
        raise InvalidMessageError(
            f"{pointer}: must be a place in the feed, found {text[:40]!r}",
            field=pointer,
            remedy="use a sequence that was received",
        ) from error


def subscribed_message(change: ChangeFilter, cursor: Cursor) -> bytes:
    filter_document = criteria_document(change.wanted)
    return _named(
        {"type": "subscribed", "sequence": str(cursor), "filter": filter_document}, request_id=change.request_id
    )


def acknowledged_message(cursor: Cursor) -> bytes:
    return orjson.dumps({"type": "acked", "sequence": str(cursor)})


def credit_message(events: int, cursor: Cursor) -> bytes:
    return orjson.dumps({"type": "credit", "events": events, "sequence": str(cursor)})


def pong_message(ping: Ping, cursor: Cursor) -> bytes:
    pong = {"type": "pong", "timestamp": rfc3339(clock_ms()), "sequence": str(cursor)}
    return _named(pong, request_id=ping.request_id)


def _named(message: dict[str, Any], *, request_id: str | None) -> bytes:
    return orjson.dumps(message if request_id is None else {**message, "id": request_id})


def error_message(fault: OverlayError) -> bytes:
    """A fault as a message: the members of a problem document, with the code by itself."""
    status, title, remedy = PROBLEMS.get(fault.code, PROBLEMS["internal"])
    problem = {"title": title, "status": status, "detail": str(fault), "remedy": remedy, **fault.fields}
    return orjson.dumps({"type": "error", "code": fault.code, **problem})
