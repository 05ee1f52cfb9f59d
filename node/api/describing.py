"""Parts that descriptions of operations are made of (OpenAPI 3.1)."""

from typing import Any

from node.api.problems import MEDIA_TYPE, PROBLEMS, TYPE_PREFIX
from node.api.schemas import Schema, integer, ref, text


def problem_answers(*codes: str) -> dict[str, Any]:
    """Responses by status, each with an example per code."""
    found: dict[str, Any] = {}
    for code in codes:
        status, title, remedy = PROBLEMS[code]
        example = {
            "type": TYPE_PREFIX + code,
            "title": title,
            "status": status,
            "detail": f"{title}.",
            "remedy": remedy,
        }
        answer = found.setdefault(
            str(status),
            {"description": title, "content": {MEDIA_TYPE: {"schema": ref("Problem"), "examples": {}}}},
        )
        answer["content"][MEDIA_TYPE]["examples"][code] = {"value": example}
        if status in (429, 503):
            answer["headers"] = {"Retry-After": {"schema": integer("Seconds.")}}
    return found


def json_answer(description: str, schema: Schema, **headers: str) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "description": description,
        "content": {"application/json": {"schema": schema}},
    }
    if headers:
        names = {name.replace("_", "-"): {"schema": text(what)} for name, what in headers.items()}
        answer["headers"] = names
    return answer


def json_body(schema: Schema, example: Any) -> dict[str, Any]:
    return {
        "required": True,
        "content": {"application/json": {"schema": schema, "examples": {"one": {"value": example}}}},
    }


def operation(operation_id: str, tag: str, summary: str, responses: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An operation; its description, parameters and request body come in ``more``."""
    common = problem_answers("internal", "unavailable")
    return {
        "operationId": operation_id,
        "tags": [tag],
        "summary": summary,
        **more,
        "responses": {**responses, **{status: common[status] for status in common if status not in responses}},
    }


def in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": text()}


def in_query(name: str, schema: Schema, description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description}
