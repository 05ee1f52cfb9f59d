"""Holds every answer that a test gets against the description of the interface."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import httpx
import jsonschema_rs

from node.api.openapi import document
from node.api.resources import RESOURCES

PROBLEM_TYPE = "application/problem+json"
CHECKED = ("application/json", PROBLEM_TYPE)
WITHOUT_A_DOCUMENT = (206, 304)
"""A part of an object, or nothing."""
BYTES = ("getObject",)
"""Answers whose bytes are a stored object's, whatever they are."""
OPEN = ("Problem", "HandshakeMessage", "AuthriteMessage")


class UndescribedAnswerError(AssertionError):
    """An answer that the description does not have."""


@cache
def description() -> dict[str, Any]:
    return document(RESOURCES)


@cache
def strict_components() -> dict[str, Any]:
    """The components, with members that are not described refused."""
    schemas = description()["components"]["schemas"]
    return {"schemas": {name: schema if name in OPEN else _closed(schema) for name, schema in schemas.items()}}


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(each) for key, each in schema.items()}
    if "properties" in schema and "additionalProperties" not in schema:
        closed["additionalProperties"] = False
    return closed


@cache
def _patterns() -> list[tuple[re.Pattern[str], Mapping[str, Any]]]:
    """Fixed paths before those with variable parts."""
    paths = sorted(description()["paths"].items(), key=lambda item: item[0].count("{"))
    return [(re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path)) + "/?"), methods) for path, methods in paths]


def described_operation(method: str, path: str) -> Mapping[str, Any] | None:
    """The operation that a request is for; None where no path is like that."""
    for pattern, methods in _patterns():
        if pattern.fullmatch(path):
            found: Mapping[str, Any] | None = methods.get("get" if method == "HEAD" else method.lower())
            return found
    return None


@cache
def _validator(operation_id: str, status: str, media_type: str) -> jsonschema_rs.Validator:
    operations = (each for methods in description()["paths"].values() for each in methods.values())
    operation = next(each for each in operations if each["operationId"] == operation_id)
    response = operation["responses"].get(status)
    if response is not None and "$ref" in response:
        response = description()["components"]["responses"][response["$ref"].rpartition("/")[2]]
    if response is None:
        raise UndescribedAnswerError(f"{operation_id} is not described to answer {status}")
    content = response.get("content", {}).get(media_type)
    if content is None:
        raise UndescribedAnswerError(f"{operation_id} is not described to answer {status} as {media_type}")
    schema = _closed(content["schema"]) if media_type != PROBLEM_TYPE else content["schema"]
    return jsonschema_rs.validator_for({**schema, "components": strict_components()})


async def check_answer(response: httpx.Response) -> None:
    """A hook of httpx: raises UndescribedAnswerError for an answer that is not as the description has it."""
    media_type = response.headers.get("Content-Type", "").partition(";")[0]
    operation = described_operation(response.request.method, response.request.url.path)
    if operation is None or response.request.method == "HEAD" or media_type not in CHECKED:
        return
    if response.status_code in WITHOUT_A_DOCUMENT or operation["operationId"] in BYTES:
        return
    await response.aread()
    validator = _validator(operation["operationId"], str(response.status_code), media_type)
    error = next(validator.iter_errors(response.json()), None)
    if error is not None:
        where = "/".join(map(str, error.instance_path))
        raise UndescribedAnswerError(
            f"{operation['operationId']} {response.status_code} at {where!r}: {error.message}"
        )
