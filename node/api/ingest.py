"""POST /overlay/events/ingest."""

from functools import partial
from typing import Any, Final

import trio
from quart import Blueprint, Request, Response, g, request
from werkzeug.exceptions import UnsupportedMediaType

from node.answers import IngestAnswer, render
from node.api.services import Services
from node.api.wire import JSON_TYPE, list_parameter, only_parameters, read_body
from node.bodies import Form, Shape

CODINGS: Final = ("identity", "gzip", "zstd")
SHAPES: Final[dict[str, Shape]] = {
    JSON_TYPE: "request",
    "application/x-ndjson": "lines",
    "application/jsonl": "lines",
    "application/cloudevents+json": "cloudevent",
    "application/cloudevents-batch+json": "cloudevents",
}
INLINE_EVENTS_MAX = 64  # an answer about fewer events is rendered on the loop, well under a millisecond


def routes(services: Services) -> Blueprint:
    blueprint = Blueprint("ingest", __name__)
    settings = services.settings

    @blueprint.post("/overlay/events/ingest")
    async def ingest_events() -> Response:
        form = form_of(request)
        started_s = trio.current_time()
        with g.pop("room", None) or services.ingest.room() as room:
            body = await read_body(request, settings.body_timeout_s, settings.body_bytes_max, room)
            answer = await services.ingest.submit(body, form=form, caller=g.caller.identity, started_s=started_s)
        return await _respond(answer, minimal=_wants_minimal(request.headers.get("Prefer", "")))

    return blueprint


def form_of(asked: Request) -> Form:
    """How a request says its events: by its media type, its coding, and the headers of CloudEvents.

    Raises:
        UnsupportedMediaType: In no way that is known. InvalidParameterError: a query parameter is wrong.
    """
    coding = asked.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in CODINGS:
        raise UnsupportedMediaType
    attributes = tuple(
        (name[3:].lower(), value) for name, value in asked.headers.items() if name.lower().startswith("ce-")
    )
    binary = any(name == "specversion" for name, _ in attributes)
    shape: Shape | None = "binary" if binary else SHAPES.get(asked.mimetype)
    if shape is None:
        raise UnsupportedMediaType
    if shape == "request":
        return Form(coding=coding)  # type: ignore[arg-type]  # one of CODINGS
    only_parameters(asked, "sourceId", "consensusLevel", "durability", "distributionTopics")
    options: list[tuple[str, Any]] = [
        (name, asked.args[name]) for name in ("consensusLevel", "durability") if name in asked.args
    ]
    topics = list_parameter(asked, "distributionTopics")
    if topics is not None:
        options.append(("distributionTopics", sorted(topics)))
    return Form(
        shape=shape,
        coding=coding,  # type: ignore[arg-type]  # one of CODINGS
        source_id=asked.args.get("sourceId", ""),
        options=tuple(options),
        attributes=attributes,
        media_type=asked.content_type or "",
    )


def _wants_minimal(prefer: str) -> bool:
    """RFC 7240: the preferences are separated by commas, their parameters by semicolons."""
    preferences = [item.split(";")[0].strip().replace('"', "").lower() for item in prefer.split(",")]
    return "return=minimal" in preferences


async def _respond(answer: IngestAnswer, *, minimal: bool) -> Response:
    call = partial(render, answer, minimal=minimal)
    if minimal or answer.admitted.total <= INLINE_EVENTS_MAX:
        text = call()
    else:
        text = await trio.to_thread.run_sync(call)
    response = Response(text, status=202, content_type=JSON_TYPE)
    if minimal:
        response.headers["Preference-Applied"] = "return=minimal"
    response.headers["Vary"] = "Prefer"
    return response
