"""The OpenAPI 3.1 description of the HTTP interface, derived from operations, models and the access table."""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from pydantic import BaseModel

from node.api.access import rule_of
from node.api.json_schemas import Schema, Schemas, inline_schema, properties, type_schema
from node.api.models.problems import Problem
from node.api.operations import Answer, Operation, Resource, Route, path_names
from node.api.problems import MEDIA_TYPE, PROBLEMS, RETRY_AFTER_S, TYPE_PREFIX
from node.runtime.access import Need
from node.runtime.document_models import WITHOUT_NUL

VERSION: Final = "3.1.0"
TAGS: Final = {
    "events": "Events: sent to the node, their state, their certificates, and the stream of those certified.",
    "batches": "Batches: events of one source that are certified together.",
    "subscriptions": "Durable cursors of streams, and webhooks that the node delivers.",
    "sources": "Where events come from, and the policies that they are checked against.",
    "objects": "Content-addressed objects (UHRP, BRC-26).",
    "overlay services": "Topic managers (BRC-22) and lookup services (BRC-24).",
    "market": "Agents, auctions of jobs, and the templates that jobs are announced by.",
    "identity": "The node's identity, and proof of the caller's.",
    "node": "The node's state, and this description.",
}
DESCRIPTION: Final = (
    "Post batches of events to any node; follow their certification; stream what is certified; keep a "
    "certificate that verifies offline. Errors are problem documents (RFC 9457) that state what to do."
)
LICENSE: Final = {"name": "Apache 2.0", "identifier": "Apache-2.0"}
SECURITY_SCHEMES: Final = {
    "session": {
        "type": "apiKey",
        "in": "header",
        "name": "x-bsv-auth-signature",
        "description": "BRC-103/104, as AuthFetch of @bsv/sdk implements it: mutual, answers signed, no setup.",
    },
    "signedRequest": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Signature",
        "description": (
            "With X-Identity-Key (33 bytes, hex) and X-Nonce (nanoseconds since 1970, never twice). A BRC-3 "
            "signature, DER in hex: protocol [2, 'overlay http request'], key ID the nonce, counterparty the "
            "node's identity key (GET /overlay/node), over METHOD, path with query, nonce and the SHA-256 of the "
            "body in hex, joined by line feeds. 'overlay-node call' sends such requests."
        ),
    },
    "authrite": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Authrite-Signature",
        "description": "Legacy BRC-31 (Authrite 0.1): the handshake is POST /authrite/initialRequest.",
    },
}
EVERYWHERE: Final = ("request-timeout", "body-too-large", "headers-too-large", "internal", "transfer-coding-unknown")
"""What any request may be refused with, whatever it is for. Statuses that an operation has no other reasons for are
described once."""


PROVEN: Final[list[dict[str, list[str]]]] = [{name: []} for name in SECURITY_SCHEMES]
PROVEN_OR_NOT: Final = [{}, *PROVEN]
ALWAYS_PROVEN: Final = (Need.OWN, Need.OPERATE)


def document(resources: Iterable[Resource[Any]], server_url: str = "") -> dict[str, Any]:
    """The whole description, JSON values only.

    Args:
        server_url: Where the node is reached from outside; its own address where it is not known.
    """
    routes = [route for resource in resources for route in resource.routes]
    schemas = Schemas([Problem, *_types(routes)])
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(_path(route.path), {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": VERSION,
        "info": {"title": "Overlay agent node", "version": "1", "description": DESCRIPTION, "license": LICENSE},
        "servers": [{"url": server_url or "/"}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "security": PROVEN_OR_NOT,
        "components": {
            "schemas": dict(sorted(schemas.components.items())),
            "responses": {_name(code): _refusal([code], schemas) for code in EVERYWHERE},
            "securitySchemes": SECURITY_SCHEMES,
        },
    }


def _types(routes: Sequence[Route]) -> list[Any]:
    """The types of all bodies, each once."""
    found: dict[int, Any] = {}
    for route in routes:
        contents = [answer.content for answer in route.operation.answers.values()]
        if route.operation.body is not None:
            contents.append(route.operation.body.content)
        found |= {id(each): each for content in contents for each in content.values()}
    return list(found.values())


def _path(path: str) -> str:
    """In OpenAPI's form, members of the path in camelCase: ``/overlay/sources/{sourceId}``."""
    return re.sub(r"<(?:[^<>]*:)?(\w+)>", lambda match: f"{{{_camel(match[1])}}}", path)


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.title() for part in rest)


def _operation(route: Route, schemas: Schemas) -> dict[str, Any]:
    operation = route.operation
    described: dict[str, Any] = {
        "operationId": operation.operation_id,
        "tags": [operation.tag],
        "summary": operation.summary,
    }
    if operation.description:
        described["description"] = operation.description
    if parameters := _parameters(route):
        described["parameters"] = parameters
    if operation.body is not None:
        content = _content(operation.body.content, operation.body.examples, schemas)
        described["requestBody"] = {"required": operation.body.required, "content": content}
    if rule_of(route.endpoint).need in ALWAYS_PROVEN:
        described["security"] = PROVEN
    if operation.socket_messages:
        described["x-websocket-client-messages"] = [inline_schema(each) for each in operation.socket_messages]
    responses = _problem_responses(_problem_codes(route), schemas)
    for status, answer in operation.answers.items():
        own = _response(answer, schemas)
        refused = responses.get(str(status), {})
        both = {name: refused[name] | own.get(name, {}) for name in ("content", "headers") if name in refused}
        responses[str(status)] = own | both
    return {**described, "responses": responses}


def _parameters(route: Route) -> list[dict[str, Any]]:
    operation = route.operation
    path = [
        {"name": _camel(name), "in": "path", "required": True, **_described(_path_schema(operation, name))}
        for name in path_names(route.path)
    ]
    query = [_without_nul(each) for each in _members(operation.parameters, "query")]
    return path + query + _members(operation.headers, "header")


def _without_nul(parameter: dict[str, Any]) -> dict[str, Any]:
    """No parameter of a query may contain U+0000, whatever it is for: see ``wire.read_query``."""
    schema = parameter["schema"]
    if schema.get("type") != "string" or {"pattern", "enum", "format"} & schema.keys():
        return parameter
    return {**parameter, "schema": {**schema, "pattern": WITHOUT_NUL}}


def _path_schema(operation: Operation, name: str) -> Schema:
    described = operation.path.get(name)
    return {"type": "string"} if described is None else type_schema(described)


def _members(model: type[BaseModel] | None, place: str) -> list[dict[str, Any]]:
    if model is None:
        return []
    return [
        {"name": name, "in": place, "required": required, **_described(_not_null(schema))}
        for name, (schema, required) in properties(model).items()
    ]


def _described(schema: Schema) -> dict[str, Any]:
    """OpenAPI has a parameter's description beside its schema, not within."""
    rest = {key: value for key, value in schema.items() if key != "description"}
    return {"schema": rest, **({"description": schema["description"]} if "description" in schema else {})}


def _not_null(schema: Schema) -> Schema:
    """Query parameters and headers are strings; what is null or an empty list in Python is absent there."""
    if schema.get("default") == []:
        schema = {name: value for name, value in schema.items() if name != "default"}
    if isinstance(schema.get("type"), list):
        return {**schema, "type": schema["type"][0]}
    return schema


def _content(content: Any, examples: Any, schemas: Schemas) -> dict[str, Any]:
    return {
        media_type: {
            "schema": schemas.of(described),
            **({"examples": {"one": {"value": examples[media_type]}}} if media_type in examples else {}),
        }
        for media_type, described in content.items()
    }


def _response(answer: Answer, schemas: Schemas) -> dict[str, Any]:
    described: dict[str, Any] = {"description": answer.description}
    if answer.content:
        described["content"] = _content(answer.content, answer.examples, schemas)
    if answer.headers:
        described["headers"] = {
            name: {"schema": {"type": "string"}, "description": text} for name, text in answer.headers.items()
        }
    if answer.links:
        described["links"] = {
            operation_id: {"operationId": operation_id, "parameters": {name: f"$response.body#{pointer}"}}
            for operation_id, (name, pointer) in answer.links.items()
        }
    return described


def _problem_codes(route: Route) -> list[str]:
    """What an operation may be refused with: its own reasons, those of its access rule, and the node's failures."""
    rule = rule_of(route.endpoint)
    codes = [*route.operation.problems, "invalid-authentication", "not-authenticated"]
    if rule.need is not Need.NOTHING:
        codes += ["identity-required", "not-permitted"]
    if route.operation.query is not None:
        codes.append("invalid-parameter")
    if path_names(route.path):
        codes.append("not-found")  # a part of the path that can name nothing
    return list(dict.fromkeys([*codes, "unavailable", "database-unavailable"]))


def _problem_responses(codes: Iterable[str], schemas: Schemas) -> dict[str, Any]:
    """Responses by status, those of every request included."""
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys((*codes, *EVERYWHERE)):
        by_status.setdefault(PROBLEMS[code][0], []).append(code)
    return {
        str(status): {"$ref": f"#/components/responses/{_name(found[0])}"}
        if len(found) == 1 and found[0] in EVERYWHERE
        else _refusal(found, schemas)
        for status, found in sorted(by_status.items())
    }


def _refusal(codes: Sequence[str], schemas: Schemas) -> dict[str, Any]:
    """The response of a status, with an example per code."""
    examples = {code: {"value": problem_example(code)} for code in codes}
    described: dict[str, Any] = {
        "description": PROBLEMS[codes[0]][1],
        "content": {MEDIA_TYPE: {"schema": schemas.of(Problem), "examples": examples}},
    }
    if any(code in RETRY_AFTER_S for code in codes):
        described["headers"] = {
            "Retry-After": {
                "required": all(code in RETRY_AFTER_S for code in codes),
                "schema": {"type": "integer", "minimum": 0},
                "description": "Seconds.",
            }
        }
    return described


def _name(code: str) -> str:
    return "".join(part.title() for part in code.split("-"))


def problem_example(code: str) -> dict[str, Any]:
    status, title, remedy = PROBLEMS[code]
    return {"type": TYPE_PREFIX + code, "title": title, "status": status, "detail": f"{title}.", "remedy": remedy}
