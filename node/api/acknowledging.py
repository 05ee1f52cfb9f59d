"""What the ways in for events have in common: compression of bodies, and the answer that acknowledges events."""

from functools import partial
from typing import Final

import trio
from quart import Request, Response
from werkzeug.exceptions import UnsupportedMediaType

from node.api.wire import JSON_TYPE
from node.ingest.responses import IngestAnswer, render
from node.worker.parsing.unpacking import Coding

CODINGS: Final[dict[str, Coding]] = {"identity": "identity", "gzip": "gzip", "zstd": "zstd"}
INLINE_EVENTS_MAX: Final = 64  # an answer about fewer events is rendered on the loop, well under a millisecond


def coding_of(asked: Request) -> Coding:
    """How a body is compressed.

    Raises:
        UnsupportedMediaType: In a way that is not supported.
    """
    coding = CODINGS.get(asked.headers.get("Content-Encoding", "identity").strip().lower())
    if coding is None:
        raise UnsupportedMediaType
    return coding


def wants_minimal(asked: Request) -> bool:
    """RFC 7240: the preferences are separated by commas, their parameters by semicolons."""
    prefer = asked.headers.get("Prefer", "")
    preferences = [item.split(";")[0].strip().replace('"', "").lower() for item in prefer.split(",")]
    return "return=minimal" in preferences


async def acknowledgement(answer: IngestAnswer, *, minimal: bool) -> Response:
    """The response to events that are durable."""
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
