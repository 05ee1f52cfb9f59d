"""Bodies of lines without a known length: acknowledged while they arrive."""

from contextlib import ExitStack
from typing import Any, Final, cast

import trio
from quart import Request, Response, g

from node.api.keyed import HEADER
from node.api.pacing import PacedRequest
from node.api.problems import described
from node.api.services import Services
from node.api.stream_clients import TooManyStreamsError
from node.api.wire import account_of, body_budget
from node.ingest.ndjson_stream import LineStream
from node.worker.parsing.bodies import RequestEncoding
from protocols.errors import OverlayError

LINES_TYPE: Final = "application/x-ndjson"
STREAMS_MAX: Final = 256
UNREAD_BYTES: Final = 64 * 1024  # of a body, received and not yet read


class IngestStreams:
    """All requests with such bodies, of one node."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._slots = trio.CapacityLimiter(STREAMS_MAX)

    def takes(self, asked: Request, form: RequestEncoding) -> bool:
        """Whether a body is read as it arrives. One that is signed, or has a key, is read whole first."""
        return (
            form.shape == "lines" and asked.content_length is None and "body" not in g and HEADER not in asked.headers
        )

    async def respond(self, asked: Request, form: RequestEncoding) -> Response:
        """Raises TooManyStreamsError, and what makes the first piece be refused."""
        request = cast(PacedRequest, asked)
        self._services.ingest.admission.refuse_unless_open()
        budget = body_budget(self._services.ingest, request.remote_addr)
        stream = LineStream(
            ingest=self._services.ingest,
            body=request.body,
            form=form,
            budget=budget,
            describe=_describe,
            account=account_of(request),
            idle_s=self._services.settings.ingest_idle_s,
        )
        try:
            self._slots.acquire_on_behalf_of_nowait(stream)
        except trio.WouldBlock as full:
            raise TooManyStreamsError(f"{STREAMS_MAX} streams are read already") from full
        request.body.pace(UNREAD_BYTES)
        with ExitStack() as undo:
            undo.callback(self._end, stream)
            await stream.begin()
            undo.pop_all()
        request.tasks.start_soon(self._run, stream)
        response = Response(stream.answer(), status=202, content_type=LINES_TYPE)
        response.timeout = None
        response.headers["X-Accel-Buffering"] = "no"
        return response

    async def _run(self, stream: LineStream) -> None:
        try:
            await stream.run()
        finally:
            self._end(stream)

    def _end(self, stream: LineStream) -> None:
        stream.close()
        self._slots.release_on_behalf_of(stream)


def _describe(fault: OverlayError) -> dict[str, Any]:
    return described(fault)[1]
