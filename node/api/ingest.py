"""POST /overlay/events/ingest."""

from typing import Any, Final

import trio
from quart import Blueprint, Request, Response, g, request
from werkzeug.exceptions import UnsupportedMediaType

from node.api.acknowledging import acknowledgement, coding_of, wants_minimal
from node.api.ingest_stream import LINES_TYPE, IngestStreams
from node.api.keyed import HEADER, ingest_once
from node.api.services import Services
from node.api.wire import JSON_TYPE, list_parameter, only_parameters, read_body
from node.worker.parsing.bodies import BodyShape, RequestEncoding

SHAPES: Final[dict[str, BodyShape]] = {
    JSON_TYPE: "request",
    LINES_TYPE: "lines",
    "application/jsonl": "lines",
    "application/cloudevents+json": "cloudevent",
    "application/cloudevents-batch+json": "cloudevents",
}


def routes(services: Services) -> Blueprint:
    blueprint = Blueprint("ingest", __name__)
    settings = services.settings

    streams = IngestStreams(services)

    @blueprint.post("/overlay/events/ingest")
    async def ingest_events() -> Response:
        form = form_of(request)
        if streams.takes(request, form):
            return await streams.respond(request, form)
        started_s = trio.current_time()
        with g.pop("budget", None) or services.ingest.admission.budget() as budget:
            body = await read_body(request, settings.body_timeout_s, settings.body_bytes_max, budget)
            if HEADER in request.headers:
                return await ingest_once(services, request, form=form, body=body, budget=budget, started_s=started_s)
            answer = await services.ingest.submit(body, form=form, caller=g.caller.identity, started_s=started_s)
        return await acknowledgement(answer, minimal=wants_minimal(request))

    return blueprint


def form_of(asked: Request) -> RequestEncoding:
    """How a request says its events: by its media type, its coding, and the headers of CloudEvents.

    Raises:
        UnsupportedMediaType: In no way that is known. InvalidParameterError: a query parameter is wrong.
    """
    coding = coding_of(asked)
    attributes = tuple(
        (name[3:].lower(), value) for name, value in asked.headers.items() if name.lower().startswith("ce-")
    )
    binary = any(name == "specversion" for name, _ in attributes)
    shape: BodyShape | None = "binary" if binary else SHAPES.get(asked.mimetype)
    if shape is None:
        raise UnsupportedMediaType
    if shape == "request":
        return RequestEncoding(coding=coding)
    only_parameters(asked, "sourceId", "consensusLevel", "durability", "distributionTopics")
    options: list[tuple[str, Any]] = [
        (name, asked.args[name]) for name in ("consensusLevel", "durability") if name in asked.args
    ]
    topics = list_parameter(asked, "distributionTopics")
    if topics is not None:
        options.append(("distributionTopics", sorted(topics)))
    return RequestEncoding(
        shape=shape,
        coding=coding,
        source_id=asked.args.get("sourceId", ""),
        options=tuple(options),
        attributes=attributes,
        media_type=asked.content_type or "",
    )
