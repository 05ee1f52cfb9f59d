"""Operations of the HTTP interface, each declared once beside its handler: how it is called, and what it answers.

A `Resource` collects the operations of one module. Its blueprint serves them: query parameters and JSON bodies are
read as their models before a handler runs, so that what is described is what is checked. `node.api.openapi` derives
the description from the same declarations.
"""

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Generic, TypeAlias, TypeVar

import attrs
from pydantic import BaseModel
from quart import Blueprint, Response, abort, request
from werkzeug.routing import Map, UnicodeConverter

from node.api.models.base import HeaderModel, JsonObject, QueryModel
from node.api.services import Services
from node.api.wire import JSON_TYPE, read_document, read_query
from node.runtime.document_models import DocumentModel, FieldProblem
from node.runtime.document_models import read_document as read_model
from protocols.errors import ClientFault

C = TypeVar("C")
Handler: TypeAlias = Callable[..., Awaitable[Any]]
HandlerType = TypeVar("HandlerType", bound=Handler)
Described: TypeAlias = Any  # a model, or any other type that pydantic can describe
Content: TypeAlias = Mapping[str, Described]  # by media type

BINARY: Final = "application/octet-stream"


OTHER: Final = "other"
"""Of a path, the converter that takes any part but those listed: paths of their own, with methods of their own."""


class OtherSegment(UnicodeConverter):
    """A part of a path that is none of ``taken``."""

    def __init__(self, url_map: Map, *taken: str) -> None:
        super().__init__(url_map)
        self.regex = rf"(?!(?:{'|'.join(map(re.escape, taken))})\Z)[^/]+"


class InvalidDocumentError(ClientFault):
    """A body that its model refuses. Fields: ``field``, a JSON pointer into the body, and ``remedy``."""

    code = "invalid-request"


@attrs.frozen(kw_only=True)
class Answer:
    """A response of one status.

    Attributes:
        examples: By media type.
        headers: What each contains, by name.
        links: By the id of an operation, the part of its path that the answer has, and where: a JSON pointer.
    """

    description: str
    content: Content = attrs.field(factory=dict)
    examples: Mapping[str, Any] = attrs.field(factory=dict)
    headers: Mapping[str, str] = attrs.field(factory=dict)
    links: Mapping[str, tuple[str, str]] = attrs.field(factory=dict)


def json_answer(
    description: str, document: Described, *, links: Mapping[str, tuple[str, str]] | None = None, **headers: str
) -> Answer:
    """``headers`` are written with underscores for hyphens."""
    named = {name.replace("_", "-"): what for name, what in headers.items()}
    return Answer(description=description, content={JSON_TYPE: document}, headers=named, links=links or {})


def links_to(parameter: str, pointer: str, *operation_ids: str) -> dict[str, tuple[str, str]]:
    """Links to operations that take the same part of an answer as the same part of their paths."""
    return dict.fromkeys(operation_ids, (parameter, pointer))


@attrs.frozen(kw_only=True)
class Body:
    """A request's body, which its handler reads itself.

    Attributes:
        examples: By media type.
        required: Whether one without a byte is refused.
    """

    content: Content
    examples: Mapping[str, Any] = attrs.field(factory=dict)
    required: bool = True


@attrs.frozen(kw_only=True)
class Document:
    """A request's body that is one JSON object, read before the handler runs, which gets it as ``document``.

    Attributes:
        read: Reads it otherwise than ``model`` alone, as a part of the node that keeps such documents does.
    """

    model: type[DocumentModel]
    example: Any
    read: Callable[[JsonObject], Any] | None = None

    @property
    def required(self) -> bool:
        return True

    @property
    def content(self) -> Content:
        return {JSON_TYPE: self.model}

    @property
    def examples(self) -> Mapping[str, Any]:
        return {JSON_TYPE: self.example}

    def checked(self, document: JsonObject) -> Any:
        """Raises ClientFault: The document is not in its form."""
        if self.read is not None:
            return self.read(document)
        return read_model(self.model, document, _invalid_document)


@attrs.frozen(kw_only=True)
class Operation:
    """What a client can do.

    Attributes:
        operation_id: Stable; names of methods in generated clients are made of it.
        path: What parts of the path have to be like, by name; others are any text. Described alone: what is
            otherwise names nothing.
        query: Read before the handler runs, which gets it as ``query``.
        described_query: Described alone: the handler reads the parameters itself.
        headers: Described alone.
        socket_messages: What a client may send where the path also takes WebSocket handshakes.
        problems: Codes of ``node.api.problems``; those of every route are left out.
    """

    operation_id: str
    tag: str
    summary: str
    description: str = ""
    path: Mapping[str, Described] = attrs.field(factory=dict)
    query: type[QueryModel] | None = None
    described_query: type[QueryModel] | None = None
    headers: type[HeaderModel] | None = None
    body: Body | Document | None = None
    socket_messages: tuple[type[BaseModel], ...] = ()
    answers: Mapping[int, Answer]
    problems: tuple[str, ...] = ()

    @property
    def parameters(self) -> type[BaseModel] | None:
        """The model of the query, however it is read."""
        return self.query or self.described_query


@attrs.frozen(kw_only=True)
class Route:
    """Where an operation is served.

    Attributes:
        path: In Quart's form: ``/overlay/sources/<source_id>``.
        endpoint: As ``node.api.access`` names it.
    """

    method: str
    path: str
    endpoint: str
    handler: Handler
    operation: Operation
    options: Mapping[str, Any]


class Resource(Generic[C]):
    """The operations of one module.

    Handlers take ``context``, then the parts of the path, ``query`` and ``document`` by name.
    """

    def __init__(
        self, name: str, context: Callable[[Services], C], extend: Callable[[Blueprint], None] | None = None
    ) -> None:
        """Args:
        context: Makes what the handlers work with, once for each app.
        extend: Adds to the blueprint what is not an operation: preflights, headers of all its answers.
        """
        self.name = name
        self._extend = extend
        self.context = context
        self.routes: list[Route] = []
        self._sockets: list[tuple[str, Handler]] = []

    def get(self, path: str, operation: Operation, **options: Any) -> Callable[[HandlerType], HandlerType]:
        return self._route("GET", path, operation, options)

    def post(self, path: str, operation: Operation) -> Callable[[HandlerType], HandlerType]:
        return self._route("POST", path, operation, {})

    def put(self, path: str, operation: Operation) -> Callable[[HandlerType], HandlerType]:
        return self._route("PUT", path, operation, {})

    def patch(self, path: str, operation: Operation) -> Callable[[HandlerType], HandlerType]:
        return self._route("PATCH", path, operation, {})

    def delete(self, path: str, operation: Operation) -> Callable[[HandlerType], HandlerType]:
        return self._route("DELETE", path, operation, {})

    def websocket(self, path: str) -> Callable[[HandlerType], HandlerType]:
        """OpenAPI has no WebSockets: an operation at the same path describes it in words."""

        def register(handler: HandlerType) -> HandlerType:
            self._sockets.append((path, handler))
            return handler

        return register

    def _route(
        self, method: str, path: str, operation: Operation, options: Mapping[str, Any]
    ) -> Callable[[HandlerType], HandlerType]:
        def register(handler: HandlerType) -> HandlerType:
            route = Route(
                method=method,
                path=path,
                endpoint=f"{self.name}.{handler.__name__}",
                handler=handler,
                operation=operation,
                options=options,
            )
            taken = set(list(inspect.signature(handler).parameters)[1:])
            given = {name for name in ("query", "document") if _gives(operation, name)}
            assert taken - given == set(path_names(path)), f"{handler.__name__} does not take what its route gives"
            assert set(operation.path) <= set(path_names(path)), f"{handler.__name__} describes other parts"
            self.routes.append(route)
            return handler

        return register

    def blueprint(self, services: Services, context: C | None = None) -> Blueprint:
        """The routes as Quart serves them. ``context``: one that is there already."""
        blueprint = Blueprint(self.name, __name__)
        made = self.context(services) if context is None else context
        for route in self.routes:
            view = _view(route, made, services.settings.body_timeout_s)
            blueprint.add_url_rule(route.path, route.handler.__name__, view, methods=[route.method], **route.options)
        for path, handler in self._sockets:
            blueprint.add_websocket(path, handler.__name__, _socket(handler, made))
        if self._extend is not None:
            self._extend(blueprint)
        return blueprint


def path_names(path: str) -> list[str]:
    """The names of a path's variable parts, in their order."""
    return [part.partition(">")[0].rpartition(":")[2] for part in path.split("<")[1:]]


def _gives(operation: Operation, name: str) -> bool:
    return operation.query is not None if name == "query" else isinstance(operation.body, Document)


def _view(route: Route, context: object, timeout_s: float) -> Callable[..., Awaitable[Response]]:
    operation, handler = route.operation, route.handler

    async def view(**parts: str) -> Response:
        if any("\0" in part for part in parts.values()):
            abort(404)  # no id holds U+0000, and no column of the database could
        given: dict[str, Any] = dict(parts)
        if operation.query is not None:
            given["query"] = read_query(operation.query, request)
        if isinstance(operation.body, Document):
            given["document"] = operation.body.checked(await read_document(request, timeout_s))
        response: Response = await handler(context, **given)
        return response

    return view


def _socket(handler: Handler, context: object) -> Callable[[], Awaitable[None]]:
    async def view() -> None:
        await handler(context)

    return view


def _invalid_document(problem: FieldProblem) -> InvalidDocumentError:
    return InvalidDocumentError(str(problem), field=problem.pointer, remedy=problem.remedy)
