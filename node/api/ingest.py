"""POST /overlay/events/ingest."""

from functools import partial

import trio
from quart import Blueprint, Response, g, request

from node.answers import IngestAnswer, render
from node.api.services import Services
from node.api.wire import JSON_TYPE, read_body, require_json

INLINE_EVENTS_MAX = 64  # an answer about fewer events is rendered on the loop, well under a millisecond


def routes(services: Services) -> Blueprint:
    blueprint = Blueprint("ingest", __name__)
    settings = services.settings

    @blueprint.post("/overlay/events/ingest")
    async def ingest_events() -> Response:
        require_json(request)
        started_s = trio.current_time()
        with g.pop("room", None) or services.ingest.room() as room:
            body = await read_body(request, settings.body_timeout_s, settings.body_bytes_max, room)
            answer = await services.ingest.submit(body, caller=g.caller.identity, started_s=started_s)
        return await _respond(answer, minimal=_wants_minimal(request.headers.get("Prefer", "")))

    return blueprint


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
