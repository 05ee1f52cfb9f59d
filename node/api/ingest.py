"""POST /overlay/events/ingest."""

from typing import Annotated, Any, Final

import trio
from pydantic import Field, WithJsonSchema
from quart import Request, Response, g, request
from werkzeug.exceptions import UnsupportedMediaType

from node.api.acknowledging import acknowledgement, coding_of, wants_minimal
from node.api.ingest_stream import LINES_TYPE, IngestStreams
from node.api.json_schemas import PLACE
from node.api.keyed import HEADER, REPLAYED, ingest_once
from node.api.models.base import HeaderModel
from node.api.models.ingest import (
    CloudEvent,
    IngestAnswerDocument,
    IngestQuery,
    IngestRequest,
    LinesAcknowledged,
    LinesEnd,
)
from node.api.operations import Answer, Body, Operation, Resource, links_to
from node.api.services import Services
from node.api.wire import JSON_TYPE, InvalidParameterError, account_of, budget_of, read_body, read_query
from node.runtime.document_models import optional_member
from node.worker.parsing.bodies import BodyShape, RequestEncoding

SHAPES: Final[dict[str, BodyShape]] = {
    JSON_TYPE: "request",
    LINES_TYPE: "lines",
    "application/jsonl": "lines",
    "application/cloudevents+json": "cloudevent",
    "application/cloudevents-batch+json": "cloudevents",
}

EXAMPLE_REQUEST: Final = {
    "sourceId": "iot-sensors-farm-001",
    "events": [
        {
            "externalId": "sensor_001_20240115_103000",
            "eventType": "sensor_reading",
            "timestamp": "2024-01-15T10:30:00Z",
            "data": {"sensorId": "temp_001", "value": 23.5, "unit": "celsius"},
        }
    ],
    "processingOptions": {
        "requireCertification": True,
        "distributionTopics": ["gitdata.events.iot"],
        "consensusLevel": "enhanced",
    },
}
Lines = Annotated[str, Field(description="One event a line.")]
CloudEvents = Annotated[
    list[CloudEvent],
    # not `items`, which openapi-python-client makes an isinstance check of that raises TypeError for every body
    WithJsonSchema({"type": "array", "unevaluatedItems": {"$ref": f"{PLACE}CloudEvent"}}),
]
AnsweredLines = LinesAcknowledged | LinesEnd  # one document a line


class IngestRoutes:
    """What the route works with."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.streams = IngestStreams(services)


class IngestHeaders(HeaderModel):
    prefer: str = optional_member(
        alias="Prefer", description="return=minimal leaves the per-event lists out (RFC 7240)."
    )
    idempotency_key: Annotated[str, Field(min_length=1, max_length=255)] = optional_member(
        alias=HEADER,
        description="The same request under the same key is answered as before, byte for byte, for 24 hours.",
    )


LINKS: Final = links_to(
    "eventId", "/processedEvents/0/eventId", "getEvent", "getCertification", "listVersions"
) | links_to("batchId", "/batches/0/batchId", "getBatch")

ingest = Resource("ingest", IngestRoutes)


@ingest.post(
    "/overlay/events/ingest",
    Operation(
        operation_id="ingestEvents",
        tag="events",
        summary="Take events in",
        description=(
            "Idempotent on (sourceId, externalId): a repeat is answered as duplicate with the same ids; another "
            "body under a known externalId is a new version or a conflict, by the source's policy. A bad event "
            "is reported by its index; the others are taken. Lines without a Content-Length are taken in as they "
            "come, without a bound on their whole length, each piece (1,000 events, 1 MiB, or what is there after "
            "200 ms of silence) acknowledged by a line of the answer; a request that is signed or has an "
            "Idempotency-Key is read whole instead, within the bound on bodies. Such a stream ends after 60 s of "
            "silence; its last line states what was acknowledged, and what was wrong."
        ),
        described_query=IngestQuery,
        headers=IngestHeaders,
        body=Body(
            content={
                JSON_TYPE: IngestRequest,
                LINES_TYPE: Lines,
                "application/cloudevents+json": CloudEvent,
                "application/cloudevents-batch+json": CloudEvents,
            },
            examples={JSON_TYPE: EXAMPLE_REQUEST},
        ),
        answers={
            202: Answer(
                description="Durable: the answer leaves after the commit, flushed to disk.",
                content={JSON_TYPE: IngestAnswerDocument, LINES_TYPE: AnsweredLines},
                links=LINKS,
                headers={
                    "Preference-Applied": "return=minimal where it was applied.",
                    REPLAYED: "true where the answer was given before, under the same Idempotency-Key.",
                },
            )
        },
        problems=(
            "invalid-json",
            "invalid-request",
            "invalid-parameter",
            "invalid-idempotency-key",
            "source-bound",
            "source-disabled",
            "unknown-source",
            "request-timeout",
            "stream-idle",
            "idempotency-key-in-use",
            "body-too-large",
            "too-costly",
            "too-many-events",
            "unsupported-media-type",
            "idempotency-key-reused",
            "overloaded",
            "allowance-used",
            "ingestion-disabled",
            "too-few-holders",
            "not-replicated",
            "too-many-streams",
        ),
    ),
)
async def ingest_events(context: IngestRoutes) -> Response:
    services, settings = context.services, context.services.settings
    form = form_of(request)
    if context.streams.takes(request, form):
        return await context.streams.respond(request, form)
    started_s = trio.current_time()
    with budget_of(services.ingest, request, may_repeat=HEADER in request.headers) as budget:
        body = await read_body(request, settings.body_timeout_s, settings.body_bytes_max)
        if HEADER in request.headers:
            return await ingest_once(services, request, form=form, body=body, budget=budget, started_s=started_s)
        answer = await services.ingest.submit(
            body, form=form, caller=g.caller.identity, account=account_of(request), started_s=started_s
        )
    return await acknowledgement(answer, minimal=wants_minimal(request))


def form_of(asked: Request) -> RequestEncoding:
    """How the events of a request are encoded: media type, compression, headers of CloudEvents.

    Raises:
        UnsupportedMediaType: The encoding is not known. InvalidParameterError: A query parameter is wrong.
    """
    coding = coding_of(asked)
    attributes = tuple(
        (name[3:].lower(), value) for name, value in asked.headers.items() if name.lower().startswith("ce-")
    )
    binary = any(name == "specversion" for name, _ in attributes)
    shape: BodyShape | None = "binary" if binary else SHAPES.get(asked.mimetype)
    if shape is None:
        raise UnsupportedMediaType
    query = read_query(IngestQuery, asked)
    if shape == "request":
        return RequestEncoding(coding=coding)
    if query.source_id is None:
        raise InvalidParameterError(
            "'sourceId' is missing", field="sourceId", remedy="send the id of the source that the events come from"
        )
    options: list[tuple[str, Any]] = [
        (name, value)
        for name, value in (("consensusLevel", query.consensus_level), ("durability", query.durability))
        if value is not None
    ]
    if query.distribution_topics:
        options.append(("distributionTopics", sorted(set(query.distribution_topics))))
    return RequestEncoding(
        shape=shape,
        coding=coding,
        source_id=query.source_id,
        options=tuple(options),
        attributes=attributes,
        media_type=asked.content_type or "",
    )
